"""chart: what a chart shows, before it is drawn: points, failures, units and words.

Measured values are one kind of mark, predicted ones and the floor another. A case that failed is a word at its place.
"""

from __future__ import annotations

from dataclasses import dataclass

from hybridbench.arch.model import ModelSpec

MEASURED, PREDICTED = "measured", "predicted"


@dataclass(frozen=True)
class Point:
    """One mark: a series at a place, in SI; ``low`` and ``high`` span a band where there is one."""

    series: str
    place: int
    amount: float
    kind: str = MEASURED
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Failure:
    """A case without a value, and the word for why."""

    series: str
    place: int
    word: str


@dataclass(frozen=True)
class Plot:
    """Everything a chart shows, before it is drawn.

    Args:
        name: of the file, such as ``throughput``.
        title: what is shown.
        subtitle: of which machine, scale, batch, dtype and mode.
        quantity: title of the value axis, without the unit.
        unit: SI unit of the amounts.
        axis: ``context`` or ``batch``.
        models: series name to model, in order.
        points: what was measured or predicted.
        failures: what was not.
        kinds: what solid and dashed lines are called; one name draws no legend for it.
    """

    name: str
    title: str
    subtitle: str
    quantity: str
    unit: str
    axis: str
    models: dict[str, ModelSpec]
    points: list[Point]
    failures: list[Failure]
    kinds: tuple[str, str] = (MEASURED, PREDICTED)
