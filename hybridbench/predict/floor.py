"""floor: the least time that work can take on a machine, and which of arithmetic and memory sets it.

    floor_s = sum over phases of max(FLOPs / rate of arithmetic, must-move bytes / memory bandwidth)

In a phase arithmetic and memory traffic may overlap, so the slower one alone is the bound (the roofline of Williams,
Waterman and Patterson, 2009); phases follow one another, so their bounds add up.

Rates are floats, or fractions where the answer must be exact: a floor with ``Fraction`` rates is a ``Fraction`` of
seconds without rounding.

    >>> floor_s([Phase(flops=600, moved_bytes=100)], 100.0, 50.0)
    6.0
    >>> floor_s([Phase(flops=1, moved_bytes=1)], Fraction(3), Fraction(7))
    Fraction(1, 3)
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Literal, TypeVar

from hybridbench.predict.work import Phase

Rate = TypeVar("Rate", float, Fraction)
"""FLOP/s or B/s, or the seconds that come of them."""

Bound = Literal["compute", "memory", "link"]


def times_s(phase: Phase, flops_per_s: Rate, bytes_per_s: Rate) -> tuple[Rate, Rate]:
    """Seconds that a phase's arithmetic takes alone, and that its memory traffic takes alone."""
    return phase.flops / flops_per_s, phase.moved_bytes / bytes_per_s


def floor_s(phases: Sequence[Phase], flops_per_s: Rate, bytes_per_s: Rate) -> Rate:
    """The floor in seconds: no step of these phases can be faster at these rates."""
    least: list[Rate] = [max(times_s(phase, flops_per_s, bytes_per_s)) for phase in phases]
    total = least[0]
    for seconds in least[1:]:
        total = total + seconds
    return total


def bound(phases: Sequence[Phase], flops_per_s: float, bytes_per_s: float) -> Bound:
    """Which of compute and memory sets the larger part of the floor; compute if they are equal."""
    parts: dict[Bound, float] = {"compute": 0.0, "memory": 0.0}
    for phase in phases:
        compute_s, memory_s = times_s(phase, flops_per_s, bytes_per_s)
        parts["compute" if compute_s >= memory_s else "memory"] += floor_s([phase], flops_per_s, bytes_per_s)
    return "compute" if parts["compute"] >= parts["memory"] else "memory"
