"""ahead: kernels of coming cases compiled side by side, in processes that time nothing, before the first case.

Most of a short sweep on a GPU is compilation, and one process compiles for one case at a time. Triton, Inductor and
flash-attn 4 keep what they compile on disk, where the worker that measures finds it. A process makes the cases of one
model and one workload ready (built, verified, checked) and runs a step of each. What several need is compiled by one of
them (``kernels.once``). Whatever goes wrong there is left to the case itself, which says so in its record.
"""

from __future__ import annotations

import json
import selectors
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hybridbench.machine import usable_cores
from hybridbench.processes import Answering, terminable

if TYPE_CHECKING:
    from hybridbench.suite.case import Case

CORES_EACH = 1
"""Cores that a process keeps busy: importing takes longest, and compilers wait for one another."""
MOST_AT_ONCE = 16
"""Processes at once; each holds a context of the GPU and a model."""
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
) -> list[str]:
    """Compiles what the cases of a GPU need, and returns when all is done or ``LIMIT_S`` seconds have passed.

    What it returns are sentences about what may not have compiled: cases that failed, processes that ended, time.

    Args:
        folder: for the logs of the processes.
        gpus: values for CUDA_VISIBLE_DEVICES; processes are dealt out to them.
        told: called with how many groups are done and how many there are, at the beginning and after each.
        start: starts a process with its log and its GPU.
        now: a clock; s.
        cores: to use; None is those of this process.
    """
    waiting = deque(enumerate(groups_of(cases)))
    total = len(waiting)
    missing: list[str] = []
    if not total:
        return missing
    ends_at, done = now() + LIMIT_S, 0
    at_once = max(1, min(MOST_AT_ONCE, (cores or usable_cores()) // CORES_EACH))
    left: dict[Any, int] = {}
    told(0, total)
    with terminable(), ExitStack() as stopping, selectors.DefaultSelector() as selector:
        while waiting or left:
            while waiting and len(left) < at_once:
                number, group = waiting.popleft()
                process = (start or _start)(folder / f"ahead-{number}.log", gpus[number % len(gpus)])
                stopping.callback(process.end)
                selector.register(process, selectors.EVENT_READ)
                left[process] = len(group)
                for case in group:
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
                    done += 1
                    told(done, total)
    return missing


def _start(log: Path, gpu: str) -> Answering:
    words = [sys.executable, "-m", "hybridbench.worker", "--ready", str(log.parent)]
    return Answering(words, log, {"CUDA_VISIBLE_DEVICES": gpu, "OMP_NUM_THREADS": "1"})
