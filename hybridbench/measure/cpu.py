"""cpu: what else the processors did while a step was timed on them.

Linux keeps two times of each thread: how long it ran, and how long it could have run but waited in a queue
(``/proc/PID/task/TID/schedstat``; the kernel's documentation, "Scheduler Statistics"). They are this process's own, so
that they hold in a container too, whatever else runs on its host, and while other programs have processors that this
one does not need they stay at nothing.

What a hypervisor does is not in them. Processors of a virtual machine may share a core with another machine's, which
slows them down while it works, and neither is told. So a fixed loop of Python, the canary, is timed between samples.
On two such processors single-threaded steps and this loop, timed in turns for a minute, were between 1 and 2 times as
long as the shortest, and changed together: of their logarithms' standard deviations, 0.31 and 0.29, 0.04 was left in
their ratio's.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

THREADS = Path("/proc/self/task")


class Waiting:
    """Reads the times of all threads on entry and on exit.

    Attributes:
        frac: time waited over time waited and run, of all threads of this process between entry and exit; None before
            the exit, and where the system does not count it.
    """

    def __init__(self, threads: Path = THREADS) -> None:
        self.frac: float | None = None
        self._threads = threads
        self._before: dict[str, tuple[int, int]] = {}

    def __enter__(self) -> Waiting:
        self._before = self._read()
        return self

    def __exit__(self, *exc: object) -> None:
        ran_ns = waited_ns = 0
        for thread, (ran, waited) in self._read().items():
            ran_before, waited_before = self._before.get(thread, (0, 0))
            ran_ns, waited_ns = ran_ns + ran - ran_before, waited_ns + waited - waited_before
        if ran_ns > 0 and waited_ns >= 0:
            self.frac = waited_ns / (ran_ns + waited_ns)

    def _read(self) -> dict[str, tuple[int, int]]:
        """Nanoseconds run and waited, by thread; empty where they are not counted."""
        found = {}
        try:
            threads = list(self._threads.iterdir())
        except OSError:
            return {}
        for thread in threads:
            try:
                ran, waited, _slices = (thread / "schedstat").read_text(encoding="ascii").split()
                found[thread.name] = int(ran), int(waited)
            except (OSError, ValueError):  # the thread ended, or the kernel keeps no such times
                continue
        return found


ROUNDS = 20_000
"""Of the loop: 1 to 2 ms. Another number makes records incomparable with older ones."""


class Canary:
    """How fast a processor is, each time it is called.

    Args:
        now: wall time; ns.

    Attributes:
        taken_ns: how long each call took; ns.
    """

    def __init__(self, now: Callable[[], int] = time.perf_counter_ns) -> None:
        self.taken_ns: list[int] = []
        self._now = now

    def __call__(self) -> None:
        """Runs the loop once."""
        began = self._now()
        total = 0
        for number in range(ROUNDS):
            total += number * number
        self.taken_ns.append(self._now() - began)


class CpuWatch:
    """Entered and left around the samples, and called before the first and between them.

    Args:
        waiting, canary: what is read; a script of durations in a test.
    """

    def __init__(self, waiting: Waiting | None = None, canary: Canary | None = None) -> None:
        self._waiting, self._canary = waiting or Waiting(), canary or Canary()

    def __enter__(self) -> CpuWatch:
        self._waiting.__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        self._waiting.__exit__(*exc)

    def __call__(self) -> None:
        """Times the loop once."""
        self._canary()

    @property
    def waited_frac(self) -> float | None:
        """The share of the time that threads waited for a processor, once it is left; None is unknown."""
        return self._waiting.frac

    @property
    def canary_ns(self) -> list[int]:
        """How long the loop took, each time; ns."""
        return self._canary.taken_ns
