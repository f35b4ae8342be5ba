"""stats: statistics of samples: the median, its confidence interval, and quantiles.

Step times are skewed and have outliers on one side. So their centre is the median, and its uncertainty is an interval
of order statistics, which assumes only that samples are independent:

    a sample lies below the true median with probability 1/2, so the count of samples below it is Binomial(n, 1/2) and
    [x_(k), x_(n+1-k)] holds the true median with probability 1 - 2 P(Binomial(n, 1/2) < k).

Conover, Practical Nonparametric Statistics, 3rd edition, section 3.2. The unit out is the unit in.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterable, Sequence
from fractions import Fraction


def median(xs: Sequence[float]) -> float:
    """The middle sample, or the mean of the middle two.

    Raises:
        ValueError: no samples.
    """
    return quantile(xs, 0.5)


def quantile(xs: Sequence[float], q: float) -> float:
    """The value below which a fraction ``q`` of the samples lies, interpolated linearly between order statistics.

    Type 7 of Hyndman and Fan 1996, "Sample Quantiles in Statistical Packages", the default of numpy and pandas:
    position q * (n - 1) in the sorted samples, counted from zero.

    Raises:
        ValueError: no samples, or ``q`` outside 0..1.
    """
    if not xs:
        raise ValueError("a quantile of no samples")
    if not 0 <= q <= 1:
        raise ValueError(f"quantile {q} is outside 0..1")
    ordered = sorted(xs)
    position = q * (len(ordered) - 1)
    below = math.floor(position)
    if below == position:
        return float(ordered[below])
    return float(ordered[below] + (position - below) * (ordered[below + 1] - ordered[below]))


def log_spread(parts: Iterable[Sequence[float]]) -> float:
    """The spread of samples' logarithms: half the distance from their 16th to their 84th percentile; 0 without samples.

    Of a normal variable that is its standard deviation. Samples in several parts stand beside their own part's median.
    """
    logs: list[float] = []
    for samples in parts:
        if samples:
            middle = median(samples)
            logs += [math.log(sample / middle) for sample in samples]
    return (quantile(logs, 0.84) - quantile(logs, 0.16)) / 2 if logs else 0.0


def median_interval(xs: Sequence[float], confidence: float = 0.95) -> tuple[float, float]:
    """The narrowest pair of order statistics, equally far from both ends, that holds the median at ``confidence``.

    With too few samples for the confidence (fewer than 6 for 95%) the extremes are all there is: smallest and largest.

    Raises:
        ValueError: no samples, or ``confidence`` outside 0..1.
    """
    if not xs:
        raise ValueError("an interval of no samples")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence {confidence} is outside 0..1")
    ordered = sorted(xs)
    trimmed = max(_rank(len(ordered), confidence) - 1, 0)
    return float(ordered[trimmed]), float(ordered[-1 - trimmed])


@functools.lru_cache(maxsize=4096)
def _rank(n: int, confidence: float) -> int:
    """The largest k with 2 P(Binomial(n, 1/2) < k) <= 1 - confidence, in exact whole numbers; 0 where there is none."""
    # The shortest decimal of the float, so that 0.95 is nineteen twentieths and not the double next to it.
    doubt = 1 - Fraction(str(confidence))
    allowed = doubt.numerator * 2 ** (n - 1) // doubt.denominator
    outside, term, k = 0, 1, 0
    while outside + term <= allowed:
        outside += term
        term = term * (n - k) // (k + 1)
        k += 1
    return k


def sum_between(points: Sequence[tuple[int, float]]) -> float:
    """The sum of a function over all whole numbers from the first place to the last, from its values at a few.

    Straight lines between neighbours, the composite trapezoid rule: the area below them and half of either end. Exact
    for a function that is straight between its points. The rule is taken and not Simpson's because a step's time has
    kinks where a kernel changes its split, and no sample should weigh four times another.

    >>> sum_between([(0, 10.0), (4, 18.0)])  # 10 + 12 + 14 + 16 + 18
    70.0

    Raises:
        ValueError: fewer than two points, or places that do not rise.
    """
    gaps = list(itertools.pairwise(points))
    if not gaps or any(right[0] <= left[0] for left, right in gaps):
        raise ValueError("a sum between points needs two or more, at rising places")
    area = sum((right[0] - left[0]) * (left[1] + right[1]) / 2 for left, right in gaps)
    return area + (points[0][1] + points[-1][1]) / 2


def sum_error(points: Sequence[tuple[int, float]]) -> float:
    """How far ``sum_between`` moves when every other point is left out: three times its error for a smooth function.

    Halving the gaps quarters the rule's error, so the coarser sum is off by four times as much as the finer one. A kink
    between points can hide from both.

    Raises:
        ValueError: an even number of points, which do not nest, or fewer than three.
    """
    if len(points) < 3 or len(points) % 2 == 0:
        raise ValueError("an error estimate needs an odd number of points, three or more")
    return abs(sum_between(points) - sum_between(points[::2]))
