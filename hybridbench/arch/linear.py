"""linear: mixers of a linear recurrence without a delta rule: RG-LRU, short convolution and lightning attention.

Sources: RG-LRU arXiv 2402.19427 and transformers' RecurrentGemma; short convolution LiquidAI's LFM2 in transformers;
lightning attention arXiv 2501.08313 and transformers' MiniMax.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from hybridbench.arch.block import Convention, check_sizes, variant
from hybridbench.arch.recurrent import Recurrent
from hybridbench.errors import BadInput


@dataclass(frozen=True, slots=True)
class RgLru(Recurrent):
    """Griffin's recurrent block: ``out(gelu(y(u)) * rg_lru(conv(x(u))))``, every projection with a bias.

    The RG-LRU is ``h = a h + sqrt(1 - a^2) (i * x)`` per channel, with a and i from sigmoid gates of x.

    Args:
        width: channels of the recurrence.
        n_blocks: diagonal blocks of the gates' matrices.
    """

    kind: ClassVar[str] = "rg_lru"

    d_model: int
    width: int
    n_blocks: int
    d_conv: int = 4

    def __post_init__(self) -> None:
        check_sizes(self, "d_model", "width", "n_blocks", "d_conv")
        if self.width % self.n_blocks:
            raise BadInput(f"RG-LRU width {self.width} does not divide into {self.n_blocks} blocks: give a multiple.")

    @property
    def out_width(self) -> int:
        return self.width

    @property
    def out_bias_params(self) -> int:
        return self.d_model

    @property
    def conv_channels(self) -> int:
        return self.width

    @property
    def conv_columns(self) -> int:
        """One less than the taps: RecurrentGemma keeps only what the next token needs."""
        return self.d_conv - 1

    @property
    def taps(self) -> int:
        return self.d_conv

    @property
    def state_size(self) -> int:
        return self.width

    def _gates(self) -> int:
        return 2 * self.width * self.width // self.n_blocks

    def in_matmul_params(self, borrows_value: bool = False) -> int:
        return self.d_model * self.width * (1 if borrows_value else 2) + self._gates()

    def in_params(self, convention: Convention, borrows_value: bool = False) -> int:
        biases = self.width * (1 if borrows_value else 2) + 2 * self.width
        return self.in_matmul_params(borrows_value) + biases + self.width * (self.d_conv + 1) + self.width

    def params_fp32(self) -> int:
        return self.width

    def _recurrence(self) -> int:
        # Per channel: two sigmoids, the decay (two products and an exponential), its square, one minus it and the
        # root, the gate, the normaliser, decay and add.
        return 12 * self.width

    def _parallel_scan(self, tokens: int) -> int:
        return tokens * self._recurrence()


@dataclass(frozen=True, slots=True)
class ShortConv(Recurrent):
    """LFM2's gated short convolution: ``[B, C, x] = in(u)``, ``out(C * conv(B * x))``; its only state is the conv's."""

    kind: ClassVar[str] = "short_conv"

    d_model: int
    d_conv: int = 3
    bias: bool = variant(False)

    def __post_init__(self) -> None:
        check_sizes(self, "d_model", "d_conv")

    @property
    def out_width(self) -> int:
        return self.d_model

    @property
    def out_bias_params(self) -> int:
        return self.d_model if self.bias else 0

    @property
    def conv_channels(self) -> int:
        return self.d_model

    @property
    def taps(self) -> int:
        return self.d_conv

    @property
    def state_size(self) -> int:
        return 0

    def in_matmul_params(self, borrows_value: bool = False) -> int:
        return self.d_model * self.d_model * (2 if borrows_value else 3)

    def in_params(self, convention: Convention, borrows_value: bool = False) -> int:
        bias = self.d_model * ((2 if borrows_value else 3) + 1) if self.bias else 0
        return self.in_matmul_params(borrows_value) + self.d_model * self.d_conv + bias

    def _conv(self) -> int:
        # B and C are factors of the convolution, not gates beside a core: a product each per channel.
        return 2 * self.d_conv * self.d_model + 2 * self.d_model

    def _recurrence(self) -> int:
        return 0

    def _parallel_scan(self, tokens: int) -> int:
        return 0


@dataclass(frozen=True, slots=True)
class Lightning(Recurrent):
    """Lightning attention: ``S = g S + k v^T, o = S^T q`` per head with a fixed decay g; an RMSNorm, a sigmoid gate."""

    kind: ClassVar[str] = "lightning"

    d_model: int
    n_heads: int
    head_dim: int
    chunk_size: int = 256

    def __post_init__(self) -> None:
        check_sizes(self, "d_model", "n_heads", "head_dim", "chunk_size")

    @property
    def out_width(self) -> int:
        return self.n_heads * self.head_dim

    @property
    def conv_channels(self) -> int:
        return 0

    @property
    def taps(self) -> int:
        return 0

    @property
    def state_size(self) -> int:
        return self.out_width * self.head_dim

    def in_matmul_params(self, borrows_value: bool = False) -> int:
        return self.d_model * self.out_width * (3 if borrows_value else 4)

    def in_params(self, convention: Convention, borrows_value: bool = False) -> int:
        return self.in_matmul_params(borrows_value) + self.out_width

    def _recurrence(self) -> int:
        # Per state element: the decay, an outer product, an add and a two-FLOP read.
        return 5 * self.state_size

    def _parallel_scan(self, tokens: int) -> int:
        # Per token and head: Q K^T and its product with V in full, the state's update and its read.
        chunk, head = self.chunk_size, self.head_dim
        return -(-tokens // chunk) * chunk * self.n_heads * (4 * chunk * head + 4 * head * head)
