"""mixed: what a mixer's stages of a fused decode step leave for the output projection."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Mixed:
    """A mixer's output before its output projection.

    Attributes:
        y_BI: the output, of ``out_width`` channels.
        squares: sums of squares (parts, B) of a row of it, by whose root mean square plus ``eps`` it is still to be
            divided; None where nothing is left to do.
    """

    y_BI: Tensor
    squares: Tensor | None = None
    eps: float = 0.0
