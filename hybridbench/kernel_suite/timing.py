"""timing: how one operation is timed: calls over several sets of inputs and of memory, until the median is known."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from hybridbench.measure.clock import Timer, timer_for
from hybridbench.measure.nvml import Gpu
from hybridbench.measure.sampling import relative_interval
from hybridbench.record import GpuState

CPU_CACHE_BYTES = 64 << 20


@dataclass(frozen=True)
class Plan:
    """How to time one operation."""

    cold: bool = True
    graph: bool | None = None
    allocations: int = 3
    rotate: int = 2
    warmup_s: float = 0.3
    min_samples: int = 30
    max_samples: int = 1000
    max_time_s: float = 1.0
    target_rel_ci: float = 0.005


@dataclass(frozen=True)
class Timed:
    """Samples of one call, in order, and how they were taken."""

    samples_ns: list[int]
    by_allocation: list[int]
    calls_per_sample: int
    graph: bool
    cold: bool
    warmup_ns: int
    timer: str
    before: GpuState | None
    after: GpuState | None


def time_calls(
    make: Callable[[int], Callable[[], object]],
    device: torch.device,
    plan: Plan,
    *,
    timer: Timer | None = None,
    now: Callable[[], int] = time.perf_counter_ns,
) -> Timed:
    """Times calls; ``make(i)`` draws inputs number i in fresh memory and returns the call bound to them."""
    clock, gpu = timer or timer_for(device), Gpu.open(device)
    flush = torch.empty(CPU_CACHE_BYTES if device.type == "cpu" else 256 << 20, dtype=torch.uint8, device=device)
    samples: list[int] = []
    by_allocation: list[int] = []
    before = gpu.state() if gpu else None
    warmup_ns = 0
    for allocation in range(plan.allocations):
        calls = [make(allocation * plan.rotate + index) for index in range(plan.rotate)]
        started = now()
        for call in calls:
            call()
        if device.type == "cuda":
            torch.cuda.synchronize()
        warmup_ns += now() - started
        taken, started = 0, now()
        least = -(-plan.min_samples // plan.allocations)
        while taken < max(1, plan.max_samples // plan.allocations):
            if plan.cold:
                flush.zero_()
            samples += clock.sample(calls[taken % plan.rotate], 1)
            taken += 1
            if now() - started > plan.max_time_s / plan.allocations * 1e9 and taken >= min(least, 5):
                break
            if taken >= least and relative_interval(samples) <= plan.target_rel_ci:
                break
        by_allocation.append(taken)
        del calls
    after = gpu.state() if gpu else None
    return Timed(samples, by_allocation, 1, False, plan.cold, warmup_ns, clock.name, before, after)


def interleaved(
    makes: Sequence[Callable[[int], Callable[[], object]]], device: torch.device, plan: Plan
) -> list[Timed]:
    """Times several sides."""
    return [time_calls(make, device, plan) for make in makes]
