"""timing: one step timed on all ranks together, so that all of them run it equally often.

Whether a step is run again depends on how long it took, and ranks that decided by themselves would wait for each other
for ever. So after each block of runs the ranks tell each other their durations, and every rank goes on with the longest
of each run: a step has ended when its slowest rank has.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from hybridbench.measure.clock import TimedStep, Timer, nothing
from hybridbench.ranks.group import gathered


class RankTimer:
    """A timer whose durations are those of the slowest rank.

    Args:
        timer: this rank's own.

    Attributes:
        own_ns: this rank's durations of the runs that ``sample`` timed within ``noting``.
    """

    def __init__(self, timer: Timer) -> None:
        self.own_ns: list[int] = []
        self.name = timer.name
        self.resolution_ns = max(each[0] for each in gathered([timer.resolution_ns]))
        self._timer = timer
        self._noting = False

    def sample(self, step: TimedStep, count: int, before: TimedStep = nothing) -> list[int]:
        """The duration of each run on its slowest rank; ns."""
        own = self._timer.sample(step, count, before)
        if self._noting:
            self.own_ns += own
        return [max(run) for run in zip(*gathered(own), strict=True)]

    def runs(self, count: int) -> int:
        """As this rank's own timer."""
        return self._timer.runs(count)

    @contextmanager
    def noting(self) -> Iterator[None]:
        """Inside, this rank's own durations are kept."""
        self._noting = True
        try:
            yield
        finally:
            self._noting = False


def now_together(now: Callable[[], int] = time.perf_counter_ns) -> Callable[[], int]:
    """A clock that shows all ranks the time of the first one, so that they agree whether a limit is over; ns."""
    return lambda: gathered([now()])[0][0]
