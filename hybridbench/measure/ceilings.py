"""ceilings: what this device reaches at best, measured: a large matrix product, reading memory, copying it.

No program reaches the rates of a datasheet. A floor from measured ceilings says what is left to gain on this card, as
it is cooled, powered and shared today. The data are random, because products of zeros run faster.

A short burst of products ends before a card at its power limit lowers its clocks: its rate is the ceiling. The rate
that the card sustains is measured too, since a long training step cannot beat that one.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch

from hybridbench.measure.clock import Timer, timer_for
from hybridbench.record import Ceilings
from hybridbench.stats import median
from hybridbench.units import GIB, MIB, NS_PER_S

GPU_RUNS, CPU_RUNS = (3, 10), (1, 3)
"""Warm-up runs and timed runs per rate."""
SUSTAINED_S = 1.0
LAST_PART = 4
"""How long products run back to back (seconds), and into how many parts they are divided: the last part counts."""


def measure_ceilings(device: torch.device, dtype: torch.dtype) -> Ceilings | None:
    """The device's rates for one dtype, medians of a few runs; None where memory does not suffice.

    On a GPU the product is 8192 (16 bit) or 4096 cubed and the memory 4 GiB, many times any cache; on a CPU 768 cubed
    and 256 MiB. The bandwidth is the better of a sum, which reads, and a copy, whose reads and writes both count. The
    sustained rate is measured on a GPU only, and last, so that memory is not measured at lowered clocks.
    """
    on_gpu = device.type == "cuda"
    side = (8192 if dtype.itemsize == 2 else 4096) if on_gpu else 768
    size = 4 * GIB if on_gpu else 256 * MIB
    try:
        a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
        product = partial(torch.matmul, a, b)
        burst = _seconds(device, product)
        source = torch.randn(size // 4, device=device)
        target = torch.empty_like(source)
        read = size / _seconds(device, source.sum)
        copy = 2 * size / _seconds(device, lambda: target.copy_(source))
        sustained = sustained_seconds(timer_for(device), product, burst) if on_gpu else None
    except (torch.OutOfMemoryError, MemoryError):
        return None
    return Ceilings(
        dtype=str(dtype).removeprefix("torch."),
        matmul_flops_per_s=2 * side**3 / burst,
        read_bytes_per_s=max(read, copy),
        copy_bytes_per_s=copy,
        sustained_matmul_flops_per_s=2 * side**3 / sustained if sustained else None,
    )


def _seconds(device: torch.device, step: Callable[[], object]) -> float:
    timer = timer_for(device)
    warmups, samples = GPU_RUNS if device.type == "cuda" else CPU_RUNS
    timer.sample(step, warmups)
    return median(timer.sample(step, samples)) / NS_PER_S


def sustained_seconds(timer: Timer, step: Callable[[], object], burst_s: float) -> float:
    """The median duration of a step in the last part of ``SUSTAINED_S`` seconds of back-to-back runs; seconds.

    Args:
        burst_s: its duration in a short burst, from which the number of runs follows; seconds.
    """
    samples = timer.sample(step, max(LAST_PART, round(SUSTAINED_S / burst_s)))
    return median(samples[-(len(samples) // LAST_PART) :]) / NS_PER_S
