"""packed: how the parameters of a block's module are packed, so that ranks can hold parts of them (``arch.held``)."""

from __future__ import annotations

from dataclasses import dataclass

Segment = tuple[int, int]
"""Units side by side, and the width of each."""


@dataclass(frozen=True, slots=True)
class Packed:
    """How a parameter is packed.

    Args:
        segments: one after the other along ``dim``.
        beside: elements of the parameter for each place along ``dim``.
        dim: the dimension that is cut.
    """

    segments: tuple[Segment, ...]
    beside: int = 1
    dim: int = 0

    @property
    def size(self) -> int:
        """Elements of the parameter."""
        return self.beside * sum(units * width for units, width in self.segments)


Packing = dict[str, Packed]
"""The parameters of a module by name."""
