"""counts: FLOPs and cache bytes, and the three conventions they are counted in.

    exact     one multiply-add is 2 FLOPs; causal pairs only; an SSM as its recurrence; every parameter. Prefilling T
              tokens costs exactly the sum of decoding them one by one.
    paper     the formulas of arXiv 2510.04800, table 1 and appendix C, as printed; embedding and head left out.
    hardware  what kernels execute: full tiles, the chunked scan, recomputation in the backward pass.

Norms, activations, gates, rotary embedding and residual additions are left out everywhere (under 1% at d_model 1024).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from hybridbench.errors import BadInput

TILE = 128
"""Rows and columns of a tile of attention in the ``hardware`` convention: FlashAttention's usual block."""

WORKS = ("train", "prefill", "decode")
"""Works whose FLOPs a block counts: forward and backward, a forward over a prompt, one token after it."""


class Convention(StrEnum):
    """How FLOPs and parameters are counted; stored with every figure."""

    EXACT = "exact"
    PAPER = "paper"
    HARDWARE = "hardware"


@dataclass(frozen=True, slots=True)
class Flops:
    """FLOPs by the class of operation that spends them."""

    matmul: int = 0
    attention: int = 0
    scan: int = 0
    conv: int = 0

    @property
    def total(self) -> int:
        """FLOPs of all classes."""
        return self.matmul + self.attention + self.scan + self.conv

    def __add__(self, other: Flops) -> Flops:
        return Flops(
            self.matmul + other.matmul,
            self.attention + other.attention,
            self.scan + other.scan,
            self.conv + other.conv,
        )

    def __mul__(self, times: int) -> Flops:
        return Flops(self.matmul * times, self.attention * times, self.scan * times, self.conv * times)

    __rmul__ = __mul__


@dataclass(frozen=True, slots=True)
class CacheBytes:
    """Bytes one sequence keeps between decode steps."""

    kv: int = 0
    ssm: int = 0
    conv: int = 0

    @property
    def total(self) -> int:
        """Bytes of all kinds."""
        return self.kv + self.ssm + self.conv

    def __add__(self, other: CacheBytes) -> CacheBytes:
        return CacheBytes(self.kv + other.kv, self.ssm + other.ssm, self.conv + other.conv)

    def __mul__(self, times: int) -> CacheBytes:
        return CacheBytes(self.kv * times, self.ssm * times, self.conv * times)

    __rmul__ = __mul__


@dataclass(frozen=True, slots=True)
class CachePart:
    """One of the caches that a block keeps of a sequence: keys and values by token, or a state.

    Args:
        token_bytes, tokens: for keys and values: bytes per token, and tokens kept.
        slides: a window is full, so that the next token replaces an old one; ``sinks`` of the tokens stay.
        state_bytes: bytes of a recurrent state and a conv state.
    """

    token_bytes: int = 0
    tokens: int = 0
    slides: bool = False
    sinks: int = 0
    state_bytes: int = 0


def refuse_paper(convention: Convention, what: str) -> None:
    """Raise if FLOPs are asked for in the paper's convention and the paper has no formula.

    Args:
        what: the part of a model without a formula.

    Raises:
        BadInput: the convention is the paper's.
    """
    if convention is Convention.PAPER:
        raise BadInput(
            f"convention paper has no formula for {what}: arXiv 2510.04800 prices attention, Mamba-2, both in parallel "
            f"and feed-forward blocks; take exact or hardware."
        )
