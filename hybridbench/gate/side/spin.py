"""spin: work of a known length: a spin, which does nothing, and products, which draw as much power as a training step.

A GPU that trains is at its power limit, which moves its clocks by a tenth within a second: the times of the same code
spread by 1 to 2% from pair to pair. So each step that is timed comes after a rest, in which one thread counts cycles
and the host launches the step. Pairs then spread by 0.25% (H200, steps of 33 ms).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cached_property

import torch

from hybridbench.measure.clock import TimedStep, Timer, nothing
from hybridbench.stats import median

TRIED = {"cuda": 1_000_000, "cpu": 100_000}
"""Cycles, or turns of a loop, from which the length of one is determined."""
SAMPLES = 5
PILOTS = 3
"""Steps from which the length of a rest is determined. Of a step that the host launches slower than the GPU runs it,
that is what launching takes, so that the rest covers it."""
ROWS, INNER, COLUMNS = 1024, 2048, 4096
"""Of a product: some 25 us on an H200, so that 3% of a step of 33 ms are forty."""
PRODUCTS = 50
"""Products from which the length of one is determined."""


class Filler(ABC):
    """Work that is made of many equal parts."""

    @property
    @abstractmethod
    def each_ns(self) -> float:
        """The time of one."""

    @abstractmethod
    def of(self, parts: int) -> TimedStep:
        """So many of them."""

    def parts(self, length_ns: float) -> int:
        """How many take about so long; one at least."""
        return max(1, round(length_ns / self.each_ns))


class Spin(Filler):
    """Spins on a device: a kernel of one thread that counts cycles (``torch.cuda._sleep``), on a CPU an empty loop.

    Args:
        timer: the clock of the device; it tells how long a turn takes, once.
    """

    def __init__(self, device: torch.device, timer: Timer) -> None:
        self._turn = _cycles if device.type == "cuda" else _turns
        self._tried, self._timer = TRIED[device.type], timer

    @cached_property
    def each_ns(self) -> float:
        """The time of a cycle or a turn."""
        return median(self._timer.sample(lambda: self._turn(self._tried), SAMPLES)) / self._tried

    def of(self, parts: int) -> TimedStep:
        """A spin of so many cycles or turns."""
        return lambda: self._turn(parts)


class Products(Filler):
    """Matrix products in bfloat16, one after the other.

    Args:
        timer: the clock of the device; it tells how long one takes, once.
        before: what runs before each sample of it.
    """

    def __init__(self, device: torch.device, timer: Timer, before: TimedStep = nothing) -> None:
        drawn = torch.Generator(device).manual_seed(0)
        self._left, self._right = (
            torch.randn(size, generator=drawn, device=device, dtype=torch.bfloat16)
            for size in ((ROWS, INNER), (INNER, COLUMNS))
        )
        self._timer, self._before = timer, before

    @cached_property
    def each_ns(self) -> float:
        """The time of a product."""
        return median(self._timer.sample(lambda: self._run(PRODUCTS), SAMPLES, self._before)) / PRODUCTS

    def of(self, parts: int) -> TimedStep:
        """So many of them."""
        return lambda: self._run(parts)

    def _run(self, count: int) -> None:
        for _ in range(count):
            torch.mm(self._left, self._right)


def rest_before(step: TimedStep, times: float, device: torch.device, timer: Timer) -> TimedStep:
    """What a GPU does before each step that is timed: it spins so many times as long. The step has run before."""
    spin = Spin(device, timer)
    return spin.of(spin.parts(times * min(timer.sample(step, PILOTS))))


def _cycles(count: int) -> None:
    torch.cuda._sleep(count)


def _turns(count: int) -> None:
    for _ in range(count):
        pass
