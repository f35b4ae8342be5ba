"""processes: a program run within a limit, and whatever it started ended with it.

A profiler may start what it watches in a session or a process group of its own, where no signal to the profiler's
arrives. So a program is started with a mark in its environment, which everything that it starts inherits wherever it
moves, and whatever still carries the mark is killed once the program has ended, however it did.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO
from uuid import uuid4

MARK = "HYBRIDBENCH_MARK"
TICK_S = 0.2
DYING_S = 10.0
"""How long killed processes are waited for: a driver takes a while to take a GPU's memory back."""


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
                env={**os.environ, **(environment or {}), MARK: mark},
                start_new_session=True,  # Ctrl-C reaches the caller only, which decides
            )
            try:
                _wait(process, limit_s, tick)
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        finally:
            _end(mark)
        return process.returncode, _text(output), _text(errors)


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


def _end(mark: str) -> None:
    """Kills whatever carries a mark, and waits until it is gone."""
    ends_at = time.monotonic() + DYING_S
    killed: set[int] = set()
    while time.monotonic() < ends_at:
        found = _carrying(mark)
        for pid in found:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        killed |= found
        if not found and not any(alive(pid) for pid in killed):
            return
        time.sleep(0.01)


def _carrying(mark: str) -> set[int]:
    """Processes with a mark in their environment; none where there is no /proc."""
    entry, found = f"{MARK}={mark}".encode(), set()
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):  # it has just ended, or is somebody else's
            if entry in path.read_bytes().split(b"\0"):
                found.add(int(path.parent.name))
    return found


def alive(pid: int) -> bool:
    """Whether a process runs: one that has ended and waits to be asked how does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in ("Z", "X")


def end_with(pid: int) -> None:
    """Ends this process when another is gone: a command that was killed must not leave a GPU busy."""

    def watch() -> None:
        while True:
            try:
                os.kill(pid, 0)
            except OSError:
                os._exit(1)
            time.sleep(1.0)

    threading.Thread(target=watch, daemon=True).start()


def last_line(output: str) -> str:
    """What a program said last."""
    return (output.strip().splitlines() or ["it said nothing"])[-1]
