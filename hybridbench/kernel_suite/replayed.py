"""replayed: calls in one CUDA graph, each between two events, for what the host launches slower than the GPU runs.

A graph holds the flush, an event, the call and another event, a dozen times, or less often where calls are long; a
replay yields as many samples. The events are nodes of the graph (cudaEventRecordExternal), so that neither the launch
of the graph nor the flush is inside. The other way, a graph with calls and flushes minus a graph with flushes alone,
would give each sample the noise of both.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Sequence

import torch

from hybridbench.capture import captured
from hybridbench.kernel_suite.flush import Flush
from hybridbench.measure.clock import TimedStep, nothing

SAMPLES_PER_GRAPH = 12
GRAPH_NS = 50_000_000
"""Calls that together take longer are not captured in one graph: a reference of 100,000 launches would be captured for
minutes; ns."""
CALLS = 5
"""Calls over which the time to launch one and its time on the GPU are averaged; of those over ``GRAPH_NS``, one."""
LEAST_FLUSH_NS = 10_000
"""What a pass of the flush keeps a GPU busy for, less what its launch costs the host; ns, for the smallest L2."""
HOST_MARGIN = 2.0
"""A call is launch-bound from this share of its launch on: the host takes up to twice as long when it is busy."""
MOST_FLUSHES = 400
"""Fewer than a queue of launches holds, which is 1024: beyond it the host waits."""


class Replayed:
    """Calls captured in a CUDA graph, in the current stream.

    Args:
        calls: run in turn.
        per_sample: how many calls stand between two events.
        before: captured before each sample, outside its events.
        samples: of a replay.

    Raises:
        RuntimeError: a call cannot be captured.
    """

    def __init__(
        self,
        calls: Sequence[TimedStep],
        per_sample: int,
        before: TimedStep | None,
        device: torch.device,
        samples: int = SAMPLES_PER_GRAPH,
    ) -> None:
        self._turn = itertools.cycle(calls)
        self._per_sample = per_sample
        self._before = before or nothing
        self._device = device
        self._events = [(_event(), _event()) for _ in range(samples)]
        self._replay = captured(self._enqueue, collect=False, stream=torch.cuda.current_stream(device))

    def sample(self, count: int) -> list[int]:
        """Durations of one call, averaged over those of a sample, in order; ns."""
        durations_ns: list[int] = []
        for _ in range(math.ceil(count / len(self._events))):
            self._replay()
            torch.cuda.synchronize(self._device)
            durations_ns += [round(a.elapsed_time(b) * 1e6 / self._per_sample) for a, b in self._events]
        return durations_ns[:count]

    def _enqueue(self) -> None:
        if self._before is nothing:
            next(self._turn)()  # leads in, so that the first sample does not begin on an idle GPU
        for start, end in self._events:
            self._before()
            start.record()
            for _ in range(self._per_sample):
                next(self._turn)()
            end.record()


def _event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True, external=True)


def launch_bound(call: TimedStep, device: torch.device, now: Callable[[], int] = time.perf_counter_ns) -> bool:
    """Whether the host may take longer to launch a call than the GPU to run it: ``HOST_MARGIN`` launches are longer.

    The host's time is that of calls into an empty queue. The GPU's is that between events around as many calls, while
    flushes before them keep it busy until all are launched. Everything must be compiled and tuned.

    Args:
        now: the host's clock; ns.
    """
    launch_ns, count = _launch_ns(call, 1, device, now), 1
    if launch_ns <= GRAPH_NS:
        launch_ns, count = _launch_ns(call, CALLS, device, now), CALLS
    busy, start, end = Flush(device), _event(), _event()
    for _ in range(min(MOST_FLUSHES, math.ceil(2 * count * launch_ns / LEAST_FLUSH_NS))):
        busy()
    start.record()
    for _ in range(count):
        call()
    end.record()
    torch.cuda.synchronize(device)
    return bool(start.elapsed_time(end) * 1e6 / count < HOST_MARGIN * launch_ns)


def samples_of(call_ns: int, calls: int) -> int:
    """How many samples a graph holds, of calls that take so long when launched; each of its ``calls`` is in one.

    >>> samples_of(200_000, 2), samples_of(8_000_000, 2), samples_of(400_000_000, 2)
    (12, 6, 2)
    """
    return max(calls, min(SAMPLES_PER_GRAPH, GRAPH_NS // max(1, call_ns)))


def _launch_ns(call: TimedStep, count: int, device: torch.device, now: Callable[[], int]) -> float:
    """What the host takes to launch a call into an empty queue; ns."""
    torch.cuda.synchronize(device)
    start_ns = now()
    for _ in range(count):
        call()
    launch_ns = (now() - start_ns) / count
    torch.cuda.synchronize(device)
    return launch_ns
