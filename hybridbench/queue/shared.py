"""shared: a queue in the folder of the results, from which workers of any number of processes and machines take cases.

Whoever renames a case's file from ``waiting`` to ``held`` has it, and a file system renames a file once. A worker that
dies holds its cases until its lease is over (``lease``); then an idle worker puts them back. What a worker has
finished, but not yet settled, is found among its records.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from typing_extensions import override

from hybridbench.errors import BadInput
from hybridbench.plain import from_plain
from hybridbench.processes import TAIL
from hybridbench.queue.jobs import ENDS, End, JobClaim, Queue
from hybridbench.queue.lease import RENEW_S, Lease, LeaseWatch
from hybridbench.queue.order import choose
from hybridbench.queue.plan import DONE, ENDED, HELD, MEMBERS, WAITING, Planned

_TAKING_OVER = "!"
"""Ends the name of a case's file while its holder puts it back, which is no fault of the case."""


class SharedQueue(Queue):
    """A process's side of a queue in a folder; it has one or more workers, each of which takes one case at a time.

    Args:
        planned: the queue.
        records: the file that the worker writes its records to; its logs lie beside it.
        stays: whether it waits until the last case is done. Else it leaves when another waits already.
        workers: how many cases it takes at a time; 0 if it only looks after those of others.
        about: what its lease says of it beside that.
        renew_s: seconds between renewals of its lease, as for ``Lease``.
        now: a monotonic clock, in seconds.

    Raises:
        BadInput: the queue's folder cannot be written or is gone.
    """

    POLL_S = 1.0

    def __init__(
        self,
        planned: Planned,
        records: Path,
        *,
        stays: bool = True,
        workers: int = 1,
        about: dict[str, Any] | None = None,
        renew_s: float | None = RENEW_S,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._planned = planned
        self._folder = planned.folder
        self._stays = stays
        try:
            log = f"worker-{records.stem.partition('-')[2]}"
            said = {"records": records.name, "log": log, "at": {}, "idle": False, "workers": workers}
            about = said | (about or {})
            self.lease = Lease(self._folder / MEMBERS, about, renew_s)
        except OSError as exc:
            raise self._unusable(exc) from exc
        self.watch = LeaseWatch(self._folder / MEMBERS, planned.plan.lease_s, now)
        self._looked_at = float("-inf")
        self._at: dict[str, str] = {}
        self._ended_here: set[str] = set()

    @property
    def member(self) -> str:
        """The worker's name in the queue."""
        return self.lease.name

    @property
    @override
    def left(self) -> bool:
        """Whether a case waits, or is held by another worker who may die.

        A worker that may leave does so while others are idle, as many as a case may end, who take what comes back.
        """
        if self._names(WAITING):
            return True
        if not self._names(HELD):
            return False
        return self._stays or bool(self._mine()) or self._others_idle() < ENDS

    def _others_idle(self) -> int:
        """How many processes are idle, of those whose names come before this one's."""
        idle = (name for name, said in self.watch.members().items() if said.get("idle") and name < self.member)
        return sum(not self.watch.gone(name) for name in idle)

    @override
    def take(self, warm: str = "") -> JobClaim | None:
        waiting = [_parts(name) for name in self._names(WAITING)]
        if waiting:
            held = [_parts(name.partition("@")[0])[1] for name in self._names(HELD)]
            for name, kind in choose(waiting, held, warm):
                if self._rename(WAITING, f"{name}.{kind}", HELD, f"{name}.{kind}@{self.member}"):
                    self._tell(idle=False)
                    return JobClaim(self._planned.case(name), f"{name}.{kind}", kind)
        self._tell(idle=not self._mine())
        return None

    @override
    def settle(self, claim: JobClaim, back: Sequence[Any] = ()) -> None:
        self._at.pop(claim.name, None)
        self._tell(at=dict(self._at))
        to = WAITING if back else DONE
        if self._rename(HELD, f"{claim.name}@{self.member}", to, claim.name) or back:
            return
        # The lease was lost, as to a machine that stood still. The case has its record: nobody else need begin it.
        self._rename(WAITING, claim.name, DONE, claim.name)

    @override
    def at(self, claim: JobClaim, phase: str) -> None:
        self._at[claim.name] = phase
        self._tell(at=dict(self._at))

    @override
    def ended(self, claim: JobClaim, end: End) -> list[End]:
        self._ended_here.add(claim.name)
        return self._note(claim.name, end)

    @override
    def given_up(self) -> Iterator[tuple[JobClaim, list[End]]]:
        for name in self._ended_here & set(self._names(WAITING)):
            if self._rename(WAITING, name, HELD, f"{name}@{self.member}"):
                yield JobClaim(self._planned.case(name), name), self.ends(name)

    @override
    def abandoned(self) -> Iterator[tuple[JobClaim, list[End]]]:
        # A look reads the file of every worker, so those at work look rarely: a server of files has others to serve.
        if self.watch.now() - self._looked_at < (self.watch.lease_s / 3 if self._at else RENEW_S):
            return
        self._looked_at = self.watch.now()
        for file in self._names(HELD):
            name, _, holder = file.partition("@")
            putting_back, holder = holder.endswith(_TAKING_OVER), holder.removesuffix(_TAKING_OVER)
            if holder == self.member or not self.watch.gone(holder):
                continue
            mine = f"{name}@{self.member}"
            if not self._rename(HELD, file, HELD, f"{mine}{_TAKING_OVER}"):
                continue
            said = self.watch.said(holder)
            if self._has_record(name, said):
                self._rename(HELD, f"{mine}{_TAKING_OVER}", DONE, name)
                continue
            ends = self.ends(name) if putting_back else self._note(name, self._end_of(holder, said, name))
            if len(ends) < ENDS:
                self._rename(HELD, f"{mine}{_TAKING_OVER}", WAITING, name)
            elif self._rename(HELD, f"{mine}{_TAKING_OVER}", HELD, mine):
                yield JobClaim(self._planned.case(name), name), ends

    def _end_of(self, holder: str, said: dict[str, Any], name: str) -> End:
        phase = said.get("at", {}).get(name, "start")
        how = f"{holder} on {said.get('node', 'an unknown node')} was gone while the case was in phase '{phase}'"
        results = self._folder.parents[1]
        logs = [*sorted(results.glob(f"{said['log']}-*.log")), *sorted(self._folder.glob(f"logs/{holder}*"))]
        tails = [_tail(log) for log in logs] if "log" in said else []
        return End(holder, how, "\n".join(filter(None, tails)) or None)

    def _has_record(self, name: str, said: dict[str, Any]) -> bool:
        """Whether the worker had recorded the case before it died: its last line, unless that was cut short."""
        start = f'{{"key":"{self._planned.case(name).key}"'.encode()
        try:
            lines = (self._folder.parents[1] / said["records"]).read_bytes().split(b"\n")[:-1]
        except (OSError, KeyError):
            return False
        return any(line.startswith(start) for line in lines)

    def _note(self, name: str, end: End) -> list[End]:
        before = self.ends(name)
        text = json.dumps(asdict(end))
        with contextlib.suppress(OSError):  # where the disk is full, the case is tried once more
            (self._folder / ENDED / f"{name}-{len(before)}.json").write_text(text, encoding="utf-8")
        return [*before, end]

    def ends(self, name: str) -> list[End]:
        """How workers ended at a case."""
        files = sorted((self._folder / ENDED).glob(f"{name}-*.json"))
        found = []
        for file in files:
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                found.append(from_plain(End, json.loads(file.read_text(encoding="utf-8"))))
        return found

    def leave(self) -> None:
        """Puts back what is held, and ends the lease."""
        for name in self._mine():
            self._rename(HELD, f"{name}@{self.member}", WAITING, name)
        self.lease.end()

    def _mine(self) -> list[str]:
        held = (name.partition("@") for name in self._names(HELD))
        return [name for name, _, holder in held if holder == self.member]

    def _tell(self, **said: Any) -> None:
        self.lease.tell(**said)

    def _names(self, part: str) -> list[str]:
        """The names of a folder of the queue; none once the queue is removed, as it is when all is done."""
        results = self._folder.parents[1]
        try:
            return sorted(os.listdir(self._folder / part))
        except FileNotFoundError as exc:
            if results.exists():
                return []
            raise BadInput(
                f"{results} was removed during the run, with its records: run again with another --out."
            ) from exc
        except OSError as exc:
            raise self._unusable(exc) from exc

    def _rename(self, part: str, name: str, to_part: str, to_name: str) -> bool:
        """Renames a file of the queue; whether this worker was the one that did."""
        target = self._folder / to_part / to_name
        try:
            os.rename(self._folder / part / name, target)
        except FileNotFoundError:
            # A server of NFS may do it, lose its answer and find nothing when it is asked again.
            return to_part == HELD and target.exists()
        except OSError as exc:
            raise self._unusable(exc) from exc
        return True

    def _unusable(self, exc: OSError) -> BadInput:
        return BadInput(f"{self._folder} cannot be used ({exc.strerror}): make it writable, then go on with --resume.")


def _parts(name: str) -> tuple[str, str]:
    number, _, kind = name.partition(".")
    return number, kind


def _tail(log: Path) -> str:
    try:
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL))
            return file.read().decode(errors="replace").strip()
    except OSError:
        return ""
