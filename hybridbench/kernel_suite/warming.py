"""warming: the calls of all sides before the first sample, and how long they go on while power limits the clocks."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Protocol

from hybridbench.kernel_suite.pace import BLOCK_NS, Limited
from hybridbench.stats import median
from hybridbench.units import NS_PER_S

HEAT_WINDOW_S, HEAT_LEAST_S, HEAT_MOST_S = 0.25, 1.0, 6.0
"""While power limits: how long medians are compared over, and when waiting for them to settle starts and ends; s."""


class Warmed(Protocol):
    """One side of a timing."""

    def block(self, window_ns: float, most: int) -> list[int]:
        """Samples for about a window of wall time; ns."""

    def fits(self, window_ns: float) -> bool:
        """Whether a sample takes no longer than this."""


def warm_up(
    sides: Sequence[Warmed], least_s: float, settled: float, gpu: Limited | None, now: Callable[[], int]
) -> bool:
    """Runs all sides in turn for a time, and longer while a power limit moves their medians; whether one may.

    Args:
        least_s: the time; seconds.
        settled: the medians of two windows differ by less than this fraction once they have settled.
    """
    start_ns, medians, hot = now(), list[float](), False
    while True:
        spent_s = (now() - start_ns) / NS_PER_S
        left_s = least_s - spent_s
        if left_s <= 0:
            hot = gpu is not None and gpu.near_power_limit()
            if not hot or spent_s >= HEAT_MOST_S:
                return hot
        window_ns = NS_PER_S * min(HEAT_WINDOW_S, left_s if left_s > 0 else math.inf)
        if not all(side.fits(window_ns / len(sides)) for side in sides):
            return hot  # each ran several times when it was allocated
        previous, medians = medians, _window(sides, window_ns, now)
        if hot and previous and spent_s >= HEAT_LEAST_S and _settled(previous, medians, settled):
            return hot


def _window(sides: Sequence[Warmed], window_ns: float, now: Callable[[], int]) -> list[float]:
    """The median of each side over a window of alternating blocks; ns."""
    samples_ns: list[list[int]] = [[] for _ in sides]
    start_ns = now()
    while now() - start_ns < window_ns or not samples_ns[0]:
        for side, taken in zip(sides, samples_ns, strict=True):
            taken += side.block(BLOCK_NS, BLOCK_NS)
    return [median(taken) for taken in samples_ns]


def _settled(previous: list[float], medians: list[float], fraction: float) -> bool:
    return all(abs(new - old) <= fraction * old for old, new in zip(previous, medians, strict=True))
