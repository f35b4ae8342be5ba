"""group: the process group of the ranks that run a case together, and what they tell each other on the host.

The ranks are processes of one host. They meet at a file, so that no port has to be free. On GPUs tensors travel by NCCL
and what the hosts tell each other by gloo; on CPUs gloo does both.
"""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import FileStore

from hybridbench.standing import Standing

LOOPBACK = "lo"


def join(standing: Standing, on_gpu: bool) -> None:
    """Joins the process group, once per process; waits for all ranks.

    A collective that takes twice ``patience_s`` fails. ``watch`` reports one that takes longer than that before.
    """
    if dist.is_initialized():
        return
    if (Path("/sys/class/net") / LOOPBACK).exists():
        os.environ.setdefault("GLOO_SOCKET_IFNAME", LOOPBACK)  # all ranks are on this host
    if on_gpu:
        # A rank's own GPU is the first that it sees. Device meshes choose one by this variable if none is chosen.
        os.environ["LOCAL_RANK"] = "0"
        torch.cuda.set_device(0)
    store = FileStore(str(standing.meeting), standing.count)
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if on_gpu else "gloo",
        store=store,
        rank=standing.rank,
        world_size=standing.count,
        timeout=timedelta(seconds=2 * standing.patience_s),
    )


def gathered(mine: list[int]) -> list[list[int]]:
    """What each rank says, by rank; all say equally many whole numbers."""
    said = torch.tensor(mine, dtype=torch.int64)
    heard = [torch.empty_like(said) for _ in range(dist.get_world_size())]
    dist.all_gather(heard, said)
    return [each.tolist() for each in heard]
