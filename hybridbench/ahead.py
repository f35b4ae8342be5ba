"""ahead: kernels of coming cases compiled side by side, in processes that time nothing, before the first case.

Most of a short sweep on a GPU is compilation, and one process compiles for one case at a time. Triton, Inductor and
flash-attn 4 keep what they compile on disk, where the worker that measures finds it. A process makes the cases of one
model and one workload ready (built, verified, checked) and runs a step of each. What several need is compiled by one of
them (``kernels.once``). Whatever goes wrong there is left to the case itself, which says so in its record.
"""

from __future__ import annotations

import json
import math
import selectors
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hybridbench.derive.predicted import peak_of_case
from hybridbench.machine import free_bytes, usable_cores
from hybridbench.processes import Answering, terminable

if TYPE_CHECKING:
    from hybridbench.suite.case import Case

CORES_EACH = 1
"""Cores that a process keeps busy: importing takes longest, and compilers wait for one another."""
MOST_AT_ONCE = 16
"""Processes at once; each holds a context of the GPU and a model."""
CONTEXT_BYTES = 1 << 30
"""Memory of a GPU that a process takes for its context, libraries and kernels (0.5 to 1 GiB on an H200)."""
FAILED = ("oom", "wrong", "crashed")
"""Ends of a case after which kernels of it may not have compiled; an unsupported one needs none."""
LIMIT_S = 90.0
"""Seconds after which the sweep begins with what has been compiled."""


def groups_of(cases: Iterable[Case]) -> list[list[Case]]:
    """The cases of a GPU by model, workload and mode, in their order: what one process makes ready."""
    groups: dict[tuple[Any, ...], list[Case]] = {}
    for case in cases:
        if case.device == "cuda":
            groups.setdefault((case.model, case.workload.kind, case.execution.mode), []).append(case)
    return list(groups.values())


def compile_ahead(
    cases: Sequence[Case],
    folder: Path,
    gpus: Sequence[str],
    told: Callable[[int, int], None] = lambda _done, _total: None,
    *,
    start: Callable[[Path, str], Any] | None = None,
    now: Callable[[], float] = time.monotonic,
    cores: int | None = None,
    free: Callable[[str], int | None] = free_bytes,
) -> list[str]:
    """Compiles what the cases of a GPU need, and returns when all is done or ``LIMIT_S`` seconds have passed.

    What it returns are sentences about what may not have compiled: cases that failed, processes that ended, time.

    Args:
        folder: for the logs of the processes.
        gpus: values for CUDA_VISIBLE_DEVICES; each process gets the one with the most room.
        told: called with how many groups are done and how many there are, at the beginning and after each.
        start: starts a process with its log and its GPU.
        now: a clock; s.
        cores: to use; None is those of this process.
        free: bytes of a GPU that nothing uses; None where the driver does not tell.
    """
    waiting = [AheadGroup(number, group, needed_bytes(group)) for number, group in enumerate(groups_of(cases))]
    total = len(waiting)
    missing: list[str] = []
    if not total:
        return missing
    ends_at, done = now() + LIMIT_S, 0
    at_once = max(1, min(MOST_AT_ONCE, (cores or usable_cores()) // CORES_EACH))
    rooms = Rooms({gpu: free(gpu) for gpu in gpus})
    left: dict[Any, int] = {}
    told(0, total)
    with terminable(), ExitStack() as stopping, selectors.DefaultSelector() as selector:
        stopping.callback(lambda: [process.end() for process in left])
        while waiting or left:
            while len(left) < at_once and (found := rooms.next_of(waiting)) is not None:
                group, gpu = found
                process = (start or _start)(folder / f"ahead-{group.number}.log", gpu)
                selector.register(process, selectors.EVENT_READ, data=(gpu, group.needs))
                left[process] = len(group.cases)
                for case in group.cases:
                    process.ask(json.dumps(case.to_dict()))
            ready = selector.select(max(0.0, ends_at - now()))
            if not ready:
                late = len(waiting) + len(left)
                return [*missing, f"{late} of {total} models were not ready after {LIMIT_S:.0f} s"]
            for key, _ in ready:
                answering: Any = key.fileobj
                lines = answering.lines()
                answers = [said for said in map(json.loads, lines or ()) if said["kind"] == "answer"]
                left[answering] -= len(answers)
                missing += [f"{said['status']}: {said['message']}" for said in answers if said["status"] in FAILED]
                if lines is None:
                    missing.append("a process ended before its cases were ready")
                if lines is None or left[answering] <= 0:
                    selector.unregister(answering)
                    del left[answering]
                    answering.end()
                    rooms.give_back(*key.data)
                    done += 1
                    told(done, total)
    return missing


def needed_bytes(group: Sequence[Case]) -> int:
    """Memory that a process takes to make a group of cases ready, one after the other.

    The check at size holds results of the whole batch beside those of its rows, for which twice the predicted peak of
    the step is enough. Where there is no prediction it is what a process takes without a model.
    """
    return CONTEXT_BYTES + 2 * math.ceil(max(peak_of_case(case) or 0 for case in group))


@dataclass(frozen=True)
class AheadGroup:
    """Cases that one process makes ready, one after the other, and the bytes of a GPU that this takes."""

    number: int
    cases: list[Case]
    needs: int


class Rooms:
    """The memory that is left on each GPU.

    Args:
        free: bytes of each that nothing uses; None is unknown, and then as much as any group needs.
    """

    def __init__(self, free: dict[str, int | None]) -> None:
        self._free = {gpu: math.inf if size is None else size for gpu, size in free.items()}
        self._taken = dict.fromkeys(free, 0)
        self._running = dict.fromkeys(free, 0)

    def next_of(self, waiting: list[AheadGroup]) -> tuple[AheadGroup, str] | None:
        """The first waiting group that has room, and the GPU with the most; it is taken from the list.

        On a GPU with nothing else of ours a group starts in any case: its cases will run there too.
        """
        gpu = min(self._free, key=lambda one: (self._taken[one] - self._free[one], self._running[one]))
        for index, group in enumerate(waiting):
            if not self._running[gpu] or self._taken[gpu] + group.needs <= self._free[gpu]:
                self._taken[gpu] += group.needs
                self._running[gpu] += 1
                return waiting.pop(index), gpu
        return None

    def give_back(self, gpu: str, need: int) -> None:
        """When a group's process has ended."""
        self._taken[gpu] -= need
        self._running[gpu] -= 1


def _start(log: Path, gpu: str) -> Answering:
    words = [sys.executable, "-m", "hybridbench.worker", "--ready", str(log.parent)]
    return Answering(words, log, {"CUDA_VISIBLE_DEVICES": gpu, "OMP_NUM_THREADS": "1"})
