"""runner: jobs in, records out: worker processes that take jobs from a queue, watched, and restarted when they die.

When a case runs out of memory, hangs past its limit or fails, only that case is lost: it is recorded with its status,
and the sweep goes on in a fresh process. A case at which a process ends without an answer is tried once more, since a
process may be killed for what others do; the second end is recorded as crashed, with what is known of both. Every
record is on disk before the next case starts.
"""

from __future__ import annotations

import json
import selectors
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from hybridbench.dialogue import Dialogue, Job
from hybridbench.early import Early, settings_of
from hybridbench.errors import WorkerDied
from hybridbench.joint import Joint
from hybridbench.processes import Answering, terminable
from hybridbench.queue.jobs import ENDS, End, InMemory, JobClaim, Queue
from hybridbench.record import Status
from hybridbench.store import RecordWriter

START_LIMIT_S = 180.0
STARTS = 2
"""Consecutive failed starts after which a worker is given up."""


@dataclass(frozen=True)
class Events:
    """What a caller may watch while a sweep runs; cases and records are of the writer's kind."""

    started: Callable[[Any], None] = lambda _case: None
    phase: Callable[[Any, str], None] = lambda _case, _name: None
    finished: Callable[[Any], None] = lambda _record: None


def run_sweep(
    jobs: Sequence[Job] | Queue,
    writer: RecordWriter,
    *,
    gpus: Sequence[str] = (),
    workers: int | None = None,
    events: Events | None = None,
    early: Early | None = None,
) -> list[Any]:
    """Runs the jobs, one at a time per worker process, and returns their records in the order they ended.

    Args:
        jobs: what to run: cases, joint jobs of several, or a queue that others may take from too.
        writer: where each record goes as soon as it exists; its kind of record says which worker runs the cases.
        gpus: one CUDA_VISIBLE_DEVICES value per worker; empty for workers with the devices of this process.
        workers: how many processes; None is one for each of ``gpus``, or one.
        early: processes that have been started already.

    A case whose worker does not start goes back to the queue. A worker that fails to start twice is given up.

    Raises:
        WorkerDied: no worker starts any more; the text holds the end of a log. Records written so far are kept.
        KeyboardInterrupt: passed on after the workers are gone. Records written so far are kept.
    """
    queue = jobs if isinstance(jobs, Queue) else InMemory(jobs)
    devices: list[str | None] = list(gpus) or [None]
    places = [devices[number % len(devices)] for number in range(workers or len(devices))]
    if not isinstance(jobs, Queue):
        places = places[: max(1, len(jobs))]
    pool = _Pool(queue, writer, places, events or Events(), early)
    with terminable(), ExitStack() as stopping, selectors.DefaultSelector() as selector:
        for worker in pool.workers:
            stopping.callback(worker.stop)
        while pool.busy:
            pool.hand_out(selector)
            pool.listen(selector)
    return pool.records


class _Pool:
    """The queue, the workers that take jobs from it, and the records so far."""

    def __init__(
        self,
        queue: Queue,
        writer: RecordWriter,
        gpus: Sequence[str | None],
        events: Events,
        early: Early | None,
    ) -> None:
        self.workers = [Worker(queue, writer, index, gpu, len(gpus), early) for index, gpu in enumerate(gpus)]
        self.records: list[Any] = []
        self._queue = queue
        self._writer = writer
        self._events = events

    @property
    def busy(self) -> bool:
        """Whether a job is left, or a claim is to be settled."""
        return any(worker.claim for worker in self.workers) or self._queue.left

    def hand_out(self, selector: selectors.BaseSelector) -> None:
        """Settles what workers are done with, and gives every idle one the next job.

        Raises:
            WorkerDied: no worker starts any more.
        """
        for worker in self.workers:
            worker.settle()
        usable = [worker for worker in self.workers if worker.failed_starts < STARTS]
        if not usable and self._queue.left:
            for claim, ends in self._queue.given_up():
                self._crashed(claim, ends)
            raise WorkerDied(f"no worker process can be started: {self.workers[-1].why}")
        for worker in usable:
            if worker.claim is None:
                taken = self._queue.take(worker.warm)
                if taken is None:
                    break
                worker.give(taken, selector)
                self._events.started(taken.job)

    def listen(self, selector: selectors.BaseSelector) -> None:
        """Waits until a worker writes something or the next time limit is over, and keeps the records that follow."""
        working = [worker for worker in self.workers if worker.case]
        waits = [worker.deadline - time.monotonic() for worker in working]
        for claim, ends in self._queue.abandoned():
            self._crashed(claim, ends)
        idle_s = self._queue.POLL_S if len(working) < len(self.workers) else None
        if idle_s is not None and self._queue.left:
            waits.append(idle_s)
        if not waits:
            return
        for key, _ in selector.select(max(0.0, min(waits))):
            for record in key.data.read(selector, self._events):
                self._keep(record)
        for worker in self.workers:
            if worker.case and time.monotonic() >= worker.deadline:
                for record in worker.time_out(selector):
                    self._keep(record)

    def _crashed(self, claim: JobClaim, ends: Sequence[End]) -> None:
        """Records a case that ended workers, for which there is no other."""
        self._keep(crashed(self._writer, claim, ends))
        self._queue.settle(claim)

    def _keep(self, record: Any) -> None:
        self.records.append(record)
        self._events.finished(record)


def crashed(writer: RecordWriter, claim: JobClaim, ends: Sequence[End]) -> Any:
    """Writes and returns the record of a case that ended workers of which this process knows nothing else."""
    dialogue = Dialogue(writer)
    dialogue.begin(claim.job)
    return dialogue.end(Status.CRASHED, message=how_ended(ends), traceback=logs_of(ends))


def how_ended(ends: Sequence[End]) -> str:
    """How workers ended at a case, in a sentence."""
    if len(ends) == 1:
        return ends[0].how
    return "; ".join([f"it ended {len(ends)} workers: {ends[0].how}", *(f"then {end.how}" for end in ends[1:])])


def logs_of(ends: Sequence[End]) -> str | None:
    """The ends of the workers' logs, each under its worker's name where there are several."""
    if len(ends) == 1:
        return ends[0].log
    if not any(end.log for end in ends):
        return None
    return "\n\n".join(f"{end.worker}:\n{end.log or 'its log is empty'}" for end in ends)


class Worker:
    """One worker process, which is started when it is first needed.

    Attributes:
        claim: the job it has taken; None where it is idle.
        warm: the kind of job whose kernels its process has compiled; empty if none.
        deadline: when it is ended; monotonic seconds.
        failed_starts: how often in a row it did not start, and ``why``.
    """

    def __init__(
        self,
        queue: Queue,
        writer: RecordWriter,
        index: int,
        gpu: str | None,
        workers: int = 1,
        early: Early | None = None,
    ) -> None:
        self.claim: JobClaim | None = None
        self.warm = ""
        self.deadline = 0.0
        self.failed_starts = 0
        self.why = ""
        self._back: list[Job] = []
        self._queue = queue
        self._dialogue = Dialogue(writer)
        self._module = writer.kind.WORKER
        self._gpu = gpu
        self._workers = workers
        self._early = early
        self._log = writer.path.with_name(f"worker-{writer.path.stem.partition('-')[2]}-{index}.log")
        self._process: Answering | None = None

    @property
    def case(self) -> Any:
        """Its current case; None between jobs."""
        return self._dialogue.case

    def give(self, claim: JobClaim, selector: selectors.BaseSelector) -> None:
        """Gives a job to the process, and starts the process first where there is none."""
        self.claim = claim
        self._dialogue.begin(claim.job)
        self._queue.at(claim, "start")
        if self._process is None:
            self._process = self._start()
            selector.register(self._process, selectors.EVENT_READ, self)
        # Until the process has said that it is ready, its imports count against the start limit, not the case's.
        self.deadline = time.monotonic() + (self._dialogue.limit_s if self._dialogue.greeted else START_LIMIT_S)
        self._process.ask(json.dumps(claim.job.to_dict()))

    def settle(self) -> None:
        """Tells the queue that a job is done with, or what of it comes back."""
        if self.claim is None or self.case:
            return
        self._queue.settle(self.claim, self._back)
        self.warm = self.claim.kind if self._process else ""
        self.claim, self._back = None, []

    def _failed_to_start(self, why: str) -> None:
        self.failed_starts += 1
        self.why = why
        self._back = self._dialogue.take_back()

    def _start(self) -> Answering:
        self._dialogue.greeted = False
        started = self._early.take(self._gpu) if self._early else None
        if started is not None:
            return started
        try:
            return Answering([sys.executable, "-m", self._module], self._log, settings_of(self._gpu, self._workers))
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
                assert self.claim is not None
                self._queue.at(self.claim, self._dialogue.phase)
                events.phase(self.case, self._dialogue.phase)
            if record is not None:
                yield record
                if not self._dialogue.fit:
                    self._end(selector)
                    self._back = self._dialogue.take_back()
                    return

    def _died(self, selector: selectors.BaseSelector) -> Any:
        """The record of the case that the process died of; None where it has none yet, or had several."""
        assert self._process is not None
        code, tail = self._process.exit_code(), self._process.tail()
        self._end(selector)
        if self.case is None:
            return None
        if not self._dialogue.greeted:
            self._failed_to_start(f"it ended before it was ready (exit code {code}): {tail}")
            return None
        if not self._dialogue.alone:
            self._back = self._dialogue.take_back(apart=True)
            return None
        assert self.claim is not None
        how = f"was killed by signal {-code} ({signal.Signals(-code).name})" if code < 0 else f"ended with code {code}"
        hint = "; the system may have run out of memory" if code == -signal.SIGKILL else ""
        text = f"the worker process {how} while it was in phase '{self._dialogue.phase}'{hint}"
        ends = [End(self._log.stem, text, tail or None)]
        if not isinstance(self.claim.job, Joint):  # the others of a joint job were timed beside this one: no second try
            ends = self._queue.ended(self.claim, ends[0])
            if len(ends) < ENDS:
                self._back = self._dialogue.take_back()
                return None
        record = self._dialogue.end(Status.CRASHED, message=how_ended(ends), traceback=logs_of(ends))
        self._back = self._dialogue.take_back()
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
            self._back = self._dialogue.take_back(apart=True)
            return []
        text = (
            f"not finished after {self.case.limit_s:g} s, in phase '{self._dialogue.phase}': raise --limit or shrink "
            "the case"
        )
        record = self._dialogue.end(Status.TIMED_OUT, message=text, traceback=stacks)
        self._back = self._dialogue.take_back()
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
