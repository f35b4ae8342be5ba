"""pace: rests between blocks of samples, which keep a GPU below its power limit.

Work that draws more than the limit allows runs at clocks that the limit lowers and raises several times a second: the
medians of fresh processes then differ by 0.6 to 2.3%. With a rest of twice its length after each block of 20 ms the
clocks stay up, and the medians of three processes agree to 0.1% (H200; attention, and a product of 32,768 x 2,048 x
16,384). Those figures are of full clocks: back to back the same kernels take 7 and 17% longer.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

from hybridbench.units import NS_PER_S

BLOCK_NS = 20_000_000
"""Wall time of a block of samples of one side."""
REST = 2.0
"""How long a rest is; times the block before it."""
FIRST_REST_S = 0.5
"""The rest before the first block, in which clocks recover from the warm-up."""


class Limited(Protocol):
    """A GPU whose power is limited."""

    def near_power_limit(self) -> bool:
        """Whether power limits the clocks now or soon may."""


class Pace:
    """When to rest. ``resting`` is whether it does.

    Args:
        gpu: None never rests.
        sustained: never rest, so that figures are those of the clocks that the limit allows.
        now: wall time; ns.
        sleep: waits for so many seconds.
    """

    def __init__(
        self,
        gpu: Limited | None,
        *,
        sustained: bool,
        now: Callable[[], int],
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._gpu = None if sustained else gpu
        self._now = now
        self._sleep = sleep
        self.resting = False

    def begins(self) -> bool:
        """Begins to rest where power limits the clocks now; whether it began. Samples until then are of other clocks.

        Readings of power lag by up to a second, so this is asked before each block.
        """
        if self._gpu is None or self.resting or not self._gpu.near_power_limit():
            return False
        self.resting = True
        self._sleep(FIRST_REST_S)
        return True

    def rested(self, block: Callable[[], bool]) -> bool:
        """Runs a block and rests after it, where it rests; what the block returns."""
        start_ns = self._now()
        more = block()
        if self.resting and more:
            self._sleep(REST * (self._now() - start_ns) / NS_PER_S)
        return more
