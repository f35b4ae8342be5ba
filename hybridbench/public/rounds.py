"""rounds: two steps timed in short blocks that take turns, so that what drifts meets both of them alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hybridbench.measure.clock import TimedStep, Timer, nothing
from hybridbench.stats import median
from hybridbench.units import NS_PER_S

PILOT_STEPS = 3
"""Steps from which the length of a block is determined, and the least that a warm-up runs of each side."""


@dataclass(frozen=True)
class Steps:
    """One side: its step, and what puts it back to where the step begins. ``put_back`` is not timed."""

    step: TimedStep
    put_back: TimedStep = nothing


@dataclass(frozen=True)
class Rounds:
    """How long both sides are timed.

    Attributes:
        count: blocks of each side. The first block of a round is of the other side in every second round.
        block_s: wall time of a block, as far as ``least`` and ``most`` allow; seconds.
        least, most: steps in a block.
        warmup_s: wall time of the warm-up of both sides together; seconds.
    """

    count: int = 20
    block_s: float = 0.05
    least: int = 5
    most: int = 200
    warmup_s: float = 2.0


def take_turns(
    sides: Sequence[Steps], timer: Timer, rounds: Rounds, now: Callable[[], int] = time.perf_counter_ns
) -> list[list[list[int]]]:
    """The samples of each side, block by block; ns. Every step must have run before, so that nothing compiles here."""
    until_ns = now() + rounds.warmup_s * NS_PER_S
    while True:
        estimates_ns = [median(_block(side, timer, PILOT_STEPS)) for side in sides]
        if now() >= until_ns:
            break
    counts = [_steps_in(rounds, estimate_ns) for estimate_ns in estimates_ns]
    taken: list[list[list[int]]] = [[] for _ in sides]
    order = list(range(len(sides)))
    for _ in range(rounds.count):
        for number in order:
            taken[number].append(_block(sides[number], timer, counts[number]))
        order.reverse()
    return taken


def _steps_in(rounds: Rounds, estimate_ns: float) -> int:
    return max(rounds.least, min(rounds.most, round(rounds.block_s * NS_PER_S / max(1.0, estimate_ns))))


def _block(side: Steps, timer: Timer, count: int) -> list[int]:
    side.put_back()  # before the timer's own untimed step
    return timer.sample(side.step, count, before=side.put_back)
