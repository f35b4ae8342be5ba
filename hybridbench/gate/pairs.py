"""pairs: what a pair of processes measures: one cell on the base and on the change, as the judge is given it.

Whoever measures fills these in: both sides in fresh processes, in turns (A B, B A, ...), on one machine in one job.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class State(StrEnum):
    """How one side of a cell came out, apart from its speed."""

    MEASURED = "measured"
    ABSENT = "absent"
    """This side does not list the cell: it is new, or it vanished."""
    FAILED = "failed"
    """It is listed and gave no time: out of memory, unsupported, crashed, timed out."""
    WRONG = "wrong"
    """It disagrees with its reference, so it has no speed."""


@dataclass(frozen=True, slots=True)
class SideTimes:
    """One side of a cell.

    Args:
        state: how it came out.
        reason: why it was not measured; a phrase without a full stop.
        identity: of a kernel's cell, a hash of its machine code, launch configuration and autotuning choice.
        peak_bytes: peak of allocated device memory.
    """

    state: State = State.MEASURED
    reason: str = ""
    identity: str | None = None
    peak_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class TimedPair:
    """The times of two neighbouring processes, one of each side, each a quantile of its samples; seconds.

    Args:
        base_s, head_s: of the base and of the change.
        base_tuning, head_tuning: what each side's autotuners chose, None where nothing tunes itself.
    """

    base_s: float
    head_s: float
    base_tuning: str | None = None
    head_tuning: str | None = None

    @property
    def log_ratio(self) -> float:
        """log(head / base): above zero where the change is slower. NaN where a time is not finite and above zero."""
        times = (self.base_s, self.head_s)
        if not all(math.isfinite(one) and one > 0 for one in times):
            return math.nan
        return math.log(self.head_s / self.base_s)


@dataclass(frozen=True, slots=True)
class PairedCell:
    """One cell with its pairs.

    Args:
        name: of the cell, the same on both sides.
        kind: a name in ``kinds.KINDS``.
        pairs: in the order in which they were measured.
        fresh: pairs measured to confirm what a look found, by the number of pairs of that look.
        blocks_per_sm: thread blocks of the cell's launch per streaming multiprocessor; None where it has no meaning.
    """

    name: str
    kind: str
    base: SideTimes = SideTimes()
    head: SideTimes = SideTimes()
    pairs: tuple[TimedPair, ...] = ()
    fresh: Mapping[int, tuple[TimedPair, ...]] = field(default_factory=dict)
    blocks_per_sm: float | None = None
