"""following: what a command sees of workers elsewhere: their records as they come, the phases, and who is left."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from hybridbench.errors import BadResults, WorkerDied
from hybridbench.processes import terminable
from hybridbench.queue.plan import DONE, HELD, WAITING, Planned
from hybridbench.queue.shared import SharedQueue
from hybridbench.record import Record
from hybridbench.runner import Events, crashed
from hybridbench.store import RecordWriter

LOOK_S = 1.0
ASK_S = 15.0
"""How often Slurm is asked which jobs there are; seconds."""
WITHOUT_S = 30.0
"""After so long without a job or a worker the run has failed; a job may end a moment before its lease does."""


class Follower:
    """Reads the records of a run from the files of its workers, each once."""

    def __init__(self, results: Path, run_id: str) -> None:
        self._results = results
        self._run_id = run_id
        self._read: dict[Path, int] = {}
        self._known: set[str] = set()

    def new(self) -> list[Record]:
        """The records that were added since the last call, in the order of their files."""
        found = []
        for file in sorted(self._results.glob(f"{Record.FILES}-{self._run_id}*.jsonl")):
            start = self._read.get(file, 0)
            with file.open("rb") as opened:
                opened.seek(start)
                lines = opened.read().split(b"\n")
            for line in lines[:-1]:  # what follows the last line feed is not yet written to its end
                start += len(line) + 1
                try:
                    record = Record.from_json(line.decode("utf-8", errors="replace"))
                except BadResults:
                    continue  # the report names it
                if record.case.key not in self._known:
                    self._known.add(record.case.key)
                    found.append(record)
            self._read[file] = start
        return found


@dataclass
class Follow:
    """Watches the workers of a queue until all its cases are done.

    Args:
        planned: the queue.
        queue: of the caller, who takes no case, but puts back what dead workers held.
        writer: of the caller, for cases that ended their workers.
        events: told of phases and records as they come.
        jobs: gives the jobs of the workers that wait or run.
        last_words: gives what the workers' logs say, for when none is left.
    """

    planned: Planned
    queue: SharedQueue
    writer: RecordWriter
    events: Events
    jobs: Callable[[], Mapping[str, str]]
    last_words: Callable[[], str]
    sleep: Callable[[float], object] = time.sleep
    now: Callable[[], float] = time.monotonic
    _phases: dict[str, str] = field(default_factory=dict)
    _asked_at: float = float("-inf")
    _alone_since: float | None = None

    def run(self) -> list[Record]:
        """Returns the records of the run.

        Raises:
            WorkerDied: cases are left, and neither workers nor jobs.
            KeyboardInterrupt: passed on.
        """
        follower = Follower(self.planned.folder.parents[1], self.planned.plan.run_id)
        records: list[Record] = []
        with terminable():
            while True:
                for claim, ends in self.queue.abandoned():
                    crashed(self.writer, claim, ends)
                    self.queue.settle(claim)
                done = not _any(self.planned.folder / WAITING) and not _any(self.planned.folder / HELD)
                for record in follower.new():
                    records.append(record)
                    self.events.finished(record)
                if done:
                    return records
                self._look()
                self.sleep(LOOK_S)

    def _look(self) -> None:
        """Tells what workers are at, and sees whether any is left."""
        watch = self.queue.watch
        members = {name: said for name, said in watch.members().items() if name != self.queue.member}
        for said in members.values():
            for name, phase in said.get("at", {}).items():
                if self._phases.get(name) != phase:
                    self._phases[name] = phase
                    self.events.phase(self.planned.case(name), phase)
        if self.now() - self._asked_at >= ASK_S:
            self._asked_at = self.now()
            gone = {name for name in members if watch.gone(name)}
            lost = not self.jobs() and gone == members.keys()
            self._alone_since = (self._alone_since or self.now()) if lost else None
        if self._alone_since is not None and self.now() - self._alone_since >= WITHOUT_S:
            left = len(self.planned.lines) - len(os.listdir(self.planned.folder / DONE))
            raise WorkerDied(
                f"no worker is left, and {left} of {len(self.planned.lines)} cases are to run: {self.last_words()}"
            )


def _any(folder: Path) -> bool:
    try:
        return bool(os.listdir(folder))
    except FileNotFoundError:
        return False
