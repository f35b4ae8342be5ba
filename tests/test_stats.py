"""The statistics agree with numpy, with the binomial distribution, and with simulated experiments."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import numpy as np
import pytest

from hybridbench.stats import median, median_interval, quantile, sum_between, sum_error


@pytest.mark.parametrize("n", [1, 2, 3, 10, 101])
@pytest.mark.parametrize("q", [0.0, 0.05, 0.5, 0.95, 0.99, 1.0])
def test_quantile_is_numpys_linear_one(n: int, q: float) -> None:
    samples = np.random.default_rng(n).lognormal(size=n)
    assert quantile(list(samples), q) == pytest.approx(float(np.quantile(samples, q)), rel=1e-12)


def test_median_of_an_even_number_is_the_mean_of_the_middle_two() -> None:
    assert median([4, 1, 3, 2]) == 2.5
    assert median([3, 1, 2]) == 2.0


@pytest.mark.parametrize("function", [median, median_interval])
def test_no_samples_have_no_centre(function: Callable[[list[float]], object]) -> None:
    with pytest.raises(ValueError, match="no samples"):
        function([])


@pytest.mark.parametrize(("q", "confidence"), [(-0.1, 0.0), (1.1, 1.0)])
def test_fractions_outside_their_range_are_refused(q: float, confidence: float) -> None:
    with pytest.raises(ValueError, match="outside"):
        quantile([1.0], q)
    with pytest.raises(ValueError, match="outside"):
        median_interval([1.0], confidence)


@pytest.mark.parametrize("n", range(1, 6))
def test_too_few_samples_give_their_extremes(n: int) -> None:
    assert median_interval(list(range(n))) == (0, n - 1)


@pytest.mark.parametrize(("n", "rank"), [(6, 1), (8, 1), (9, 2), (12, 3), (20, 6), (50, 18), (100, 40)])
def test_ranks_are_those_of_the_sign_test_tables(n: int, rank: int) -> None:
    # Conover, table of the sign test's 95% intervals; n = 50 and 100 as in the common 18..33 and 40..61.
    low, high = median_interval(list(range(1, n + 1)))
    assert (low, high) == (rank, n + 1 - rank)


@pytest.mark.parametrize("n", [6, 7, 15, 40, 77, 200])
@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.95, 0.99])
def test_interval_is_the_narrowest_that_keeps_its_word(n: int, confidence: float) -> None:
    low, high = median_interval(list(range(n)), confidence)
    assert low + high == n - 1

    def covered(rank: int) -> float:
        return 1 - 2 * sum(math.comb(n, i) for i in range(rank)) / 2**n

    rank = round(low) + 1
    assert covered(rank) >= confidence or rank == 1
    assert covered(rank + 1) < confidence


def test_interval_covers_the_median_of_a_skewed_distribution() -> None:
    rng = random.Random(7)
    rounds, hits = 4000, 0
    for _ in range(rounds):
        low, high = median_interval([rng.lognormvariate(0, 1) for _ in range(25)])
        hits += low <= 1.0 <= high
    # 25 samples: ranks 8 and 18 cover with 95.7%; the bound is four standard errors below that.
    assert hits / rounds == pytest.approx(0.957, abs=4 * math.sqrt(0.957 * 0.043 / rounds))


def test_a_sum_from_a_few_points_is_that_of_every_place() -> None:
    def f(n: int) -> float:
        return 3.0 + 0.25 * n

    for places in ([7, 8], [7, 9, 40], [7, 20, 21, 30, 40]):
        points = [(n, f(n)) for n in places]
        assert sum_between(points) == pytest.approx(sum(f(n) for n in range(places[0], places[-1] + 1)), rel=1e-14)
    kinked = [(0, 1.0), (10, 1.0), (20, 2.0)]
    assert sum_between(kinked) == pytest.approx(sum(max(1.0, n / 10) for n in range(21)))


def test_the_error_of_a_sum_is_what_every_other_point_changes() -> None:
    assert sum_error([(0, 1.0), (1, 3.0), (2, 1.0)]) == 2  # 5 with the middle, 3 without
    assert sum_error([(n, 2.0 * n) for n in range(5)]) == 0
    # Of a parabola it is three times the error: the rule's error goes with the square of the gap.
    points = [(n, float(n * n)) for n in range(0, 1025, 256)]
    true = sum(n * n for n in range(1025))
    assert sum_error(points) == pytest.approx(3 * (sum_between(points) - true), rel=1e-3)


@pytest.mark.parametrize("points", [[], [(0, 1.0)], [(1, 1.0), (1, 2.0)], [(2, 1.0), (1, 1.0)]])
def test_sums_that_cannot_be(points: list[tuple[int, float]]) -> None:
    with pytest.raises(ValueError, match="two or more, at rising places"):
        sum_between(points)
    with pytest.raises(ValueError, match="odd number of points"):
        sum_error(points[:2])
