"""planted: a call that takes a known share longer, to see whether the gate finds it: other work is appended to it.

How much is determined once for a cell, so that all pairs have the same: the call and the call with more are timed in
turns, and short work is corrected for what its own launch adds.
"""

from __future__ import annotations

from hybridbench.gate.side.spin import Filler
from hybridbench.measure.clock import TimedStep, Timer, nothing
from hybridbench.stats import median

WINDOW_NS = 60_000_000
"""Wall time of the samples of one call in one round."""
FEWEST, MOST = 5, 60
"""Samples in one round."""
CORRECTIONS = 2
LONG_NS = 200_000
"""Work of this length needs no correction: a launch of some 2 us adds 1% to them."""


def sized(call: TimedStep, frac: float, work: Filler, timer: Timer, before: TimedStep = nothing) -> int:
    """How many parts of some work take ``frac`` of the time of a call.

    Args:
        frac: above zero.
        work: of which something is to be appended.
        timer: the clock of the device.
        before: what runs before each call that is timed.
    """
    call()

    def sampled(step: TimedStep, count: int) -> float:
        return median(timer.sample(step, count, before))

    alone_ns = sampled(call, FEWEST)
    count = max(FEWEST, min(MOST, int(WINDOW_NS / max(1.0, alone_ns))))
    if count > FEWEST:
        alone_ns = sampled(call, count)
    length_ns = frac * alone_ns
    for _ in range(CORRECTIONS if frac * alone_ns < LONG_NS else 0):
        with_more = appended(call, work.of(work.parts(length_ns)))
        more_ns = [
            sampled(with_more, count) - sampled(call, count),
            -sampled(call, count) + sampled(with_more, count),
        ]
        length_ns = max(0.0, length_ns - (sum(more_ns) / 2 - frac * alone_ns))
    return work.parts(length_ns)


def appended(call: TimedStep, more: TimedStep) -> TimedStep:
    """A call with other work after it; what the call returns."""

    def both() -> object:
        made = call()
        more()
        return made

    return both
