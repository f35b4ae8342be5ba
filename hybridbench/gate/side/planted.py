"""planted: a call that takes a known share longer, to see whether the gate finds it: other work is appended to it.

Its length follows the call: both are timed in turns, and short work is corrected for what its own launch adds.
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


def longer(call: TimedStep, frac: float, work: Filler, timer: Timer, before: TimedStep = nothing) -> TimedStep:
    """``call`` with work after it, so that both take ``1 + frac`` times as long as the call alone.

    Args:
        frac: above zero.
        work: of which something is appended.
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
        with_more = _appended(call, work.of(length_ns))
        more_ns = [
            sampled(with_more, count) - sampled(call, count),
            -sampled(call, count) + sampled(with_more, count),
        ]
        length_ns = max(0.0, length_ns - (sum(more_ns) / 2 - frac * alone_ns))
    return _appended(call, work.of(length_ns))


def _appended(call: TimedStep, more: TimedStep) -> TimedStep:
    def both() -> object:
        made = call()
        more()
        return made

    return both
