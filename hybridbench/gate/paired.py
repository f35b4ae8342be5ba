"""paired: one pair: a fresh process of each side, and every cell timed by both in short blocks that alternate.

A drift of clocks or of other work then meets both sides alike. Of each side the median of a cell's samples counts, on a
CPU a low quantile (``AT``), and of both only their ratio. One configuration holds for both sides and for all pairs: the
backend and the tiles that the base chose in the first pair, where the change has them. What the change would choose
itself is noted.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from hybridbench.errors import BadInput
from hybridbench.gate.attribution import Traced, traced_of
from hybridbench.gate.cells import CheckCell
from hybridbench.gate.pairs import SideTimes, State, TimedPair
from hybridbench.gate.workers import Asking, Died
from hybridbench.stats import quantile
from hybridbench.units import NS_PER_S

BLOCK_NS = 40_000_000
WARM_BLOCKS = 2
BLOCKS = {"cpu": (4, 4, 4), "kernel": (4, 4, 4), "step": (8,), "training": (8,)}
"""Blocks of each side of a pair by kind of cell, in each fresh set of memory."""
AT = {"cpu": 0.1}
"""Which quantile of a side's samples counts, by kind of cell; else the median. Other work on a CPU's core only adds to
some of the samples: on two busy cores the tenth part differed by 1.9% from pair to pair, where medians did by 4.7% (18
cells, 7 pairs)."""
TRACES = 15
"""Of each side, where a regression is explained."""
BASE, HEAD = "base", "change"


@dataclass
class Choices:
    """What the first pair's base chose for a cell, and what the change would choose.

    Attributes:
        backend: the base's; None where the cell names one.
        pinned: the configurations of the base's autotuners, as JSON values.
        own_backend: the change's own.
        own_tuning: the configurations that the change would take and the base does not, as sentences.
    """

    backend: str | None = None
    pinned: list[dict[str, Any]] = field(default_factory=list)
    own_backend: str | None = None
    own_tuning: list[str] = field(default_factory=list)

    def remarks(self, cell: str) -> list[str]:
        """Sentences about what the change would choose differently."""
        said = [f"{cell}: the change's tuner would take {one}." for one in self.own_tuning]
        if self.own_backend and self.backend and self.own_backend != self.backend:
            said.insert(0, f"{cell}: the change would take backend {self.own_backend}; timed is {self.backend}.")
        return said


@dataclass(frozen=True)
class CellInPair:
    """One cell in one pair.

    Args:
        pair: its times; None where a side has none.
        blocks_per_sm: of the change's longest kernel.
        spent_s: wall time of this cell.
        planted: the times with planted work, by its share.
    """

    base: SideTimes
    head: SideTimes
    pair: TimedPair | None
    blocks_per_sm: float | None
    spent_s: float
    planted: Mapping[float, TimedPair] = field(default_factory=dict)


class Pairs:
    """Measures pairs.

    Args:
        start: starts a fresh process of the side ``BASE`` or ``HEAD``.
        now: wall time; seconds.
        block_ns: wall time of a block of samples.
        identify: ask in every pair what code runs; False asks in the first one only, which is quicker.
        ahead: start the processes of the next pair while this one measures; they import and compute nothing.

    Attributes:
        choices: by cell, from the first pair in which it was timed.
        start_s: how long the last pair's two processes took to start; seconds.
    """

    def __init__(
        self,
        start: Callable[[str], Asking],
        now: Callable[[], float] = time.monotonic,
        *,
        block_ns: int = BLOCK_NS,
        identify: bool = True,
        ahead: bool = False,
    ) -> None:
        self._start, self._now, self._block_ns = start, now, block_ns
        self._identify, self._ahead = identify, ahead
        self._alive: dict[str, Asking] = {}
        self._waiting: dict[str, Asking] = {}
        self.choices: dict[str, Choices] = {}
        self.start_s = 0.0

    def open(self) -> Mapping[str, Mapping[str, Any]]:
        """Starts what does not run of the two processes, both at once; what each said first, by side."""
        started = self._now()
        for side in (BASE, HEAD):
            if side not in self._alive:
                self._alive[side] = self._waiting.pop(side) if side in self._waiting else self._start(side)
        said = {side: self._alive[side].hello for side in (BASE, HEAD)}
        self.start_s = self._now() - started
        return said

    def close(self) -> None:
        """Ends all processes."""
        self._end(self._alive)
        self._end(self._waiting)

    def _end(self, processes: dict[str, Asking]) -> None:
        for side in list(processes):
            processes.pop(side).end()

    def measure(
        self,
        cells: Sequence[CheckCell],
        number: int,
        *,
        until_s: float | None = None,
        seen: Callable[[str], None] = print,
    ) -> dict[str, CellInPair]:
        """One pair: the cells that were timed until the time was up, by name.

        Args:
            number: of the pair, from 0; the sides take turns in going first.
            until_s: no cell begins after it, as ``now`` counts.
            seen: called with the name of each cell as it begins.
        """
        found: dict[str, CellInPair] = {}
        self.open()
        if self._ahead:
            self._waiting = {side: self._start(side) for side in (BASE, HEAD)}
        try:
            for place, cell in enumerate(cells):
                if until_s is not None and self._now() >= until_s:
                    break
                seen(cell.name)
                self.open()  # a side that died is replaced
                found[cell.name] = self._cell(cell, number, turned=bool((number + place) % 2))
        finally:
            self._end(self._alive)
        return found

    def trace(
        self, cells: Sequence[CheckCell], *, until_s: float | None = None, seen: Callable[[str], None] = print
    ) -> dict[str, tuple[list[Traced], list[Traced]]]:
        """Traces of the base and of the change, in turns, by a fresh process of each; the cells that could be traced.

        Args:
            until_s: no cell begins after it, as ``now`` counts.
            seen: called with the name of each cell as it begins.
        """
        found: dict[str, tuple[list[Traced], list[Traced]]] = {}
        try:
            for cell in cells:
                if until_s is not None and self._now() >= until_s:
                    break
                seen(cell.name)
                self.open()
                traces = self._traces(cell)
                if traces is not None:
                    found[cell.name] = traces
        finally:
            self._end(self._alive)
        return found

    def _traces(self, cell: CheckCell) -> tuple[list[Traced], list[Traced]] | None:
        sides = self._both_prepared(cell, _core(0) if cell.device == "cpu" else None, turned=False)
        if any(one["kind"] != "prepared" for one in sides.values()):
            return None
        found: dict[str, list[Traced]] = {BASE: [], HEAD: []}
        order = [BASE, HEAD]
        for number in range(TRACES + 1):
            for side in order:
                said = self._asked(side, {"do": "trace"}, cell)
                if said["kind"] != "traced":
                    return None
                if number:  # the first one loads the profiler
                    found[side].append(traced_of(said))
            order.reverse()
        for side in order:
            self._asked(side, {"do": "free"}, cell)
        return found[BASE], found[HEAD]

    def _cell(self, cell: CheckCell, number: int, turned: bool) -> CellInPair:
        started = self._now()
        sides = self._both_prepared(cell, _core(number) if cell.device == "cpu" else None, turned)
        tuned = {side: said.get("tuning") for side, said in sides.items()}
        blocks = sides[HEAD].get("blocks_per_sm")
        pair, planted = None, dict[float, TimedPair]()
        if all(one["kind"] == "prepared" for one in sides.values()):
            pair = self._timed(cell, sides, tuned, turned)
        for share in cell.planted if pair else ():
            said = self._asked(HEAD, {"do": "plant", "frac": share}, cell)
            more = self._timed(cell, dict(sides), tuned, turned) if said["kind"] == "ready" else None
            if more is None:
                break
            planted[share] = more
        for side in (BASE, HEAD):
            if side in self._alive and sides[side]["kind"] == "prepared":
                self._asked(side, {"do": "free"}, cell)
        spent_s = self._now() - started
        return CellInPair(_side(sides[BASE], BASE), _side(sides[HEAD], HEAD), pair, blocks, spent_s, planted)

    def _both_prepared(self, cell: CheckCell, core: int | None, turned: bool) -> dict[str, dict[str, Any]]:
        """What both sides say of a cell that they prepare. The first pair's base chooses for all that follow."""
        if cell.name in self.choices:
            return self._again_prepared(cell, self.choices[cell.name], core, turned)
        choice = Choices()
        base = self._prepared(BASE, cell, cell.base, choice, core, check=True)
        if base["kind"] == "prepared":
            auto = cell.what == "kernel" and cell.base["backend"] == "auto"
            choice = Choices(base["facts"].get("backend") if auto else None, base["chosen"])
        head = self._prepared(HEAD, cell, cell.head, choice, core, check=True)
        if head["kind"] == "prepared":
            choice.own_backend = head["facts"].get("own_backend")
            choice.own_tuning = _own(choice.pinned, head["chosen"])
            if base["kind"] == "prepared":
                self.choices[cell.name] = choice
        return {BASE: base, HEAD: head}

    def _again_prepared(
        self, cell: CheckCell, choice: Choices, core: int | None, turned: bool
    ) -> dict[str, dict[str, Any]]:
        bodies = {BASE: cell.base, HEAD: cell.head}
        order = [HEAD, BASE] if turned else [BASE, HEAD]  # what is prepared first may be faster or slower for it

        def prepared(side: str) -> dict[str, Any]:
            return self._prepared(side, cell, bodies[side], choice, core, check=False)

        if cell.what == "step" and cell.device == "cuda":  # a kernel's preparation asks how long its launch takes
            with ThreadPoolExecutor(len(order)) as pool:
                return dict(zip(order, pool.map(prepared, order), strict=True))
        return {side: prepared(side) for side in order}

    def _prepared(
        self, side: str, cell: CheckCell, body: Mapping[str, Any], choice: Choices, core: int | None, check: bool
    ) -> dict[str, Any]:
        pinned = _renamed(choice.pinned, cell)
        if side == BASE:
            pinned = choice.pinned
        request = {"do": "prepare", "what": cell.what, "cell": dict(body), "check": check, "core": core}
        identify = check or self._identify
        return self._asked(side, {**request, "backend": choice.backend, "pinned": pinned, "identify": identify}, cell)

    def _timed(
        self, cell: CheckCell, sides: dict[str, dict[str, Any]], tuned: Mapping[str, str | None], turned: bool
    ) -> TimedPair | None:
        """The times of both sides; None where one failed, whose answer then goes into ``sides``."""
        samples_ns: dict[str, list[int]] = {BASE: [], HEAD: []}
        order = [HEAD, BASE] if turned else [BASE, HEAD]
        for number, blocks in enumerate(BLOCKS[cell.kind]):
            for step in range(-WARM_BLOCKS - bool(number), blocks):
                fresh = number > 0 and step == -WARM_BLOCKS - 1
                request = {"do": "again", "number": number} if fresh else {"do": "block", "window_ns": self._block_ns}
                for side in order:
                    said = self._asked(side, request, cell)
                    if said["kind"] == "failed":
                        sides[side] = said
                        return None
                    if step >= 0:
                        samples_ns[side] += said["samples_ns"]
                order.reverse()
        middle = AT.get(cell.kind, 0.5)
        base_s, head_s = (quantile(samples_ns[side], middle) / NS_PER_S for side in (BASE, HEAD))
        return TimedPair(base_s, head_s, tuned[BASE], tuned[HEAD])

    def _asked(self, side: str, request: Mapping[str, Any], cell: CheckCell) -> dict[str, Any]:
        """A side's answer; where it dies, one that says how. A process that is of no further use is ended."""
        try:
            said = self._alive[side].ask(request, cell.limit_s)
        except Died as exc:
            said = {"kind": "failed", "state": State.FAILED, "reason": str(exc), "fit": False}
        if said.get("fit") is False:
            self._alive.pop(side).end()
        return said


def _core(number: int) -> int | None:
    """The core that both sides of a pair run on: cores differ by what their neighbours do, by up to 1.4 times."""
    if not hasattr(os, "sched_getaffinity"):
        return None
    cores = sorted(os.sched_getaffinity(0))
    return cores[number % len(cores)]


def _own(pinned: Sequence[Mapping[str, Any]], chosen: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the change chose where the base chose otherwise for the same kernel and problem, as phrases."""
    of_base = {(one["kernel"], str(one["key"])): one["configuration"] for one in pinned}
    said = []
    for one in chosen:
        there = of_base.get((one["kernel"], str(one["key"])))
        if there is not None and there != one["configuration"]:
            said.append(f"'{one['configuration']}' for {one['kernel']}, where the base takes '{there}'")
    return list(dict.fromkeys(said))


def _renamed(pinned: list[dict[str, Any]], cell: CheckCell) -> list[dict[str, Any]]:
    """Configurations for the change's module, where a kernel of one's own stands in another one on the base."""
    names = [str(body.get("backend", "")).partition(":") for body in (cell.base, cell.head)]
    (base, of_base, _), (head, of_head, _) = names
    if not (of_base and of_head):
        return pinned
    return [{**one, "module": head} if one["module"] == base else one for one in pinned]


def _side(said: Mapping[str, Any], name: str) -> SideTimes:
    """An answer as the judge is given it."""
    if said["kind"] == "prepared":
        return SideTimes(State.MEASURED, identity=said.get("identity"), peak_bytes=said.get("peak_bytes"))
    if said["kind"] != "failed":
        raise BadInput(f"the {name} answers '{said['kind']}' where a cell was to be prepared.")
    state = State(said["state"])
    if state is State.WRONG and name == BASE:  # what is wrong in the base is not for the change to answer for
        return SideTimes(State.FAILED, f"it is wrong: {said['reason']}")
    return SideTimes(state, str(said["reason"]))
