"""sequential: the statistics of a cell's pairs: its estimate and bounds, and what each look at them says.

A pair's log ratio x = log(head / base). Of the n pairs at a look:

    x is winsorised at median ± 3 s0, s0 being the calibrated standard deviation of the cell's pairs;
    s² = (20 s0² + sum (x - mean)²) / (20 + n - 1): the variance, shrunk to the calibrated one;
    bounds are mean ± t s / sqrt(n), with 20 + n - 1 degrees of freedom.

The error of 5% is split over looks and cells (Bonferroni), on either side. A look then says:

    pass        the upper bound lies below the margin
    faster      the estimate lies below minus the margin, and the upper bound below zero
    slower      the estimate lies above the margin, the lower bound above zero, and fresh pairs, taken alone, have an
                estimate above 0.75 of the margin and a lower bound above zero
    open        none of these: go on to the next look

Pairs that spread three times as wide as they were calibrated say nothing at all. All functions take whole arrays of
cells, so that the simulation runs the very code that judges. A NaN makes every comparison false, so it leaves a cell
open.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from hybridbench.gate.kinds import CellKind
from hybridbench.gate.student import t_quantile

Array = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

ERROR = 0.05
"""Probability that any cell of a suite, at any look, has its true value on the far side of one bound."""
CLIP = 3.0
FREEDOM = 20
"""Degrees of freedom that the calibrated standard deviation counts for."""
CONFIRMED = 0.75
"""Share of the margin that fresh pairs alone must exceed."""
SPREAD = 3.0
"""A robust spread of so many calibrated standard deviations is another distribution than the calibrated one."""
MAD_TO_SD = 1.4826
"""The standard deviation of normal numbers over their median absolute deviation."""


class Outcome(IntEnum):
    """What the looks at a cell came to."""

    OPEN = 0
    PASS = 1
    FASTER = 2
    SLOWER = 3
    NEEDS_PAIRS = 4
    NEEDS_FRESH = 5


@dataclass(frozen=True, slots=True)
class Bounds:
    """Log ratios, of as many cells as there are: the estimate and a bound on either side."""

    estimate: Array
    lower: Array
    upper: Array
    wild: Flags


@dataclass(frozen=True, slots=True)
class Decisions:
    """What was decided of each cell: an ``Outcome``, and the index of the look at which."""

    outcome: npt.NDArray[np.int8]
    look: npt.NDArray[np.int8]


def tail(kind: CellKind, n_cells: int) -> float:
    """The probability that each bound may be wrong with: ``ERROR`` over looks and cells.

    Raises:
        ValueError: no cells.
    """
    if n_cells < 1:
        raise ValueError("bounds of no cells")
    return ERROR / (len(kind.looks) * n_cells)


def bounds(log_ratios: Array, sd: float, tail: float) -> Bounds:
    """Estimate and bounds of cells with n pairs each.

    Args:
        log_ratios: (..., n).
        sd: the calibrated standard deviation of one pair.
        tail: the probability that either bound may be wrong with.

    Raises:
        ValueError: no pairs, or an ``sd`` that is not finite and above zero.
    """
    n = log_ratios.shape[-1]
    if n < 1 or not (math.isfinite(sd) and sd > 0):
        raise ValueError(f"no bounds of {n} pairs with a standard deviation of {sd}")
    centre = np.median(log_ratios, axis=-1, keepdims=True)
    spread = MAD_TO_SD * np.median(np.abs(log_ratios - centre), axis=-1)
    kept = np.clip(log_ratios, centre - CLIP * sd, centre + CLIP * sd)
    mean = kept.mean(axis=-1)
    freedom = FREEDOM + n - 1
    variance = (FREEDOM * sd * sd + ((kept - mean[..., None]) ** 2).sum(axis=-1)) / freedom
    half = t_quantile(tail, freedom) * np.sqrt(variance / n)
    return Bounds(mean, mean - half, mean + half, spread > SPREAD * sd)


def decide(pairs: Array, fresh: Array, kind: CellKind, sd: float, n_cells: int) -> Decisions:
    """Go through the looks at each cell until one decides.

    Args:
        pairs: (cells, pairs of the last look); NaN where a pair is not measured yet.
        fresh: (cells, looks, confirming pairs); NaN where they are not measured.
        kind: of all these cells.
        sd: the calibrated standard deviation of one pair.
        n_cells: cells of the whole suite, over which the error is split.
    """
    outcome = np.full(len(pairs), Outcome.OPEN, dtype=np.int8)
    at = np.full(len(pairs), len(kind.looks) - 1, dtype=np.int8)
    going = np.ones(len(pairs), dtype=np.bool_)
    error = tail(kind, n_cells)
    for index, n in enumerate(kind.looks):
        seen = pairs[:, :n]
        complete = ~np.isnan(seen).any(axis=-1)
        found = bounds(seen, sd, error)
        usable = complete & ~found.wild
        passed = usable & (found.upper < kind.margin)
        faster = passed & (found.estimate < -kind.margin) & (found.upper < 0)
        suspect = usable & (found.estimate > kind.margin) & (found.lower > 0)
        unmeasured = np.isnan(fresh[:, index]).any(axis=-1)
        slower = suspect & confirms(fresh[:, index], kind, sd, error)
        for said, which in (
            (Outcome.NEEDS_PAIRS, ~complete),
            (Outcome.PASS, passed & ~faster),
            (Outcome.FASTER, faster),
            (Outcome.SLOWER, slower),
            (Outcome.NEEDS_FRESH, suspect & unmeasured),
        ):
            now = going & which
            outcome[now], at[now] = said, index
            going &= ~which
    return Decisions(outcome, at)


def confirms(fresh: Array, kind: CellKind, sd: float, tail: float) -> Flags:
    """Whether fresh pairs (cells, confirming pairs) alone confirm that their cells are slower."""
    alone = bounds(fresh, sd, tail)
    said: Any = ~alone.wild & (alone.estimate > CONFIRMED * kind.margin) & (alone.lower > 0)
    return np.asarray(said, dtype=np.bool_)


def least_visible(kind: CellKind, sd: float, n_cells: int) -> float:
    """The smallest effect that the pairs of the last look tell from none, nine times in ten; a log ratio.

    It is also how far a bound lies from the truth with that probability. So where it is below the margin, nine
    unchanged cells in ten pass.
    """
    n = kind.looks[-1]
    return (t_quantile(tail(kind, n_cells), FREEDOM + n - 1) + _NINE_IN_TEN) * sd / math.sqrt(n)


_NINE_IN_TEN = 1.2816
"""The 90th percentile of the standard normal distribution."""
