"""short_conv: a gated short convolution, whose only state is the conv's: its shape and what it must cost.

Source: LiquidAI's LFM2 in transformers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

from typing_extensions import override

from hybridbench.arch.block import Convention, Cut, check_sizes, variant
from hybridbench.arch.recurrent import Recurrent
from hybridbench.arch.scales import Site
from hybridbench.arch.weights import Matrix


@dataclass(frozen=True, slots=True)
class ShortConv(Recurrent):
    """LFM2's gated short convolution: ``[B, C, x] = in(u)``, ``out(C * conv(B * x))``; its only state is the conv's.

    Args:
        channels: of the convolution; None for d_model, fewer in one rank's part.
    """

    kind: ClassVar[str] = "short_conv"

    d_model: int
    d_conv: int = 3
    bias: bool = variant(False)
    channels: int | None = variant(None)

    def __post_init__(self) -> None:
        check_sizes(self, "d_model", "d_conv", "channels")

    @classmethod
    def at(cls, site: Site) -> Self:
        """A block as wide as the model, with its authors' taps."""
        return cls(site.scale.d_model)

    @property
    @override
    def out_width(self) -> int:
        return self.channels or self.d_model

    @override
    def shard_sizes(self, cut: Cut) -> dict[str, int]:
        return {"channels": cut.divided("channels", self.out_width)}

    @property
    @override
    def out_bias_params(self) -> int:
        return self.d_model if self.bias else 0

    @property
    @override
    def conv_channels(self) -> int:
        return self.out_width

    @property
    @override
    def taps(self) -> int:
        return self.d_conv

    @property
    @override
    def state_size(self) -> int:
        return 0

    @override
    def matrices(self, borrows_value: bool = False) -> tuple[Matrix, ...]:
        return (
            Matrix("in_proj", (2 if borrows_value else 3) * self.out_width, self.d_model, "mixer"),
            Matrix("out_proj", self.d_model, self.out_width, "mixer"),
        )

    @override
    def in_matmul_params(self, borrows_value: bool = False) -> int:
        return self.d_model * self.out_width * (2 if borrows_value else 3)

    @override
    def in_params(self, convention: Convention, borrows_value: bool = False) -> int:
        bias = self.out_width * ((2 if borrows_value else 3) + 1) if self.bias else 0
        return self.in_matmul_params(borrows_value) + self.out_width * self.d_conv + bias

    @override
    def _conv(self) -> int:
        # B and C are factors of the convolution, not gates beside a core: a product each per channel.
        return 2 * (self.d_conv + 1) * self.out_width

    @override
    def _recurrence(self) -> int:
        return 0

    @override
    def _parallel_scan(self, tokens: int) -> int:
        return 0
