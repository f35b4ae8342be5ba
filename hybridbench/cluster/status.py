"""status: how far a run is, read from its queue and its records: cases, time left, workers, nodes and failures."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hybridbench.cluster.following import Follower
from hybridbench.cluster.slurm import jobs_of
from hybridbench.errors import BadResults
from hybridbench.queue.gpus import surplus
from hybridbench.queue.lease import LeaseWatch
from hybridbench.queue.plan import DONE, HELD, MEMBERS, PLAN, WAITING, Planned, find
from hybridbench.record import Record, Status
from hybridbench.report.progress import time_left
from hybridbench.report.table import Column, Table, TableCell
from hybridbench.store import exists, newest, recorded
from hybridbench.text import counted

AT_WORK, IDLE, SILENT = "at work", "idle", "dead or silent"


@dataclass(frozen=True)
class Seat:
    """A worker: where it is, and what it is at.

    Attributes:
        state: one of ``AT_WORK``, ``IDLE``, ``SILENT``; a silent one's case goes back when its lease is over.
        case: what it is at, with its phase; None if it is idle.
    """

    worker: str
    node: str
    state: str
    case: str | None


@dataclass(frozen=True)
class Seen:
    """A run at a moment.

    Attributes:
        cases: of the run, without those that ``--resume`` left out, which ``before`` counts.
        left: the time left, in words; empty if nobody works.
        statuses: how many records ended how.
        failures: label, status and message of the cases that did not end well.
        surplus: how many workers ended because every GPU of their nodes had a worker.
        jobs: those of Slurm that wait or run, with their states.
    """

    folder: str
    run_id: str
    name: str
    cases: int
    before: int
    done: int
    waiting: int
    running: int
    left: str
    statuses: dict[str, int]
    failures: tuple[tuple[str, str, str], ...]
    workers: tuple[Seat, ...] = ()
    surplus: int = 0
    jobs: dict[str, str] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        keys = ("case", "status", "message")
        return {**asdict(self), "failures": [dict(zip(keys, one, strict=True)) for one in self.failures]}

    def lines(self) -> list[str]:
        """What is said above the tables."""
        ended = ", ".join(f"{count:,} {word.replace('_', ' ')}" for word, count in self.statuses.items())
        if not self.run_id:
            return [f"No run is going on in {self.folder}. Its cases: {ended}."]
        before = f" ({self.before:,} more had a record before)" if self.before else ""
        said = [
            f"{self.name}: {self.done:,} of {counted(self.cases, 'case')} done{before}, {self.running:,} running, "
            f"{self.waiting:,} waiting{f'; {self.left}' if self.left else ''}."
        ]
        if ended:
            said.append(f"Records: {ended}.")
        states = Counter(self.jobs.values()) if self.jobs else {}
        if states:
            said.append("Slurm: " + ", ".join(f"{count:,} {state}" for state, count in states.items()) + ".")
        if self.surplus:
            said.append(f"{counted(self.surplus, 'worker')} ended without a case: every GPU of the node had a worker.")
        if not states and not any(seat.state != SILENT for seat in self.workers):
            said.append("Nobody works at it: go on with the command that began it, and --resume.")
        return said


def look(results: Path) -> Seen:
    """Looks at a folder of results. Takes up to ten seconds if a worker of another machine does not renew its lease.

    Raises:
        BadResults: no such folder, no run and no record in it, or a queue of another version.
    """
    if not exists(results):
        raise BadResults(f"{results} does not exist: give the folder that run was given with -o.")
    planned = find(results)
    if planned is None:
        kept: list[Record] = newest(recorded(results).values())
        if not kept:
            raise BadResults(f"{results} holds neither a run nor records: give the folder that run was given with -o.")
        return Seen(str(results), "", "", len(kept), 0, len(kept), 0, 0, "", **_told(kept))
    records = Follower(results, planned.plan.run_id).new()
    done, waiting, held = (_names(planned, part) for part in (DONE, WAITING, HELD))
    seats = _seats(planned)
    at_it = any(seat.state != SILENT for seat in seats)
    return Seen(
        str(results),
        planned.plan.run_id,
        planned.plan.name,
        len(planned.lines),
        planned.plan.recorded,
        len(done),
        len(waiting),
        len(held),
        _left(planned, done) if at_it else "",
        **_told(records),
        workers=seats,
        surplus=surplus(planned.folder),
        jobs=jobs_of(planned.folder),
    )


def _told(records: Sequence[Record]) -> dict[str, Any]:
    ended = Counter(record.status for record in records)
    failures = tuple(
        (record.case.label, record.status.value.replace("_", " "), " ".join((record.message or "").split()))
        for record in records
        if record.status is not Status.OK
    )
    return {"statuses": {one.value: ended[one] for one in Status if ended[one]}, "failures": failures}


def _names(planned: Planned, part: str) -> list[str]:
    try:
        return sorted(os.listdir(planned.folder / part))
    except FileNotFoundError:
        return []


def _seats(planned: Planned) -> tuple[Seat, ...]:
    watch = LeaseWatch(planned.folder / MEMBERS)
    members, living = watch.members(), watch.alive()
    holders = {name.rpartition("@")[2].removesuffix("!") for name in _names(planned, HELD)}
    seats = []
    for name in sorted(members.keys() | holders):
        said = members.get(name, {})
        at = [f"{planned.label(one)}: {phase}" for one, phase in sorted(said.get("at", {}).items())]
        workers = max(len(at), said.get("workers", 1))
        for number in range(workers):
            case = at[number] if number < len(at) else None
            state = SILENT if name not in living else AT_WORK if case else IDLE
            seats.append(Seat(f"{name}.{number}" if workers > 1 else name, said.get("node", "unknown"), state, case))
    return tuple(seats)


def _left(planned: Planned, done: Sequence[str]) -> str:
    """The time left, by times of the file system only: those of nodes may differ."""
    changed = [(planned.folder / DONE / name).stat().st_ctime for name in done]
    beats = [file.stat().st_ctime for file in (planned.folder / MEMBERS).glob("*.json")]
    begun = (planned.folder / PLAN).stat().st_ctime
    latest = max(changed, default=begun)
    return time_left(len(done), len(planned.lines), latest - begun, max([latest, *beats]) - begun)


def tables(seen: Seen) -> list[Table]:
    """The workers and the failures, each as a table if there are any."""
    found = []
    if seen.workers:
        nodes = len({seat.node for seat in seen.workers})
        table = Table(
            f"{counted(len(seen.workers), 'worker')} on {counted(nodes, 'node')}",
            [
                Column("worker", "worker", numeric=False),
                Column("node", "node", numeric=False),
                Column("state", "state", numeric=False),
                Column("case", "case", numeric=False, wraps=True),
            ],
        )
        for seat in seen.workers:
            words = (seat.worker, seat.node, seat.state)
            table.rows.append([*(TableCell(word, word) for word in words), TableCell(seat.case or "-", seat.case)])
        found.append(table)
    if seen.failures:
        columns = [Column(name, name, numeric=False, wraps=name != "status") for name in ("case", "status", "message")]
        table = Table(f"{counted(len(seen.failures), 'case')} that did not end well", columns)
        table.rows += [[TableCell(text, text) for text in one] for one in seen.failures]
        found.append(table)
    return found
