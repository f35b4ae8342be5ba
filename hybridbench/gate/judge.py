"""judge: the verdict of each cell from its pairs: regression, improvement, pass, or what kept it from one.

The order of questions: is the kind known, is the change right, are both sides there, is it the same code, are the pairs
sound, and only then what ``sequential`` says of them. Nothing that is missing or not a number can lead to a pass.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np

from hybridbench.gate.accepted import Accepted
from hybridbench.gate.calibration import Calibrated, why_advisory
from hybridbench.gate.kinds import KINDS, CellKind
from hybridbench.gate.pairs import PairedCell, State, TimedPair
from hybridbench.gate.sequential import Array, Outcome, bounds, decide, tail
from hybridbench.gate.verdict import CellVerdict, Word, as_change


class Wanted(StrEnum):
    """Which pairs a cell lacks."""

    PAIRS = "pairs"
    FRESH = "fresh"


@dataclass(frozen=True, slots=True)
class Need:
    """Pairs to measure before a cell can be decided.

    Args:
        which: further pairs, or fresh ones that confirm a regression.
        count: how many.
        look: the number of pairs of the look they are for, which is the key of ``PairedCell.fresh``.
    """

    which: Wanted
    count: int
    look: int


def judge(
    cells: Sequence[PairedCell],
    calibrated: Mapping[str, Calibrated] | None = None,
    accepted: Sequence[Accepted] = (),
) -> list[CellVerdict]:
    """The verdict of each cell.

    Args:
        cells: all cells of the suite: bounds are split over those that are timed.
        calibrated: of this machine, by cell. A cell that is not in it is judged by what is assumed of its kind.
        accepted: the regressions that are accepted today.
    """
    n_cells = max(1, sum(bool(cell.pairs) for cell in cells))
    known = calibrated or {}
    verdicts = [_of_cell(cell, n_cells, known.get(cell.name)) for cell in cells]
    allowed = {one.cell: one for one in accepted}
    return [_allowed(verdict, allowed.get(verdict.cell)) for verdict in verdicts]


def needed(cell: PairedCell, n_cells: int, calibrated: Calibrated | None = None) -> Need | None:
    """The pairs to measure next, or None where the cell is decided or further pairs would not decide it."""
    kind = KINDS.get(cell.kind)
    if kind is None or _before_speed(cell, kind) is not None or _unsound(cell):
        return None
    outcome, look = _decided(cell, kind, n_cells, calibrated)
    n = kind.looks[look]
    if outcome is Outcome.NEEDS_PAIRS:
        return Need(Wanted.PAIRS, n - len(usable(cell, cell.pairs)), n)
    if outcome is Outcome.NEEDS_FRESH:
        return Need(Wanted.FRESH, kind.confirm - len(usable(cell, cell.fresh.get(n, ()))), n)
    return None


def _of_cell(cell: PairedCell, n_cells: int, calibrated: Calibrated | None) -> CellVerdict:
    kind = KINDS.get(cell.kind)
    if kind is None:
        return _said(cell, Word.NOT_COMPARABLE, f"Unknown kind of cell '{cell.kind}': known are {', '.join(KINDS)}.")
    early = _before_speed(cell, kind)
    if early is not None:
        if early[0] is Word.SAME_CODE:
            return _canary(cell, kind, n_cells, calibrated)
        return _said(cell, *early, kind=kind)
    if not cell.pairs:
        return _said(cell, Word.NOTHING_MEASURED, "No pair was measured.", kind=kind)
    unsound = _unsound(cell)
    if unsound:
        return _said(cell, Word.NOT_COMPARABLE, unsound, kind=kind)
    return _timed(cell, kind, n_cells, calibrated)


def _before_speed(cell: PairedCell, kind: CellKind) -> tuple[Word, str] | None:
    """The word of a cell that is not judged by its times, and why; None for one that is."""
    head, base = cell.head, cell.base
    if head.state is State.WRONG:
        return Word.WRONG, _because("It disagrees with its reference", head.reason)
    if head.state is State.ABSENT:
        if base.state is State.ABSENT:
            return Word.NOTHING_MEASURED, _because("Neither side has this cell", head.reason)
        return Word.NOT_COMPARABLE, _because("The change does not have this cell, which the base has", head.reason)
    if base.state is State.ABSENT:
        if head.state is State.MEASURED:
            return Word.NEW, _because("The base does not have this cell", base.reason)
        return Word.NOTHING_MEASURED, _because("It is new and was not measured", head.reason)
    for side, said in ((base, "base"), (head, "change")):
        if side.state is not State.MEASURED:
            return Word.NOT_COMPARABLE, _because(f"The {said} was not measured: it {side.state}", side.reason)
    if not kind.host and head.identity and head.identity == base.identity:
        return Word.SAME_CODE, "Machine code, launch and tuning are those of the base."
    return None


def _because(said: str, reason: str) -> str:
    return f"{said}: {reason}." if reason else f"{said}."


def _unsound(cell: PairedCell) -> str:
    """What is wrong with a cell's pairs, in a sentence; empty for nothing."""
    for pair in (*cell.pairs, *(pair for fresh in cell.fresh.values() for pair in fresh)):
        if math.isnan(pair.log_ratio):
            return f"A pair has times of {pair.base_s} s and {pair.head_s} s, which have no ratio."
    return ""


def usable(cell: PairedCell, pairs: Sequence[TimedPair]) -> list[TimedPair]:
    """The pairs to judge: if a side's tuning varies between its own processes, those whose sides chose alike.

    A tuner that takes the one or the other by chance makes times of two modes. Where each side always chooses the same,
    a difference between the sides belongs to the change, and all pairs count.

    Args:
        cell: all pairs of it say whether its tuning varies.
        pairs: some of them.
    """
    every = [*cell.pairs, *(pair for fresh in cell.fresh.values() for pair in fresh)]
    if len({pair.base_tuning for pair in every}) <= 1 and len({pair.head_tuning for pair in every}) <= 1:
        return list(pairs)
    return [pair for pair in pairs if pair.base_tuning == pair.head_tuning]


def _ratios(cell: PairedCell, pairs: Sequence[TimedPair], length: int) -> Array:
    """The first ``length`` log ratios, with NaN for those that are not measured."""
    ratios = [pair.log_ratio for pair in usable(cell, pairs)][:length]
    return np.array(ratios + [math.nan] * (length - len(ratios)))


def _decided(cell: PairedCell, kind: CellKind, n_cells: int, calibrated: Calibrated | None) -> tuple[Outcome, int]:
    fresh = np.stack([_ratios(cell, cell.fresh.get(n, ()), kind.confirm) for n in kind.looks])
    pairs = _ratios(cell, cell.pairs, kind.looks[-1])
    found = decide(pairs[None], fresh[None], kind, _sd(kind, calibrated), n_cells)
    return Outcome(int(found.outcome[0])), int(found.look[0])


def _sd(kind: CellKind, calibrated: Calibrated | None) -> float:
    return kind.sd if calibrated is None else calibrated.sd


def _timed(cell: PairedCell, kind: CellKind, n_cells: int, calibrated: Calibrated | None) -> CellVerdict:
    """The verdict on a cell's speed."""
    outcome, look = _decided(cell, kind, n_cells, calibrated)
    n = kind.looks[look]
    measured = usable(cell, cell.pairs)[:n]
    if outcome is Outcome.SLOWER:
        measured += usable(cell, cell.fresh[n])[: kind.confirm]
    if not measured:
        return _said(cell, Word.INCONCLUSIVE, "No pair has the same tuning on both sides.", kind=kind)
    found = bounds(np.array([pair.log_ratio for pair in measured]), _sd(kind, calibrated), tail(kind, n_cells))
    shown = f"{kind.margin:.2%} for a {kind.title} cell"
    word, because = {
        Outcome.PASS: (Word.PASS, f"The upper bound lies below the margin of {shown}."),
        Outcome.FASTER: (Word.IMPROVEMENT, f"The whole interval lies below zero, the estimate beyond {shown}."),
        Outcome.SLOWER: (Word.REGRESSION, f"Above the margin of {shown}, and {kind.confirm} fresh pairs confirm it."),
        Outcome.OPEN: (Word.INCONCLUSIVE, f"After {n} pairs the interval still holds the margin of {shown}."),
        Outcome.NEEDS_PAIRS: (Word.INCONCLUSIVE, f"{len(measured)} of {n} usable pairs were measured."),
        Outcome.NEEDS_FRESH: (Word.INCONCLUSIVE, f"It looks slower, and {kind.confirm} fresh pairs must confirm it."),
    }[outcome]
    if outcome is Outcome.OPEN and bool(found.wild):
        because = f"The {n} pairs spread over three times as wide as calibrated: the machine was disturbed."
    elif outcome is Outcome.OPEN and found.estimate > kind.margin and found.lower > 0:
        because = "It looked slower, and fresh pairs did not confirm it."
    return replace(
        _said(cell, word, because, kind=kind),
        change=as_change(float(found.estimate)),
        low=as_change(float(found.lower)),
        high=as_change(float(found.upper)),
        pairs=len(measured),
        advisory=why_advisory(cell, kind, n_cells, calibrated),
    )


def _canary(cell: PairedCell, kind: CellKind, n_cells: int, calibrated: Calibrated | None) -> CellVerdict:
    """The verdict of a cell with the same machine code. If it was timed in as many pairs as the first look has, it must
    not have changed; one pair may be off by itself.
    """
    said = _said(cell, Word.SAME_CODE, "Machine code, launch and tuning are those of the base.", kind=kind)
    if not cell.pairs:
        return said
    unsound = _unsound(cell)
    if unsound:
        return replace(said, word=Word.NOT_COMPARABLE, because=unsound)
    timed = _timed(cell, kind, n_cells, calibrated)
    if len(cell.pairs) >= kind.looks[0] and _moved(timed) and not timed.advisory:
        because = "The same machine code was timed differently: the machine was disturbed, so repeat the check."
        return replace(timed, word=Word.NOT_COMPARABLE, because=because)
    return replace(timed, word=Word.SAME_CODE, because=said.because)


def _moved(timed: CellVerdict) -> bool:
    """Whether a cell's time moved beyond its margin, either way, and beyond its noise."""
    if timed.change is None or timed.low is None or timed.high is None or timed.margin is None:
        return False
    return abs(timed.change) > timed.margin and (timed.low > 0 or timed.high < 0)


def _said(cell: PairedCell, word: Word, because: str, *, kind: CellKind | None = None) -> CellVerdict:
    return CellVerdict(
        cell.name,
        cell.kind,
        word,
        because,
        margin=kind.margin if kind else None,
        base_peak_bytes=cell.base.peak_bytes,
        head_peak_bytes=cell.head.peak_bytes,
    )


def _allowed(verdict: CellVerdict, accepted: Accepted | None) -> CellVerdict:
    """A regression no larger than what is accepted of its cell becomes an accepted one."""
    if accepted is None or verdict.word is not Word.REGRESSION or verdict.change is None:
        return verdict
    if verdict.change > accepted.slowdown:
        because = f"{verdict.because} Accepted are {accepted.slowdown:.2%}."
        return replace(verdict, because=because)
    return replace(verdict, word=Word.ACCEPTED, because=f"Accepted until {accepted.until}: {accepted.reason}")
