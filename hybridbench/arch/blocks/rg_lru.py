"""rg_lru: Griffin's recurrent block, a gated linear recurrence of every channel: its shape and what it must cost.

Sources: arXiv 2402.19427, transformers' RecurrentGemma.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

from typing_extensions import override

from hybridbench.arch.block import Convention, Cut, check_sizes
from hybridbench.arch.recurrent import Recurrent
from hybridbench.arch.scales import Site
from hybridbench.arch.weights import Matrix
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

    @classmethod
    def at(cls, site: Site) -> Self:
        """A block as wide as the model, whose gates have one diagonal block per attention head."""
        return cls(site.scale.d_model, site.scale.d_model, site.scale.n_heads)

    @property
    @override
    def out_width(self) -> int:
        return self.width

    @property
    @override
    def out_bias_params(self) -> int:
        return self.d_model

    @property
    @override
    def conv_channels(self) -> int:
        return self.width

    @property
    @override
    def conv_columns(self) -> int:
        """One less than the taps: RecurrentGemma keeps only what the next token needs."""
        return self.d_conv - 1

    @property
    @override
    def taps(self) -> int:
        return self.d_conv

    @property
    @override
    def state_size(self) -> int:
        return self.width

    @override
    def shard_sizes(self, cut: Cut) -> dict[str, int]:
        blocks = cut.divided("n_blocks", self.n_blocks)
        return {"n_blocks": blocks, "width": blocks * (self.width // self.n_blocks)}

    def _gates(self) -> int:
        return 2 * self.width * self.width // self.n_blocks

    @override
    def matrices(self, borrows_value: bool = False) -> tuple[Matrix, ...]:
        """Without the gates of its recurrence, which are block-diagonal and no linear layers."""
        gate = () if borrows_value else (Matrix("linear_y", self.width, self.d_model, "mixer"),)
        return (
            Matrix("linear_x", self.width, self.d_model, "mixer"),
            *gate,
            Matrix("linear_out", self.d_model, self.width, "mixer"),
        )

    @override
    def in_matmul_params(self, borrows_value: bool = False) -> int:
        return self.d_model * self.width * (1 if borrows_value else 2) + self._gates()

    @override
    def in_params(self, convention: Convention, borrows_value: bool = False) -> int:
        biases = self.width * (1 if borrows_value else 2) + 2 * self.width
        return self.in_matmul_params(borrows_value) + biases + self.width * (self.d_conv + 1) + self.width

    @override
    def params_fp32(self) -> int:
        return self.width

    @override
    def _recurrence(self) -> int:
        # Per channel: two sigmoids, the decay (two products and an exponential), its square, one minus it and the
        # root, the gate, the normaliser, decay and add.
        return 12 * self.width

    @override
    def _parallel_scan(self, tokens: int) -> int:
        return tokens * self._recurrence()
