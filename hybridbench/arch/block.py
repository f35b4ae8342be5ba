"""block: what every kind of block answers: parameters, FLOPs, cache bytes, bytes moved.

A block here is one sublayer (a mixer, an MLP or a parallel pair of mixers) without its pre-norm and residual, which
``model`` adds. Every answer is for one sequence and an exact integer. Three conventions count:

    exact     one multiply-add is 2 FLOPs; causal pairs only; an SSM as its recurrence; every parameter. Prefilling T
              tokens costs exactly the sum of decoding them one by one.
    paper     the formulas of arXiv 2510.04800, table 1 and appendix C, to the letter; embedding and head left out.
    hardware  what kernels execute: full tiles, the chunked scan, recomputation in the backward pass.

Norms, activations, gates, rotary embedding and residual additions are left out everywhere (under 1% at d_model 1024).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import ClassVar

from hybridbench.errors import BadInput

TILE = 128
"""Rows and columns of an attention tile in the ``hardware`` convention (FlashAttention's usual block)."""


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
        return self.kv + self.ssm + self.conv

    def __add__(self, other: CacheBytes) -> CacheBytes:
        return CacheBytes(self.kv + other.kv, self.ssm + other.ssm, self.conv + other.conv)

    def __mul__(self, times: int) -> CacheBytes:
        return CacheBytes(self.kv * times, self.ssm * times, self.conv * times)

    __rmul__ = __mul__


DTYPE_BYTES = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True, slots=True)
class Storage:
    """Bytes per element of what a model keeps, and the columns of the conv state.

    ``conv_columns`` None means d_conv columns, as mamba_ssm and the paper keep them; vLLM keeps d_conv - 1.
    """

    weight_bytes: int = 2
    kv_bytes: int = 2
    ssm_bytes: int = 2
    conv_bytes: int = 2
    conv_columns: int | None = None

    @classmethod
    def of(cls, dtype: str, state_dtype: str | None = None) -> Storage:
        """Everything in ``dtype``, the SSM state in ``state_dtype`` where one is given."""
        size = DTYPE_BYTES[dtype]
        return cls(size, size, DTYPE_BYTES[state_dtype or dtype], size)


def check_sizes(spec: object, *names: str) -> None:
    """Refuses fields of a spec that are not whole numbers of 1 or more; None passes, it means no limit.

    Raises:
        BadInput: naming the field and its value.
    """
    for name in names:
        size = getattr(spec, name)
        if size is not None and (not isinstance(size, int) or size < 1):
            raise BadInput(f"{name} is {size!r}: give a whole number of 1 or more.")


class Block(ABC):
    """One sublayer's arithmetic. Subclasses are frozen dataclasses whose fields rebuild them."""

    kind: ClassVar[str]

    @abstractmethod
    def params(self, convention: Convention = Convention.EXACT) -> int:
        """Parameters, without the pre-norm."""

    def params_active(self, convention: Convention = Convention.EXACT) -> int:
        """Parameters one token meets; fewer than ``params`` only where experts are routed."""
        return self.params(convention)

    def params_fp32(self) -> int:
        """Those of the parameters that are stored in float32 whatever the weights' dtype."""
        return 0

    @abstractmethod
    def prefill_flops(self, tokens: int, convention: Convention = Convention.EXACT) -> Flops:
        """Forward FLOPs over ``tokens`` positions from an empty cache."""

    @abstractmethod
    def decode_flops(self, context: int, convention: Convention = Convention.EXACT) -> Flops:
        """FLOPs of one token when ``context`` tokens are cached."""

    def train_flops(self, tokens: int, convention: Convention = Convention.EXACT) -> Flops:
        """Forward and backward: three times the forward, except where hardware recomputes."""
        return 3 * self.prefill_flops(tokens, convention)

    def full_mask_extra_flops(self, tokens: int) -> int:
        """Forward FLOPs that counting every query against every key would add to the exact count."""
        return 0

    def cache(self, context: int, storage: Storage) -> CacheBytes:
        """Bytes kept for ``context`` cached tokens."""
        return CacheBytes()

    def cache_traffic(self, context: int, storage: Storage) -> int:
        """Cache bytes one decode step must read and write with ``context`` tokens cached."""
        return 0

    def weight_traffic(self, batch: int, storage: Storage) -> int:
        """Weight bytes one decode step of ``batch`` sequences must read; each matrix once."""
        return self.weight_bytes(storage)

    def weight_bytes(self, storage: Storage) -> int:
        """Bytes all parameters take, the float32 ones at four each."""
        fp32 = self.params_fp32()
        return (self.params() - fp32) * storage.weight_bytes + fp32 * 4


class Mixer(Block):
    """A block that mixes positions: input projections, a core, and an output projection of ``out_width`` columns.

    A parallel block replaces the output projection and may lend one branch's value to another (``borrows_value``).
    """

    d_model: int

    @property
    @abstractmethod
    def out_width(self) -> int:
        """Channels the core yields, before the output projection."""

    @abstractmethod
    def in_params(self, convention: Convention, borrows_value: bool = False) -> int:
        """Parameters before the output projection; without the value projection where it is borrowed."""

    @abstractmethod
    def in_matmul_params(self, borrows_value: bool = False) -> int:
        """Those of them that multiply every token in a matrix product."""

    @abstractmethod
    def core_prefill(self, tokens: int, convention: Convention) -> Flops:
        """FLOPs of the core (scores and values, or conv and scan) over ``tokens`` positions."""

    @abstractmethod
    def core_decode(self, context: int, convention: Convention) -> Flops:
        """FLOPs of the core for one token."""

    def core_train(self, tokens: int, convention: Convention) -> Flops:
        """FLOPs of the core, forward and backward."""
        return 3 * self.core_prefill(tokens, convention)

    def params(self, convention: Convention = Convention.EXACT) -> int:
        return self.in_params(convention) + self.out_width * self.d_model

    def _linear(self, convention: Convention) -> int:
        """FLOPs per token outside the core: the paper prices all parameters, the others matrix products only."""
        if convention is Convention.PAPER:
            return 2 * self.params(convention)
        return 2 * (self.in_matmul_params() + self.out_width * self.d_model)

    def prefill_flops(self, tokens: int, convention: Convention = Convention.EXACT) -> Flops:
        return Flops(matmul=self._linear(convention) * tokens) + self.core_prefill(tokens, convention)

    def decode_flops(self, context: int, convention: Convention = Convention.EXACT) -> Flops:
        return Flops(matmul=self._linear(convention)) + self.core_decode(context, convention)

    def train_flops(self, tokens: int, convention: Convention = Convention.EXACT) -> Flops:
        return Flops(matmul=3 * self._linear(convention) * tokens) + self.core_train(tokens, convention)


def spec_to_dict(value: object) -> dict[str, object]:
    """A frozen spec's fields as plain JSON values, with its ``kind`` where it has one."""
    out: dict[str, object] = {}
    if isinstance(value, Block):
        out["kind"] = value.kind
    for spec_field in fields(value):  # type: ignore[arg-type]
        item = getattr(value, spec_field.name)
        if isinstance(item, tuple):
            out[spec_field.name] = [spec_to_dict(i) if hasattr(i, "__dataclass_fields__") else i for i in item]
        else:
            out[spec_field.name] = spec_to_dict(item) if hasattr(item, "__dataclass_fields__") else item
    return out
