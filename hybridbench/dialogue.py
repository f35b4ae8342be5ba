"""dialogue: what a worker process says of its job, read line by line into records."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Protocol

from hybridbench.errors import portable
from hybridbench.joint import Joint, cases_of
from hybridbench.plain import from_plain
from hybridbench.record import Caveat, Environment, Status
from hybridbench.store import RecordWriter
from hybridbench.text import shown


class Job(Protocol):
    """What a worker is given: a ``Case``, or several cases that one process runs as one job (``joint.Joint``)."""

    @property
    def limit_s(self) -> float:
        """After so many seconds of working at one case its process is ended."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""


class Dialogue:
    """Reads a worker's lines about its current job: the phase, the environment and in the end each case's record.

    Args:
        writer: where each record goes as soon as it exists.
        now: the time of day.

    Attributes:
        greeted: whether the worker has said that it is ready.
        phase: the phase that the worker is in.
        fit: whether the worker may take another case after its last answer.
    """

    def __init__(self, writer: RecordWriter, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self.greeted = False
        self.phase = "start"
        self.fit = True
        self._writer = writer
        self._now = now
        self._job: Any = None
        self._left: dict[int, Any] = {}
        self._at: int | None = None
        self._started_at = ""
        self._environment: Environment | None = None

    def begin(self, job: Job) -> None:
        """Notes that the worker was given a job."""
        self._job, self._left, self._at, self.phase = job, dict(enumerate(cases_of(job))), None, "start"
        self._started_at = self._now().isoformat(timespec="milliseconds")

    @property
    def case(self) -> Any:
        """The current case: of several that are worked at together, the first; None between jobs."""
        return self._left.get(self._place) if self._left else None

    @property
    def turn(self) -> tuple[int | None, int]:
        """Which case is worked at alone, and how many are left: a time limit begins anew where this changes."""
        return self._at, len(self._left)

    @property
    def limit_s(self) -> float:
        """How long the worker may take until the next turn: longer where it works at several cases."""
        return float(self._job.limit_s) * (1 if self.alone else len(self._left))

    @property
    def alone(self) -> bool:
        """Whether the worker works at one case, so that it is this one's fault if it ends."""
        return self._at is not None or len(self._left) == 1

    @property
    def _place(self) -> int:
        return next(iter(self._left), -1) if self._at is None else self._at

    def take_back(self, *, apart: bool = False) -> list[Any]:
        """What is left of the job, as jobs for other workers: one, or one for each case."""
        left, self._left, self._at = list(self._left.values()), {}, None
        if not left or not isinstance(self._job, Joint):
            return left
        return [self._job.apart(case) for case in left] if apart else [self._job.some(left)]

    def hear(self, line: str) -> Any:
        """Reads one line; returns the record of the case if the line completes it, else None.

        A line that is no message ends the case as crashed: what its worker says cannot be trusted any more.
        """
        try:
            return self._heard(json.loads(line))
        except (ValueError, KeyError, TypeError, AttributeError):
            self.fit = False
            if self.case is None:
                return None
            said = f"the worker process wrote {shown(line)}, which is none of its messages"
            return self.end(Status.CRASHED, message=f"{said}: look for what else writes to its pipe")

    def _heard(self, message: dict[str, Any]) -> Any:
        if message["kind"] == "hello":
            self.greeted = True
        elif message["kind"] == "environment":
            self._environment = from_plain(Environment, message["environment"])
        elif message["kind"] == "phase":
            self.phase = message["phase"]
        elif message["kind"] == "turn":
            self._at = message["case"] if message["case"] in self._left else None
        else:
            self.fit = message["fit"]
            if (place := message.get("case", self._place)) not in self._left:
                raise ValueError(f"case {place} is not of this job, or is answered")
            self._at = place
            return self._answered(message)
        return None

    def _answered(self, message: dict[str, Any]) -> Any:
        observed = message.get("observed")
        return self.end(
            Status(message["status"]),
            observed=from_plain(self._writer.kind.OBSERVED, observed) if observed else None,
            message=message.get("message"),
            traceback=message.get("traceback"),
            caveats=[Caveat(name) for name in message.get("caveats", [])],
        )

    def end(
        self,
        status: Status,
        observed: Any = None,
        message: str | None = None,
        traceback: str | None = None,
        caveats: Sequence[Caveat] = (),
    ) -> Any:
        """Ends the current case with a status, and writes and returns its record."""
        case = self._left.pop(self._place)
        self._at = None
        record = self._writer.kind(
            case=case,
            status=status,
            run_id=self._writer.run_id,
            started_at=self._started_at,
            environment=self._environment or UNKNOWN,
            observed=observed,
            message=message,
            traceback=traceback and portable(traceback),
            caveats=list(caveats),
        )
        self._writer.append(record)
        return record


UNKNOWN = Environment(
    device="unknown",
    device_kind="unknown",
    device_memory_bytes=None,
    cpu="unknown",
    cores=0,
    memory_bytes=None,
    driver=None,
    cuda=None,
    python="unknown",
    platform="unknown",
    packages={},
    hybridbench="unknown",
    git_commit=None,
)
"""The environment of a case whose worker died before it reported one."""
