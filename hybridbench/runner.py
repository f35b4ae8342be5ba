"""runner: cases in, records out: one worker process per GPU, watched, and restarted when it dies.

A case that runs out of memory, crashes, hangs past its limit or is killed costs that one case: it is recorded with its
status and the sweep goes on in a fresh process. Every record is on disk before the next case starts.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import IO, Any

from hybridbench.errors import WorkerDied, portable
from hybridbench.machine import usable_cores
from hybridbench.record import Caveat, Environment, Observed, Record, Status, from_plain
from hybridbench.store import RecordWriter
from hybridbench.suite.case import Case

START_LIMIT_S = 180.0
LOG_TAIL = 2000
STARTS = 2
"""Failed starts in a row after which a worker is given up."""
STACK_LIMIT_S = 5.0
"""How long a hanging process is waited for to write its stacks: on a busy machine its turn takes a while to come."""
STACK_QUIET_S = 0.3
"""They come line by line, and are all there when the log has not grown for so long."""


@dataclass(frozen=True)
class Events:
    """What a caller may watch while a sweep runs."""

    started: Callable[[Case], None] = lambda case: None
    phase: Callable[[Case, str], None] = lambda case, name: None
    finished: Callable[[Record], None] = lambda record: None


def run_sweep(
    cases: Sequence[Case], writer: RecordWriter, *, gpus: Sequence[str] = (), events: Events | None = None
) -> list[Record]:
    """Runs the cases, one at a time per device, and returns their records in the order they ended.

    Args:
        cases: what to run.
        writer: where each record goes as soon as it exists.
        gpus: one CUDA_VISIBLE_DEVICES value per worker; empty for a single worker that sees what this process sees.

    A case whose worker does not start goes back to the queue; a worker that fails to start twice is given up.

    Raises:
        WorkerDied: no worker starts any more; the text holds the end of a log. Records written so far stay.
        KeyboardInterrupt: passed on after the workers are gone; records written so far stay.
    """
    events = events or Events()
    waiting = deque(cases)
    records: list[Record] = []
    workers = [Worker(writer, index, gpu) for index, gpu in enumerate(list(gpus)[: max(1, len(cases))] or [None])]
    with terminable(), ExitStack() as stopping, selectors.DefaultSelector() as selector:
        for worker in workers:
            stopping.callback(worker.stop)
        while waiting or any(worker.case or worker.unstarted for worker in workers):
            for worker in workers:
                if worker.unstarted is not None:
                    waiting.appendleft(worker.take_back())
            usable = [worker for worker in workers if worker.failed_starts < STARTS]
            if not usable:
                raise WorkerDied(f"no worker process can be started: {workers[-1].why}")
            for worker in usable:
                if worker.case is None and waiting:
                    worker.give(waiting.popleft(), selector)
                    assert worker.case is not None
                    events.started(worker.case)
            if not any(worker.case for worker in workers):
                continue
            soonest = min(worker.deadline for worker in workers if worker.case)
            ready = selector.select(max(0.0, soonest - time.monotonic()))
            for key, _ in ready:
                for record in key.data.read(selector, events):
                    records.append(record)
                    events.finished(record)
            for worker in workers:
                if worker.case and time.monotonic() >= worker.deadline:
                    for record in worker.time_out(selector):
                        records.append(record)
                        events.finished(record)
    return records


@contextmanager
def terminable() -> Iterator[None]:
    """SIGTERM ends what runs inside as Ctrl-C does, with one KeyboardInterrupt: ``timeout`` sends its signal twice, and
    the second must not end the clearing up after the first."""

    def interrupt(number: int, frame: object) -> None:
        for each in before:
            signal.signal(each, signal.SIG_IGN)
        raise KeyboardInterrupt

    heard = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
    before = {each: handler for each, handler in heard.items() if handler not in (signal.SIG_IGN, None)}
    try:
        for each in before:
            signal.signal(each, interrupt)
    except ValueError:  # not the main thread, which alone may set handlers
        yield
        return
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


class Worker:
    """One ``hybridbench.worker`` process, started when it is first needed."""

    def __init__(self, writer: RecordWriter, index: int, gpu: str | None) -> None:
        self.case: Case | None = None
        self.unstarted: Case | None = None
        self.deadline = 0.0
        self.failed_starts = 0
        self.why = ""
        self._writer = writer
        self._gpu = gpu
        self._log_path = writer.path.with_name(f"worker-{writer.run_id}-{index}.log")
        self._process: subprocess.Popen[str] | None = None
        self._answers = -1
        self._buffer = b""
        self._log: IO[str] | None = None
        self._greeted = False
        self._started_at = ""
        self._phase = "start"
        self._environment: Environment | None = None

    def give(self, case: Case, selector: selectors.BaseSelector) -> None:
        """Hands a case to the process, starting it first where there is none."""
        self.case, self._phase = case, "start"
        self._started_at = datetime.now(UTC).isoformat(timespec="milliseconds")
        if self._process is None:
            self._start(selector)
        assert self._process is not None
        assert self._process.stdin is not None
        # Until the process has greeted, its imports count against the start limit, not the case's.
        self.deadline = time.monotonic() + (case.limit_s if self._greeted else START_LIMIT_S)
        try:
            self._process.stdin.write(json.dumps(case.to_dict()) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # it just died: the end of its answers tells how

    def take_back(self) -> Case:
        """The case whose process did not start."""
        assert self.unstarted is not None
        case, self.unstarted = self.unstarted, None
        return case

    def _failed_to_start(self, why: str) -> None:
        self.failed_starts += 1
        self.why = why
        self.unstarted, self.case = self.case, None

    def _start(self, selector: selectors.BaseSelector) -> None:
        read_end, write_end = os.pipe()
        # Spinning OpenMP threads slow small operators fiftyfold as soon as anything else wants a core (seen on two
        # cores: 2.7 ms steps became 140 ms); sleeping ones cost a quarter on a quiet machine.
        # And one core is left to everything else: where every core has a thread, whatever runs for a moment stops one
        # of them, and each operator waits for its slowest. Beside other work on two cores, steps of tiny models lay
        # within 6% of their median on one thread, and within 10 to 40% on two, which were 1.05 to 1.35 times as fast.
        environment = {"OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": str(max(1, usable_cores() - 1)), **os.environ}
        if self._gpu is not None:
            environment["CUDA_VISIBLE_DEVICES"] = self._gpu
        self._log = self._log_path.open("a+", encoding="utf-8", errors="replace")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "hybridbench.worker", str(write_end)],
            stdin=subprocess.PIPE,
            stdout=self._log,
            stderr=self._log,
            pass_fds=[write_end],
            env=environment,
            text=True,
            start_new_session=True,  # Ctrl-C reaches the parent only, which decides
        )
        os.close(write_end)
        self._answers, self._buffer, self._greeted = read_end, b"", False
        selector.register(read_end, selectors.EVENT_READ, self)

    def read(self, selector: selectors.BaseSelector, events: Events) -> Iterator[Record]:
        """The records that what the process just wrote completes."""
        chunk = os.read(self._answers, 1 << 16)
        if not chunk:
            record = self._died(selector)
            if record is not None:
                yield record
            return
        *lines, self._buffer = (self._buffer + chunk).split(b"\n")
        for line in lines:
            message = json.loads(line)
            if message["kind"] == "hello":
                self._greeted, self.failed_starts = True, 0
                if self.case:
                    self.deadline = time.monotonic() + self.case.limit_s
            elif message["kind"] == "environment":
                self._environment = from_plain(Environment, message["environment"])
            elif message["kind"] == "phase":
                self._phase = message["phase"]
                if self.case:
                    events.phase(self.case, self._phase)
            else:
                yield self._answered(message)
                if not message["fit"]:
                    self._end(selector)

    def _answered(self, message: dict[str, Any]) -> Record:
        observed = message.get("observed")
        return self._record(
            Status(message["status"]),
            observed=from_plain(Observed, observed) if observed else None,
            message=message.get("message"),
            traceback=message.get("traceback"),
            caveats=[Caveat(name) for name in message.get("caveats", [])],
        )

    def _died(self, selector: selectors.BaseSelector) -> Record | None:
        """The record of the case a process died on, if it had one."""
        assert self._process is not None
        code = self._process.wait()
        tail, greeted, case = self._log_tail(), self._greeted, self.case
        self._end(selector)
        if case is None:
            return None
        if not greeted:
            self._failed_to_start(f"it ended before it was ready (exit code {code}): {tail}")
            return None
        how = f"was killed by signal {-code} ({signal.Signals(-code).name})" if code < 0 else f"ended with code {code}"
        hint = "; the system may have run out of memory" if code == -signal.SIGKILL else ""
        text = f"the worker process {how} while it was in phase '{self._phase}'{hint}"
        return self._record(Status.CRASHED, message=text, traceback=tail or None)

    def time_out(self, selector: selectors.BaseSelector) -> list[Record]:
        """Kills the process and records its case as timed out; a process that never was ready costs no case."""
        assert self.case is not None
        if not self._greeted:
            tail = self._log_tail()
            self._end(selector)
            self._failed_to_start(f"it was not ready after {START_LIMIT_S:.0f} s: {tail}")
            return []
        stack = self._where()
        self._end(selector)
        text = f"not finished after {self.case.limit_s:g} s, in phase '{self._phase}': raise --limit or shrink the case"
        return [self._record(Status.TIMED_OUT, message=text, traceback=stack)]

    def _where(self) -> str | None:
        """The stacks of a hanging process, which it writes into its log when asked."""
        assert self._process is not None
        before = self._log_path.stat().st_size
        self._process.send_signal(signal.SIGUSR1)
        size, grew = before, time.monotonic()
        deadline = grew + STACK_LIMIT_S
        while (now := time.monotonic()) < deadline and (size == before or now < grew + STACK_QUIET_S):
            time.sleep(0.05)
            if self._log_path.stat().st_size > size:
                size, grew = self._log_path.stat().st_size, time.monotonic()
        return self._log_path.read_bytes()[before:].decode(errors="replace").strip() or None

    def _record(
        self,
        status: Status,
        observed: Observed | None = None,
        message: str | None = None,
        traceback: str | None = None,
        caveats: Sequence[Caveat] = (),
    ) -> Record:
        assert self.case is not None
        record = Record(
            case=self.case,
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
        self.case = None
        return record

    def _log_tail(self) -> str:
        assert self._log is not None
        self._log.flush()
        text = self._log_path.read_text(encoding="utf-8", errors="replace")
        return text[-LOG_TAIL:].strip()

    def _end(self, selector: selectors.BaseSelector) -> None:
        selector.unregister(self._answers)
        self.stop()

    def stop(self) -> None:
        """Ends the process, whatever it is doing."""
        if self._process is None:
            return
        self._process.kill()
        self._process.wait()
        if self._process.stdin is not None:
            self._process.stdin.close()
        os.close(self._answers)
        if self._log is not None:
            self._log.close()
        if not self._log_path.stat().st_size:
            self._log_path.unlink()
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
"""The environment of a case whose worker died before it could tell."""
