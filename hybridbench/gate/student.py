"""student: quantiles and tails of Student's t distribution.

The distribution function is a regularised incomplete beta function, which is a continued fraction: Press et al.,
Numerical Recipes, 3rd edition, sections 6.4 and 6.14.9. The quantile is found by bisection.
"""

from __future__ import annotations

import functools
import math


@functools.lru_cache(maxsize=1024)
def t_quantile(tail: float, freedom: int) -> float:
    """The value that a t-distributed number exceeds with probability ``tail``.

    >>> round(t_quantile(0.025, 10), 3)
    2.228

    Args:
        tail: probability above it, between 0 and 1/2.
        freedom: degrees of freedom, 1 or more.

    Raises:
        ValueError: an argument outside its range.
    """
    if not 0 < tail <= 0.5 or freedom < 1:
        raise ValueError(f"no quantile of Student's t for a tail of {tail} and {freedom} degrees of freedom")
    low, high = 0.0, 1.0
    while t_tail(high, freedom) > tail:
        low, high = high, 2 * high
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if t_tail(middle, freedom) > tail else (low, middle)
    return (low + high) / 2


def t_tail(t: float, freedom: int) -> float:
    """P(T > t) of Student's distribution, for t >= 0.

    >>> round(t_tail(2.228, 10), 4)
    0.025
    """
    return _incomplete_beta(freedom / 2, 0.5, freedom / (freedom + t * t)) / 2


def _incomplete_beta(a: float, b: float, x: float) -> float:
    """The regularised incomplete beta function I_x(a, b)."""
    if x >= 1:
        return 1.0
    front = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x))
    if x < (a + 1) / (a + b + 2):
        return front * _continued_fraction(a, b, x) / a
    return 1 - front * _continued_fraction(b, a, 1 - x) / b


def _continued_fraction(a: float, b: float, x: float) -> float:
    """The fraction of Numerical Recipes 6.4.5, by Lentz's method. It converges fast for x < (a + 1) / (a + b + 2)."""
    c, d = 1.0, 1 / (1 - (a + b) * x / (a + 1))
    value = d
    for m in range(1, 1000):
        for term in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d, c = 1 / (1 + term * d), 1 + term / c
            value *= c * d
        if abs(c * d - 1) < 1e-15:
            break
    return value
