"""paired: one pair: a fresh process of each side, and every cell timed by both in short blocks that alternate.

A drift of clocks or of other work then meets both sides alike. Of each side the median of a cell's samples counts, on a
CPU a low quantile (``AT``), and of both only their ratio. One configuration holds for both sides and for all pairs: the
backend and the tiles that the base chose in the first pair, where the change has them, and whether calls are replayed
from a graph. What the change would choose itself is noted.

Processes of the next pair may start while this one runs, and import what earlier ones did, nothing else. Where
cores are few they are stopped while anything is timed.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from hybridbench.errors import BadInput
from hybridbench.gate.attribution import Traced, traced_of
from hybridbench.gate.blocks import BLOCK_NS, BLOCKS, warm_up
from hybridbench.gate.cells import CheckCell
from hybridbench.gate.choices import Choices, chosen, of_base, renamed
from hybridbench.gate.pairs import SideTimes, State, TimedPair
from hybridbench.gate.spent import END, FREE, FRESH, PLANT, PREPARE, SAMPLES, START, WARM_UP, PairTime
from hybridbench.gate.workers import Asking, Died
from hybridbench.stats import quantile
from hybridbench.units import NS_PER_S

AT = {"cpu": 0.1}
"""Which quantile of a side's samples counts, by kind of cell; else the median. Other work on a CPU's core only adds to
some of the samples: on two busy cores the tenth part differed by 1.9% from pair to pair, where medians did by 4.7% (18
cells, 7 pairs)."""
PREPARE_S = {"kernel": 1.0, "cpu": 1.0, "step": 4.0, "training": 4.0}
"""About what it takes to prepare a cell in pairs after its first, by kind. Seen on an H200: 0.5 s for a kernel, 3 s for
a step at 1b."""
TRACES = 15
"""Of each side, where a regression is explained."""
BASE, HEAD = "base", "change"


@dataclass(frozen=True)
class CellInPair:
    """One cell in one pair.

    Args:
        pair: its times without planted work; None where a side has none, or none were asked for.
        blocks_per_sm: of the change's longest kernel.
        spent_s: wall time of this cell; of its first pair without the checks and compilations that later ones lack.
        planted: the times with planted work, by its share.
    """

    base: SideTimes
    head: SideTimes
    pair: TimedPair | None
    blocks_per_sm: float | None
    spent_s: float
    planted: Mapping[float, TimedPair] = field(default_factory=dict)


class _SideFailed(Exception):
    """A side failed while it was timed, with what it said."""

    def __init__(self, side: str, said: dict[str, Any]) -> None:
        super().__init__(side)
        self.side, self.said = side, said


class Pairs:
    """Measures pairs.

    Args:
        start: starts a fresh process of the side ``BASE`` or ``HEAD``, which first imports some modules.
        now: wall time; seconds.
        block_ns: wall time of a block of samples.
        identify: ask in every pair what code runs; False asks in the first one only, which is quicker.
        ahead: start the processes of the next pair while this one prepares; they import, and wait.
        alike: both sides are the same code, so that what one has checked holds for the other.
        pause: stop the waiting processes while anything is timed.

    Attributes:
        choices: by cell, from the first pair in which it was timed.
        start_s: how long it last waited for processes; seconds.
        time: where the time of the last pair went.
    """

    def __init__(
        self,
        start: Callable[[str, Sequence[str]], Asking],
        now: Callable[[], float] = time.monotonic,
        *,
        block_ns: int = BLOCK_NS,
        identify: bool = True,
        ahead: bool = True,
        alike: bool = False,
        pause: bool = True,
    ) -> None:
        self._start, self._now, self._block_ns = start, now, block_ns
        self._identify, self._ahead, self._alike, self._pause = identify, ahead, alike, pause
        self._agreed = set[str]()
        self.time = PairTime(now)
        self._alive: dict[str, Asking] = {}
        self._waiting: dict[str, Asking] = {}
        self.choices: dict[str, Choices] = {}
        self._imported: dict[str, set[str]] = {BASE: set(), HEAD: set()}
        self.start_s = 0.0

    def open(self) -> Mapping[str, Mapping[str, Any]]:
        """Starts what does not run of the two processes, both at once; what each said first, by side."""
        started, waits = self._now(), any(side not in self._alive for side in (BASE, HEAD))
        for side in (BASE, HEAD):
            if side not in self._alive:
                self._alive[side] = self._waiting.pop(side) if side in self._waiting else self._started(side)
        said = {side: self._alive[side].hello for side in (BASE, HEAD)}
        if waits:
            self.start_s = self._now() - started
        return said

    def close(self) -> None:
        """Ends all processes."""
        self._end(self._alive)
        self._end(self._waiting)

    def _end(self, processes: dict[str, Asking]) -> None:
        ending = [processes.pop(side) for side in list(processes)]
        with ThreadPoolExecutor(2) as pool:  # a driver takes a while to free a GPU's memory
            list(pool.map(lambda one: one.end(), ending))

    def _started(self, side: str) -> Asking:
        """A fresh process, which imports what earlier ones of its side did: that was a third of a pair's time."""
        chosen = {one["module"] for choice in self.choices.values() for one in choice.pinned}
        return self._start(side, sorted(self._imported[side] | chosen))

    @contextmanager
    def _quiet(self) -> Iterator[None]:
        """Inside, the processes of the next pair are stopped, so that nothing of ours disturbs what is timed. Where
        cores are to spare, they go on beside kernels that a GPU runs by itself.
        """
        stopped = list(self._waiting.values()) if self._pause else []
        for one in stopped:
            one.pause()
        try:
            yield
        finally:
            for one in stopped:
                one.resume()

    def lacking(self, cells: Sequence[CheckCell]) -> dict[str, str]:
        """Cells by a person's own kernel that is on neither side, each with what the change says; none is called."""
        known: dict[tuple[str, str, str], str] = {}

        def lacks(side: str, body: Mapping[str, Any], cell: CheckCell) -> str:
            key = (side, str(body.get("op")), str(body["backend"]))
            if key not in known:
                self.open()  # a side that died is replaced
                said = self._asked(side, {"do": "find", "cell": dict(body), "plain": cell.plain}, cell)
                known[key] = str(said["reason"]) if said["kind"] == "lacks" else ""
            return known[key]

        found: dict[str, str] = {}
        for cell in cells:
            own = all(":" in str(body.get("backend")) for body in (cell.base, cell.head))
            if own and (said := lacks(HEAD, cell.head, cell)) and lacks(BASE, cell.base, cell):
                found[cell.name] = said
        return found

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
        self.time = PairTime(self._now)
        with self.time.phase(START):
            self.open()
        if self._ahead:
            self._waiting = {side: self._started(side) for side in (BASE, HEAD)}
        try:
            for place, cell in enumerate(cells):
                if until_s is not None and self._now() >= until_s:
                    break
                seen(cell.name)
                with self.time.phase(START):
                    self.open()  # a side that died is replaced
                found[cell.name] = self._cell(cell, number, turned=bool((number + place) % 2))
        finally:
            with self.time.phase(END):
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
        if not _both_ready(sides):
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
        first = cell.name not in self.choices
        with self.time.phase(PREPARE):
            sides = self._both_prepared(cell, _core(number) if cell.device == "cpu" else None, turned)
        only_first_s = self._now() - started - PREPARE_S[cell.kind] if first else 0.0
        tuned = {side: said.get("tuning") for side, said in sides.items()}
        blocks = sides[HEAD].get("blocks_per_sm")
        pair, planted = None, dict[float, TimedPair]()
        with self._quiet():
            if cell.unplanted and _both_ready(sides):
                pair = self._timed(cell, sides, tuned, turned)
            for share in cell.planted if _both_ready(sides) else ():
                with self.time.phase(PLANT):
                    said = self._planted(cell, share)
                more = self._timed(cell, dict(sides), tuned, turned) if said["kind"] == "ready" else None
                if more is None:
                    break
                planted[share] = more
        with self.time.phase(FREE):
            ready = [side for side in (BASE, HEAD) if side in self._alive and sides[side]["kind"] == "prepared"]
            self._both(cell, ready, lambda side: self._asked(side, {"do": "free"}, cell))
        spent_s = self._now() - started - max(0.0, only_first_s)
        return CellInPair(_side(sides[BASE], BASE), _side(sides[HEAD], HEAD), pair, blocks, spent_s, planted)

    def _planted(self, cell: CheckCell, share: float) -> dict[str, Any]:
        """What the change says once its calls have more work. How much it is the first pair determines for all."""
        known = self.choices[cell.name].planted
        said = self._asked(HEAD, {"do": "plant", "frac": share, "parts": known.get(str(share))}, cell)
        if said["kind"] == "ready":
            known[str(share)] = said["parts"]
        return said

    def _both(
        self, cell: CheckCell, sides: Sequence[str], ask: Callable[[str], dict[str, Any]]
    ) -> dict[str, dict[str, Any]]:
        """What each side says, in an order; on a GPU both work at the same time, on a CPU they share a core."""
        if cell.device == "cuda" and len(sides) > 1:
            with ThreadPoolExecutor(len(sides)) as pool:
                return dict(zip(sides, pool.map(ask, sides), strict=True))
        return {side: ask(side) for side in sides}

    def _both_prepared(self, cell: CheckCell, core: int | None, turned: bool) -> dict[str, dict[str, Any]]:
        """What both sides say of a cell that they prepare. The first pair's base chooses for all that follow."""
        if cell.name in self.choices:
            return self._again_prepared(cell, self.choices[cell.name], core, turned)
        with self._quiet():  # how long a launch takes decides whether calls are replayed from a graph
            base = self._prepared(BASE, cell, cell.base, Choices(), core, first=True)
            choice = of_base(cell, base) if base["kind"] == "prepared" else Choices()
            head = self._prepared(HEAD, cell, cell.head, choice, core, first=True)
        if base["kind"] == head["kind"] == "prepared":
            self.choices[cell.name] = chosen(base, head, choice)
        return {BASE: base, HEAD: head}

    def _again_prepared(
        self, cell: CheckCell, choice: Choices, core: int | None, turned: bool
    ) -> dict[str, dict[str, Any]]:
        bodies = {BASE: cell.base, HEAD: cell.head}
        order = [HEAD, BASE] if turned else [BASE, HEAD]  # what is prepared first may be faster or slower for it
        return self._both(cell, order, lambda side: self._prepared(side, cell, bodies[side], choice, core, first=False))

    def _prepared(
        self, side: str, cell: CheckCell, body: Mapping[str, Any], choice: Choices, core: int | None, first: bool
    ) -> dict[str, Any]:
        code = "either side" if self._alike else side
        known = json.dumps([code, cell.what, body], sort_keys=True)
        check = first and known not in self._agreed
        request = {"do": "prepare", "what": cell.what, "cell": dict(body), "check": check, "core": core}
        request["plain"] = cell.plain
        more = {
            "backend": choice.backend,
            "pinned": choice.pinned if side == BASE else renamed(choice.pinned, cell),
            "graph": None if first else choice.graph,
            "identify": first or self._identify,
            "rest": BLOCKS[cell.kind].rest,
        }
        said = self._asked(side, {**request, **more}, cell)
        if check and said["kind"] == "prepared":
            self._agreed.add(known)
        self.time.prepared(side, said.get("spent_s", {}))
        self._imported[side].update(said.get("imported", ()))
        return said

    def _timed(
        self, cell: CheckCell, sides: dict[str, dict[str, Any]], tuned: Mapping[str, str | None], turned: bool
    ) -> TimedPair | None:
        """The times of both sides; None where one failed, whose answer then goes into ``sides``."""
        samples_ns: dict[str, list[int]] = {BASE: [], HEAD: []}
        order = [HEAD, BASE] if turned else [BASE, HEAD]
        try:
            for number in range(BLOCKS[cell.kind].sets):
                for side, taken_ns in self._in_set(cell, number, order).items():
                    samples_ns[side] += taken_ns
        except _SideFailed as exc:
            sides[exc.side] = exc.said
            return None
        middle = AT.get(cell.kind, 0.5)
        base_s, head_s = (quantile(samples_ns[side], middle) / NS_PER_S for side in (BASE, HEAD))
        return TimedPair(base_s, head_s, tuned[BASE], tuned[HEAD])

    def _in_set(self, cell: CheckCell, number: int, order: list[str]) -> dict[str, list[int]]:
        """The samples of each side in set ``number`` of memory; ns."""
        plan = BLOCKS[cell.kind]
        if number:
            with self.time.phase(FRESH):
                self._both(cell, order, lambda side: self._done(side, {"do": "again", "number": number}, cell))
        with self.time.phase(WARM_UP):
            for share in warm_up(number):
                self._block(cell, order, share)
        here: dict[str, list[int]] = {BASE: [], HEAD: []}
        with self.time.phase(SAMPLES):
            for blocks in range(1, plan.most + 1):
                for side, taken_ns in self._block(cell, order, 1.0).items():
                    here[side] += taken_ns
                if plan.ends(blocks, here.values(), cell.kind):
                    break
        return here

    def _block(self, cell: CheckCell, order: list[str], share: float) -> dict[str, list[int]]:
        """The samples of a block of each side in turn; ns. The next time the other goes first."""
        request = {"do": "block", "window_ns": round(share * BLOCKS[cell.kind].length * self._block_ns)}
        found = {side: self._done(side, request, cell)["samples_ns"] for side in order}
        order.reverse()
        return found

    def _done(self, side: str, request: Mapping[str, Any], cell: CheckCell) -> dict[str, Any]:
        """A side's answer; raises ``_SideFailed`` where it has failed."""
        said = self._asked(side, request, cell)
        if said["kind"] == "failed":
            raise _SideFailed(side, said)
        return said

    def _asked(self, side: str, request: Mapping[str, Any], cell: CheckCell) -> dict[str, Any]:
        """A side's answer; where it dies, one that says how. A process that is of no further use is ended."""
        try:
            said = self._alive[side].ask(request, cell.limit_s)
        except Died as exc:
            said = {"kind": "failed", "state": State.FAILED, "reason": str(exc), "fit": False}
        if said.get("fit") is False:
            self._alive.pop(side).end()
        return said


def _both_ready(sides: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether both sides can be timed, by their last answers."""
    return all(said["kind"] == "prepared" for said in sides.values())


def _core(number: int) -> int | None:
    """The core that both sides of a pair run on: cores differ by what their neighbours do, by up to 1.4 times."""
    if not hasattr(os, "sched_getaffinity"):
        return None
    cores = sorted(os.sched_getaffinity(0))
    return cores[number % len(cores)]


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
