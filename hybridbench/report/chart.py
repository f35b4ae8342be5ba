"""chart: the content of a chart before it is drawn: points, failures, units and words.

A ``Plot`` has a value per context or batch, a ``Scatter`` two values per case, a ``Spread`` the distribution of each
case's samples, ``StackedBars`` shares of a whole. Measured values have one kind of mark; predicted values and the floor
have another. A failed case is a word.
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
class Family:
    """What a series is of where only the family is known: a row of a frame, or of a chart that is drawn."""

    arch: str


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


@dataclass(frozen=True)
class Dot:
    """One case of a scatter chart: its values on both axes, in SI, and where on the axis of its group it belongs."""

    series: str
    place: int
    x: float
    y: float


@dataclass(frozen=True)
class Guide:
    """A line that dots are compared with, such as a roof or the diagonal: its name, and its corners in SI."""

    name: str
    corners: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Scatter:
    """The content of a chart with two values per case.

    Args:
        name: the end of the file name, such as ``roofline``.
        title: what is shown.
        subtitle: the machine, scale, batch, dtype and mode.
        quantities: the titles of both axes, without the unit.
        units: SI units of both axes; equal ones are shown in the same unit.
        axis: ``context`` or ``batch``: what ``place`` of a dot is.
        models: the model of each series name, in order.
        dots: one per case with both values.
        guides: the lines to compare with.
    """

    name: str
    title: str
    subtitle: str
    quantities: tuple[str, str]
    units: tuple[str, str]
    axis: str
    models: Mapping[str, Kin]
    dots: tuple[Dot, ...]
    guides: tuple[Guide, ...]


@dataclass(frozen=True)
class Box:
    """The distribution of one case's step times, in seconds."""

    series: str
    place: int
    samples: int
    least: float
    quarter: float
    median: float
    three_quarters: float
    p95: float
    most: float


@dataclass(frozen=True)
class Spread:
    """The content of a chart of distributions; the arguments are those of ``Scatter``."""

    name: str
    title: str
    subtitle: str
    axis: str
    models: Mapping[str, Kin]
    boxes: tuple[Box, ...]


@dataclass(frozen=True)
class Strip:
    """One class of a bar: its share of the whole, and its time in seconds."""

    bar: str
    part: str
    share_frac: float
    seconds: float


@dataclass(frozen=True)
class StackedBars:
    """The content of a chart of shares: a bar per case, in order, whose strips add up to 1, in the order of classes."""

    title: str
    subtitle: str
    bars: tuple[str, ...]
    strips: tuple[Strip, ...]
    classes: tuple[str, ...]
