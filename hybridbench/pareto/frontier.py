"""frontier: which of several points no other beats, where differences below the noise are ties.

A point beats another if it is certainly better in cost or in quality and in the other no worse than by the noise. A
cheaper stack whose quality is tied therefore beats the dearer one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hybridbench.pareto.quality import Quality


@dataclass(frozen=True)
class FrontierPoint:
    """One stack at one place: what it costs in SI and what it is worth."""

    name: str
    cost: float
    quality: Quality


@dataclass(frozen=True)
class Placed:
    """A point with the one that beats it, None on the frontier; and those of the frontier that it ties with."""

    point: FrontierPoint
    beaten_by: FrontierPoint | None
    ties: tuple[FrontierPoint, ...] = ()


def placed(points: Sequence[FrontierPoint], cheaper: str, cost_noise_frac: float) -> list[Placed]:
    """Every point with what beats it, in the order given.

    Args:
        points: of one score and one budget.
        cheaper: ``lower`` or ``higher``: which direction of the cost is an improvement.
        cost_noise_frac: costs tie if the larger exceeds the smaller by no more.
    """

    def against(one: FrontierPoint, other: FrontierPoint) -> tuple[int, int]:
        return _costs(one, other, cheaper, cost_noise_frac), _qualities(one, other)

    beaten = {id(point): [other for other in points if _beats(against(other, point))] for point in points}
    front = [point for point in points if not beaten[id(point)]]
    found = []
    for point in points:
        # One of the frontier, where one of it beats the point; the best of them in quality.
        rivals = [rival for rival in front if rival in beaten[id(point)]] or beaten[id(point)]
        ties = tuple(one for one in front if one is not point and against(one, point) == (0, 0))
        found.append(Placed(point, min(rivals, key=_worth) if rivals else None, ties))
    return found


def _beats(signs: tuple[int, int]) -> bool:
    return min(signs) >= 0 and max(signs) > 0


def _worth(point: FrontierPoint) -> float:
    quality = point.quality
    return quality.value if quality.score.better == "lower" else -quality.value


def _costs(one: FrontierPoint, other: FrontierPoint, cheaper: str, noise_frac: float) -> int:
    """1 if the first is certainly cheaper, -1 if the second is, 0 for a tie."""
    low, high = sorted((one.cost, other.cost))
    if high <= low * (1 + noise_frac):
        return 0
    return 1 if (one.cost < other.cost) == (cheaper == "lower") else -1


def _qualities(one: FrontierPoint, other: FrontierPoint) -> int:
    """1 if the first is certainly better, -1 if the second is, 0 for a tie."""
    gap = _worth(other) - _worth(one)
    noise = max(one.quality.noise, other.quality.noise)
    if gap == 0 or abs(gap) < noise:
        return 0
    return 1 if gap > 0 else -1
