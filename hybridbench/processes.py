"""processes: every process that this package starts: watched while it runs, and ended with all that it started.

A profiler may start what it watches in a session or a process group of its own, where no signal to the profiler's
arrives. So a process is started with a mark in its environment, which everything that it starts inherits wherever it
moves, and whatever still carries the mark is killed once the process has ended, however it did. The environment also
names who started it, so that a program of ours can end itself when that process is gone.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO
from uuid import uuid4

MARK, STARTER = "HYBRIDBENCH_MARK", "HYBRIDBENCH_STARTER"
TICK_S = 0.2
DYING_S = 10.0
"""How long killed processes are waited for: a driver takes a while to take a GPU's memory back."""
TAIL = 2000
"""Characters of a log's end that a message quotes."""
STACK_LIMIT_S = 5.0
"""How long a hanging process is waited for to write its stacks: on a busy machine its turn takes a while to come."""
STACK_QUIET_S = 0.3
"""They come line by line, and are all there when the log has not grown for so long."""


class Answering:
    """A program that is asked on its standard input and answers over a pipe of its own; all else it says is logged.

    Args:
        words: the command; the pipe's file descriptor is added as the last word.
        log: the file that its output and errors are added to.
        environment: variables that it has beside those of this process.

    Raises:
        OSError: it cannot be started, or the log cannot be written.
    """

    def __init__(self, words: Sequence[str], log: Path, environment: Mapping[str, str] | None = None) -> None:
        self._log_path = log
        self._log: IO[bytes] = log.open("ab")
        self._rest = b""
        self._mark = uuid4().hex
        self._answers, theirs = os.pipe()
        try:
            self._process = subprocess.Popen(
                [*words, str(theirs)],
                stdin=subprocess.PIPE,
                stdout=self._log,
                stderr=self._log,
                pass_fds=[theirs],
                env=_environment(self._mark, environment),
                text=True,
                start_new_session=True,  # Ctrl-C reaches the parent only, which decides
            )
        finally:
            os.close(theirs)

    @property
    def pid(self) -> int:
        """The process's number."""
        return self._process.pid

    def fileno(self) -> int:
        """Where its answers can be waited for."""
        return self._answers

    def ask(self, line: str) -> None:
        """Writes a line to its input; of one that has just died the end of its answers tells how."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()

    def lines(self) -> list[str] | None:
        """The whole lines of what it has just answered; None when it answers no more."""
        chunk = os.read(self._answers, 1 << 16)
        if not chunk:
            return None
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        return [line.decode() for line in lines]

    def exit_code(self) -> int:
        """How it ended, once it has; negative for a signal."""
        return self._process.wait()

    def tail(self) -> str:
        """The end of its log."""
        return self._log_path.read_bytes().decode(errors="replace")[-TAIL:].strip()

    def stacks(self) -> str | None:
        """The stacks of a process that hangs, which it writes into its log when asked; None if it does not."""
        before = self._log_path.stat().st_size
        self._process.send_signal(signal.SIGUSR1)
        size, grew = before, time.monotonic()
        deadline = grew + STACK_LIMIT_S
        while (now := time.monotonic()) < deadline and (size == before or now < grew + STACK_QUIET_S):
            time.sleep(0.05)
            if self._log_path.stat().st_size > size:
                size, grew = self._log_path.stat().st_size, time.monotonic()
        return self._log_path.read_bytes()[before:].decode(errors="replace").strip() or None

    def end(self) -> None:
        """Ends it and whatever it started, whatever they are doing; a log without a word is removed."""
        self._process.kill()
        self._process.wait()
        end_marked(self._mark)
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        os.close(self._answers)
        self._log.close()
        if not self._log_path.stat().st_size:
            self._log_path.unlink()


def run_program(
    words: Sequence[str],
    limit_s: float,
    tick: Callable[[], object] = lambda: None,
    environment: Mapping[str, str] | None = None,
) -> tuple[int, str, str]:
    """Runs a program; its exit code, output and errors. Nothing that it started is alive afterwards.

    Args:
        tick: called every ``TICK_S`` seconds meanwhile; what it raises ends the program.
        environment: variables that it has beside those of this process.

    Raises:
        OSError: it cannot be started.
        subprocess.TimeoutExpired: it had not finished after ``limit_s`` seconds.
    """
    mark = uuid4().hex
    # Files and not pipes: who outlives the program would keep a pipe open, and a reader waiting.
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        try:
            process = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=errors,
                env=_environment(mark, environment),
                start_new_session=True,  # Ctrl-C reaches the caller only, which decides
            )
            try:
                _wait(process, limit_s, tick)
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        finally:
            end_marked(mark)
        return process.returncode, _text(output), _text(errors)


def _environment(mark: str, more: Mapping[str, str] | None) -> dict[str, str]:
    return {**os.environ, **(more or {}), MARK: mark, STARTER: str(os.getpid())}


def _wait(process: subprocess.Popen[bytes], limit_s: float, tick: Callable[[], object]) -> None:
    ends_at = time.monotonic() + limit_s
    while True:
        left_s = ends_at - time.monotonic()
        try:
            process.wait(min(TICK_S, max(0.0, left_s)))
            return
        except subprocess.TimeoutExpired:
            if left_s <= 0:
                raise subprocess.TimeoutExpired(process.args, limit_s) from None
        tick()


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode(errors="replace")


def end_marked(mark: str) -> None:
    """Kills whatever carries a mark, and waits until it is gone."""
    ends_at = time.monotonic() + DYING_S
    killed: set[int] = set()
    while time.monotonic() < ends_at:
        found, starting = _carrying(mark)
        for pid in found:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        killed |= found
        if not found and not starting and not any(alive(pid) for pid in killed):
            return
        time.sleep(0.01)


def _carrying(mark: str) -> tuple[set[int], bool]:
    """Processes with a mark in their environment, and whether one has yet to show its own; none where no /proc is.

    In the middle of ``execve`` a process has neither environment nor command line to show, and its parent may be told
    by then that it was started. A kernel's thread never has either, nor a file that it runs.
    """
    entry, found, starting = f"{MARK}={mark}".encode(), set(), False
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has just ended, or is somebody else's
            environment = (path / "environ").read_bytes()
            if entry in environment.split(b"\0"):
                found.add(int(path.name))
            elif not environment and not (path / "cmdline").read_bytes() and (path / "exe").readlink():
                starting = True
    return found, starting


def alive(pid: int) -> bool:
    """Whether a process runs: one that has ended and waits to be asked how does not."""
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:  # it has just ended, or there is no /proc to tell more
        return not Path("/proc/self").exists()
    return stat.rpartition(")")[2].split()[0] not in ("Z", "X")


def end_with_starter() -> None:
    """Ends this process when the one that started it is gone: a command that was killed must not leave a GPU busy.

    The starter need not be the parent: a profiler may stand between the two.
    """
    end_with(int(os.environ.get(STARTER) or os.getppid()))


def end_with(pid: int) -> None:
    """Ends this process when another is gone."""

    def watch() -> None:
        while alive(pid):
            time.sleep(1.0)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """SIGTERM ends what runs inside as Ctrl-C does, with one KeyboardInterrupt.

    ``timeout`` sends its signal twice, and the second must not end the clearing up after the first.
    """

    def interrupt(_number: int, _frame: object) -> None:
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


def last_line(output: str) -> str:
    """What a program said last."""
    return (output.strip().splitlines() or ["it said nothing"])[-1]
