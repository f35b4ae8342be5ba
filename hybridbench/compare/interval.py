"""interval: the ratio of two cells, and an interval that holds the true ratio.

Each side's median has a 95% interval of order statistics within its process (``stats.median_interval``). Two such
intervals become that of a difference by the method of variance estimates recovery (Zou and Donner 2008, "Construction
of confidence limits about effect measures: a general approach", Statistics in Medicine 27; of medians: Price and
Bonett 2002, "Distribution-free confidence intervals for difference and ratio of medians"), here of logarithms:

    log ratio   = log B - log A
    lower end   = log ratio - sqrt((B - B_low)^2 + (A_high - A)^2 + (z s_A)^2 + (z s_B)^2)      all logarithms
    upper end   = log ratio + sqrt((B_high - B)^2 + (A - A_low)^2 + (z s_A)^2 + (z s_B)^2)

``s`` is what the samples of one process cannot show: the standard deviation between fresh processes if the sides are of
two separate runs, and the drift of samples that never became steady. Where both processes timed the same fixed work
beside their cells (canaries, on a CPU), both ends move out by the logarithm of the rates' ratio too: a machine that was
slower as a whole slows steady samples as well.

A table of many cells would find false changes by chance: of 60 cells, 3 at 95% each. So the intervals of a table hold
all together at 95%: with ``cells`` ratios each holds at 1 - 0.05 / cells (Bonferroni), and is wider by the quotient of
the normal quantiles. ``tests/compare/test_interval.py`` simulates both: coverage of one cell, and tables of 60.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

from hybridbench.compare.cell import ComparedCell

DOUBT = 0.05
"""The chance that any interval of a table misses."""
FEWEST = 5
"""The fewest samples of a side that get an interval."""
_ENOUGH = 6
"""From here on order statistics hold the median at 95%. The extremes of 5 samples hold it at 93.75% only, and are moved
out by half, by which a table of 60 keeps its word too."""
_OF_FEW = 1.5


@dataclass(frozen=True)
class Ratio:
    """The amount of the second cell over that of the first; ``low`` and ``high`` are None with too few samples."""

    value: float
    low: float | None
    high: float | None

    @property
    def judged(self) -> bool:
        """Whether there is an interval."""
        return self.low is not None


def confidence(cells: int) -> float:
    """The confidence of each interval, so that all of a table's hold together at 95%."""
    return 1 - DOUBT / max(cells, 1)


def enough(cell: ComparedCell) -> bool:
    """Whether a cell has samples for an interval, or needs none."""
    return cell.samples is None or cell.samples >= FEWEST


def ratio_of(base: ComparedCell, other: ComparedCell, cells: int = 1) -> Ratio | None:
    """The ratio of two cells, with an interval that holds together with those of ``cells - 1`` others.

    None if a cell has no amount, or one that is not above zero.
    """
    if not (base.amount and other.amount and base.amount > 0 and other.amount > 0):
        return None
    value = other.amount / base.amount
    if not (enough(base) and enough(other)):
        return Ratio(value, None, None)
    separate = base.run != other.run
    base_down, base_up = _reach(base)
    other_down, other_up = _reach(other)
    z = _z(DOUBT)
    hidden = [z * _hidden(cell, separate=separate) for cell in (base, other)]
    wider = _z(1 - confidence(cells)) / z
    moved = machine_moved(base, other)
    down = wider * math.hypot(other_down, base_up, *hidden) + moved
    up = wider * math.hypot(other_up, base_down, *hidden) + moved
    return Ratio(value, value * math.exp(-down), value * math.exp(up))


def machine_moved(base: ComparedCell, other: ComparedCell) -> float:
    """The largest logarithm of a ratio of canaries: how much slower a machine was in one process; 0 of two machines."""
    if any(base.how.get(name) != other.how.get(name) for name in ("device", "cpu", "cores", "threads")):
        return 0.0
    return max(
        (abs(math.log(theirs / ours)) for ours, theirs in zip(base.canaries, other.canaries, strict=False)), default=0.0
    )


def _reach(cell: ComparedCell) -> tuple[float, float]:
    """How far the ends of a cell's interval are from its amount, in logarithms: down and up."""
    if cell.amount is None or not cell.low or not cell.high:
        return 0.0, 0.0
    of_few = _OF_FEW if cell.samples is not None and cell.samples < _ENOUGH else 1.0
    return of_few * math.log(cell.amount / cell.low), of_few * math.log(cell.high / cell.amount)


def _hidden(cell: ComparedCell, *, separate: bool) -> float:
    between = cell.noise.between_frac if separate else 0.0
    return max(between, cell.noise.drift_frac)


def _z(doubt: float) -> float:
    """How many standard deviations from its mean a normal variable lies with probability ``doubt``, either way."""
    return NormalDist().inv_cdf(1 - doubt / 2)
