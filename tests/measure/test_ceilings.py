"""Measured ceilings are rates this machine really has: a product cannot beat them by much, and memory can be short."""

from __future__ import annotations

import time

import pytest
import torch

from hybridbench.measure import ceilings
from hybridbench.measure.ceilings import LAST_PART, SUSTAINED_S, measure_ceilings, sustained_seconds
from hybridbench.measure.clock import ScriptedTimer

CPU = torch.device("cpu")


def test_rates_are_those_of_the_same_work_timed_by_hand() -> None:
    a = torch.randn(1024, 1024)

    def fastest_s() -> float:
        times_s = []
        for _ in range(5):
            start = time.perf_counter()
            torch.matmul(a, a)
            times_s.append(time.perf_counter() - start)
        return min(times_s)

    before_s = fastest_s()
    found = measure_ceilings(CPU, torch.float32)
    rate = 2 * 1024**3 / min(before_s, fastest_s())  # other work may slow either down
    assert found is not None
    assert found.dtype == "float32"
    assert found.read_bytes_per_s >= found.copy_bytes_per_s > 1e8
    assert rate / 10 < found.matmul_flops_per_s < 3 * rate, "the same order of magnitude"


def test_a_cpu_sustains_nothing() -> None:
    found = measure_ceilings(CPU, torch.float32)
    assert found is not None
    assert found.sustained_matmul_flops_per_s is None


def test_what_is_left_after_a_second_is_sustained() -> None:
    """A card that runs at full clocks at first, then throttles hard, and settles a fifth slower."""
    fast_ns, slow_ns, steady_ns = 1_000_000, 5_000_000, 1_250_000
    script = [fast_ns] * 200 + [slow_ns] * 550 + [steady_ns] * 250
    timer = ScriptedTimer(script)
    runs: list[None] = []
    assert sustained_seconds(timer, lambda: runs.append(None), fast_ns / 1e9) == pytest.approx(steady_ns / 1e9)
    assert len(runs) == SUSTAINED_S * 1e9 / fast_ns, "a second by the burst, and no more"
    assert timer.now() == sum(script)


@pytest.mark.parametrize("burst_s", [0.4, 30.0])
def test_a_slow_step_is_run_a_few_times(burst_s: float) -> None:
    timer = ScriptedTimer(range(1, 100))
    assert sustained_seconds(timer, lambda: None, burst_s) == pytest.approx(LAST_PART / 1e9)


def test_a_gpu_sustains_its_product(monkeypatch: pytest.MonkeyPatch) -> None:
    """Played on a CPU: small tensors in place of gigabytes, and a clock that tells a story."""
    timer = ScriptedTimer([1_000_000] * 39 + [1_000_000] * 750 + [2_000_000] * 250)
    monkeypatch.setattr(ceilings, "timer_for", lambda _device: timer)
    monkeypatch.setattr(ceilings, "GIB", 1024)
    monkeypatch.setattr(torch, "randn", lambda *_sizes, device: torch.ones(2))
    found = measure_ceilings(torch.device("cuda", 0), torch.bfloat16)
    assert found is not None
    assert found.matmul_flops_per_s == pytest.approx(2 * 8192**3 / 1e-3)
    assert found.sustained_matmul_flops_per_s == pytest.approx(2 * 8192**3 / 2e-3)


def test_too_little_memory_is_no_ceiling(monkeypatch: pytest.MonkeyPatch) -> None:
    def exhausted(*_: object, **__: object) -> float:
        raise torch.OutOfMemoryError("no memory")

    monkeypatch.setattr(ceilings, "_seconds", exhausted)
    assert measure_ceilings(CPU, torch.float32) is None
