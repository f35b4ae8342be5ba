"""planted: a call that takes a known share longer, to see whether the gate finds it: a spin is appended to it.

On a GPU the spin is a kernel that counts cycles (``torch.cuda._sleep``); on a CPU it is an empty loop. Its length
follows the call: both are timed in turns, and a short spin is corrected for what its own launch adds.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from hybridbench.measure.clock import TimedStep, Timer
from hybridbench.stats import median

WINDOW_NS = 60_000_000
"""Wall time of the samples of one call in one round."""
FEWEST, MOST = 5, 60
"""Samples in one round."""
CORRECTIONS = 2
LONG_NS = 200_000
"""Spins of this length need no correction: a launch of some 2 us adds 1% to them."""
TRIED = {"cuda": 1_000_000, "cpu": 100_000}
"""Cycles, or turns of a loop, from which the length of one is determined."""


def longer(call: TimedStep, frac: float, device: torch.device, timer: Timer) -> TimedStep:
    """``call`` with a spin after it, so that both take ``1 + frac`` times as long as the call alone.

    Args:
        frac: above zero.
        timer: the clock of the device.
    """
    spin = _cycles if device.type == "cuda" else _turns
    tried = TRIED[device.type]
    call()
    each_ns = median(timer.sample(lambda: spin(tried), FEWEST)) / tried
    alone_ns = median(timer.sample(call, FEWEST))
    count = max(FEWEST, min(MOST, int(WINDOW_NS / max(1.0, alone_ns))))
    if count > FEWEST:
        alone_ns = median(timer.sample(call, count))
    amount = frac * alone_ns / each_ns
    for _ in range(CORRECTIONS if frac * alone_ns < LONG_NS else 0):
        with_spin = _appended(call, spin, round(amount))
        more_ns = [
            median(timer.sample(with_spin, count)) - median(timer.sample(call, count)),
            -median(timer.sample(call, count)) + median(timer.sample(with_spin, count)),
        ]
        amount = max(0.0, amount - (sum(more_ns) / 2 - frac * alone_ns) / each_ns)
    return _appended(call, spin, round(amount))


def _appended(call: TimedStep, spin: Callable[[int], None], amount: int) -> TimedStep:
    def both() -> object:
        made = call()
        spin(amount)
        return made

    return both


def _cycles(count: int) -> None:
    torch.cuda._sleep(count)


def _turns(count: int) -> None:
    for _ in range(count):
        pass
