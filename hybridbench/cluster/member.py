"""member: the program of a job of Slurm: a worker that takes cases of a queue until none is left for it."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from hybridbench.cluster.opening import member, own_gpus
from hybridbench.errors import HybridbenchError
from hybridbench.machine import visible_gpus
from hybridbench.queue.plan import find
from hybridbench.runner import Events, run_sweep
from hybridbench.version import full_version


def serve(folder: str, gpus: Sequence[str] | None = None) -> int:
    """Takes cases of a queue, one at a time, until none is left or the job is ended; how many it recorded.

    Args:
        folder: of the queue. If another has taken its place, there is nothing to do.
        gpus: of this node those that the job may use, as CUDA_VISIBLE_DEVICES takes them; None asks the driver. The
            worker takes the first that no other worker of the queue has, as many as the largest case needs. Where each
            has a worker, it ends without taking a case.

    Raises:
        HybridbenchError: the queue is of another version, or no worker process starts here.
    """
    results = Path(folder).parents[1]
    planned = find(results)
    if planned is None or planned.folder != Path(folder):
        _say(f"the queue {folder} is done or replaced: nothing to do")
        return 0
    if planned.plan.hybridbench != full_version():
        raise HybridbenchError(
            f"the queue is of hybridbench {planned.plan.hybridbench}, and this node has {full_version()}: use one "
            "environment on all nodes."
        )
    # Before its time is up Slurm sends what it was told to, and what holds a case should put it back then.
    signal.signal(signal.SIGUSR2, lambda _number, _frame: os.kill(os.getpid(), signal.SIGTERM))
    events = Events(started=lambda case: _say(f"began {case.label}"))
    with member(results, planned, first=False, stays=False) as (queue, writer):
        gpus = visible_gpus() if gpus is None else gpus
        try:
            with own_gpus(planned, queue, gpus) as mine:
                if mine is not None:
                    return len(run_sweep(queue, writer, gpus=mine, events=events))
            has = "GPU has a" if len(gpus) == 1 else f"{len(gpus)} GPUs each have a"
            _say(
                f"this node's {has} worker of this run: this one ends without taking a case; give fewer --workers, or "
                "each job a GPU of its own."
            )
        except KeyboardInterrupt:
            _say("ended by Slurm: what it held is put back")
        return 0


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()
