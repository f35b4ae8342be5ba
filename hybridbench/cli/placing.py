"""placing: where cases run: on this host, or as jobs of a cluster, and on how many workers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hybridbench.errors import BadInput, HybridbenchError
from hybridbench.machine import check_gpu, usable_cores
from hybridbench.text import counted, shown

if TYPE_CHECKING:
    from hybridbench.cluster.opening import Opened
    from hybridbench.early import Early
    from hybridbench.runner import Events

LOCAL, SLURM = "local", "slurm"


@dataclass(frozen=True)
class Shared:
    """Cases that go through a queue.

    Args:
        folder: of the results.
        recorded: how many more cases of the command have a record.
        resume: whether to join workers who are at these cases.
        gpus: of this host, those to use.
    """

    folder: Path
    cases: Sequence[Any]
    name: str
    recorded: int
    resume: bool
    gpus: Sequence[str]


@dataclass(frozen=True)
class Place:
    """Where cases run.

    Args:
        on: ``local`` or ``slurm``.
        workers: processes that run one case at a time each; None is one for each GPU, or one.
        partition, time, more: of Slurm, as ``cluster.slurm.Asked``.
    """

    on: str = LOCAL
    workers: int | None = None
    partition: str | None = None
    time: str | None = None
    more: dict[str, str] = field(default_factory=dict)

    def has_gpu(self, gpus: Sequence[str]) -> bool:
        """Whether cases are planned for a GPU: those of this host, or of the partition.

        Raises:
            BadInput: Slurm is not here, or has no such partition, or fewer places than workers.
        """
        if self.on == LOCAL:
            return bool(gpus)
        return bool(self._partition().gpus > 0)

    def check(self, planned: Sequence[Any], gpus: Sequence[str]) -> None:
        """Check that what the cases need is there.

        Raises:
            BadInput: a GPU, or as many GPUs or cores as workers.
        """
        if self.on == SLURM:
            if any(case.device == "cuda" for case in planned) and not self.has_gpu(gpus):
                raise BadInput("device cuda: the partition has no GPU that sinfo names: choose another, or a CPU.")
            self._partition(most_ranks(planned))
            return
        needs_gpu(planned, gpus)
        on_gpu, ranks = any(case.device == "cuda" for case in planned), most_ranks(planned)
        if on_gpu and ranks > len(gpus):
            raise BadInput(
                f"a case on {ranks} GPUs: this machine shows {counted(len(gpus), 'GPU')}; give fewer by --gpus or --tp."
            )
        if self.workers is None:
            return
        places = len(gpus) // ranks if on_gpu else usable_cores()
        if self.workers > places:
            what = counted(len(gpus) if on_gpu else places, "GPU" if on_gpu else "core")
            each = f", and cases need up to {ranks}" if on_gpu and ranks > 1 else ""
            raise BadInput(
                f"--workers {self.workers}: this machine shows {what}{each}: give --workers {places} at most."
            )

    def _partition(self, ranks: int = 1) -> Any:
        from hybridbench.cluster.slurm import partition_for

        return partition_for(self._asked(ranks))

    def _asked(self, ranks: int) -> Any:
        from hybridbench.cluster.slurm import JobOptions

        return JobOptions(self.workers or 1, self.partition, self.time, self.more, ranks)

    def open(self, shared: Shared) -> Opened:
        """The queue of the cases: a new one, or that of others who are at them.

        Raises:
            HybridbenchError: as ``cluster.opening.open_queue``.
        """
        from hybridbench.cluster.opening import open_queue

        return open_queue(shared.folder, shared.cases, shared.name, shared.recorded, resume=shared.resume)

    def run(
        self,
        shared: Shared,
        opened: Opened,
        events: Events,
        tell: Callable[[str], None],
        early: Early | None = None,
    ) -> None:
        """Run the cases, and remove their queue when all are done.

        Args:
            tell: prints a sentence.
            early: worker processes of this machine that have been started already.

        Raises:
            HybridbenchError: the run ended early. Records written so far are kept.
            KeyboardInterrupt: passed on, once nothing is held and no job is left that this call submitted.
        """
        from hybridbench.cluster.opening import close_queue, member, own_gpus

        if opened.joined:
            tell(f"Workers are at these cases already: this run helps with what is left in {shared.folder}.")
        here = (self.workers or 1) if self.on == LOCAL else 0
        with member(shared.folder, opened.planned, first=not opened.joined, workers=here) as (queue, writer):
            if not here:
                self._on_slurm(opened.planned, queue, writer, events, tell)
            else:
                from hybridbench.runner import run_sweep

                with own_gpus(opened.planned, queue, shared.gpus, self.workers) as gpus:
                    if gpus is None:
                        raise BadInput(
                            f"each GPU of this machine has a worker of the run in {shared.folder} already: wait for "
                            "it, or help from a machine with a free GPU."
                        )
                    here = len(gpus) if opened.planned.on_gpu and gpus else here
                    queue.lease.tell(workers=here)
                    run_sweep(queue, writer, gpus=gpus, workers=here, events=events, early=early)
        left = close_queue(opened.planned)
        if left:
            raise HybridbenchError(f"{counted(left, 'case')} of {shared.folder} did not run: give --resume.")

    def _on_slurm(self, planned: Any, queue: Any, writer: Any, events: Events, tell: Callable[[str], None]) -> None:
        from hybridbench.cluster.following import Follow
        from hybridbench.cluster.slurm import JobOptions, cancel, jobs_of, logs_tail, partition_for, submit

        ranks = planned.ranks
        partition = partition_for(self._asked(ranks))
        there = jobs_of(planned.folder)
        missing = min(self.workers or 1, len(planned.lines)) - len(there)
        ids: list[str] = []
        if missing > 0:
            ids = submit(planned, JobOptions(missing, self.partition, self.time, self.more, ranks), partition)
            tell(
                f"Submitted {counted(len(ids), 'worker')} to partition {partition.name.rstrip('*')}: "
                f"hybridbench status {planned.folder.parents[1]} shows them from anywhere. Ctrl-C ends them."
            )
        try:
            place = planned.folder
            Follow(planned, queue, writer, events, lambda: jobs_of(place), lambda: logs_tail(place)).run()
        except KeyboardInterrupt:
            cancel(ids)
            raise


HERE = Place()


def most_ranks(planned: Sequence[Any]) -> int:
    """The most processes that one of the cases runs on, each with a GPU of its own."""
    return max((getattr(case, "ranks", 1) for case in planned), default=1)


def needs_gpu(planned: Sequence[Any], gpus: Sequence[str], suite: str | None = None) -> None:
    """Check that there is a GPU if cases need one.

    Args:
        suite: the file that says so, where no option can.

    Raises:
        BadInput: there is none; the text says what to do instead.
    """
    if any(case.device == "cuda" for case in planned):
        if suite is not None and not gpus:
            raise BadInput(
                f"{suite} says device cuda, and this machine shows no NVIDIA GPU: run it where there is one, take "
                "a suite of a CPU such as suites/smoke.toml, or see hybridbench doctor."
            )
        check_gpu("cuda", gpus)


def place_of(on: str, workers: int | None, partition: str | None, time: str | None, slurm: Sequence[str]) -> Place:
    """The place that options name.

    Raises:
        BadInput: options of Slurm without it, Slurm without a number of workers, an option of sbatch without a value.
    """
    if on == LOCAL:
        for name, value in (("--partition", partition), ("--time", time), ("--slurm", slurm)):
            if value:
                raise BadInput(f"{name} is for --on slurm: leave it out, or add --on slurm.")
    elif workers is None:
        raise BadInput("--on slurm without --workers: say how many jobs to submit, such as --workers 8.")
    more = {}
    for pair in slurm:
        name, _, value = pair.partition("=")
        if not name.strip("- ") or not value:
            raise BadInput(f"--slurm {shown(pair)}: give an option of sbatch with its value, such as account=lab.")
        more[name.strip("- ")] = value
    return Place(on, workers, partition, time, more)


def place_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of where cases run."""
    for option in (
        click.option("--slurm", multiple=True, metavar="NAME=VALUE", help="An option of sbatch; repeatable."),
        click.option("--time", metavar="LIMIT", help="Time limit of each Slurm job, such as 4:00:00."),
        click.option("--partition", metavar="NAME", help="Partition of Slurm; the cluster's default if not given."),
        click.option("--workers", type=click.IntRange(1, 10_000), help="Cases at a time; by default one per GPU here."),
        click.option(
            "--on", type=click.Choice([LOCAL, SLURM]), default=LOCAL, show_default=True, help="Where the cases run."
        ),
    ):
        command = option(command)
    return command
