"""program: one side of a pair: prepares one cell after another, checks it, and times it in blocks when it is told to.

It imports the modules that it is started with, then reads a request per line of JSON from standard input and answers
each with one line. Both sides of a pair are such processes. They are alive at the same time, and only one of them works
at any moment. Before the first request it only imports: it may wait beside others that are timed.

    {"do": "hello"}
    {"do": "find", "cell": {...}}           whether a person's own kernel is there; it is not called
    {"do": "prepare", "what": "kernel", "cell": {...}, "backend": null, "pinned": [], "check": true, "core": 0,
     "graph": null, "identify": true, "rest": 0}
    {"do": "block", "window_ns": 40000000}  samples of so much time, but one at least
    {"do": "again", "number": 1}            the same cell in fresh memory
    {"do": "plant", "frac": 0.01, "parts": null}
                                            the same cell with so much more work, in fresh memory; or with known parts
    {"do": "trace"}                         where the time of its step goes
    {"do": "free"}
"""

from __future__ import annotations

import faulthandler
import importlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

import hybridbench
from hybridbench.audit.exchange import Taken
from hybridbench.audit.observe.tuned import taken, using
from hybridbench.errors import BadInput, HybridbenchError, Unsupported, WrongResult, described, reason
from hybridbench.gate.side.identity import LaunchedCode, identity, watched
from hybridbench.gate.side.planted import appended, sized
from hybridbench.gate.side.spin import Products, Spin, rest_before
from hybridbench.gate.side.understood import understood
from hybridbench.kernel_suite.agree import agreement
from hybridbench.kernel_suite.bind import bound, drawn
from hybridbench.kernel_suite.cell import Cell
from hybridbench.kernel_suite.flush import Flush, spacers
from hybridbench.kernel_suite.run import resolved
from hybridbench.kernel_suite.timing import Make, Plan, Sampler, own_stream
from hybridbench.kernel_suite.traced import longest_first, traced
from hybridbench.kernels import release
from hybridbench.kernels.backend import Backend
from hybridbench.kernels.tuning import side_by_side
from hybridbench.measure.clock import TimedStep, nothing, timer_for
from hybridbench.measure.environment import fingerprint
from hybridbench.measure.nvml import Gpu
from hybridbench.plain import to_plain
from hybridbench.processes import end_with_starter
from hybridbench.session import Proofs, device_for, open_session
from hybridbench.suite.case import Case

DOTS = 1
"""Dots in the names of modules that are told to have been imported: these import what lies below them."""
MOST = 1_000_000
"""Samples of a block: its window ends it."""


@dataclass
class ReadyCell:
    """A cell that can be timed.

    Attributes:
        make: draws inputs and returns the call.
        plan: how it is timed.
        facts: what is said of it: ``backend, own_backend, version``; JSON values.
        seen: what Triton did while it was made ready; None where a call tells.
        libraries: versions of what its kernels may come from besides Triton.
        own: whether it is a person's function.
        captured: whether it can be captured in a CUDA graph: a step has graphs of its own, or runs eagerly.
        before: what runs before each sample, untimed; None for what the plan says.
    """

    make: Make
    plan: Plan
    facts: dict[str, Any] = field(default_factory=dict)
    seen: LaunchedCode | None = None
    libraries: dict[str, str | None] = field(default_factory=dict)
    own: bool = False
    captured: bool = False
    before: TimedStep | None = None


class Laps:
    """What a cell's preparation took, by what was done; seconds."""

    def __init__(self) -> None:
        self.spent_s: dict[str, float] = {}
        self._since = time.perf_counter()

    def __call__(self, name: str) -> None:
        """The time since the last call belongs to this."""
        now = time.perf_counter()
        self.spent_s[name] = self.spent_s.get(name, 0.0) + now - self._since
        self._since = now


class Absent(HybridbenchError):
    """What is asked for is not on this side; the text says what."""


class Program:
    """What one process holds between requests."""

    def __init__(self) -> None:
        self._held = ExitStack()
        self._sampler: Sampler | None = None
        self._ready: ReadyCell | None = None
        self._watching: Any = None
        self._spaced: list[torch.Tensor] = []
        self._device = torch.device("cpu")
        self._own = frozenset(sys.modules)

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Does what is asked; whatever ends a cell becomes its answer, with the state that the judge knows."""
        try:
            return self._do(request)
        except (Absent, BadInput) as exc:
            state, said, fit = "absent", reason(exc), True
        except WrongResult as exc:
            state, said, fit = "wrong", reason(exc), False
        except Unsupported as exc:
            state, said, fit = "failed", reason(exc), True
        except Exception as exc:  # noqa: BLE001  # the boundary of the process
            state, said, fit = "failed", described(exc), False
        self._free()
        return {"kind": "failed", "state": state, "reason": said.rstrip("."), "fit": fit}

    def _do(self, request: dict[str, Any]) -> dict[str, Any]:
        if request["do"] == "hello":
            return hello()
        if request["do"] == "prepare":
            return self._prepare(request)
        if request["do"] == "find":
            return is_there(understood(Cell, request["cell"], request.get("plain", ())))
        if request["do"] == "free":
            self._free()
            return {"kind": "freed"}
        assert self._sampler is not None, "a cell comes first"
        if request["do"] == "trace":
            return {"kind": "traced", **self._watched().trace()}
        if request["do"] == "plant":
            return {"kind": "ready", "parts": self._plant(request["frac"], request.get("parts"))}
        if request["do"] == "again":
            self._sampler.free()
            self._spaced = spacers(self._device, request["number"])
            self._sampler.allocate(request["number"])
            return {"kind": "ready"}
        samples_ns = self._sampler.block(request["window_ns"], MOST)
        return {"kind": "samples", "samples_ns": samples_ns}

    def _prepare(self, request: dict[str, Any]) -> dict[str, Any]:
        self._free()
        laps = Laps()
        kind, body = request["what"], request["cell"]
        try:
            plain = request.get("plain", ())
            cell = understood(Cell, body, plain) if kind == "kernel" else understood(Case, body, plain)
        except (KeyError, TypeError, ValueError) as exc:
            raise Absent(f"it cannot describe this cell ({described(exc)})") from exc
        self._device = device = device_for(cell.device)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        else:
            torch.set_num_threads(1)
            if request["core"] is not None:
                os.sched_setaffinity(0, {request["core"]})
        pinned = using([Taken(**one) for one in request["pinned"]])
        self._held.enter_context(own_stream(device))
        if not request["check"]:  # what this side chooses itself is known from an earlier process
            self._held.enter_context(pinned)
        laps("begin")
        if isinstance(cell, Cell):
            ready = _ready_kernel(cell, request, device, laps)
        else:
            ready = _ready_step(cell, request, device)
            laps("build and check" if request["check"] else "build")
        chosen = taken()
        if request["check"]:
            self._held.enter_context(pinned)
        seen, events = _observed(ready, device, request.get("identify", True))
        laps("look at a call")
        self._ready = ready
        self._sample(ready.make)
        assert self._sampler is not None
        laps("allocate")
        return {
            "kind": "prepared",
            "facts": ready.facts,
            "identity": identity(events, ready.seen or seen, ready.libraries, ready.own),
            "tuning": seen.chosen,
            "chosen": [asdict(one) for one in chosen],
            "blocks_per_sm": longest_first(events)[1],
            "peak_bytes": torch.cuda.max_memory_allocated() if device.type == "cuda" else None,
            "graph": self._sampler.replays,
            "imported": sorted(name for name in sys.modules.keys() - self._own if name.count(".") <= DOTS),
            "spent_s": laps.spent_s,
        }

    def _sample(self, make: Make) -> None:
        """Makes what is timed next from calls of the cell that is ready."""
        assert self._ready is not None, "a cell comes first"
        device, plan = self._device, self._ready.plan
        before = Flush(device) if plan.cold else self._ready.before
        self._sampler = Sampler(make, device, plan, before, timer_for(device), time.perf_counter_ns)
        with side_by_side():
            self._sampler.allocate(0)

    def _watched(self) -> Any:
        """The call that is traced, a ``where.Watching``."""
        from hybridbench.gate.side.where import Watching  # an older base may lack what it imports

        if self._watching is None:
            assert self._ready is not None, "a cell comes first"
            call = self._ready.make(0)
            call()
            self._watching = Watching(call, self._device, capture=self._ready.captured)
        return self._watching

    def _plant(self, frac: float, parts: int | None) -> int:
        """Makes calls with so much more work from the cell that is ready; of how many parts it is.

        Args:
            parts: as an earlier process determined; None for one that does.
        """
        assert self._ready is not None, "a cell comes first"
        assert self._sampler is not None, "a cell comes first"
        self._sampler.free()
        make, timer, before = self._ready.make, timer_for(self._device), self._ready.before
        work = Products(self._device, timer, before) if before else Spin(self._device, timer)
        if parts is None:
            parts = sized(make(0), frac, work, timer, before or nothing)
        more = work.of(parts)
        self._sample(lambda number: appended(make(number), more))
        return parts

    def _free(self) -> None:
        if self._sampler is not None:
            self._sampler.free()
        self._sampler, self._ready, self._watching, self._spaced = None, None, None, []
        self._held.close()
        self._held = ExitStack()
        release()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()


def _ready_kernel(cell: Cell, request: dict[str, Any], device: torch.device, laps: Laps) -> ReadyCell:
    """A kernel, resolved and, where that is asked for, checked.

    Args:
        laps: told of each thing that was done.

    Raises:
        Absent, Unsupported, WrongResult: there is none, it cannot run here, or it is wrong.
    """
    own = _own(cell)
    cell, backend = _as_base(cell, own, request.get("backend"))
    function = backend.load()
    laps("import")
    with side_by_side():
        if request["check"]:
            agreement(cell, backend, function, device)
            laps("check")
        bound(cell, function, drawn(cell, device))()
        laps("compile")
    allocations = 1 if device.type == "cpu" else 3
    plan = Plan(cold=cell.sampling.cold, graph=request.get("graph"), allocations=allocations)
    facts = {"backend": backend.name, "own_backend": own.name, "version": backend.version}
    libraries = _libraries(None if cell.user_kernel else backend.package)

    def make(number: int) -> Callable[[], object]:
        return bound(cell, function, drawn(cell, device, number))

    return ReadyCell(make, plan, facts, None, libraries, cell.user_kernel, captured=True)


def _own(cell: Cell) -> Backend:
    """The backend that this side has for a cell.

    Raises:
        BadInput: there is none.
        Unsupported: a person's own kernel is there, and its module cannot be imported or its signature is another one.
    """
    try:
        return resolved(cell)
    except BadInput as exc:
        if cell.user_kernel and not _lacks(cell.backend, exc):
            raise Unsupported(reason(exc)) from exc
        raise


def _lacks(path: str, problem: BaseException | None) -> bool:
    """Whether ``package.module:function`` is what could not be found, rather than something that its module needs."""
    module, _, name = path.partition(":")
    while isinstance(problem, BadInput):
        problem = problem.__cause__
    if isinstance(problem, ModuleNotFoundError):
        return f"{module}.".startswith(f"{problem.name}.")
    return (
        isinstance(problem, AttributeError)
        and problem.name == name
        and getattr(problem.obj, "__name__", None) == module
    )


def is_there(cell: Cell) -> dict[str, Any]:
    """Whether a person's own kernel is there; ``lacks`` with the reason if its module or function cannot be found.

    Whatever else is wrong with it is told when the cell is prepared.
    """
    try:
        resolved(cell)
    except BadInput as exc:
        if _lacks(cell.backend, exc):
            return {"kind": "lacks", "reason": reason(exc).rstrip(".")}
    except Exception:  # noqa: BLE001  # a person's module
        return {"kind": "found"}
    return {"kind": "found"}


def _as_base(cell: Cell, own: Backend, name: str | None) -> tuple[Cell, Backend]:
    """The cell by the backend that the base chose, where "auto" was asked for and this side has it too."""
    if cell.backend != "auto" or name is None or name == own.name:
        return cell, own
    try:
        same = replace(cell, backend=name)
        return same, resolved(same)
    except HybridbenchError:
        return cell, own


def _ready_step(case: Case, request: dict[str, Any], device: torch.device) -> ReadyCell:
    """A model's step, built and, where that is asked for, checked.

    Raises:
        Unsupported, WrongResult: it cannot run here, or it is wrong.
    """
    with watched() as seen:
        session = open_session(case, device, Proofs() if request["check"] else None)
        work = session.work
        if work.parts:
            raise Unsupported("its step is timed in parts: give one context without --depths")
        work.step()
    uses = sorted({(item.op, item.backend.ran, item.backend.version) for item in session.resolved}, key=str)
    facts = {"backend": ", ".join(sorted({f"{op}={name}" for op, name, _ in uses})), "own_backend": None}
    libraries = _libraries(*{item.backend.package for item in session.resolved})
    plan = Plan(cold=False, graph=False, allocations=1, rotate=1)
    rest = request.get("rest")
    before = rest_before(work.step, rest, device, timer_for(device)) if rest else None
    return ReadyCell(lambda _number: work.step, plan, facts, seen, libraries, before=before)


def _libraries(*packages: str | None) -> dict[str, str | None]:
    """Versions of torch with its build and of packages; those that are not installed have None, which is unknown."""
    builds = (torch.__version__, torch.version.git_version, torch.version.cuda, torch.backends.cudnn.version())
    found: dict[str, str | None] = {"torch": " ".join(map(str, builds))}
    for package in packages:
        if package not in (None, "hybridbench", "torch"):  # all kernels of our own are Triton's
            try:
                found[package] = metadata.version(package)
            except metadata.PackageNotFoundError:
                found[package] = None
    return found


def _observed(ready: ReadyCell, device: torch.device, identify: bool) -> tuple[LaunchedCode, list[dict[str, Any]]]:
    """One call, watched: what Triton did, and the profiler's events of it on a GPU."""
    call = ready.make(0)
    if device.type != "cuda" or not identify:
        with watched() as seen:
            call()
        return seen, []
    with watched() as seen:
        events = traced(call)
    return seen, events


def hello() -> dict[str, Any]:
    """What a process says of itself: where its package lies, its machine and software, and whether it has a GPU."""
    cuda = torch.cuda.is_available()
    device = device_for("cuda" if cuda else "cpu")
    return {
        "kind": "hello",
        "package": str(Path(hybridbench.__file__).resolve().parent),
        "cuda": cuda,
        "environment": to_plain(fingerprint(device, Gpu.open(device))),
    }


def main() -> None:
    """Entry point of the process: ``MODULE ... ANSWER_FD``."""
    faulthandler.register(signal.SIGUSR1)
    end_with_starter()
    *modules, answer_fd = sys.argv[1:]
    with os.fdopen(int(answer_fd), "w", encoding="utf-8") as answers:

        def say(body: dict[str, Any]) -> None:
            answers.write(json.dumps(body) + "\n")
            answers.flush()

        program = Program()
        for name in modules:
            with suppress(Exception):  # the cell that needs it says what is wrong with it
                importlib.import_module(name)
        for line in sys.stdin:
            said = program.answer(json.loads(line))
            say(said)
            if said.get("fit") is False:
                return
