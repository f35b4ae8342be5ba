"""member: the program of a job of Slurm: a worker that takes cases of a queue until none is left for it."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from hybridbench.cluster.opening import member
from hybridbench.errors import HybridbenchError
from hybridbench.machine import in_groups, visible_gpus
from hybridbench.queue.plan import find
from hybridbench.runner import Events, run_sweep
from hybridbench.version import full_version


def serve(folder: str) -> int:
    """Takes cases of a queue, one at a time, until none is left or the job is ended; how many it recorded.

    Args:
        folder: of the queue. If another has taken its place, there is nothing to do.

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
        try:
            return len(run_sweep(queue, writer, gpus=in_groups(visible_gpus(), planned.ranks)[:1], events=events))
        except KeyboardInterrupt:
            _say("ended by Slurm: what it held is put back")
            return 0


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()
