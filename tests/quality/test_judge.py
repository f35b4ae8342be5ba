"""Pairs of models against scipy's tests and published tables of power; what is a tie."""

from __future__ import annotations

import math
import random
import statistics

import pytest

from hybridbench.quality.judge import holm, judged, least_difference, pooled_noise, power, seeds_for


def figures(models: int, seeds: int, std: float = 1.0, draw: int = 0) -> dict[str, dict[int, float]]:
    """Models that do not differ, with seeds that do."""
    random_ = random.Random(draw)
    shift = [random_.gauss(0, 5) for _ in range(seeds)]
    return {f"m{i}": {j: shift[j] + random_.gauss(0, std) for j in range(seeds)} for i in range(models)}


def test_two_models_are_judged_by_the_paired_t_test() -> None:
    """Student's sleep data (1908), whose paired test is in every textbook: t = -4.0621 with 9 degrees, p = 0.002833."""
    one = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
    other = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]
    (pair,) = judged({"b": dict(enumerate(other)), "a": dict(enumerate(one))})
    assert (pair.one, pair.other, pair.seeds) == ("a", "b", 10)
    assert pair.difference == pytest.approx(1.58)
    assert pair.p == pytest.approx(0.002833, rel=1e-3)
    assert pair.half == pytest.approx(2.4598858 - 1.58, rel=1e-5)  # R's t.test: 0.7001142 to 2.4598858
    assert pair.adjusted == pair.p
    assert not pair.tie


def test_the_noise_of_several_models_is_the_residual_of_the_block_design() -> None:
    """By the definition: sums of squares in all, of models and of seeds."""
    found = figures(4, 5)
    noise = pooled_noise(found)
    every = [value for by_seed in found.values() for value in by_seed.values()]
    mean = statistics.fmean(every)
    total = sum((value - mean) ** 2 for value in every)
    models = 5 * sum((statistics.fmean(by_seed.values()) - mean) ** 2 for by_seed in found.values())
    seeds = 4 * sum((statistics.fmean(one[j] for one in found.values()) - mean) ** 2 for j in range(5))
    assert noise is not None
    assert noise.freedom == 12
    assert noise.std**2 == pytest.approx((total - models - seeds) / 12)


def test_models_that_do_not_differ_are_ties_19_times_in_20() -> None:
    """The family-wise error of 400 draws is below 5% by at most three standard errors, and is not zero."""
    wrong = sum(any(not pair.tie for pair in judged(figures(4, 3, draw=n))) for n in range(400))
    assert 3 <= wrong <= 0.05 * 400 + 3 * math.sqrt(400 * 0.05 * 0.95)


def test_a_pair_wider_than_the_others_is_judged_by_itself() -> None:
    """Nine models that differ by next to nothing pool to little noise, which one that jumps about does not have."""
    still = {f"q{i}": {0: 1.0, 1: 1.0 + i * 1e-4, 2: 1.0} for i in range(9)}
    pairs = judged(still | {"w": {0: 2.0, 1: 2.6, 2: 1.4}})
    own = [pair for pair in pairs if pair.own_noise]
    assert {name for pair in own for name in (pair.one, pair.other)} == {*still, "w"}
    assert all("w" in (pair.one, pair.other) for pair in own)
    for pair in own:
        assert pair.half == pytest.approx(4.302653 * 0.6 / math.sqrt(3), rel=0.01)  # t(97.5%, 2) of tables


def test_one_seed_tells_no_difference_and_unshared_seeds_make_no_pair() -> None:
    (pair,) = judged({"a": {0: 1.0}, "b": {0: 5.0}})
    assert pair.tie
    assert (pair.p, pair.half) == (None, None)
    assert judged({"a": {0: 1.0}, "b": {1: 5.0}}) == []
    assert pooled_noise({"a": {}, "b": {0: 1.0}}) is None
    (equal,) = judged({"a": {0: 1.0, 1: 2.0}, "b": {0: 1.0, 1: 2.0}})
    assert equal.tie
    (exact,) = judged({"a": {0: 1.0, 1: 2.0}, "b": {0: 1.5, 1: 2.5}})
    assert not exact.tie


def test_holm_as_in_the_example_of_textbooks() -> None:
    assert holm([0.005, 0.01, 0.03, 0.04]) == pytest.approx([0.02, 0.03, 0.06, 0.06])
    assert holm([0.6, 0.9]) == [1.0, 1.0]


@pytest.mark.parametrize(("effect", "seeds"), [(0.2, 199), (0.5, 34), (0.8, 15), (1.0, 10)])
def test_planned_seeds_are_those_of_cohens_tables(effect: float, seeds: int) -> None:
    """Paired t-test, two-sided at 0.05, power 0.8: sizes that G*Power gives for an effect in standard deviations."""
    assert seeds_for(effect, math.sqrt(0.5)) == seeds


def test_planned_seeds_find_the_difference_in_simulated_runs() -> None:
    """Five models, of which one is better by 2.5 standard deviations, with 4 seeds: as often as predicted."""
    hits, draws = 0, 300
    for n in range(draws):
        found = figures(5, 4, draw=n)
        found["m0"] = {seed: value - 2.5 for seed, value in found["m0"].items()}
        hits += any(not pair.tie and {pair.one, pair.other} == {"m0", "m1"} for pair in judged(found))
    due = power(2.5, 1.0, 4, 5)
    assert 0.3 < due < 0.95
    # Holm's later steps are milder than its first, for which the power is predicted.
    assert due - 3 * math.sqrt(due * (1 - due) / draws) < hits / draws < due + 0.15


def test_the_least_difference_is_the_inverse_of_the_plan() -> None:
    least = least_difference(0.004, 5, 3)
    assert power(least, 0.004, 5, 3) == pytest.approx(0.8, abs=1e-4)
    assert seeds_for(least * 1.001, 0.004, 3) == 5
    assert seeds_for(1e-9, 1.0) is None
