"""Verdicts of single cells, from hand-made pairs; above all, what must never pass."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from datetime import date

import numpy as np
import pytest

from hybridbench.gate.accepted import Accepted
from hybridbench.gate.calibration import Calibrated
from hybridbench.gate.judge import Need, Wanted, judge, needed
from hybridbench.gate.kinds import KINDS
from hybridbench.gate.pairs import PairedCell, SideTimes, State, TimedPair
from hybridbench.gate.verdict import CellVerdict, Word

WOBBLE = (0.001, -0.001, 0.0015, -0.0015, 0.0005, -0.0005, 0.002, -0.002)


def pairs(slower: float, count: int = 8) -> tuple[TimedPair, ...]:
    return tuple(TimedPair(1e-3, 1e-3 * (1 + slower + WOBBLE[i % 8])) for i in range(count))


def cell(slower: float = 0.0, *, confirmed: float | None = None, **more: object) -> PairedCell:
    fresh = {} if confirmed is None else dict.fromkeys((4, 8), pairs(confirmed, 4))
    made = PairedCell("swiglu 4x8k", "kernel", pairs=pairs(slower), fresh=fresh)
    return replace(made, **more)


def verdict(one: PairedCell, **more: object) -> CellVerdict:
    (found,) = judge([one], **more)
    return found


def test_the_same_speed_passes_with_the_true_ratio_in_its_interval() -> None:
    found = verdict(cell(0.0))
    assert found.word is Word.PASS
    assert found.low is not None
    assert found.high is not None
    assert found.change is not None
    assert found.low < 0 < found.high < 0.0075
    assert found.change == pytest.approx(0, abs=5e-4)
    assert found.pairs == 4


def test_a_confirmed_slowdown_is_a_regression_of_its_size() -> None:
    found = verdict(cell(0.02, confirmed=0.02))
    assert found.word is Word.REGRESSION
    assert found.change == pytest.approx(0.02, abs=1e-3)
    assert found.pairs == 8


def test_a_slowdown_counts_only_once_it_is_confirmed() -> None:
    assert verdict(cell(0.02)).word is Word.INCONCLUSIVE
    assert needed(cell(0.02), 1) == Need(Wanted.FRESH, 4, 4)
    assert verdict(cell(0.02, confirmed=0.0)).word is Word.INCONCLUSIVE
    assert "did not confirm" in verdict(cell(0.02, confirmed=0.0)).because


def test_an_improvement_is_named() -> None:
    found = verdict(cell(-0.02))
    assert found.word is Word.IMPROVEMENT
    assert found.change == pytest.approx(-0.02, abs=1e-3)


def test_within_the_margin_a_slowdown_passes_or_stays_undecided() -> None:
    assert verdict(cell(0.002)).word is Word.PASS
    assert verdict(cell(0.006)).word is Word.INCONCLUSIVE


@pytest.mark.parametrize("count", [0, 1, 3])
def test_too_few_pairs_never_pass(count: int) -> None:
    few = cell(pairs=pairs(0.0, count))
    assert verdict(few).word is (Word.INCONCLUSIVE if count else Word.NOTHING_MEASURED)
    assert needed(few, 1) == Need(Wanted.PAIRS, 4 - count, 4)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 0.0, -1e-3])
@pytest.mark.parametrize("side", ["base_s", "head_s"])
@pytest.mark.parametrize("place", [0, 7])
def test_a_time_that_is_no_time_never_passes(bad: float, side: str, place: int) -> None:
    made = list(pairs(0.0))
    made[place] = replace(made[place], **{side: bad})
    found = verdict(cell(pairs=tuple(made)))
    assert found.word is Word.NOT_COMPARABLE
    assert "no ratio" in found.because


def test_an_unknown_kind_never_passes() -> None:
    found = verdict(cell(kind="kernels"))
    assert found.word is Word.NOT_COMPARABLE
    assert needed(cell(kind="kernels"), 1) is None


@pytest.mark.parametrize(
    ("base", "head", "word"),
    [
        (State.MEASURED, State.WRONG, Word.WRONG),
        (State.ABSENT, State.WRONG, Word.WRONG),
        (State.WRONG, State.MEASURED, Word.NOT_COMPARABLE),
        (State.MEASURED, State.ABSENT, Word.NOT_COMPARABLE),
        (State.FAILED, State.ABSENT, Word.NOT_COMPARABLE),
        (State.MEASURED, State.FAILED, Word.NOT_COMPARABLE),
        (State.FAILED, State.MEASURED, Word.NOT_COMPARABLE),
        (State.ABSENT, State.MEASURED, Word.NEW),
        (State.ABSENT, State.FAILED, Word.NOTHING_MEASURED),
        (State.ABSENT, State.ABSENT, Word.NOTHING_MEASURED),
    ],
)
def test_sides_that_were_not_both_measured(base: State, head: State, word: Word) -> None:
    """Whatever the pairs say, and even with the same machine code."""
    made = cell(-0.02, base=SideTimes(base, identity="a"), head=SideTimes(head, identity="a"))
    assert verdict(made).word is word


def test_the_same_code_needs_no_pairs_and_is_a_canary_where_it_has_some() -> None:
    same = SideTimes(identity="5f1c")
    assert verdict(cell(base=same, head=same, pairs=())).word is Word.SAME_CODE
    assert verdict(cell(0.0, base=same, head=same)).word is Word.SAME_CODE
    for off in (0.03, -0.03):
        found = verdict(cell(off, base=same, head=same))
        assert found.word is Word.NOT_COMPARABLE
        assert "disturbed" in found.because
        alone = cell(off, base=same, head=same)
        assert verdict(replace(alone, pairs=alone.pairs[:1])).word is Word.SAME_CODE  # one pair may be off by itself


def test_other_code_and_unknown_code_are_timed() -> None:
    for base, head in (("a", "b"), (None, None), ("", ""), (None, "a")):
        made = cell(0.02, confirmed=0.02, base=SideTimes(identity=base), head=SideTimes(identity=head))
        assert verdict(made).word is Word.REGRESSION


@pytest.mark.parametrize("kind", [name for name, kind in KINDS.items() if kind.host])
def test_cells_of_the_host_are_timed_whatever_their_code(kind: str) -> None:
    same = SideTimes(identity="a")
    made = PairedCell("gaps", kind, same, same)
    assert verdict(made).word is Word.NOTHING_MEASURED


def test_modes_of_tuning_are_compared_with_their_own() -> None:
    def tuned(modes: Sequence[tuple[str, str]]) -> tuple[TimedPair, ...]:
        took = {"a": 1.00e-3, "b": 1.02e-3}
        return tuple(
            TimedPair(took[base], took[head] * (1 + wobble), base, head)
            for (base, head), wobble in zip(modes, WOBBLE * 2, strict=False)
        )

    mixed = tuned([("a", "b"), ("a", "a"), ("a", "b"), ("b", "b"), ("a", "b"), ("a", "a"), ("b", "b"), ("a", "b")])
    found = verdict(cell(pairs=mixed))
    assert (found.word, found.pairs) == (Word.PASS, 4)
    assert needed(cell(pairs=mixed[:6]), 1) == Need(Wanted.PAIRS, 1, 4)
    fresh = {4: tuned([("a", "b")] * 4)}  # four alike by chance, of a cell whose tuning varies
    slow = [("a", "a"), ("b", "b"), ("a", "a"), ("b", "b")]
    two_percent = tuple(replace(pair, head_s=pair.head_s * 1.02) for pair in tuned(slow))
    assert verdict(cell(pairs=two_percent, fresh=fresh)).word is Word.INCONCLUSIVE
    always = tuned([("a", "b")] * 8)
    assert verdict(cell(pairs=always, fresh={4: always[:4]})).word is Word.REGRESSION


def test_a_noisy_or_empty_cell_is_advisory() -> None:
    noisy = Calibrated("kernel", 0.01, 20, 0.0, 0.0)
    assert "too noisy for its margin" in verdict(cell(), calibrated={"swiglu 4x8k": noisy}).advisory
    blind = replace(noisy, sd=0.05)
    assert "cannot see 5%" in verdict(cell(), calibrated={"swiglu 4x8k": blind}).advisory
    assert "0.4 blocks per SM" in verdict(cell(blocks_per_sm=0.4)).advisory
    assert "blocks per SM" in verdict(cell(blocks_per_sm=math.nan)).advisory
    assert verdict(cell(blocks_per_sm=1.0)).advisory == ""


def test_calibrated_noise_decides_how_wide_an_interval_is() -> None:
    quiet = Calibrated("kernel", 0.001, 20, 0.0, 0.0)
    narrow, wide = verdict(cell(), calibrated={"swiglu 4x8k": quiet}), verdict(cell())
    assert narrow.high is not None
    assert wide.high is not None
    assert narrow.high < 0.5 * wide.high


def test_an_accepted_regression_is_one_up_to_its_size() -> None:
    slow = cell(0.02, confirmed=0.02)
    allowed = Accepted("swiglu 4x8k", 0.03, "right for odd widths", date(2030, 1, 1))
    found = verdict(slow, accepted=[allowed])
    assert found.word is Word.ACCEPTED
    assert "right for odd widths" in found.because
    assert verdict(slow, accepted=[replace(allowed, slowdown=0.01)]).word is Word.REGRESSION
    assert verdict(slow, accepted=[replace(allowed, cell="swiglu")]).word is Word.REGRESSION
    wrong = cell(head=SideTimes(State.WRONG))
    assert verdict(wrong, accepted=[allowed]).word is Word.WRONG


def test_bounds_widen_with_the_cells_of_a_suite() -> None:
    one, *_ = judge([cell()])
    many = judge([replace(cell(), name=str(i)) for i in range(60)])[0]
    assert one.high is not None
    assert many.high is not None
    assert many.high > 1.3 * one.high


def test_what_is_needed_ends_when_a_cell_is_decided() -> None:
    assert needed(cell(0.0), 1) is None
    assert needed(cell(0.02, confirmed=0.02), 1) is None
    draw = np.random.default_rng(0)
    for _ in range(50):  # measured as it is asked for, every cell comes to an end
        one = PairedCell("x", "kernel")
        for _ in range(10):
            need = needed(one, 15)
            if need is None:
                break
            more = tuple(TimedPair(1.0, float(np.exp(x))) for x in draw.normal(0.0075, 0.003, need.count))
            if need.which is Wanted.PAIRS:
                one = replace(one, pairs=one.pairs + more)
            else:
                one = replace(one, fresh={**one.fresh, need.look: more})
        assert needed(one, 15) is None
