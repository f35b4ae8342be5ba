"""drawing: how random inputs of an operation are drawn: laid out as a model lays them out, views into one projection.

Beside the reference implementation ``NAME`` of an operation, ``NAME_inputs`` draws its inputs for any problem. For a
verification they have few heads and lengths at and beside the edges where kernels go wrong (one block, one chunk, one
window); at size they have the problem's own. Heads are as wide and as grouped as in the problem.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hybridbench.problem import Problem

BATCH = 2

CHANNELS = 96
"""Channels of the checked convolution."""

WIDTH = 96
"""Channels of a checked norm, gate or activation where the problem names none."""

EPS = 1e-5
"""Added under the root of a checked norm."""


@dataclass(frozen=True)
class Trial:
    """One input: named tensors, and how to call the operation with them.

    ``call`` must not modify the given tensors; it returns every output and updated state by name. With ``gradients``
    those of every floating-point tensor are compared that the operation's row does not call constant. ``length`` is
    that of a sequence. With ``continues`` it starts from a state.

    ``bind`` makes the call that is timed, where that is not the operation itself with the arguments that ``call``
    passes to it first.
    """

    label: str
    tensors: dict[str, Tensor]
    call: Callable[[Callable[..., Any], dict[str, Tensor]], dict[str, Tensor]]
    gradients: bool = True
    length: int = 0
    continues: bool = False
    bind: Callable[[Callable[..., Any], dict[str, Tensor]], Callable[[], object]] | None = None


class Draw:
    """Random tensors of one verification.

    They are drawn on the CPU, so that a seed gives the same values on every device; at size on the problem's device.

    Attributes:
        batch: sequences.
        channels: of a convolution and of Mamba-1's scan.
        at_size: whether sizes are the problem's own, and not the small ones that a verification takes.
    """

    def __init__(
        self,
        problem: Problem,
        device: torch.device,
        generator: torch.Generator,
        batch: int = BATCH,
        at_size: bool = False,
    ) -> None:
        self.dtype: torch.dtype = getattr(torch, problem.dtype)
        self.device = device
        self.exact = torch.float64 if device.type == "cpu" else torch.float32
        self.batch, self.at_size = batch, at_size
        self.channels = (problem.conv_channels or problem.width if at_size else 0) or CHANNELS
        self._problem, self._generator = problem, generator

    @property
    def side_by_side(self) -> bool:
        """Whether the problem's positions are contiguous in memory, as in Mamba-1; only its sizes tell."""
        return self.at_size and not self._problem.row

    def lengths(self, small: Iterable[int]) -> list[int]:
        """The lengths to try: those of a verification, or the problem's own."""
        return [self._problem.length] if self.at_size else list(small)

    def tokens(self, small: Iterable[int]) -> list[int]:
        """The numbers of tokens to try, of all sequences together: those of a verification, or the problem's own."""
        return [self.batch * self._problem.length] if self.at_size else list(small)

    def grouped_heads(self, most: int = 2) -> tuple[int, int]:
        """Heads of a state and the groups that share B and C: two groups of ``most`` heads at most; at size all."""
        problem = self._problem
        if self.at_size:
            return problem.n_heads, problem.n_groups
        G = min(2, problem.n_groups)
        return G * min(most, problem.n_heads // problem.n_groups), G

    def normal(self, *shape: int) -> Tensor:
        """Standard normal values in the problem's dtype."""
        if self._generator.device.type != "cpu":
            return torch.randn(shape, generator=self._generator, device=self.device, dtype=self.dtype)
        return torch.randn(shape, generator=self._generator).to(self.device, self.dtype)

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        """Uniform values in float32, as parameters and states are kept (float64 in a float64 problem)."""
        values = low + (high - low) * torch.rand(shape, generator=self._generator, device=self._generator.device)
        return values.to(self.device, self.dtype if self.dtype == torch.float64 else torch.float32)

    def integers(self, high: int, *shape: int) -> Tensor:
        """Integers in ``[0, high)``."""
        return torch.randint(high, shape, generator=self._generator, device=self._generator.device).to(self.device)

    def across(self, width: int, batch: int, length: int) -> Tensor:
        """(B, T, C) values laid out channel by channel, positions side by side."""
        return self.normal(width, batch, length).permute(1, 2, 0)

    def projection(self, *lead: int, widths: list[tuple[int, ...]]) -> list[Tensor]:
        """Views side by side in one wide tensor, like the output of a fused projection. Rows are padded to 16 elements;
        at size they are as wide as the problem's.
        """
        sizes = [math.prod(width) for width in widths]
        padded = sum(sizes) + -sum(sizes) % 16
        wide = self.normal(*lead, max(padded, self._problem.row) if self.at_size else padded)
        starts = [sum(sizes[:i]) for i in range(len(sizes))]
        parts = (wide.narrow(-1, start, size) for start, size in zip(starts, sizes, strict=True))
        return [torch.unflatten(part, -1, width) for part, width in zip(parts, widths, strict=True)]
