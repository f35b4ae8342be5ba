"""ceilings: what this device reaches at best, measured: a large matrix product, reading memory, copying it.

Datasheets promise rates that no program sees. A floor made of measured ceilings says what is left to gain on this card,
as it is cooled, powered and shared today. Random data: a product of zeros runs faster than real ones.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from hybridbench.measure.clock import timer_for
from hybridbench.record import Ceilings
from hybridbench.stats import median
from hybridbench.units import GIB, MIB, NS_PER_S

GPU_RUNS, CPU_RUNS = (3, 10), (1, 3)
"""Runs to warm up and runs timed, per rate."""


def measure_ceilings(device: torch.device, dtype: torch.dtype) -> Ceilings | None:
    """The device's rates for one dtype, medians of a few runs; None where memory is too short.

    On a GPU the product is 8192 (16 bit) or 4096 cubed and the memory 4 GiB, many times any cache; on a CPU 768 cubed
    and 256 MiB. Reading is the better of a sum and a copy's reading and writing together.
    """
    on_gpu = device.type == "cuda"
    side = (8192 if dtype.itemsize == 2 else 4096) if on_gpu else 768
    size = 4 * GIB if on_gpu else 256 * MIB
    try:
        a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
        product = _seconds(device, lambda: torch.matmul(a, b))
        source = torch.randn(size // 4, device=device)
        target = torch.empty_like(source)
        read = size / _seconds(device, source.sum)
        copy = 2 * size / _seconds(device, lambda: target.copy_(source))
    except (torch.OutOfMemoryError, MemoryError):
        return None
    return Ceilings(
        dtype=str(dtype).removeprefix("torch."),
        matmul_flops_per_s=2 * side**3 / product,
        read_bytes_per_s=max(read, copy),
        copy_bytes_per_s=copy,
    )


def _seconds(device: torch.device, step: Callable[[], object]) -> float:
    timer = timer_for(device)
    warmups, samples = GPU_RUNS if device.type == "cuda" else CPU_RUNS
    timer.sample(step, warmups)
    return median(timer.sample(step, samples)) / NS_PER_S
