"""Intervals hold the true ratio as often as they say, alone and by the table, and real changes are found: simulated."""

from __future__ import annotations

import math

import numpy as np
import pytest

from hybridbench.compare.cell import EXACT, ComparedCell, Noise
from hybridbench.compare.interval import confidence, ratio_of
from hybridbench.stats import median, median_interval

WITHIN = 0.003
"""Spread of the samples of a process; within 0.2% to 7% as seen on an H200."""
KINDS = ("normal", "skewed", "heavy", "two levels")


def drawn(rng: np.random.Generator, kind: str, n: int) -> np.ndarray:
    """Logarithms of samples whose true median is 0."""
    if kind == "normal":
        return rng.normal(0, WITHIN, n)
    if kind == "skewed":
        return WITHIN * (rng.exponential(1, n) - math.log(2))
    if kind == "heavy":
        return WITHIN * rng.standard_t(2, n)
    return rng.normal(0, WITHIN / 10, n) + 2 * WITHIN * (rng.random(n) < 0.4) - _middle_of_two_levels()


def _middle_of_two_levels() -> float:
    """The median of the lower level's upper part: 60% of the samples lie on the lower one, so 5/6 of it is below."""
    return WITHIN / 10 * 0.9674  # the 5/6 quantile of a standard normal variable


def cell_of(logs: np.ndarray, noise: Noise, run: str) -> ComparedCell:
    samples = [float(sample) for sample in np.exp(logs)]
    low, high = median_interval(samples)
    return ComparedCell({}, {}, "ok", None, median(samples), low, high, len(samples), noise, None, run, "", "")


def pair_of(
    rng: np.random.Generator, kind: str, n: int, between: float = 0.0, change: float = 1.0, known: float | None = None
) -> tuple[ComparedCell, ComparedCell]:
    """Two processes of a cell: an offset of each, and samples around it; the second is slower by ``change``."""
    noise = Noise(between if known is None else known, 0.0, "")
    offsets = rng.normal(0, between, 2) if between else (0.0, 0.0)
    return (
        cell_of(drawn(rng, kind, n) + offsets[0], noise, "one"),
        cell_of(drawn(rng, kind, n) + offsets[1] + math.log(change), noise, "two"),
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", [5, 6, 11, 25, 100])
def test_an_interval_holds_the_true_ratio_95_times_in_100(kind: str, n: int) -> None:
    rng = np.random.default_rng(n)
    tries, missed = 1000, 0
    for _ in range(tries):
        ratio = ratio_of(*pair_of(rng, kind, n, change=1.07))
        assert ratio is not None
        assert ratio.low is not None
        assert ratio.high is not None
        missed += not ratio.low <= 1.07 <= ratio.high
    # Three standard deviations of the count above 5%.
    assert missed / tries < 0.05 + 3 * math.sqrt(0.05 * 0.95 / tries)


@pytest.mark.parametrize("between", [0.0006, 0.01])
def test_it_holds_between_processes_too_and_is_no_wider_than_it_must_be(between: float) -> None:
    rng = np.random.default_rng(7)
    tries, missed = 1500, 0
    for _ in range(tries):
        ratio = ratio_of(*pair_of(rng, "normal", 100, between))
        assert ratio is not None
        assert ratio.low is not None
        assert ratio.high is not None
        missed += not ratio.low <= 1 <= ratio.high
    assert 0.02 < missed / tries < 0.05 + 3 * math.sqrt(0.05 * 0.95 / tries)


def alarms(seed: int, n: int, between: float, known: float, tables: int = 150, cells: int = 60) -> float:
    """The share of tables of unchanged cells that have a change in them."""
    rng = np.random.default_rng(seed)
    found = 0
    for _ in range(tables):
        ratios = [ratio_of(*pair_of(rng, "skewed", n, between, known=known), cells) for _ in range(cells)]
        found += any(ratio and ratio.low and ratio.high and not ratio.low <= 1 <= ratio.high for ratio in ratios)
    return found / tables


@pytest.mark.parametrize(("n", "between"), [(5, 0.0), (11, 0.0), (40, 0.0), (11, 0.016), (40, 0.0006)])
@pytest.mark.sampled
def test_tables_of_60_unchanged_cells_have_no_change_in_them(n: int, between: float) -> None:
    assert alarms(3, n, between, between) < 0.05 + 3 * math.sqrt(0.05 * 0.95 / 150)


def test_without_what_is_known_between_processes_they_would() -> None:
    assert alarms(3, 40, 0.0006, 0.0, tables=20) > 0.5


@pytest.mark.parametrize(("between", "change"), [(0.0006, 1.01), (0.01, 1.08), (0.016, 0.85)])
def test_real_changes_are_found_in_such_tables(between: float, change: float) -> None:
    rng = np.random.default_rng(5)
    found = 0
    for _ in range(200):
        ratio = ratio_of(*pair_of(rng, "normal", 40, between, change), 60)
        assert ratio is not None
        assert ratio.low is not None
        assert ratio.high is not None
        found += not ratio.low <= 1 <= ratio.high
    assert found > 190


def of(
    amount: float, low: float, high: float, *, noise: Noise = EXACT, run: str = "one", samples: int = 20
) -> ComparedCell:
    return ComparedCell({}, {}, "ok", None, amount, low, high, samples, noise, None, run, "", "")


def test_the_ends_are_those_of_the_formula() -> None:
    noise = Noise(0.01, 0.0, "")
    ratio = ratio_of(of(2.0, 1.9, 2.2, noise=noise), of(3.0, 2.7, 3.1, noise=noise, run="two"))
    assert ratio is not None
    hidden = 2 * (1.959964 * 0.01) ** 2
    down = math.sqrt(math.log(3 / 2.7) ** 2 + math.log(2.2 / 2) ** 2 + hidden)
    up = math.sqrt(math.log(3.1 / 3) ** 2 + math.log(2 / 1.9) ** 2 + hidden)
    assert (ratio.value, ratio.low, ratio.high) == pytest.approx(
        (1.5, 1.5 * math.exp(-down), 1.5 * math.exp(up)), rel=1e-6
    )


def test_noise_between_processes_is_that_of_separate_runs_and_drift_that_of_all() -> None:
    noise, drifting = Noise(0.1, 0.0, ""), Noise(0.1, 0.05, "")
    same = ratio_of(of(1, 1, 1, noise=noise), of(1, 1, 1, noise=noise))
    drifted = ratio_of(of(1, 1, 1, noise=noise), of(1, 1, 1, noise=drifting))
    apart = ratio_of(of(1, 1, 1, noise=noise), of(1, 1, 1, noise=drifting, run="two"))
    assert same is not None
    assert drifted is not None
    assert apart is not None
    assert (same.low, same.high) == (1, 1)
    assert math.log(drifted.high or 0) == pytest.approx(1.959964 * 0.05, rel=1e-6)
    assert math.log(apart.high or 0) == pytest.approx(1.959964 * 0.1 * math.sqrt(2), rel=1e-6)


def test_four_samples_have_a_ratio_and_no_interval() -> None:
    ratio = ratio_of(of(2, 1.9, 2.1, samples=4), of(3, 2.9, 3.1))
    assert ratio is not None
    assert (ratio.value, ratio.low, ratio.judged) == (1.5, None, False)


@pytest.mark.parametrize("amount", [None, 0.0])
def test_what_has_no_amount_has_no_ratio(amount: float | None) -> None:
    cell = ComparedCell({}, {}, "ok", None, amount, amount, amount, 20, EXACT, None, "one", "", "")
    assert ratio_of(cell, of(1, 1, 1)) is None
    assert ratio_of(of(1, 1, 1), cell) is None


def test_more_cells_make_each_interval_surer() -> None:
    assert [confidence(cells) for cells in (0, 1, 10, 100)] == pytest.approx([0.95, 0.95, 0.995, 0.9995])
