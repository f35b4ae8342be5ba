"""The judge's rates on synthetic pairs are those it promises: few false alarms, and what is planted is caught."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from hybridbench.gate import sequential, simulation
from hybridbench.gate.kinds import KINDS
from hybridbench.gate.sequential import Outcome, bounds, decide, tail
from hybridbench.gate.simulation import ROWS, SUITE, SimulatedKind, main, simulate

CELLS = 5000
AT_LEAST = {
    "graphed step": {0.01: 0.98},
    "kernel": {0.01: 0.90, 0.02: 0.99},
    "kernel, margin 1%": {0.01: 0.40, 0.02: 0.99},
    "kernel, tuning not recorded": {0.02: 0.75},
    "training step": {0.03: 0.98},
    "CPU": {0.10: 0.98},
    "CPU, noisier, 8 and 16 pairs": {0.10: 0.98},
}
UNDECIDED = {"training step": 0.10, "kernel, tuning not recorded": 0.25}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.title)
def test_rates(row: SimulatedKind) -> None:
    rates = simulate(row, CELLS, seed=1)
    assert rates.alarms <= 3 / CELLS, "more than three alarms in 5,000 unchanged cells"
    assert rates.inconclusive <= UNDECIDED.get(row.title, 0.03)
    assert rates.caught.keys() == AT_LEAST[row.title].keys()
    for size, least in AT_LEAST[row.title].items():
        assert rates.caught[size] >= least
        if size > row.kind.margin:
            assert rates.missed[size] <= 0.005, "a planted slowdown beyond the margin passed"


def test_a_slowdown_of_the_margin_is_caught_about_half_the_time() -> None:
    row = next(row for row in ROWS if row.title == "kernel, margin 1%")
    assert 0.4 < simulate(row, CELLS, seed=2).caught[0.01] < 0.65


def test_bounds_hold_what_they_promise_on_normal_pairs() -> None:
    kind, n = KINDS["kernel"], 8
    draw = np.random.default_rng(3)
    error = 0.01
    found = bounds(draw.normal(0.002, kind.sd, (200_000, n)), kind.sd, error)
    for missed in (found.lower > 0.002, found.upper < 0.002):
        assert 0.7 * error < missed.mean() < 1.1 * error


def test_without_winsorising_outliers_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    row = ROWS[1]
    before = simulate(row, CELLS, seed=1)
    monkeypatch.setattr(sequential, "CLIP", 1e9)
    assert simulate(row, CELLS, seed=1).inconclusive > 4 * before.inconclusive


def test_margins_do_not_widen_with_noise() -> None:
    noisy = replace(ROWS[1], kind=replace(KINDS["kernel"], sd=0.02))
    rates = simulate(noisy, CELLS, seed=4)
    assert rates.inconclusive > 0.9
    assert rates.missed[0.02] < 0.005


def test_a_spread_far_beyond_the_calibrated_one_decides_nothing() -> None:
    kind = KINDS["kernel"]
    draw = np.random.default_rng(5)
    pairs = draw.normal(-0.01, 8 * kind.sd, (2000, kind.looks[-1]))
    fresh = np.full((2000, 2, kind.confirm), 0.05)
    outcome = decide(pairs, fresh, kind, kind.sd, SUITE).outcome
    assert (outcome == Outcome.OPEN).mean() > 0.75


def test_bounds_are_split_over_looks_and_cells() -> None:
    assert tail(KINDS["kernel"], 10) == pytest.approx(0.05 / 20)
    with pytest.raises(ValueError, match="no cells"):
        tail(KINDS["kernel"], 0)


def test_the_program_prints_every_row(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--cells", "50"]) == 0
    printed = capsys.readouterr().out
    assert len(printed.splitlines()) == 2 + len(ROWS)
    assert all(row.title in printed for row in ROWS)
    assert simulation.main(["--cells", "50"]) == 0
    assert capsys.readouterr().out == printed, "the seed is fixed"
