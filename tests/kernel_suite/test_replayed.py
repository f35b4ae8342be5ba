"""What is replayed from a CUDA graph, when, and what happens where it cannot be: on a GPU made of two clocks."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest
import torch

from hybridbench.kernel_suite import replayed, timing
from hybridbench.kernel_suite.replayed import SAMPLES_PER_GRAPH, Replayed, launch_bound
from hybridbench.kernel_suite.timing import Plan, time_calls

GPU = torch.device("cuda", 0)
US = 1_000
FLUSH_NS = 40 * US


class Gpu:
    """The host launches work and goes on; the GPU starts it when it was launched and what is before it has ended."""

    name, resolution_ns = "cuda_event", 500

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.host_ns = self.gpu_ns = 0
        self.replaying = False
        self.captures = 0
        self.log: list[str] = []
        gpu = self

        class Event:
            def __init__(self, *, enable_timing: bool, external: bool) -> None:
                assert enable_timing
                assert external, "an event of a graph would be no node of it"

            def record(self) -> None:
                self.at_ns = max(gpu.gpu_ns, gpu.host_ns)
                gpu.log.append("event")

            def elapsed_time(self, end: Any) -> float:
                return float(end.at_ns - self.at_ns) / 1e6

        class Flush:
            def __init__(self, _device: torch.device) -> None: ...

            def __call__(self) -> None:
                gpu.launch("flush", 5 * US, FLUSH_NS)

        monkeypatch.setattr(torch.cuda, "Event", Event)
        monkeypatch.setattr(torch.cuda, "synchronize", lambda _device: self.synchronize())
        monkeypatch.setattr(torch.cuda, "current_stream", lambda _device: None)
        for module in (replayed, timing):
            monkeypatch.setattr(module, "Flush", Flush)
        monkeypatch.setattr(replayed, "captured", self.captured)
        monkeypatch.setattr(timing, "own_stream", lambda _device: nullcontext())
        monkeypatch.setattr(timing, "spacers", lambda _device, _number: [])
        monkeypatch.setattr(timing.Gpu, "open", lambda _device: None)
        self.flush = Flush(GPU)

    def launch(self, name: str, host_ns: int, gpu_ns: int) -> None:
        self.log.append(name)
        self.host_ns += 0 if self.replaying else host_ns
        self.gpu_ns = max(self.gpu_ns, self.host_ns) + gpu_ns

    def synchronize(self) -> None:
        self.host_ns = max(self.gpu_ns, self.host_ns)

    def now(self) -> int:
        return self.host_ns

    def call(self, name: str, host_ns: int, gpu_ns: int) -> Callable[[], None]:
        return lambda: self.launch(name, host_ns, gpu_ns)

    def captured(self, step: Callable[[], object], **_: Any) -> Callable[[], None]:
        self.captures += 1

        def replay() -> None:
            self.host_ns += 10 * US
            self.replaying = True
            step()
            self.replaying = False

        return replay

    def sample(self, step: Callable[[], object], count: int, before: Callable[[], object]) -> list[int]:
        durations_ns = []
        step()  # leads in, as CudaTimer's does
        for _ in range(count):
            before()
            start, end = (torch.cuda.Event(enable_timing=True, external=True) for _ in range(2))
            start.record()
            step()
            end.record()
            durations_ns.append(round(start.elapsed_time(end) * 1e6))
        self.synchronize()
        return durations_ns


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Gpu:
    return Gpu(monkeypatch)


@pytest.mark.parametrize(
    ("host_us", "gpu_us", "bound"), [(20, 5, True), (20, 39, True), (20, 41, False), (5, 400, False), (300, 599, True)]
)
def test_a_call_is_launch_bound_where_a_busy_host_takes_longer_than_the_gpu(
    gpu: Gpu, host_us: int, gpu_us: int, bound: bool
) -> None:
    assert launch_bound(gpu.call("a", host_us * US, gpu_us * US), GPU, gpu.now) is bound


def test_a_graph_times_the_call_alone(gpu: Gpu) -> None:
    calls = [gpu.call("a", 20 * US, 3 * US), gpu.call("b", 20 * US, 5 * US)]
    graph = Replayed(calls, 1, gpu.flush, GPU)
    assert graph.sample(15) == [3 * US, 5 * US] * 7 + [3 * US]
    assert gpu.log[:8] == ["flush", "event", "a", "event", "flush", "event", "b", "event"]
    assert gpu.log.count("flush") == 2 * SAMPLES_PER_GRAPH


def test_hot_calls_share_a_sample_and_one_leads_in(gpu: Gpu) -> None:
    graph = Replayed([gpu.call("a", 20 * US, 3 * US), gpu.call("b", 20 * US, 5 * US)], 4, None, GPU)
    assert graph.sample(3) == [4 * US] * 3
    assert gpu.log[:7] == ["a", "event", "b", "a", "b", "a", "event"]


PLAN = Plan(max_samples=60)


def timed(gpu: Gpu, host_us: int, gpu_us: int, **plan: Any) -> timing.Timed:
    def make(number: int) -> Callable[[], None]:
        return gpu.call(f"call {number}", host_us * US, gpu_us * US)

    return time_calls(make, GPU, replace(PLAN, **plan), timer=gpu, now=gpu.now)


def test_what_is_launch_bound_is_replayed_and_what_is_not_is_launched(gpu: Gpu, monkeypatch: Any) -> None:
    monkeypatch.setattr(timing, "launch_bound", lambda call, device: launch_bound(call, device, gpu.now))
    short, long = timed(gpu, 60, 5), timed(gpu, 60, 500)
    assert (short.graph, set(short.samples_ns), gpu.captures) == (True, {5 * US}, 3)
    assert (long.graph, set(long.samples_ns), gpu.captures) == (False, {500 * US}, 3)


def test_launched_one_by_one_the_gaps_would_be_timed(gpu: Gpu) -> None:
    """Otherwise the tests above would show nothing: the call ends after its flush, and the host is late."""
    assert set(timed(gpu, 60, 5, graph=False).samples_ns) == {25 * US}
    assert set(timed(gpu, 60, 5, graph=True).samples_ns) == {5 * US}


def test_what_cannot_be_captured_is_launched_and_says_so(gpu: Gpu, monkeypatch: Any) -> None:
    def refuses(*_: Any, **__: Any) -> None:
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    monkeypatch.setattr(replayed, "captured", refuses)
    found = timed(gpu, 5, 500, graph=True)
    assert (found.graph, set(found.samples_ns)) == (False, {500 * US})
    assert found.not_captured == "operation not permitted when stream is capturing"
    assert timed(gpu, 5, 500, graph=False).not_captured is None


def test_running_out_of_memory_is_not_a_failed_capture(gpu: Gpu, monkeypatch: Any) -> None:
    def fills(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(replayed, "captured", fills)
    with pytest.raises(torch.OutOfMemoryError):
        timed(gpu, 5, 500, graph=True)


def test_a_capture_that_fails_later_does_not_mix_two_ways_of_timing(gpu: Gpu, monkeypatch: Any) -> None:
    graphs = itertools.count(1)

    def sometimes(step: Callable[[], object], **more: Any) -> Any:
        if next(graphs) > 1:
            raise RuntimeError("no")
        return gpu.captured(step, **more)

    monkeypatch.setattr(replayed, "captured", sometimes)
    with pytest.raises(RuntimeError, match="no"):
        timed(gpu, 60, 5, graph=True)


def test_a_long_call_is_captured_once_for_each_of_its_inputs(gpu: Gpu, monkeypatch: Any) -> None:
    """A reference of 100,000 launches: a dozen calls in a graph, warmed up three times, would take minutes."""
    launched = []
    monkeypatch.setattr(timing, "launch_bound", lambda call, device: launch_bound(call, device, gpu.now))

    def make(number: int) -> Callable[[], None]:
        def call() -> None:
            launched.append(number)
            gpu.launch("long", 400_000 * US, 100_000 * US)

        return call

    found = time_calls(make, GPU, replace(PLAN, max_samples=6, min_samples=6), timer=gpu, now=gpu.now)
    assert (found.graph, set(found.samples_ns), gpu.captures) == (True, {100_000 * US}, 3)
    assert len(launched) < 40
    assert set(launched) == set(range(6))
