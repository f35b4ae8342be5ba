"""figures: what is derived from records of training runs: losses, bits per byte, means over seeds with their intervals.

    bits per byte = nats a token / ln 2 * tokens / bytes of their text

Bits per byte do not depend on the vocabulary. Intervals over seeds are Student's: mean +- t(97.5%, n - 1) s / sqrt(n).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from hybridbench.gate.student import t_quantile
from hybridbench.quality.training.record import Judged, LearnRecord
from hybridbench.record import Status
from hybridbench.units import NS_PER_S

TAIL = 0.025


def bits_per_byte(point: Judged) -> float:
    """The held-out loss in bits per byte of text."""
    return point.loss / math.log(2) * point.tokens / point.text_bytes


def final(record: LearnRecord) -> Judged | None:
    """The last judgement of a run that did all its steps; None otherwise."""
    seen = record.observed
    return seen.curve[-1] if seen is not None and seen.finished else None


def final_bits(record: LearnRecord) -> float | None:
    """Bits per byte at the end."""
    point = final(record)
    return None if point is None else bits_per_byte(point)


def final_loss(record: LearnRecord) -> float | None:
    """Nats a token at the end."""
    point = final(record)
    return None if point is None else point.loss


def train_s(record: LearnRecord) -> float | None:
    """Seconds of all updates."""
    point = final(record)
    return None if point is None else point.train_ns / NS_PER_S


def energy_j(record: LearnRecord) -> float | None:
    """Joules of all updates; None is unknown."""
    point = final(record)
    return None if point is None else point.energy_j


def tokens_per_s(record: LearnRecord) -> float | None:
    """Tokens learned from in a second of updates."""
    spent = train_s(record)
    return record.case.tokens / spent if spent else None


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds; ``half`` is half its 95% interval, None for one seed."""

    mean: float
    half: float | None

    @property
    def tie(self) -> bool:
        """Whether the interval of a difference holds 0, or there is none."""
        return self.half is None or abs(self.mean) <= self.half

    n: int


def estimate(values: Sequence[float]) -> Estimate:
    """Mean and interval.

    >>> round(estimate([1.0, 2.0, 3.0]).half, 4)
    2.4841

    Raises:
        ValueError: no values.
    """
    mean = statistics.fmean(values)
    n = len(values)
    if n < 2:
        return Estimate(mean, None, n)
    return Estimate(mean, t_quantile(TAIL, n - 1) * statistics.stdev(values) / math.sqrt(n), n)


@dataclass(frozen=True)
class Arm:
    """The runs of one model at one learning rate on one corpus, which differ in their seeds only."""

    records: tuple[LearnRecord, ...]

    @property
    def first(self) -> LearnRecord:
        """The run of the least seed."""
        return self.records[0]

    def values(self, of: Callable[[LearnRecord], float | None]) -> dict[int, float]:
        """A figure by seed, where it is known."""
        found = ((record.case.seed, of(record)) for record in self.records)
        return {seed: value for seed, value in found if value is not None}

    def estimate(self, of: Callable[[LearnRecord], float | None]) -> Estimate | None:
        """Its mean over seeds; None where no run has it."""
        values = self.values(of)
        return estimate(list(values.values())) if values else None


def arms(records: Iterable[LearnRecord]) -> list[Arm]:
    """Runs grouped by arm, in the order in which arms appear, each by seed."""
    groups: dict[str, list[LearnRecord]] = {}
    for record in records:
        groups.setdefault(record.case.arm, []).append(record)
    return [Arm(tuple(sorted(group, key=lambda record: record.case.seed))) for group in groups.values()]


def best_rate(records: Sequence[LearnRecord]) -> LearnRecord | None:
    """Of the runs that choose a rate for one model, the one with the least held-out loss; None if all went wrong."""
    done = [record for record in records if record.status is Status.OK and final_loss(record) is not None]
    return min(done, key=lambda record: final_loss(record) or math.inf, default=None)


def at_edge(chosen: LearnRecord, tried: Iterable[LearnRecord]) -> str:
    """Which end of the rates tried for its model a chosen one is: ``smallest`` or ``largest``; empty between them."""
    rates = [record.case.recipe.lr for record in tried if record.case.model == chosen.case.model]
    lr = chosen.case.recipe.lr
    return "smallest" if lr == min(rates) else "largest" if lr == max(rates) else ""
