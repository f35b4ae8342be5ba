"""equal: held-out loss where models have spent the same: tokens, FLOPs, seconds or joules.

Models that are compared spend different amounts in all. The largest amount that every run reaches is the budget, and
each run's loss at it is read off its curve, between two judgements linearly in the logarithm of what was spent. Nothing
is read beyond a curve's ends. A run that passes the budget before its end is read before its rate has fallen to zero,
which is to its disadvantage.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hybridbench.quality.training.figures import Arm, Estimate, bits_per_byte, estimate, final
from hybridbench.quality.training.record import Judged, LearnRecord
from hybridbench.record import Caveat
from hybridbench.units import NS_PER_S

Spent = Callable[[LearnRecord, Judged], float | None]
"""What a run has spent at a judgement; None is unknown."""


@dataclass(frozen=True)
class Kind:
    """Something that is spent.

    Args:
        key: its name in tables of values.
        title: in headings.
        unit: of a budget; empty for a plain number.
        timed: whether it depends on the machine, so that it compares only between runs that had one for themselves.
    """

    key: str
    title: str
    unit: str
    spent: Spent
    timed: bool = False


def _tokens(record: LearnRecord, point: Judged) -> float:
    return point.step * record.case.tokens_per_step


KINDS: tuple[Kind, ...] = (
    Kind("tokens", "equal tokens", "tokens", _tokens),
    Kind("flops", "equal FLOPs", "FLOPs", lambda record, at: record.case.flops_per_token * _tokens(record, at)),
    Kind("seconds", "equal seconds", "s", lambda _record, at: at.train_ns / NS_PER_S, timed=True),
    Kind("joules", "equal joules", "J", lambda _record, at: at.energy_j, timed=True),
)
"""What budgets are made of."""


@dataclass(frozen=True)
class AtBudget:
    """Arms at one budget.

    Args:
        amount: the budget; None where there is none.
        by_seed: of each arm, bits per byte by seed.
        why_not: why there is no budget.
    """

    kind: Kind
    amount: float | None
    by_seed: tuple[dict[int, float], ...]
    why_not: str = ""

    def estimates(self) -> list[Estimate | None]:
        """Of each arm, its mean over seeds."""
        return [estimate(list(values.values())) if values else None for values in self.by_seed]


def at_budget(arms: Sequence[Arm], kind: Kind) -> AtBudget:
    """The arms at the largest amount that all their finished runs reach."""
    runs = [record for arm in arms for record in arm.records if final(record) is not None]
    none: tuple[dict[int, float], ...] = tuple({} for _ in arms)
    if not runs:
        return AtBudget(kind, None, none, "no run was finished")
    if kind.timed and (why := _not_comparable(runs)):
        return AtBudget(kind, None, none, why)
    ends = [kind.spent(record, end) for record in runs if (end := final(record)) is not None]
    known = [end for end in ends if end]
    if len(known) < len(ends):
        return AtBudget(kind, None, none, f"the {kind.unit} of some runs are unknown")
    amount = min(known)
    read = tuple(
        {
            record.case.seed: bits
            for record in arm.records
            if final(record) is not None and (bits := _read(record, kind, amount)) is not None
        }
        for arm in arms
    )
    return AtBudget(kind, amount, read)


def _not_comparable(runs: Sequence[LearnRecord]) -> str:
    """Why seconds and joules of these runs do not compare; empty if they do."""
    if len({record.environment.device for record in runs}) > 1:
        return "the runs are of several devices"
    if len({record.case.how for record in runs}) > 1:
        return "the runs are of several modes or dtypes"
    if any(Caveat.SHARED_GPU in record.caveats or Caveat.AT_ONCE in record.caveats for record in runs):
        return "some runs shared their device with others"
    return ""


def _read(record: LearnRecord, kind: Kind, amount: float) -> float | None:
    """Bits per byte of a run at an amount; None outside its curve."""
    seen = record.observed
    points = [(kind.spent(record, point), bits_per_byte(point)) for point in (seen.curve if seen else [])]
    return read_off([(x, y) for x, y in points if x], amount)


def read_off(points: Sequence[tuple[float, float]], at: float) -> float | None:
    """A curve at ``at``, linearly in log x between its points; None outside of them.

    >>> round(read_off([(1.0, 4.0), (100.0, 2.0)], 10.0), 6)
    3.0
    """
    for (x0, y0), (x1, y1) in itertools.pairwise(points):
        if x0 <= at <= x1:
            share = math.log(at / x0) / math.log(x1 / x0) if x1 > x0 else 1.0
            return y0 + share * (y1 - y0)
    return points[0][1] if len(points) == 1 and points[0][0] == at else None
