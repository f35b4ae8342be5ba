"""trace: where the time of one step goes, by class of operation, under torch.profiler.

On a GPU every kernel, also inside a replayed graph, is an interval with a name, and the name decides its class. Every
instant of a step belongs to one kernel or to a gap, so that shares add up to 100%. Where intervals overlap, the instant
belongs to the kernel that started first: with programmatic dependent launch a kernel starts early and waits for the one
before, and its interval contains that wait. Of kernels that really run side by side, as on two streams, the later one
gets only the time after the earlier one's end. Time that no kernel covers is a gap.

On a CPU operators nest, so a class is the time that its operators spend themselves, and time that no operator covers is
Python. There each operation of ``hybridbench.kernels`` is given a profiler range, and its backward is found by
autograd's sequence number. So the products inside attention count as attention, not as matrix products, and the
convolution does not count as part of the scan.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch._C._autograd import DeviceType
from torch.profiler import ProfilerActivity, profile, record_function

from hybridbench.count.kernels import ran_on_gpu
from hybridbench.count.names import classify, shortened
from hybridbench.measure.environment import fingerprint
from hybridbench.measure.nvml import Gpu
from hybridbench.model.swap import Function, swapped
from hybridbench.operations import OPERATIONS
from hybridbench.record.traced import Spent, Trace, TraceRecord
from hybridbench.session import Proofs, device_for, open_session
from hybridbench.suite.case import Case

RANGE = "hybridbench::"


def trace_case(case: Case, *, steps: int = 5, chrome: Path | None = None) -> Trace:
    """Profiles ``steps`` steps of a case in this process, after as many warm-up steps.

    Args:
        chrome: the file to write a Chrome trace to (chrome://tracing, Perfetto); None writes none.

    Raises:
        Unsupported: a backend cannot run here.
        WrongResult: a kernel, or the step at its size, is wrong.
    """
    device = device_for(case.execution.device)
    session = open_session(case, device, Proofs())
    work = session.work
    with swapped(session.model, [item.function for item in session.resolved], ranged):
        for _ in range(steps):
            work.step()
        return trace_steps(work.step, steps, device, chrome=chrome)


def traced(case: Case, run_id: str, *, steps: int = 5, chrome: Path | None = None) -> TraceRecord:
    """A case's trace as it is stored; arguments and errors are those of ``trace_case``.

    Args:
        run_id: the run that it is of.
    """
    began = datetime.now(UTC).isoformat()
    found = trace_case(case, steps=steps, chrome=chrome)
    device = device_for(case.execution.device)
    return TraceRecord(case, run_id, began, fingerprint(device, Gpu.open(device)), found)


def trace_steps(step: Callable[[], object], steps: int, device: torch.device, *, chrome: Path | None = None) -> Trace:
    """Profiles ``steps`` runs of a step that is warm.

    Args:
        chrome: as in ``trace_case``.
    """
    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.synchronize(device)
    activities = [ProfilerActivity.CPU, ProfilerActivity.CUDA] if on_gpu else [ProfilerActivity.CPU]
    with _silenced(), profile(activities=activities, acc_events=True) as profiler:
        for _ in range(steps):
            with record_function(STEP):
                step()
        if on_gpu:
            torch.cuda.synchronize(device)
    if chrome is not None:
        profiler.export_chrome_trace(str(chrome))
    events = list(profiler.events() or ())
    return _of_kernels(events, steps) if on_gpu else _of_operators(events, steps)


@contextlib.contextmanager
def _silenced() -> Iterator[None]:
    """Silences file descriptor 2, to which the profiler's C++ code reports start and stop. Exceptions are not lost."""
    sys.stderr.flush()
    kept, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)


STEP = "hybridbench step"


def ranged(op: str, function: Function) -> Function:
    """``function`` inside a profiler range of the operation's name."""

    def call(*args: Any, **options: Any) -> Any:
        with record_function(RANGE + op):
            return function(*args, **options)

    return call


def _of_kernels(events: Iterable[Any], steps: int) -> Trace:
    """The trace of a GPU: intervals of kernels, whatever launched them.

    An instant that several intervals cover belongs to the kernel that started first, as the module's text says.
    """
    kernels = sorted(
        (event for event in events if ran_on_gpu(event)),
        key=lambda event: (event.time_range.start, event.time_range.end),
    )
    rows = []
    first = reached = kernels[0].time_range.start if kernels else 0.0
    for event in kernels:
        own = max(0.0, event.time_range.end - max(event.time_range.start, reached))
        reached = max(reached, event.time_range.end)
        rows.append((shortened(event.name), classify(event.name), own))
    return _summed(rows, reached - first, sum(own for _, _, own in rows), steps)


def _of_operators(events: Iterable[Any], steps: int) -> Trace:
    """The trace of a CPU: each operator's own time, in the class of its range or of the forward it belongs to."""
    listed = [event for event in events if event.device_type == DeviceType.CPU]
    by_sequence: dict[int, str] = {}
    for event in listed:
        kind = _range_above(event)
        if kind is not None and event.sequence_nr >= 0:
            by_sequence.setdefault(event.sequence_nr, kind)
    wall = sum(event.cpu_time_total for event in listed if event.name == STEP)
    rows = []
    for event in listed:
        if event.self_cpu_time_total <= 0 or not _in_step(event, STEP):
            continue
        if event.is_user_annotation or event.name.startswith("autograd::"):
            continue  # ranges and the autograd engine's bookkeeping: time of Python and autograd is a gap
        kind = _range_above(event) or by_sequence.get(_backward_of(event), "") or classify(event.name)
        rows.append((event.name, kind, event.self_cpu_time_total))
    return _summed(rows, wall, sum(row[2] for row in rows), steps)


def _ancestors(event: Any) -> Iterable[Any]:
    while event is not None:
        yield event
        event = event.cpu_parent


def _range_above(event: Any) -> str | None:
    """The class of the innermost of our ranges around an event; None outside all of them."""
    for above in _ancestors(event):
        if above.name.startswith(RANGE):
            row = OPERATIONS.get(above.name.removeprefix(RANGE))
            return row.spends if row else None
    return None


def _backward_of(event: Any) -> int:
    """The sequence number of the forward whose backward node encloses an event; -1 outside a backward."""
    for above in _ancestors(event):
        if above.name.startswith("autograd::engine::evaluate_function"):
            return int(above.sequence_nr)
    return -1


def _in_step(event: Any, name: str) -> bool:
    """Whether an event lies in a step. Events of autograd's thread have no parent, and it runs only within a step."""
    top = event
    for above in _ancestors(event):
        top = above
    return bool(top.name == name or top.name.startswith("autograd::engine"))


def _summed(rows: list[tuple[str, str, float]], wall_us: float, busy_us: float, steps: int) -> Trace:
    """Rows of (name, class, microseconds), added up and divided by the steps."""

    def spent(key: Callable[[tuple[str, str, float]], tuple[str, str]]) -> list[Spent]:
        found: dict[tuple[str, str], list[float]] = {}
        for row in rows:
            found.setdefault(key(row), []).append(row[2])
        sums = [Spent(*name, sum(times) / steps / 1e6, len(times) / steps) for name, times in found.items()]
        return sorted(sums, key=lambda one: -one.seconds)

    return Trace(
        step_s=wall_us / steps / 1e6,
        busy_s=busy_us / steps / 1e6,
        classes=spent(lambda row: (row[1], row[1])),
        kernels=spent(lambda row: (row[0], row[1])),
        steps=steps,
        order=list(dict.fromkeys(name for name, _, _ in rows)),
    )
