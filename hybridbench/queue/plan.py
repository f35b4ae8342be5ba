"""plan: the file that begins a shared queue: which cases it has, for which run, made by which version.

    <results>/queue/<run id>/plan.ndjson    what the run is, then a case a line
                             waiting/       an empty file for each case that nobody holds: <number>.<kind>
                             held/          those that a worker holds: <number>.<kind>@<worker>
                             done/          those that have a record
                             ended/         how workers ended, at which case
                             members/       a file for each worker, which it renews
                             gpus/          which worker has which GPU

A queue stands from the moment that its folder has its name, with all its cases; when all are done, it is removed.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from hybridbench.errors import BadInput, BadResults
from hybridbench.plain import Misfit, from_plain
from hybridbench.queue.lease import LEASE_S
from hybridbench.queue.order import kinds_of
from hybridbench.suite.case import Case
from hybridbench.text import shown
from hybridbench.version import full_version

VERSION = 1
"""Of the files of a queue: workers of another version do not touch it."""
QUEUE, PLAN = "queue", "plan.ndjson"
WAITING, HELD, DONE, ENDED, MEMBERS, GPUS = "waiting", "held", "done", "ended", "members", "gpus"


@dataclass(frozen=True)
class QueuePlan:
    """What a queue is for.

    Attributes:
        run_id: of the run, whose workers all write records with it.
        name: of the suite or command.
        recorded: how many cases of the run had a record before, as ``--resume`` found.
        hybridbench: the version that made the queue, which its workers must have.
        lease_s: how long a worker may not renew its lease; seconds.
    """

    run_id: str
    name: str
    recorded: int = 0
    hybridbench: str = field(default_factory=full_version)
    lease_s: float = LEASE_S
    queue: int = VERSION


@dataclass(frozen=True)
class Planned:
    """A queue as it was planned.

    Attributes:
        folder: of the queue.
        lines: a case each, as JSON.
    """

    folder: Path
    plan: QueuePlan
    lines: tuple[str, ...]

    @property
    def keys(self) -> set[str]:
        """The keys of its cases."""
        return {str(json.loads(line)["key"]) for line in self.lines}

    @property
    def ranks(self) -> int:
        """The most processes that one of its cases runs on, each with a GPU of its own."""
        ways = [json.loads(line)["case"]["execution"] for line in self.lines]
        return max((way.get("gpus", 1) * way.get("tp", 1) for way in ways), default=1)

    @property
    def on_gpu(self) -> bool:
        """Whether any of its cases runs on a GPU."""
        return any(self.case(str(number)).device == "cuda" for number in range(len(self.lines)))

    def case(self, name: str) -> Case:
        """The case of a file's name."""
        return Case.from_dict(json.loads(self.lines[int(name.partition(".")[0])])["case"])

    def label(self, name: str) -> str:
        """The case of a file's name, in a line."""
        return self.case(name).label


def create(results: Path, plan: QueuePlan, cases: Sequence[Case]) -> Planned:
    """Makes the queue of a folder of results, in one step.

    Raises:
        BadInput: there is one, or it cannot be written.
    """
    new = results / f"{QUEUE}-{plan.run_id}.new"
    folder = new / plan.run_id
    lines = [json.dumps({"key": case.key, "case": case.to_dict()}) for case in cases]
    try:
        for name in (WAITING, HELD, DONE, ENDED, MEMBERS, GPUS):
            (folder / name).mkdir(parents=True)
        (folder / PLAN).write_text("\n".join([json.dumps(asdict(plan)), *lines]) + "\n", encoding="utf-8")
        for number, kind in enumerate(kinds_of(cases)):
            (folder / WAITING / f"{number:05d}.{kind}").touch()
        new.rename(results / QUEUE)
    except OSError as exc:
        with contextlib.suppress(OSError):
            shutil.rmtree(new)
        raise BadInput(
            f"{results} cannot take a queue of cases ({exc.strerror}): make room, or see who else runs there with "
            f"hybridbench status {results}."
        ) from exc
    return Planned(results / QUEUE / plan.run_id, plan, tuple(lines))


def find(results: Path) -> Planned | None:
    """The queue of a folder of results; None where there is none.

    Raises:
        BadResults: it is of another version, or damaged.
    """
    try:
        (name,) = os.listdir(results / QUEUE)
        text = (results / QUEUE / name / PLAN).read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as exc:
        raise _damaged(results, str(exc)) from exc
    first, *lines = text.splitlines()
    try:
        body: dict[str, Any] = json.loads(first)
        if body["queue"] != VERSION:
            raise BadResults(
                f"{results / QUEUE} is a queue of version {shown(body['queue'])}, made by hybridbench "
                f"{shown(body.get('hybridbench'))}; this one has version {VERSION}. Finish it with the hybridbench "
                "that made it, or delete that folder, which holds no results, and give --resume."
            )
        return Planned(results / QUEUE / name, from_plain(QueuePlan, body), tuple(lines))
    except (ValueError, KeyError, TypeError, Misfit) as exc:
        raise _damaged(results, str(exc)) from exc


def _damaged(results: Path, why: str) -> BadResults:
    return BadResults(
        f"{results / QUEUE} is no queue of hybridbench's, or damaged ({why}): delete that folder, which holds no "
        "results, and give --resume."
    )


def remove(planned: Planned) -> None:
    """Removes a queue. Workers that still look at it find nothing to do."""
    gone = planned.folder.parent.with_name(f"{QUEUE}-{planned.plan.run_id}.old")
    with contextlib.suppress(OSError):
        planned.folder.parent.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)
