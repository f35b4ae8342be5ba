"""processes: every process that this package starts: watched while it runs, and ended with all that it started.

A profiler may start its program in a session or process group of its own, which a signal to the profiler's group does
not reach. So each process is started with a mark in its environment, which its children inherit wherever they move.
Once the process has ended, for whatever reason, every process that still carries the mark is killed. The environment
also names the process that started it, so that our programs can exit when that process is gone, and Triton's folder.
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

MARK, STARTER = "HYBRIDBENCH_MARK_", "HYBRIDBENCH_STARTER"
"""The mark's name ends with its number: a process that is started by a marked one has both marks."""
TRITON_CACHE = "TRITON_CACHE_DIR"
TICK_S = 0.2
DYING_S = 10.0
"""How long to wait for killed processes; seconds. A driver takes a while to free a GPU's memory."""
TAIL = 2000
"""How many characters of the end of a log a message quotes."""
STACK_LIMIT_S = 5.0
"""How long to wait for a hanging process to write its stacks; seconds. A busy machine may not schedule it at once."""
STACK_QUIET_S = 0.3
"""Stacks come line by line: they are complete when the log has not grown for this long; seconds."""


class Answering:
    """A program that reads requests from its standard input and answers over a pipe. All other output is logged.

    Args:
        words: the command; the pipe's file descriptor is added as the last word.
        log: the file that its output and errors are appended to.
        environment: variables to add to those of this process.
        folder: where it runs; None is where this process does.

    Raises:
        OSError: it cannot be started, or the log cannot be written.
    """

    def __init__(
        self,
        words: Sequence[str],
        log: Path,
        environment: Mapping[str, str] | None = None,
        folder: Path | None = None,
    ) -> None:
        self._log_path = log
        self._log: IO[bytes] = log.open("a+b")
        self._begun = self._size()
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
                cwd=folder,
                text=True,
                start_new_session=True,  # Ctrl-C reaches the parent only, which ends this process itself
            )
        finally:
            os.close(theirs)

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def fileno(self) -> int:
        """The file descriptor of its answers, for ``select``."""
        return self._answers

    def ask(self, line: str) -> None:
        """Writes a line to its input. If it has just died, ``lines`` returns None and ``exit_code`` tells how."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()

    def lines(self) -> list[str] | None:
        """The complete lines that it has just answered; None when it has closed its answers."""
        chunk = os.read(self._answers, 1 << 16)
        if not chunk:
            return None
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        return [line.decode(errors="replace") for line in lines]

    def send_signal(self, number: signal.Signals) -> None:
        """Sends it a signal; nothing where it has ended."""
        self._process.send_signal(number)

    def exit_code(self) -> int:
        """Waits for its end and returns its exit code, negative for a signal."""
        return self._process.wait()

    def tail(self) -> str:
        """The end of its log, without what earlier processes wrote there."""
        return self._logged(self._begun).decode(errors="replace")[-TAIL:].strip()

    def _size(self) -> int:
        """Bytes in its log, which may have been removed from its folder."""
        return os.fstat(self._log.fileno()).st_size

    def _logged(self, start: int) -> bytes:
        """Its log from a byte on."""
        return os.pread(self._log.fileno(), self._size() - start, start)

    def stacks(self) -> str | None:
        """The stacks of a hanging process, which it writes to its log when asked; None if it does not."""
        before = self._size()
        self._process.send_signal(signal.SIGUSR1)
        size, grew = before, time.monotonic()
        deadline = grew + STACK_LIMIT_S
        while (now := time.monotonic()) < deadline and (size == before or now < grew + STACK_QUIET_S):
            time.sleep(0.05)
            if self._size() > size:
                size, grew = self._size(), time.monotonic()
        return self._logged(before).decode(errors="replace").strip() or None

    def end(self) -> None:
        """Kills it and every process that it started; removes an empty log."""
        self._process.kill()
        self._process.wait()
        end_marked(self._mark)
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        os.close(self._answers)
        empty = not self._size()
        self._log.close()
        if empty:
            self._log_path.unlink(missing_ok=True)


def run_program(
    words: Sequence[str],
    limit_s: float,
    tick: Callable[[], object] = lambda: None,
    environment: Mapping[str, str] | None = None,
) -> tuple[int, str, str]:
    """Runs a program and returns its exit code, output and errors. Nothing that it started is alive afterwards.

    Args:
        tick: called every ``TICK_S`` seconds while it runs; an exception from it ends the program.
        environment: variables to add to those of this process.

    Raises:
        OSError: it cannot be started.
        subprocess.TimeoutExpired: it had not finished after ``limit_s`` seconds.
    """
    mark = uuid4().hex
    # Files instead of pipes: a child that outlives the program would keep a pipe open and its reader waiting.
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        try:
            process = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=errors,
                env=_environment(mark, environment),
                start_new_session=True,  # Ctrl-C reaches the caller only, which ends this process itself
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
    return {TRITON_CACHE: _triton_folder(), **os.environ, **(more or {}), MARK + mark: "1", STARTER: str(os.getpid())}


def _triton_folder() -> str:
    """Where Triton keeps compiled kernels unless ``TRITON_CACHE_DIR`` says otherwise.

    It is named to every process. Where it is not, Inductor names a folder of its own at its first kernel, for the whole
    process, and every other kernel compiles again: after one case with FlexAttention a worker found nothing of what had
    been compiled ahead. The rule is that of ``triton.knobs``, which takes seconds to import.
    """
    return os.path.join(os.environ.get("TRITON_HOME") or os.path.expanduser("~"), ".triton", "cache")


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
    """Kills every process that carries a mark, and waits until all are gone."""
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
    """Ids of the processes with a mark in their environment, and whether some process may still turn out to have it.

    In the middle of ``execve`` a process shows neither an environment nor a command line, although its parent may
    already know that it was started. A kernel thread never shows either, but it has no executable file. Without /proc
    the set is empty.
    """
    entry, found, starting = f"{MARK}{mark}=1".encode(), set(), False
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has just ended, or belongs to another user
            environment = (path / "environ").read_bytes()
            if entry in environment.split(b"\0"):
                found.add(int(path.name))
            elif not environment and not (path / "cmdline").read_bytes() and (path / "exe").readlink():
                starting = True
    return found, starting


def alive(pid: int) -> bool:
    """Whether a process runs. A zombie, which waits for its parent to read its exit code, does not."""
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:  # it has just ended, or there is no /proc
        return not Path("/proc/self").exists()
    return stat.rpartition(")")[2].split()[0] not in ("Z", "X")


def end_with_starter() -> None:
    """Exits this process when the process that started it is gone, so that a killed command leaves no GPU busy.

    The process that started it is not always the parent: a profiler may be in between.
    """
    end_with(int(os.environ.get(STARTER) or os.getppid()))


def end_with(pid: int) -> None:
    """Exits this process when another process is gone."""

    def watch() -> None:
        while alive(pid):
            time.sleep(1.0)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """Makes SIGTERM, and SIGHUP of a closed terminal, raise one KeyboardInterrupt in the code inside, as Ctrl-C does.

    ``timeout`` sends its signal twice, and the second must not interrupt the clean-up after the first.
    """

    def interrupt(_number: int, _frame: object) -> None:
        for each in before:
            signal.signal(each, signal.SIG_IGN)
        raise KeyboardInterrupt

    heard = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    before = {each: handler for each, handler in heard.items() if handler not in (signal.SIG_IGN, None)}
    try:
        for each in before:
            signal.signal(each, interrupt)
    except ValueError:  # not in the main thread, the only one that may set handlers
        yield
        return
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def last_line(output: str) -> str:
    """The last line of a program's output."""
    return (output.strip().splitlines() or ["it said nothing"])[-1]
