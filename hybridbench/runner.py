"""runner: cases in, records out: one worker process per GPU, watched, and restarted when it dies.

When a case runs out of memory, crashes, hangs past its limit or is killed, only that case is lost: it is recorded with
its status, and the sweep goes on in a fresh process. Every record is on disk before the next case starts.
"""

from __future__ import annotations

import json
import selectors
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

from hybridbench.errors import WorkerDied, portable
from hybridbench.joint import Joint, cases_of
from hybridbench.machine import thread_settings
from hybridbench.plain import from_plain
from hybridbench.processes import Answering, terminable
from hybridbench.record import Caveat, Environment, Status
from hybridbench.store import RecordWriter
from hybridbench.text import shown

START_LIMIT_S = 180.0
STARTS = 2
"""Consecutive failed starts after which a worker is given up."""


class _Job(Protocol):
    """What a worker is given: a ``Case``, or several cases that one process runs as one job (``joint.Joint``)."""

    @property
    def limit_s(self) -> float: ...
    def to_dict(self) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Events:
    """What a caller may watch while a sweep runs; cases and records are of the writer's kind."""

    started: Callable[[Any], None] = lambda _case: None
    phase: Callable[[Any, str], None] = lambda _case, _name: None
    finished: Callable[[Any], None] = lambda _record: None


def run_sweep(
    cases: Sequence[_Job], writer: RecordWriter, *, gpus: Sequence[str | None] = (), events: Events | None = None
) -> list[Any]:
    """Runs the cases, one job at a time per device, and returns their records in the order they ended.

    Args:
        cases: what to run: cases, or joint jobs of several.
        writer: where each record goes as soon as it exists; its kind of record says which worker runs the cases.
        gpus: one CUDA_VISIBLE_DEVICES value per worker, None for the devices of this process; empty for a single worker
            with those.

    A case whose worker does not start goes back to the queue. A worker that fails to start twice is given up.

    Raises:
        WorkerDied: no worker starts any more; the text holds the end of a log. Records written so far are kept.
        KeyboardInterrupt: passed on after the workers are gone. Records written so far are kept.
    """
    pool = _Pool(cases, writer, list(gpus)[: max(1, len(cases))] or [None], events or Events())
    with terminable(), ExitStack() as stopping, selectors.DefaultSelector() as selector:
        for worker in pool.workers:
            stopping.callback(worker.stop)
        while pool.busy:
            pool.hand_out(selector)
            pool.listen(selector)
    return pool.records


class _Pool:
    """The waiting cases, the workers that take them, and the records so far."""

    def __init__(self, cases: Sequence[_Job], writer: RecordWriter, gpus: Sequence[str | None], events: Events) -> None:
        self.workers = [Worker(writer, index, gpu) for index, gpu in enumerate(gpus)]
        self.records: list[Any] = []
        self._waiting = deque(cases)
        self._events = events

    @property
    def busy(self) -> bool:
        """Whether a case waits or runs."""
        return bool(self._waiting) or any(worker.case or worker.back for worker in self.workers)

    def hand_out(self, selector: selectors.BaseSelector) -> None:
        """Gives every idle worker the next waiting case.

        Raises:
            WorkerDied: no worker starts any more.
        """
        for worker in self.workers:
            self._waiting.extendleft(reversed(worker.back))
            worker.back = []
        usable = [worker for worker in self.workers if worker.failed_starts < STARTS]
        if not usable:
            raise WorkerDied(f"no worker process can be started: {self.workers[-1].why}")
        for worker in usable:
            if worker.case is None and self._waiting:
                case = self._waiting.popleft()
                worker.give(case, selector)
                self._events.started(case)

    def listen(self, selector: selectors.BaseSelector) -> None:
        """Waits until a worker writes something or the next time limit is over, and keeps the records that follow."""
        working = [worker for worker in self.workers if worker.case]
        if not working:
            return
        soonest = min(worker.deadline for worker in working)
        for key, _ in selector.select(max(0.0, soonest - time.monotonic())):
            for record in key.data.read(selector, self._events):
                self._keep(record)
        for worker in self.workers:
            if worker.case and time.monotonic() >= worker.deadline:
                for record in worker.time_out(selector):
                    self._keep(record)

    def _keep(self, record: Any) -> None:
        self.records.append(record)
        self._events.finished(record)


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

    def begin(self, job: _Job) -> None:
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


class Worker:
    """One worker process, which is started when it is first needed.

    Attributes:
        back: jobs that it did not do, for other workers.
        deadline: when it is ended; monotonic seconds.
        failed_starts: how often in a row it did not start, and ``why``.
    """

    def __init__(self, writer: RecordWriter, index: int, gpu: str | None) -> None:
        self.back: list[_Job] = []
        self.deadline = 0.0
        self.failed_starts = 0
        self.why = ""
        self._dialogue = Dialogue(writer)
        self._module = writer.kind.WORKER
        self._gpu = gpu
        self._log = writer.path.with_name(f"worker-{writer.run_id}-{index}.log")
        self._process: Answering | None = None

    @property
    def case(self) -> Any:
        """Its current case; None between jobs."""
        return self._dialogue.case

    def give(self, job: _Job, selector: selectors.BaseSelector) -> None:
        """Gives a job to the process, and starts the process first where there is none."""
        self._dialogue.begin(job)
        if self._process is None:
            self._process = self._start()
            selector.register(self._process, selectors.EVENT_READ, self)
        # Until the process has said that it is ready, its imports count against the start limit, not the case's.
        self.deadline = time.monotonic() + (self._dialogue.limit_s if self._dialogue.greeted else START_LIMIT_S)
        self._process.ask(json.dumps(job.to_dict()))

    def _failed_to_start(self, why: str) -> None:
        self.failed_starts += 1
        self.why = why
        self.back = self._dialogue.take_back()

    def _start(self) -> Answering:
        environment = thread_settings()
        if self._gpu is not None:
            environment["CUDA_VISIBLE_DEVICES"] = self._gpu
        self._dialogue.greeted = False
        try:
            return Answering([sys.executable, "-m", self._module], self._log, environment)
        except OSError as exc:
            raise WorkerDied(f"no worker process can be started: {exc.strerror} ({exc.filename}).") from exc

    def read(self, selector: selectors.BaseSelector, events: Events) -> Iterator[Any]:
        """Reads what the process has just written; yields the records that it completes."""
        assert self._process is not None
        lines = self._process.lines()
        if lines is None:
            record = self._died(selector)
            if record is not None:
                yield record
            return
        for line in lines:
            ready, phase, turn = self._dialogue.greeted, self._dialogue.phase, self._dialogue.turn
            record = self._dialogue.hear(line)
            if self._dialogue.greeted and not ready:
                self.failed_starts = 0
            if self.case and (self._dialogue.greeted, self._dialogue.turn) != (ready, turn):
                self.deadline = time.monotonic() + self._dialogue.limit_s
            if self.case and self._dialogue.phase != phase:
                events.phase(self.case, self._dialogue.phase)
            if record is not None:
                yield record
                if not self._dialogue.fit:
                    self._end(selector)
                    self.back = self._dialogue.take_back()
                    return

    def _died(self, selector: selectors.BaseSelector) -> Any:
        """The record of the case that the process died of; None where it had no case, or several."""
        assert self._process is not None
        code, tail = self._process.exit_code(), self._process.tail()
        self._end(selector)
        if self.case is None:
            return None
        if not self._dialogue.greeted:
            self._failed_to_start(f"it ended before it was ready (exit code {code}): {tail}")
            return None
        if not self._dialogue.alone:
            self.back = self._dialogue.take_back(apart=True)
            return None
        how = f"was killed by signal {-code} ({signal.Signals(-code).name})" if code < 0 else f"ended with code {code}"
        hint = "; the system may have run out of memory" if code == -signal.SIGKILL else ""
        text = f"the worker process {how} while it was in phase '{self._dialogue.phase}'{hint}"
        record = self._dialogue.end(Status.CRASHED, message=text, traceback=tail or None)
        self.back = self._dialogue.take_back()
        return record

    def time_out(self, selector: selectors.BaseSelector) -> list[Any]:
        """Kills the process and records its case as timed out; the case of one that was never ready is not lost."""
        assert self._process is not None
        assert self.case is not None
        if not self._dialogue.greeted:
            tail = self._process.tail()
            self._end(selector)
            self._failed_to_start(f"it was not ready after {START_LIMIT_S:.0f} s: {tail}")
            return []
        stacks = self._process.stacks()
        self._end(selector)
        if not self._dialogue.alone:
            self.back = self._dialogue.take_back(apart=True)
            return []
        text = (
            f"not finished after {self.case.limit_s:g} s, in phase '{self._dialogue.phase}': raise --limit or shrink "
            "the case"
        )
        record = self._dialogue.end(Status.TIMED_OUT, message=text, traceback=stacks)
        self.back = self._dialogue.take_back()
        return [record]

    def _end(self, selector: selectors.BaseSelector) -> None:
        assert self._process is not None
        selector.unregister(self._process)
        self.stop()

    def stop(self) -> None:
        """Ends the process, whatever it is doing."""
        if self._process is not None:
            self._process.end()
            self._process = None


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
