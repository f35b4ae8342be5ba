"""opening: the queue with which a command begins: a new one, or that of workers who are at the same cases already."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from hybridbench.cluster.slurm import jobs_of
from hybridbench.errors import BadInput
from hybridbench.machine import gpu_uuids, in_groups
from hybridbench.processes import terminable
from hybridbench.queue.gpus import GpuClaims
from hybridbench.queue.lease import LEASE_S, LeaseWatch
from hybridbench.queue.plan import HELD, MEMBERS, WAITING, Planned, QueuePlan, create, find, remove
from hybridbench.queue.shared import SharedQueue
from hybridbench.store import RecordWriter, make_folder, new_run_id
from hybridbench.suite.case import Case
from hybridbench.text import counted
from hybridbench.version import full_version

LEASE_VARIABLE = "HYBRIDBENCH_LEASE_S"
"""The environment variable that sets how long a worker may not be heard of, in seconds."""


@dataclass(frozen=True)
class Opened:
    """A queue, and whether others had opened it."""

    planned: Planned
    joined: bool


def open_queue(results: Path, cases: Sequence[Case], name: str, recorded: int = 0, *, resume: bool = False) -> Opened:
    """The queue of a folder of results. One that nobody works at any more is replaced, since its records say it all.

    Args:
        cases: those to run.
        name: of the suite or command.
        recorded: how many cases of it have a record.
        resume: whether to join workers who are at these cases.

    Raises:
        BadInput: workers are at it, and these are other cases, or were made by another version, or ``resume`` is not
            given; or the folder cannot be written.
        BadResults: a queue there is of another version, or damaged.
    """
    make_folder(results)
    found = find(results)
    if found is None:
        return Opened(create(results, QueuePlan(new_run_id(), name, recorded, lease_s=lease_s()), cases), joined=False)
    watch = LeaseWatch(found.folder / MEMBERS)
    alive, jobs = watch.alive(), jobs_of(found.folder)
    if not alive and not jobs:
        remove(found)
        return open_queue(results, cases, name, recorded, resume=resume)
    workers = sum(watch.said(name).get("workers", 1) for name in alive)
    who = counted(workers, "worker") if workers else counted(len(jobs), "job") + " of Slurm"
    there = f"another run ({found.plan.name}) is going on in {results}, with {who}"
    if {case.key for case in cases} - found.keys:
        raise BadInput(f"{there}, at other cases: wait for it, or choose another folder with -o.")
    if not resume:
        raise BadInput(f"{there}: give --resume to help with what is left, or choose another folder with -o.")
    if found.plan.hybridbench != full_version():
        versions = f"by hybridbench {found.plan.hybridbench}, and this is {full_version()}"
        raise BadInput(f"{there}, {versions}: use the same, or choose another folder with -o.")
    return Opened(found, joined=True)


def lease_s() -> float:
    """How long a worker may not be heard of; seconds.

    Raises:
        BadInput: the environment says something else than a number of seconds from 1 on.
    """
    said = os.environ.get(LEASE_VARIABLE, "")
    if not said:
        return LEASE_S
    try:
        value = float(said)
    except ValueError:
        value = 0.0
    if not 1.0 <= value < 1e6:
        raise BadInput(f"{LEASE_VARIABLE} is {said!r}, where a number of seconds from 1 on is expected.")
    return value


@contextlib.contextmanager
def member(
    results: Path, planned: Planned, *, first: bool, stays: bool = True, workers: int = 1
) -> Iterator[tuple[SharedQueue, RecordWriter]]:
    """A worker's queue and writer. In the end it holds nothing, and whoever finds that all is done removes the queue.

    Args:
        first: whether it is the worker that opened the queue, whose records need no name of their own.
        stays, workers: as for ``SharedQueue``.
    """
    name = None if first else new_run_id().partition("-")[2]
    with RecordWriter(results, planned.plan.run_id, worker=name) as writer:
        queue = SharedQueue(planned, writer.path, stays=stays, workers=workers)
        try:
            yield queue, writer
        finally:
            queue.leave()


@contextlib.contextmanager
def own_gpus(
    planned: Planned, queue: SharedQueue, gpus: Sequence[str], most: int | None = 1
) -> Iterator[list[str] | None]:
    """GPUs that are the worker's own inside, as CUDA_VISIBLE_DEVICES takes them: as many together as the largest case
    of the queue has ranks. None where other workers of the queue have them all.

    A claim goes by the UUID of the first of those that go together: workers of a node group its GPUs alike.

    Args:
        gpus: those that may be used. None is claimed where no case of the queue runs on a GPU.
        most: so many times at the most; None takes all that are free.
    """
    together = in_groups(gpus, planned.ranks)
    if not together or not planned.on_gpu:
        yield together[:most]
        return
    known = gpu_uuids([one.partition(",")[0] for one in together])
    claims = GpuClaims(planned.folder, queue.member, queue.watch)
    try:
        with terminable():
            mine = claims.take({one: known[one.partition(",")[0]] for one in together}, most or len(together))
        if mine or not planned.folder.exists():  # when all is done, the queue is removed
            yield mine
        else:
            claims.give_up()
            yield None
    finally:
        claims.release()


def close_queue(planned: Planned) -> int:
    """Removes the queue if all is done; how many cases are not."""
    left = sum(len(os.listdir(planned.folder / part)) for part in (WAITING, HELD) if (planned.folder / part).is_dir())
    if not left:
        remove(planned)
    return left
