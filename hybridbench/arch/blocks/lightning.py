"""lightning: linear attention whose state decays at a fixed rate of each head: its shape and what it must cost.

Sources: arXiv 2501.08313, transformers' MiniMax.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

from typing_extensions import override

from hybridbench.arch.block import Convention, check_sizes
from hybridbench.arch.recurrent import Recurrent
from hybridbench.arch.scales import Site


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

    @classmethod
    def at(cls, site: Site) -> Self:
        """A block with the scale's attention heads."""
        return cls(site.scale.d_model, site.scale.n_heads, site.scale.head_dim)

    @property
    @override
    def out_width(self) -> int:
        return self.n_heads * self.head_dim

    @property
    @override
    def conv_channels(self) -> int:
        return 0

    @property
    @override
    def taps(self) -> int:
        return 0

    @property
    @override
    def state_size(self) -> int:
        return self.out_width * self.head_dim

    @override
    def in_matmul_params(self, borrows_value: bool = False) -> int:
        return self.d_model * self.out_width * (3 if borrows_value else 4)

    @override
    def in_params(self, convention: Convention, borrows_value: bool = False) -> int:
        return self.in_matmul_params(borrows_value) + self.out_width

    @override
    def _recurrence(self) -> int:
        # Per state element: the decay, an outer product, an add and a two-FLOP read.
        return 5 * self.state_size

    @override
    def _parallel_scan(self, tokens: int) -> int:
        # Per token and head: Q K^T and its product with V in full, the state's update and its read.
        chunk, head = self.chunk_size, self.head_dim
        return -(-tokens // chunk) * chunk * self.n_heads * (4 * chunk * head + 4 * head * head)
