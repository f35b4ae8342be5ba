"""cell: one measured cell as a comparison sees it, whatever kind of record it comes from, and the metrics to compare.

A cell's identity has two parts. ``what`` says which work was done: two cells with another ``what`` are two cells.
``how`` says under which conditions: if two records of the same work differ there, their speeds are not comparable.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal

OK, INVALID = "ok", "invalid"
"""A cell that has a figure; one whose figure contradicts what must hold."""


@dataclass(frozen=True)
class ComparedMetric:
    """A metric that can be compared.

    Args:
        name: as typed after ``--metric``.
        metric: its name in data, SI.
        title: as in a heading, without the unit.
        unit: SI.
        better: which direction is an improvement.
        worse_word, better_word: the verdicts of a certain change.
        timed: whether it follows from samples of time, so that doubts about time are doubts about it.
    """

    name: str
    metric: str
    title: str
    unit: str
    better: Literal["higher", "lower"]
    worse_word: str
    better_word: str
    timed: bool = True


ASKED: dict[str, ComparedMetric] = {
    asked.name: asked
    for asked in (
        ComparedMetric("step", "step_s", "step", "s", "lower", "slower", "faster"),
        ComparedMetric("tokens-per-s", "tokens_per_s", "throughput", "tokens/s", "higher", "slower", "faster"),
        ComparedMetric("peak-memory", "peak_allocated_bytes", "peak memory", "B", "lower", "more", "less", timed=False),
        ComparedMetric("energy", "energy_per_token_j", "energy per token", "J", "lower", "more", "less"),
    )
}


@dataclass(frozen=True)
class Noise:
    """By how much the figure of a cell differs from process to process; standard deviations of its logarithm.

    Args:
        between_frac: between fresh processes that run the same code.
        drift_frac: within the process, where its samples never became steady; 0 where they did.
        source: where ``between_frac`` comes from, in words.
    """

    between_frac: float
    drift_frac: float
    source: str


EXACT = Noise(0.0, 0.0, "counted, not sampled: the same in every process")


@dataclass(frozen=True)
class ComparedCell:
    """One cell with one figure, in SI.

    Args:
        what: the work, by name of each field, in the order of tables.
        how: the conditions, by name of each field.
        status: ``ok``, ``invalid``, or how it failed.
        message: why it failed.
        amount: the metric that is compared; None if it failed or the metric is unknown.
        low, high: the ends of the 95% interval of ``amount`` within its process; both ``amount`` if it was counted.
        samples: how many samples the interval is of, None if ``amount`` was counted.
        noise: what the interval does not know.
        memory_bytes: the allocator's peak, None if unknown.
        doubts: sentences that say why the figure cannot carry a verdict.
        ran: the backend that ran, by operation.
        canaries: rates of the same fixed work, measured in the same process, where they tell how busy a machine was.
        run: the invocation that measured it.
        started_at: when, ISO 8601.
        made_by: version and commit of hybridbench, in words.
    """

    what: dict[str, str]
    how: dict[str, str]
    status: str
    message: str | None
    amount: float | None
    low: float | None
    high: float | None
    samples: int | None
    noise: Noise
    memory_bytes: float | None
    run: str
    started_at: str
    made_by: str
    doubts: tuple[str, ...] = ()
    ran: dict[str, str] = field(default_factory=dict)
    canaries: tuple[float, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether the case worked and its figure does not contradict itself."""
        return self.status == OK

    @property
    def moment(self) -> datetime:
        """When it was measured; the year 1 where the record does not say."""
        try:
            found = datetime.fromisoformat(self.started_at)
        except ValueError:
            return datetime.min.replace(tzinfo=UTC)
        return found if found.tzinfo else found.replace(tzinfo=UTC)

    def identity(self, crossed: frozenset[str] = frozenset()) -> tuple[tuple[str, str], ...]:
        """What makes it this cell, without the fields that are crossed."""
        return tuple(item for item in (*self.what.items(), *self.how.items()) if item[0] not in crossed)


def newest(cells: Iterable[ComparedCell]) -> ComparedCell:
    """The cell that was measured last."""
    return max(cells, key=lambda cell: cell.moment)
