"""Timers run the step as often as they say and report one duration per run."""

from __future__ import annotations

import itertools
import time
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from hybridbench.measure import clock
from hybridbench.measure.clock import CudaTimer, HostTimer, ScriptedTimer, timer_for


def test_host_timer_times_each_run(monkeypatch: pytest.MonkeyPatch) -> None:
    timer, clock_ns = HostTimer(), 5_000
    naps_ns = iter([2_000, 20_000, 3_000])

    def nap() -> None:
        nonlocal clock_ns
        clock_ns += next(naps_ns)

    monkeypatch.setattr(clock, "time", SimpleNamespace(perf_counter_ns=lambda: clock_ns))
    assert timer.sample(nap, 3) == [2_000, 20_000, 3_000]


def test_host_timer_reads_a_clock_that_runs() -> None:
    (sample_ns,) = HostTimer().sample(lambda: time.sleep(0.01), 1)
    assert sample_ns >= 10_000_000


def test_host_timer_resolution_is_what_two_readings_differ_by_not_what_the_clock_claims() -> None:
    assert 1 <= HostTimer().resolution_ns < 100_000


def test_scripted_timer_runs_the_step_and_tells_the_script_in_order() -> None:
    runs: list[int] = []
    timer = ScriptedTimer([5, 6, 7], resolution_ns=2)
    assert timer.sample(lambda: runs.append(1), 2) == [5, 6]
    assert (len(runs), timer.now(), timer.resolution_ns) == (2, 11, 2)
    assert timer.sample(lambda: runs.append(1), 1) == [7]
    assert timer.now() == 18


def test_scripted_timer_says_when_the_script_is_over() -> None:
    timer = ScriptedTimer([5, 6])
    timer.sample(lambda: None, 1)
    with pytest.raises(IndexError, match="ends after 2 durations, but run 3 "):
        timer.sample(lambda: None, 2)


def test_scripted_timer_takes_an_endless_script() -> None:
    timer = ScriptedTimer(itertools.cycle([1, 2]))
    assert timer.sample(lambda: None, 5) == [1, 2, 1, 2, 1]


class FakeCuda:
    """A stream that executes at once: a clock that steps move, and a log of what was enqueued."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.clock_ms = 0.0
        self.log: list[str] = []
        fake = self

        class Event:
            def __init__(self, enable_timing: bool) -> None:
                assert enable_timing
                self.at_ms: float | None = None

            def record(self) -> None:
                fake.log.append("record")
                self.at_ms = fake.clock_ms

            def elapsed_time(self, end: Any) -> float:
                fake.log.append("read")
                return float(end.at_ms - self.at_ms)

        class Device:
            def __init__(self, device: torch.device) -> None: ...
            def __enter__(self) -> None: ...
            def __exit__(self, *error: object) -> None: ...

        monkeypatch.setattr(torch.cuda, "Event", Event)
        monkeypatch.setattr(torch.cuda, "device", Device)
        monkeypatch.setattr(torch.cuda, "synchronize", lambda: self.log.append("synchronize"))

    def step(self, duration_ms: float) -> None:
        self.log.append("step")
        self.clock_ms += duration_ms


def test_cuda_timer_brackets_each_step_and_reads_after_one_synchronise(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = FakeCuda(monkeypatch)
    timer = CudaTimer(torch.device("cuda:0"))
    durations_ms = iter([9.0, 1.0, 2.5, 0.5])
    samples_ns = timer.sample(lambda: cuda.step(next(durations_ms)), 3)
    assert samples_ns == [1_000_000, 2_500_000, 500_000]  # the first run leads in, untimed
    assert timer.runs(3) == 4
    creation, work = cuda.log[:6], cuda.log[6:]
    assert creation == ["record"] * 6
    assert work == ["step", *["record", "step", "record"] * 3, "synchronize", *["read"] * 3]


def test_cuda_timer_runs_a_single_step_once_and_reuses_its_events(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = FakeCuda(monkeypatch)
    timer = CudaTimer(torch.device("cuda:0"))
    assert timer.sample(lambda: cuda.step(4.0), 1) == [4_000_000]
    assert cuda.log.count("step") == timer.runs(1) == 1
    cuda.log.clear()
    timer.sample(lambda: cuda.step(4.0), 1)
    assert cuda.log == ["record", "step", "record", "synchronize", "read"]


def test_the_device_chooses_the_clock() -> None:
    assert timer_for(torch.device("cpu")).name == "perf_counter"
    assert timer_for(torch.device("cuda", 0)).name == "cuda_event"
