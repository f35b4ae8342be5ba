"""clock: how one step is timed, on the host or with CUDA events, and a scripted clock for tests.

A timer runs a step several times in a row and returns one duration per run. On a GPU the host must not wait between
runs: it enqueues all steps with an event before and after each, waits once, and then reads the events. Events measure
time on the GPU, so a step whose launches are slower than its kernels includes the gaps between them.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable
from typing import Protocol

import torch

TimedStep = Callable[[], object]
"""One run of the timed work; on a GPU it may return before the work has finished."""


def nothing() -> None:
    """Does nothing: what runs before a step by default."""


class Timer(Protocol):
    """Something that can time consecutive runs of a step.

    Attributes:
        name: stored with every record, so that times of different clocks are not compared by mistake.
        resolution_ns: the smallest difference that the clock can measure; ns.
    """

    @property
    def name(self) -> str:
        """The name of the clock in records."""
        ...

    @property
    def resolution_ns(self) -> int:
        """The smallest difference that it can measure; ns."""
        ...

    def sample(self, step: TimedStep, count: int, before: TimedStep = nothing) -> list[int]:
        """Durations of ``count`` consecutive runs of ``step``, in order; ns. ``before`` runs untimed before each."""
        ...

    def runs(self, count: int) -> int:
        """How often ``sample(step, count)`` runs the step, untimed runs included."""
        ...


class HostTimer:
    """The host's monotonic clock, for work that has finished when the call returns. Work on a GPU has not."""

    name = "perf_counter"

    def __init__(self) -> None:
        self.resolution_ns = _host_resolution_ns()

    def sample(self, step: TimedStep, count: int, before: TimedStep = nothing) -> list[int]:
        """Each run between two readings of the clock; ns."""
        durations_ns = []
        for _ in range(count):
            before()
            start_ns = time.perf_counter_ns()
            step()
            durations_ns.append(time.perf_counter_ns() - start_ns)
        return durations_ns

    def runs(self, count: int) -> int:
        """No run is untimed."""
        return count


def _host_resolution_ns() -> int:
    """The smallest positive difference of two readings in a row: the clock claims 1 ns, but a call takes longer."""
    differences: list[int] = []
    while len(differences) < 200:
        start_ns = time.perf_counter_ns()
        difference_ns = time.perf_counter_ns() - start_ns
        if difference_ns > 0:
            differences.append(difference_ns)
    return min(differences)


class CudaTimer:
    """CUDA events around each step on the current stream, read after one synchronise.

    Before a block of several steps one step runs untimed. Without it the queue would be empty when the block begins,
    and only the first sample would include the launch latency, which later steps hide behind the step before them.
    """

    name = "cuda_event"
    # cudaEventElapsedTime, CUDA runtime API: "a resolution of around 0.5 microseconds".
    resolution_ns = 500

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    def sample(self, step: TimedStep, count: int, before: TimedStep = nothing) -> list[int]:
        """Each run between two events on the stream; ns. What ``before`` enqueues is outside them."""
        with torch.cuda.device(self._device):
            self._provide_events(count)
            for _ in range(self.runs(count) - count):
                step()
            for start, end in self._events[:count]:
                before()
                start.record()
                step()
                end.record()
            torch.cuda.synchronize()
        return [round(start.elapsed_time(end) * 1e6) for start, end in self._events[:count]]

    def runs(self, count: int) -> int:
        """One more than ``count`` where ``count`` is more than one."""
        return count + 1 if count > 1 else count

    def _provide_events(self, count: int) -> None:
        # torch creates the CUDA event at the first record(). Doing that here keeps its cost out of the samples.
        for _ in range(count - len(self._events)):
            pair = _timing_event(), _timing_event()
            for event in pair:
                event.record()
            self._events.append(pair)


def _timing_event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)


class ScriptedTimer:
    """A clock for tests: it runs the step and returns the next duration of a script.

    ``now`` is the time on the same clock, so a whole measurement can be tested without waiting.

    Args:
        durations_ns: the reported duration of each run of the step, in order; ns. May be endless.
        resolution_ns: the resolution that the clock reports; ns.
    """

    name = "scripted"

    def __init__(self, durations_ns: Iterable[int], resolution_ns: int = 1) -> None:
        self.resolution_ns = resolution_ns
        self._script = iter(durations_ns)
        self._told = 0
        self._now_ns = 0

    def sample(self, step: TimedStep, count: int, before: TimedStep = nothing) -> list[int]:
        """Runs the step ``count`` times and returns the next durations of the script; ns.

        Raises:
            IndexError: the script is too short.
        """
        durations_ns = list(itertools.islice(self._script, count))
        if len(durations_ns) < count:
            raise IndexError(
                f"the script ends after {self._told + len(durations_ns)} durations, but run {self._told + count} "
                "of the step was asked for: write a longer script."
            )
        for _ in range(count):
            before()
            step()
        self._told += count
        self._now_ns += sum(durations_ns)
        return durations_ns

    def runs(self, count: int) -> int:
        """No run is untimed."""
        return count

    def now(self) -> int:
        """The sum of the durations returned so far; ns."""
        return self._now_ns


def timer_for(device: torch.device) -> Timer:
    """The clock that measures work on this device."""
    return CudaTimer(device) if device.type == "cuda" else HostTimer()
