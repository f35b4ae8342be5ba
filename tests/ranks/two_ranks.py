"""Functions run on several ranks: processes forked from the test's own, which have everything imported, over gloo."""

from __future__ import annotations

import multiprocessing
import tempfile
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from hybridbench.ranks.group import join
from hybridbench.standing import Standing


def on_ranks(count: int, function: Callable[..., Any], *args: Any) -> list[Any]:
    """What ``function(*args)`` returns on each rank, by rank. It must return what can be pickled without torch."""
    context = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as folder:
        pipes, processes = [], []
        for rank in range(count):
            mine, theirs = context.Pipe(duplex=False)
            standing = Standing(rank, count, Path(folder) / "meeting", 30.0)
            processes.append(context.Process(target=_run, args=(standing, theirs, function, args), daemon=True))
            processes[-1].start()
            theirs.close()
            pipes.append(mine)
        said = [pipe.recv() if pipe.poll(60) else ("nothing", "no answer in time") for pipe in pipes]
        for process in processes:
            process.kill()
            process.join()
    for rank, (how, what) in enumerate(said):
        assert how == "returned", f"rank {rank}: {what}"
    return [what for _, what in said]


def _run(standing: Standing, pipe: Any, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # what PyTorch says of its own experiments is no error of ours
    try:
        join(standing, on_gpu=False)
        pipe.send(("returned", function(*args)))
        dist.barrier()  # a rank that leaves early would end the others' connections
    except Exception:  # noqa: BLE001  # the boundary of the process
        pipe.send(("raised", traceback.format_exc()))
