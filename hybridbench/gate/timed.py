"""timed: one check of the timing tier: both sides started, cells measured until they are decided, and judged."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import Any

from hybridbench.errors import BadInput, NotComparable
from hybridbench.gate.accepted import read_accepted, still
from hybridbench.gate.attribution import Why, attribute
from hybridbench.gate.calibration import (
    LEAST_PAIRS,
    Calibrated,
    Calibration,
    calibrate,
    machine_of,
    read_calibration,
    write_calibration,
)
from hybridbench.gate.cells import CheckCell
from hybridbench.gate.exits import WORST_FIRST, Exit, exit_of
from hybridbench.gate.judge import judge
from hybridbench.gate.looks import CheckProgress, look, needed_s, without_self_test
from hybridbench.gate.paired import BASE, HEAD, Pairs
from hybridbench.gate.pairs import PairedCell, State
from hybridbench.gate.sides import Setup
from hybridbench.gate.verdict import CellVerdict, Word
from hybridbench.gate.workers import Asking, SideWorker, settings
from hybridbench.kernel_suite import harness
from hybridbench.machine import usable_cores
from hybridbench.plain import from_plain
from hybridbench.record import Environment
from hybridbench.units import format_seconds

Say = Callable[[str], None]

FIRST = "Every cell is new and agrees with its reference. The base has none of these kernels, so no speed was compared."
"""Said of a person's own kernels, which is no failure: a change that adds one cannot have an older one."""
UNKNOWN_TO_BASE = "Every cell is new, so nothing was compared: name a base that knows one of them."
SPARE_CORES = 8
"""With so many, processes that import disturb nothing that a GPU runs by itself: two time, two import, some serve."""


@dataclass(frozen=True)
class Checked:
    """What a check found.

    Args:
        verdicts: one of each cell.
        progress: the pairs that they are made of.
        remarks: sentences about the whole check.
        machine: what identifies it.
        sides: what each side ran: its revision, package and versions.
        why: of each regression that was traced, what its time was added to.
        all_first: whether every cell is the first of a person's own kernel, so that there was nothing to compare with.
    """

    verdicts: list[CellVerdict]
    progress: CheckProgress
    remarks: list[str]
    machine: Mapping[str, str]
    sides: Mapping[str, Mapping[str, Any]]
    why: Mapping[str, Why] = field(default_factory=dict)
    all_first: bool = False

    @property
    def outcome(self) -> Exit:
        """What was found, whatever is to fail a job."""
        return self.code(WORST_FIRST)

    def code(self, fail_on: Sequence[Exit]) -> Exit:
        """The exit code, of what is to fail a job."""
        return exit_of(self.verdicts, fail_on, all_first=self.all_first)

    @property
    def revisions(self) -> dict[str, str]:
        """What each side timed, a commit or an environment; of sides of which that is known."""
        return {side: body["revision"] for side, body in self.sides.items() if body.get("revision")}

    def more(self) -> dict[str, Any]:
        """What JSON says besides the verdicts: remarks, the machine, both sides and the times of all pairs."""
        pairs = {
            name: {
                "pairs": [asdict(one) for one in cell.pairs],
                "fresh": {str(n): [asdict(one) for one in some] for n, some in cell.fresh.items()},
            }
            for name, cell in self.progress.cells.items()
        }
        return {
            "remarks": self.remarks,
            "seconds": self.progress.spent_s,
            "machine": dict(self.machine),
            "sides": {side: dict(body) for side, body in self.sides.items()},
            "pairs": pairs,
            "why": {name: {**asdict(one), "sentence": one.sentence()} for name, one in self.why.items()},
        }


@contextmanager
def started(base: Setup, head: Setup, device: str, gpu: str | None, **how: Any) -> Iterator[Pairs]:
    """Pairs of processes of two sides, with ``how`` as ``Pairs`` takes it; all are ended at the end."""
    with tempfile.TemporaryDirectory(prefix="hybridbench-check-") as folder:
        environment = settings(device, gpu)

        def start(side: str, modules: Sequence[str]) -> Asking:
            return SideWorker(base if side == BASE else head, environment, Path(folder) / f"{side}.log", modules)

        pairs = Pairs(start, pause=device == "cpu" or usable_cores() < SPARE_CORES, **how)
        try:
            yield pairs
        finally:
            pairs.close()


def check(
    cells: Sequence[CheckCell],
    pairs: Pairs,
    *,
    calibration: Path | None = None,
    accepted: Path | None = None,
    budget_s: float | None = None,
    today: date | None = None,
    self_test: Callable[[], str] | None = None,
    revisions: Mapping[str, str] | None = None,
    said: Say = lambda _text: None,
) -> Checked:
    """Measure and judge cells.

    Args:
        self_test: what the timing makes of work of a known length, in a sentence; asked once both sides have started,
            so that one that does not start is told first, and left out where the budget has no time for it.
        revisions: what each side times, by side, for people.
        calibration: the file of this machine's calibration.
        accepted: the file of accepted regressions.
        budget_s: wall time; seconds.

    Raises:
        BadInput: a side does not start, neither side has a person's own kernel, or a file cannot be read or is of
            another machine.
    """
    began = time.monotonic()
    allowed, remarks = ([], []) if accepted is None else still(read_accepted(accepted), today or date.today())
    names = [cell.name for cell in cells]
    remarks += [f"Accepted, and no cell of this check: {one.cell}." for one in allowed if one.cell not in names]
    sides = _sides(pairs, revisions or {})
    machine = machine_of(from_plain(Environment, sides[HEAD]["environment"]))
    known: Mapping[str, Calibrated] = {}
    if calibration is not None:
        known = read_calibration(calibration, machine).cells
    _check_own(cells, pairs)
    if self_test is not None:
        remarks.insert(0, _tested(self_test, cells, _left(budget_s, began), said))
    progress = look(cells, pairs, known, budget_s=_left(budget_s, began), said=said)
    verdicts = judge(list(progress.cells.values()), known, allowed)
    remarks += _choosing(cells, pairs)
    slower = [one.cell for one in verdicts if one.word is Word.REGRESSION]
    why = explained([cell for cell in cells if cell.name in slower], pairs, _until(budget_s, began), said)
    verdicts = [replace(one, why=why[one.cell].sentence(one.change)) if one.cell in why else one for one in verdicts]
    remarks += [f"{name} was not traced, so why it is slower is not known." for name in slower if name not in why]
    if progress.out_of_time:
        remarks.append(f"The budget ended before every cell was decided. Here {needed_s(cells, progress, pairs)}.")
    if known:
        unknown = [name for name in names if name not in known]
        remarks += [f"Not in the calibration, so judged by its kind's noise: {name}." for name in unknown]
    all_new = bool(verdicts) and all(one.word is Word.NEW for one in verdicts)
    all_first = all_new and all(":" in str(cell.head.get("backend")) for cell in cells)
    if all_new:
        remarks.append(FIRST if all_first else UNKNOWN_TO_BASE)
    named = [f"{side.capitalize()}: {revision}." for side, revision in (revisions or {}).items() if revision]
    remarks += [" ".join(named)] if named else []
    count = "1 pair" if progress.pairs == 1 else f"{progress.pairs} pairs"
    remarks.append(f"{count} of processes in {format_seconds(progress.spent_s)}.")
    return Checked(verdicts, progress, remarks, machine, sides, why, all_first)


def _check_own(cells: Sequence[CheckCell], pairs: Pairs) -> None:
    """Check that a person's own kernels are on one side at least: a name that neither has was mistyped.

    Raises:
        BadInput: one is not.
    """
    for name, why in pairs.lacking(cells).items():
        raise BadInput(f"neither side has the kernel of {name}: {why}.")


def _tested(
    self_test: Callable[[], str], cells: Sequence[CheckCell], left_s: float | None, said: Say, least_pairs: int = 0
) -> str:
    """What the self test says, or why it is left out; what is left of the budget in seconds decides."""
    left_out = without_self_test(cells, left_s, least_pairs)
    if left_out:
        return left_out
    said("timing work of a known length")
    return self_test()


def _choosing(cells: Sequence[CheckCell], pairs: Pairs) -> list[str]:
    """What the change would choose differently, each choice once: a process keeps those of its earlier cells."""
    told, said = set[str](), list[str]()
    for cell in cells:
        choice = pairs.choices.get(cell.name)
        if choice is not None:
            said += replace(choice, own_tuning=[one for one in choice.own_tuning if one not in told]).remarks(cell.name)
            told |= set(choice.own_tuning)
    return said


def explained(cells: Sequence[CheckCell], pairs: Pairs, until_s: float | None, said: Say) -> dict[str, Why]:
    """Why cells are slower, from traces of both sides; those that could be traced in time.

    Args:
        until_s: no trace begins after it, as ``time.monotonic`` counts.
    """
    found = pairs.trace(cells, until_s=until_s, seen=lambda name: said(f"tracing both sides: {name}"))
    return {name: attribute(base, head) for name, (base, head) in found.items()}


def _until(budget_s: float | None, began: float) -> float | None:
    return None if budget_s is None else began + budget_s


@dataclass(frozen=True)
class CalibrationRun:
    """What ``calibrated`` measured.

    Args:
        calibration: what was written.
        left_out: why a cell is not in it, in a sentence, by name.
        remarks: sentences about the whole run.
    """

    calibration: Calibration
    left_out: Mapping[str, str]
    remarks: list[str]


def calibrated(
    cells: Sequence[CheckCell],
    pairs: Pairs,
    path: Path,
    *,
    budget_s: float | None = None,
    self_test: Callable[[], str] | None = None,
    said: Say = lambda _text: None,
) -> CalibrationRun:
    """Time the same code on both sides, and write what that says of each cell.

    Raises:
        BadInput: this side does not start, or does not have a person's own kernel.
        NotComparable: no cell could be timed often enough; nothing is written.
    """
    began = time.monotonic()
    machine = machine_of(from_plain(Environment, _sides(pairs, {})[HEAD]["environment"]))
    _check_own(cells, pairs)
    remarks = []
    if self_test is not None:
        remarks.append(_tested(self_test, cells, _left(budget_s, began), said, LEAST_PAIRS))
    progress = look(cells, pairs, budget_s=_left(budget_s, began), least_pairs=LEAST_PAIRS, said=said)
    left_out = {name: why for name, cell in progress.cells.items() if (why := _not_calibrated(cell))}
    kept = [cell for name, cell in progress.cells.items() if name not in left_out]
    if not kept:
        raise NotComparable(f"no cell can be calibrated, so nothing is written. {' '.join(left_out.values())}")
    found = calibrate(kept, machine)
    ran = {name: choice.backend for name, choice in pairs.choices.items()}
    found = replace(found, cells={name: replace(one, backend=ran.get(name)) for name, one in found.cells.items()})
    path.parent.mkdir(parents=True, exist_ok=True)
    write_calibration(found, path)
    return CalibrationRun(found, left_out, remarks)


def _not_calibrated(cell: PairedCell) -> str:
    """Why a cell cannot be calibrated, in a sentence; empty where it can."""
    for side in (cell.head, cell.base):
        if side.state is not State.MEASURED:
            return f"{cell.name} cannot be calibrated: {side.reason or side.state}."
    if len(cell.pairs) < LEAST_PAIRS:
        return f"{cell.name} has {len(cell.pairs)} of {LEAST_PAIRS} pairs: give --budget more seconds, or fewer cells."
    if any(math.isnan(pair.log_ratio) for pair in cell.pairs):
        return f"{cell.name} has a pair with a time that is not above zero: calibrate it again."
    return ""


def _left(budget_s: float | None, began: float) -> float | None:
    return None if budget_s is None else max(0.0, budget_s - (time.monotonic() - began))


def _sides(pairs: Pairs, revisions: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """What each side is; starts the first pair's processes."""
    return {
        side: {"revision": revisions.get(side, ""), "environment": said["environment"]}
        for side, said in pairs.open().items()
    }


def self_tested(device: str, gpu: str | None) -> str:
    """What the timing makes of work of a known length, in a sentence.

    Raises:
        NotComparable: on a GPU it is far off, so nothing can be judged.
    """
    found = harness.self_test(device, gpu)
    said = harness.in_words(found)
    if device == "cuda" and found["error_frac"] > harness.DOUBTFUL_FRAC:
        raise NotComparable(said)
    return said
