"""neighbours: which points of a grid with gaps stand for a place between them or beside them, and how much each counts.

A point is a tuple of sizes, such as parameters, batch and context, and distances are ratios. A place between two points
takes of both, linearly in the logarithm of the size; a place outside takes the nearest end.

Sizes are looked at one after another: the first is chosen from all points, the next from those that share it. A point
may lack what others have, as where a batch was run at one context only. So of the pairs of sizes around the wanted one,
that whose points leave the place the least outside in what follows is taken; of equal pairs, the narrowest.
"""

from __future__ import annotations

import itertools
import math
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

Sizes = tuple[int, ...]
"""Where a point lies: one size for each dimension, all above zero."""


@dataclass(frozen=True)
class Around:
    """The points that stand for a place.

    Args:
        weights: how much each point counts; they add up to one.
        outside: for each dimension, how far the place lies outside the points, at most: the natural logarithm of the
            ratio, times what the dimension counts; zero where it lies on them or between.
    """

    weights: Mapping[Sizes, float]
    outside: tuple[float, ...]

    @property
    def distance(self) -> float:
        """How far the place lies outside in all dimensions together."""
        return sum(self.outside)

    def between(self, dimension: int) -> bool:
        """Whether the place lies between points of a dimension, and not on one or outside."""
        return not self.outside[dimension] and len({point[dimension] for point in self.weights}) > 1

    def mean(self, values: Mapping[Sizes, float]) -> float | None:
        """The mean by weight of the points' values, of those that have one; None where none has."""
        known = {point: weight for point, weight in self.weights.items() if point in values}
        total = sum(known.values())
        return sum(weight * values[point] for point, weight in known.items()) / total if total else None


_Part = tuple[int, Around]
"""A size, and which of its points stand for the rest of a place."""


class Grid:
    """Points to look around in.

    Args:
        points: at least one, each of as many sizes.
        counts: for each size, how much a ratio counts where a place lies outside in several, above zero.
    """

    def __init__(self, points: Collection[Sizes], counts: Sequence[float]) -> None:
        rest: dict[int, list[Sizes]] = defaultdict(list)
        for first, *others in filter(None, points):
            rest[first].append(tuple(others))
        self._sizes = sorted(rest)
        self._parts = {size: Grid(found, counts[1:]) for size, found in rest.items()}
        self._counts = counts

    def around(self, wanted: Sizes) -> Around:
        """The points that stand for a place, which is given by as many sizes."""
        if not wanted:
            return Around({(): 1.0}, ())
        size, *rest = wanted
        first, last = bisect_left(self._sizes, size), bisect_right(self._sizes, size)
        same = self._useful(self._sizes[first:last], tuple(rest))
        if same and not same[0][1].distance:
            return self._joined(size, same[0], same[0])
        below = self._useful(self._sizes[first - 1 :: -1] if first else [], tuple(rest))
        above = self._useful(self._sizes[last:], tuple(rest))
        pairs = [*((one, one) for one in (*same, *below, *above)), *itertools.product(below, above)]

        def rank(pair: tuple[_Part, _Part]) -> tuple[float, float]:
            (low, _), (high, _) = pair
            # Rounded: sums of the same logarithms in another order may differ in their last bit.
            return round(self._joined(size, *pair).distance, 9), high / low

        return self._joined(size, *min(pairs, key=rank))

    def _joined(self, size: int, low: _Part, high: _Part) -> Around:
        """What stands for a size: two parts around it, or a single one that is given as both."""
        (first, left), (last, right) = low, high
        share = math.log(size / first) / math.log(last / first) if first < last else 0.0
        weights = {(first, *point): (1 - share) * weight for point, weight in left.weights.items()}
        if share:
            weights |= {(last, *point): share * weight for point, weight in right.weights.items()}
        outside = self._counts[0] * max(math.log(first / size), math.log(size / last), 0.0)
        return Around(weights, (outside, *map(max, left.outside, right.outside)))

    def _useful(self, sizes: Iterable[int], rest: Sizes) -> list[_Part]:
        """Of sizes from the nearest on, those whose points leave the place less outside than all nearer ones do."""
        found: list[_Part] = []
        for size in sizes:
            around = self._parts[size].around(rest)
            if not found or around.distance < found[-1][1].distance:
                found.append((size, around))
            if not around.distance:
                break
        return found
