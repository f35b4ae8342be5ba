"""blocks: how long both sides of a cell are timed in one pair, in short blocks that alternate."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from hybridbench.gate.kinds import KINDS
from hybridbench.stats import median, median_interval

BLOCK_NS = 40_000_000
CLOSE = 0.2
"""Samples are close enough once the standard error of the ratio of their medians is this share of what is assumed of a
pair (``kinds``). More of them would make a pair's standard deviation smaller by 2% at most."""
IN_95 = 1.96
"""Half a 95% interval, in standard errors."""


@dataclass(frozen=True)
class BlockPlan:
    """Blocks of one side of a pair, in a cell of one kind.

    Args:
        sets: of memory, one after the other.
        least, most: blocks in each set, even numbers, so that each side goes first as often as the other. After the
            least, a set ends once its samples are close enough.
        length: of a block, in ``BLOCK_NS``; of long steps a block is one, however long.
        rest: how long a GPU rests before each step (``side.spin``); times the step.
    """

    sets: int
    least: int
    most: int
    length: float = 1.0
    rest: float = 0.0

    def ends(self, blocks: int, sides: Collection[Sequence[int]], kind: str) -> bool:
        """Whether a set has enough samples of both sides, taken in so many blocks of each; ns."""
        if blocks < self.least or blocks % 2:
            return False
        return close(sides, kind, self.sets)

    @property
    def longest(self) -> float:
        """The most blocks, with those that warm up, in ``BLOCK_NS``."""
        blocks = self.sets * self.most + sum(sum(warm_up(number)) for number in range(self.sets))
        return self.length * blocks


BLOCKS = {
    "cpu": BlockPlan(3, 4, 4),  # other work comes in bursts that last longer than two blocks
    "kernel": BlockPlan(3, 2, 4),
    "step": BlockPlan(1, 4, 8),
    # Medians of eight steps of 33 ms spread by 1.5% back to back, and by 0.1 to 0.25% after rests of 0.6 to 4.8 times
    # the step, which three or four rounds each do not tell apart (H200). A block has room for a step with its rest.
    "training": BlockPlan(1, 4, 4, length=3.0, rest=2.0),
}


def warm_up(number: int) -> tuple[float, ...]:
    """The lengths of the blocks that warm each side up before a set of memory, as shares of a block.

    The first set comes after a second or so in which both sides were made ready, a later one after some milliseconds.
    Sides alternate here already, so what is left of a ramp of the clocks meets both.
    """
    return (0.25,) if number else (0.5, 0.5)


def close(sides: Iterable[Sequence[int]], kind: str, sets: int) -> bool:
    """Whether the samples of both sides, in one of some sets of memory, are close enough.

    It asks how far they spread and never how the sides compare, so that a verdict does not depend on when it is asked.
    """
    error = math.hypot(*(_standard_error(samples_ns) for samples_ns in sides))
    return error <= CLOSE * KINDS[kind].sd * math.sqrt(sets)


def _standard_error(samples_ns: Sequence[int]) -> float:
    """Of the median, as a fraction of it."""
    low, high = median_interval(samples_ns)
    return (high - low) / 2 / IN_95 / median(samples_ns)
