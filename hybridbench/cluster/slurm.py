"""slurm: workers as jobs of Slurm: what a partition has, jobs submitted through submitit, and which are left."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hybridbench.errors import BadInput
from hybridbench.queue.plan import Planned
from hybridbench.text import counted, shown

JOBS, LOGS = "jobs.json", "logs"
ANSWER_S = 60.0
"""How long a command of Slurm may take; seconds."""
AT_ONCE = 1000
"""Jobs of one array: Slurm's default for the largest index is 1000, and submitit does not split arrays."""


@dataclass(frozen=True)
class JobOptions:
    """What a person asks of Slurm.

    Args:
        workers: how many jobs.
        partition: None for the cluster's default.
        time: the limit of each job as sbatch takes it; None for the partition's.
        more: further options of sbatch by their long names.
        ranks: GPUs of each job, where the partition has GPUs: a case may run on several.
    """

    workers: int
    partition: str | None = None
    time: str | None = None
    more: dict[str, str] = field(default_factory=dict)
    ranks: int = 1


@dataclass(frozen=True)
class Partition:
    """What a partition has, as ``sinfo`` tells.

    Attributes:
        time: the limit that a job gets, as sbatch takes it.
        gpus_each: nodes with GPUs: how many there are, and how many GPUs each of them has.
    """

    name: str
    nodes: int
    cpus: int
    gpus: int
    time: str
    gpus_each: tuple[tuple[int, int], ...] = ()


def partition_for(asked: JobOptions) -> Partition:
    """The partition that was asked for, once it is known that it can run the workers.

    Raises:
        BadInput: no Slurm or submitit here, an unknown partition, or more workers than it has places for.
    """
    if not shutil.which("sbatch"):
        raise BadInput(
            "--on slurm: there is no sbatch on this machine's PATH: run this where jobs are submitted, or give "
            "--on local."
        )
    try:
        import submitit  # noqa: F401
    except ImportError as exc:
        raise BadInput("--on slurm needs submitit: pip install 'hybridbench[cluster]'.") from exc
    partitions = _partitions()
    if not partitions:
        raise BadInput("--on slurm: sinfo names no partition: ask those who run the cluster.")
    default = next((one for one in partitions.values() if one.name.endswith("*")), next(iter(partitions.values())))
    found = partitions.get(asked.partition, None) if asked.partition else default
    if found is None:
        raise BadInput(f"--partition {shown(asked.partition)}: the cluster has {', '.join(partitions)}.")
    units, each = found.gpus or found.cpus, asked.ranks if found.gpus else 1
    places = sum(nodes * (there // each) for nodes, there in found.gpus_each) if found.gpus else units
    name, what = found.name.rstrip("*"), counted(units, "GPU" if found.gpus else "core")
    if not places:
        most = max(there for _, there in found.gpus_each)
        raise BadInput(
            f"a case on {each} GPUs: nodes of partition {name} have {counted(most, 'GPU')} at most, and a case runs on "
            "one node: give fewer by --gpus or --tp, or another partition."
        )
    if asked.workers > places:
        more = f", and each worker needs {each} of one node" if each > 1 else ""
        raise BadInput(f"--workers {asked.workers}: partition {name} has {what} in all{more}: give --workers {places}.")
    return found


def _partitions() -> dict[str, Partition]:
    found: dict[str, Partition] = {}
    for line in _said(["sinfo", "-h", "-o", "%P|%D|%c|%G|%L|%l"]).splitlines():
        name, nodes, cpus, gres, usual, most = line.split("|")
        number, each = int(nodes), int(cpus.rstrip("+"))
        gpus = sum(int(count or 1) for count in re.findall(r"gpu(?::[A-Za-z_][^:(,]*)?(?::(\d+))?", gres))
        time = next((one for one in (usual, most) if one != "n/a"), "infinite")
        before = found.get(name.rstrip("*"), Partition(name, 0, 0, 0, "0" if time == "infinite" else time))
        total = (before.nodes + number, before.cpus + number * each, before.gpus + number * gpus)
        with_gpus = (*before.gpus_each, (number, gpus)) if gpus else before.gpus_each
        found[name.rstrip("*")] = Partition(name, *total, before.time, with_gpus)
    return found


def _said(words: Sequence[str]) -> str:
    """What a command of Slurm prints.

    Raises:
        BadInput: it failed, with what it said.
    """
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=ANSWER_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise BadInput(f"{words[0]} does not answer ({exc}): is Slurm running?") from exc
    if done.returncode:
        said = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[0]
        raise BadInput(f"{words[0]} failed ({said}): see whether Slurm runs here, and whether you may use it.")
    return done.stdout


def submit(planned: Planned, asked: JobOptions, partition: Partition) -> list[str]:
    """Submits the workers of a queue, and notes them there; the ids of their jobs.

    Raises:
        BadInput: sbatch refuses, with what it said.
    """
    import submitit

    from hybridbench.cluster.member import serve

    logs = planned.folder / LOGS
    executor = submitit.SlurmExecutor(folder=logs)
    own = {name.replace("_", "-"): value for name, value in asked.more.items()}
    takes_gpus = partition.gpus and not {"gres", "gpus", "gpus-per-node"} & own.keys()
    executor.update_parameters(
        job_name=f"hybridbench-{planned.plan.name}",
        partition=partition.name.rstrip("*"),
        array_parallelism=AT_ONCE,
        **({"gpus_per_node": asked.ranks} if takes_gpus else {}),
        additional_parameters={"time": asked.time or partition.time, **own},
        use_srun=False,
    )
    ids: list[str] = []
    for first in range(0, asked.workers, AT_ONCE):
        number = min(AT_ONCE, asked.workers - first)
        places = [str(planned.folder)] * number
        try:
            ids += [str(job.job_id) for job in executor.map_array(serve, places)]
        except (submitit.core.utils.FailedJobError, OSError) as exc:
            cancel(ids)
            raise BadInput(f"sbatch refused the workers: {_reason(exc)}") from exc
        note = planned.folder / JOBS
        before = json.loads(note.read_text(encoding="utf-8")) if note.exists() else []
        note.write_text(json.dumps([*before, *ids[first:]]), encoding="utf-8")
    return ids


def _reason(exc: Exception) -> str:
    lines = [line for line in str(exc).splitlines() if "error:" in line]
    return (lines[-1] if lines else str(exc).strip()).partition("error: ")[2] or str(exc).strip()


def jobs_of(folder: Path) -> dict[str, str]:
    """The state of each job of a queue that waits or runs, by its id; none where there is no Slurm.

    Raises:
        BadInput: squeue does not answer.
    """
    try:
        ids = json.loads((folder / JOBS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not ids or not shutil.which("squeue"):
        return {}
    arrays = sorted({str(one).partition("_")[0] for one in ids})
    wanted, found = set(ids), {}
    # By the user and not by the ids: squeue fails on an id that Slurm has forgotten.
    for line in _said(["squeue", "-h", "-r", "--me", "-o", "%A|%i|%T|%R"]).splitlines():
        _, name, state, why = line.split("|", 3)
        if name in wanted or name in arrays:
            found[name] = state if state != "PENDING" else f"{state} {why}"
    return found


def cancel(ids: Sequence[str]) -> None:
    """Cancels jobs. Their workers put back what they hold."""
    if ids:
        subprocess.run(["scancel", *ids], capture_output=True, timeout=ANSWER_S, check=False)


def logs_tail(folder: Path, most: int = 2000) -> str:
    """The end of the log of a queue's jobs that was written last."""
    logs: list[Any] = sorted((folder / LOGS).rglob("*.err"), key=lambda log: log.stat().st_mtime)
    for log in reversed(logs):
        text: str = log.read_text(encoding="utf-8", errors="replace").strip()
        if text:
            return f"{log}: {text[-most:]}"
    return "their logs are empty"
