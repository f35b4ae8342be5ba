"""looks: pair after pair until every cell is decided, or the time is up.

After each pair the judge says which cells need further pairs, or fresh ones to confirm a regression; only those are
timed again. Cells of the same code are timed as canaries, for the pairs of their first look.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from hybridbench.gate.blocks import BLOCK_NS, BLOCKS
from hybridbench.gate.calibration import Calibrated
from hybridbench.gate.cells import CheckCell
from hybridbench.gate.judge import Wanted, judge, needed
from hybridbench.gate.kinds import KINDS
from hybridbench.gate.paired import PREPARE_S, CellInPair, Pairs
from hybridbench.gate.pairs import PairedCell, SideTimes, State
from hybridbench.gate.verdict import Word
from hybridbench.units import NS_PER_S, format_seconds

START_S = {"cpu": 5.0, "cuda": 8.0}
"""Assumed of the start of a pair's two processes. Those of later ones start while the one before prepares cells."""
SELF_TEST_S = {"cpu": 6.0, "cuda": 10.0}
"""Assumed of timing work of a known length."""
MOST_PAIRS = 3
"""Times the pairs of a last look: where a tuner varies, pairs may not count, and that must not go on for ever."""
SHARE = 0.1
"""Of what is left of a budget that is too short for the first look, the self test may take so much."""
SLACK = 1.2
"""A pair is not begun where the last one, longer by this factor, would not fit into the budget."""


@dataclass
class CheckProgress:
    """What is known of every cell so far.

    Attributes:
        cells: by name, in order.
        pairs: how many pairs of processes were started.
        spent_s: wall time so far.
        out_of_time: whether the budget ended it.
    """

    cells: dict[str, PairedCell]
    pairs: int = 0
    spent_s: float = 0.0
    out_of_time: bool = False
    cell_s: dict[str, float] = field(default_factory=dict)


def predicted_s(cells: Sequence[CheckCell], least_pairs: int = 0) -> tuple[float, float]:
    """How long a check of these cells takes: if every first look decides, and if every last one must; seconds.

    Args:
        least_pairs: of a calibration, whose cells all get so many; both figures are then the same.
    """
    device = cells[0].device if cells else "cpu"
    later_s = max(0.0, START_S[device] - sum(PREPARE_S[cell.kind] for cell in cells))
    cell_s = {cell.name: _cell_s(cell) for cell in cells}
    least, most = _all_pairs_s(cells, later_s, cell_s)
    if least_pairs:
        least = most = least_pairs * (later_s + sum(cell_s.values()))
    first_s = SELF_TEST_S[device] + START_S[device] - later_s
    return first_s + least, first_s + most


def _all_pairs_s(cells: Sequence[CheckCell], start_s: float, cell_s: Mapping[str, float]) -> tuple[float, float]:
    """The pairs of every first look, and those of every last one with all that confirm; seconds."""

    def pairs_s(pairs: Mapping[str, int]) -> float:
        work = sum(pairs[cell.kind] * cell_s[cell.name] for cell in cells)
        return max((pairs[cell.kind] for cell in cells), default=0) * start_s + work

    first = {name: kind.looks[0] for name, kind in KINDS.items()}
    last = {name: kind.looks[-1] + kind.confirm * len(kind.looks) for name, kind in KINDS.items()}
    return pairs_s(first), pairs_s(last)


def needed_s(cells: Sequence[CheckCell], progress: CheckProgress, pairs: Pairs) -> str:
    """How long the looks of these cells take by what was seen, as the end of a sentence."""
    seen = {cell.name: progress.cell_s.get(cell.name, _cell_s(cell)) for cell in cells}
    least, most = _all_pairs_s(cells, pairs.start_s, seen)
    other_s = SELF_TEST_S[cells[0].device] + START_S[cells[0].device]
    return (
        f"the first look takes about {format_seconds(least + other_s)} and the last one at most "
        f"{format_seconds(most + other_s)}: give --budget as much, or fewer cells"
    )


def _cell_s(cell: CheckCell) -> float:
    return PREPARE_S[cell.kind] + 2 * BLOCKS[cell.kind].longest * BLOCK_NS / NS_PER_S


def prediction(cells: Sequence[CheckCell], budget_s: float | None, least_pairs: int = 0) -> str:
    """The prediction in a sentence; ``least_pairs`` as in ``predicted_s``."""
    least, most = predicted_s(cells, least_pairs)
    count = "1 cell" if len(cells) == 1 else f"{len(cells)} cells"
    said = f"{count}: {format_seconds(least)} if the first look decides, at most about {format_seconds(most)}"
    too_short = "too short for the first look: some cells will be undecided"
    if least_pairs:
        said = f"{count}: about {format_seconds(least)} for {least_pairs} pairs"
        too_short = "too short for them: a cell that has fewer is not calibrated"
    if budget_s is None:
        return f"{said}."
    short = f", {too_short}" if budget_s < least else ""
    return f"{said}; the budget is {format_seconds(budget_s)}{short}."


def without_self_test(cells: Sequence[CheckCell], left_s: float | None, least_pairs: int = 0) -> str:
    """Why the self test is left out, in a sentence; empty where it is not.

    It is left out where there is no time for it and for the first look after it, unless it takes a tenth of what is
    left at most: a budget for many pairs that does not do for all cells has time to test the clock.

    Args:
        left_s: of the budget, once both sides have started; None without a budget; seconds.
        least_pairs: as in ``predicted_s``.
    """
    device = cells[0].device
    needs_s = predicted_s(cells, least_pairs)[0] - START_S[device]
    if left_s is None or left_s >= min(needs_s, SELF_TEST_S[device] / SHARE):
        return ""
    pairs_s = needs_s - SELF_TEST_S[device]
    return (
        f"Self test: left out, since the budget had {format_seconds(left_s)} left. It takes about "
        f"{format_seconds(SELF_TEST_S[device])}, and the pairs after it {format_seconds(pairs_s)}."
    )


def look(
    cells: Sequence[CheckCell],
    pairs: Pairs,
    calibrated: Mapping[str, Calibrated] | None = None,
    *,
    budget_s: float | None = None,
    least_pairs: int = 0,
    now: Callable[[], float] = time.monotonic,
    said: Callable[[str], None] = lambda _text: None,
) -> CheckProgress:
    """Measure until all is decided.

    Args:
        budget_s: wall time that it must not exceed; seconds.
        least_pairs: every cell that can be timed gets so many, whatever they say: those of a calibration.
        said: called with a line about what is measured now.
    """
    started, known = now(), calibrated or {}
    progress = CheckProgress({cell.name: PairedCell(cell.name, cell.kind) for cell in cells})
    until_s = None if budget_s is None else started + budget_s
    while True:
        wanted = _wanted(cells, progress, known, least_pairs)
        if not wanted:
            break
        if until_s is not None and progress.pairs and now() + SLACK * _predicted(wanted, progress, pairs) > until_s:
            progress.out_of_time = True
            break
        number = progress.pairs
        listed = [cell for cell in cells if cell.name in wanted]

        def seen(name: str, number: int = number) -> None:
            said(f"pair {number + 1}: {name}")

        found = pairs.measure(listed, number, until_s=until_s, seen=seen)
        progress.pairs += bool(found)
        for cell in listed:
            if cell.name in found:
                one = _named(cell, found[cell.name])
                progress.cells[cell.name] = _added(progress.cells[cell.name], one, wanted[cell.name])
                progress.cell_s[cell.name] = found[cell.name].spent_s
        if len(found) < len(listed):
            progress.out_of_time = True
            break
    progress.spent_s = now() - started
    return progress


def _predicted(wanted: Mapping[str, int], progress: CheckProgress, pairs: Pairs) -> float:
    return pairs.start_s + sum(progress.cell_s.get(name, 0.0) for name in wanted)


def _wanted(
    cells: Sequence[CheckCell], progress: CheckProgress, calibrated: Mapping[str, Calibrated], least_pairs: int
) -> dict[str, int]:
    """The cells to time in the next pair, each with the look that its pair is to confirm; 0 for a further pair."""
    timed = sum(bool(one.pairs) for one in progress.cells.values())
    n_cells = timed or len(cells)
    found = {}
    for name, cell in progress.cells.items():
        if progress.pairs and not cell.pairs and not cell.fresh:
            continue  # the first pair gave it no time, and another one would not either
        if len(cell.pairs) + sum(map(len, cell.fresh.values())) >= MOST_PAIRS * KINDS[cell.kind].looks[-1]:
            continue
        if least_pairs:
            if len(cell.pairs) < least_pairs and _both_measured(cell):
                found[name] = 0
            continue
        need = needed(cell, n_cells, calibrated.get(name))
        if need is not None:
            found[name] = need.look if need.which is Wanted.FRESH else 0
        elif _canary(cell) and len(cell.pairs) < KINDS[cell.kind].looks[0]:
            found[name] = 0
    return found


def _both_measured(cell: PairedCell) -> bool:
    return cell.base.state is State.MEASURED and cell.head.state is State.MEASURED


def _canary(cell: PairedCell) -> bool:
    return _both_measured(cell) and judge([cell])[0].word is Word.SAME_CODE


def _added(cell: PairedCell, found: CellInPair, confirming: int) -> PairedCell:
    """A cell with what one more pair says of it."""
    first = not cell.pairs
    base, head = (
        now if first or now.state is not State.MEASURED else _same(before, now)
        for before, now in ((cell.base, found.base), (cell.head, found.head))
    )
    cell = replace(cell, base=base, head=head)
    if found.blocks_per_sm is not None:
        cell = replace(cell, blocks_per_sm=found.blocks_per_sm)
    if found.pair is None:
        return cell
    if confirming:
        fresh = {**cell.fresh, confirming: (*cell.fresh.get(confirming, ()), found.pair)}
        return replace(cell, fresh=fresh)
    return replace(cell, pairs=(*cell.pairs, found.pair))


def _same(before: SideTimes, now: SideTimes) -> SideTimes:
    """A side that ran other code in a later process has no identity: what varies is not "the same"."""
    return now if before.identity == now.identity else replace(now, identity=None)


def _named(cell: CheckCell, found: CellInPair) -> CellInPair:
    """A cell in a pair; a base that lacks the function that was named for it alone has failed, and nothing is new."""
    named = cell.base.get("backend") != cell.head.get("backend")
    if not named or found.base.state is not State.ABSENT:
        return found
    return replace(found, base=replace(found.base, state=State.FAILED))
