"""chart: the content of a chart before it is drawn: points, failures, units and words.

Measured values have one kind of mark; predicted values and the floor have another. A failed case is a word.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

MEASURED, PREDICTED = "measured", "predicted"


@dataclass(frozen=True)
class Point:
    """One mark: the value of a series at a place, in SI; ``low`` and ``high`` are the limits of its band, if any."""

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


class Kin(Protocol):
    """What a series is of: a model, whose family has a colour of its own, or anything else."""

    @property
    def arch(self) -> str:
        """The family; any other word has none."""
        ...


@dataclass(frozen=True)
class Plot:
    """The content of a chart.

    Args:
        name: the file name, such as ``throughput``.
        title: what is shown.
        subtitle: the machine, scale, batch, dtype and mode.
        quantity: the title of the value axis, without the unit.
        unit: SI unit of the amounts.
        axis: ``context`` or ``batch``.
        models: the model of each series name, or what else it is of, in order.
        points: measured and predicted values.
        failures: the cases without a value.
        kinds: the names of solid and dashed lines; if there is one name only, the chart has no legend for kinds.
    """

    name: str
    title: str
    subtitle: str
    quantity: str
    unit: str
    axis: str
    models: Mapping[str, Kin]
    points: list[Point]
    failures: list[Failure]
    kinds: tuple[str, str] = (MEASURED, PREDICTED)
