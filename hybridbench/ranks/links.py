"""links: how fast the ranks of a case move large tensors between each other, measured in the processes that run it.

A rate is what each rank must send over the time of the collective, as nccl-tests counts bus bandwidth: (n - 1)/n of the
bytes that are gathered or scattered, and twice that for an all-reduce, of n ranks. A transfer of a training step is
some 100 MB. An all-reduce of 16 KiB, as of a decode step, takes a time of its own that does not depend on its size.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.distributed as dist

from hybridbench.measure.clock import timer_for
from hybridbench.model.across import all_gather, reduce_scatter
from hybridbench.ranks.timing import RankTimer
from hybridbench.record import Links
from hybridbench.stats import median
from hybridbench.units import KIB, MIB, NS_PER_S

GPU_BYTES, CPU_BYTES, SMALL_BYTES = 128 * MIB, 4 * MIB, 16 * KIB
WARMUPS, SAMPLES = 3, 10


def measure_links(device: torch.device) -> Links:
    """The rates between the ranks, medians of a few runs on the slowest rank; all ranks must call this."""
    count, timer = dist.get_world_size(), RankTimer(timer_for(device))
    size = GPU_BYTES if device.type == "cuda" else CPU_BYTES
    each = torch.zeros(size // count // 4, device=device)
    every = torch.zeros(each.numel() * count, device=device)
    small = torch.zeros(SMALL_BYTES // 4, device=device)

    def seconds(transfer: Callable[[], object]) -> float:
        timer.sample(transfer, WARMUPS)
        return median(timer.sample(transfer, SAMPLES)) / NS_PER_S

    sent = each.numel() * 4 * (count - 1)
    return Links(
        all_gather_bytes_per_s=sent / seconds(lambda: all_gather(every, each)),
        reduce_scatter_bytes_per_s=sent / seconds(lambda: reduce_scatter(each, every)),
        all_reduce_bytes_per_s=2 * sent / seconds(lambda: dist.all_reduce(every)),
        small_all_reduce_s=seconds(lambda: dist.all_reduce(small)),
    )
