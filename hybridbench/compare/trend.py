"""trend: how the cells of stored records went over time, since losses that are each within the noise add up.

Of a cell that was measured by n runs, the logarithms y of its amounts lie about a line over the number of the run x:

    slope    = sum((x - mean x) (y - mean y)) / sum((x - mean x)^2)
    its sd   = sqrt(sum((x - mean x)^2 s^2)) / sum((x - mean x)^2)

``s`` is what a run's figure is off by: the noise between processes that ``noise`` knows and, over 1.96, half the
interval of its own samples. The change over all runs is the slope times n - 1; its interval holds together with those
of the other cells (Bonferroni). A cell drifts if that whole interval lies on one side of zero.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

from hybridbench.compare.cell import ComparedCell, ComparedMetric
from hybridbench.compare.interval import DOUBT
from hybridbench.compare.tables import field
from hybridbench.report.display import unit_for
from hybridbench.report.table import NO_VALUE, Column, Table, TableCell

FEWEST = 3
"""Runs that make a trend; of two, the comparison says all."""
Z = NormalDist().inv_cdf(0.975)


@dataclass(frozen=True)
class Trend:
    """One cell over time.

    Args:
        cell: its last record.
        first: its first amount.
        runs: how many runs measured it.
        per_run_frac: the change from run to run, as fitted.
        change_frac: the change over all of them, as fitted; ``low_frac`` and ``high_frac`` are its bounds.
    """

    cell: ComparedCell
    first: float
    runs: int
    per_run_frac: float
    change_frac: float
    low_frac: float
    high_frac: float

    def word(self, asked: ComparedMetric) -> str:
        """What is said of it, in the words of the metric."""
        if self.low_frac <= 0 <= self.high_frac:
            return "within noise"
        return f"drifts {asked.worse_word if (self.low_frac > 0) == (asked.better == 'lower') else asked.better_word}"


def trends(cells: Sequence[ComparedCell]) -> list[Trend]:
    """The trend of each cell that ``FEWEST`` runs or more measured under the same conditions, the worst first."""
    found: dict[object, dict[str, ComparedCell]] = {}
    for cell in sorted(cells, key=lambda cell: cell.moment):
        if cell.ok and cell.amount and not cell.doubts:
            found.setdefault(cell.identity(), {})[cell.run] = cell
    every = [list(runs.values()) for runs in found.values() if len(runs) >= FEWEST]
    return sorted((_trend(points, len(every)) for points in every), key=lambda one: -one.change_frac)


def _trend(points: Sequence[ComparedCell], cells: int) -> Trend:
    n = len(points)
    logs = [math.log(point.amount or math.nan) for point in points]
    places = [place - (n - 1) / 2 for place in range(n)]
    weight = sum(place * place for place in places)
    slope = sum(place * log for place, log in zip(places, logs, strict=True)) / weight
    sd = math.sqrt(sum((place * _sd(point)) ** 2 for place, point in zip(places, points, strict=True))) / weight
    reach = NormalDist().inv_cdf(1 - DOUBT / (2 * cells)) * sd
    low, change, high = (math.expm1((n - 1) * one) for one in (slope - reach, slope, slope + reach))
    return Trend(points[-1], points[0].amount or math.nan, n, math.expm1(slope), change, low, high)


def _sd(cell: ComparedCell) -> float:
    within = math.log(cell.high / cell.low) / 2 / Z if cell.low and cell.high else 0.0
    return math.hypot(within, max(cell.noise.between_frac, cell.noise.drift_frac))


def trend_table(found: Sequence[Trend], asked: ComparedMetric) -> Table:
    """A row per cell: its first and last amount, the change from run to run and over all, and what that says."""
    shown = [one.cell for one in found]
    names = [name for name in dict.fromkeys(name for cell in shown for name in cell.what) if name != "spec"]
    names = [name for name in names if any(field(cell, name) for cell in shown)]
    unit = unit_for([amount for one in found for amount in (one.first, one.cell.amount)], asked.unit)
    table = Table(
        "trend",
        [
            *(Column(name, name, numeric=False) for name in names),
            Column("runs", "runs"),
            Column("first", unit.heading("first")),
            Column("last", unit.heading("last")),
            Column("per_run_frac", "each [%]"),
            Column("change_frac", "all [%]"),
            Column("interval", "interval [%]", numeric=False),
            Column("word", "trend", numeric=False),
        ],
    )
    for one in found:
        interval = f"{100 * one.low_frac:+.2f} to {100 * one.high_frac:+.2f}"
        last = one.cell.amount
        table.rows.append(
            [
                *(TableCell(field(one.cell, name), field(one.cell, name)) for name in names),
                TableCell(str(one.runs), one.runs),
                TableCell(unit.show(one.first), one.first),
                TableCell(NO_VALUE if last is None else unit.show(last), last),
                *(TableCell(f"{100 * value:+.2f}", value) for value in (one.per_run_frac, one.change_frac)),
                TableCell(interval, interval),
                TableCell(one.word(asked), one.word(asked)),
            ]
        )
    return table


def plain(found: Sequence[Trend], asked: ComparedMetric) -> list[dict[str, object]]:
    """Trends as JSON values, in SI."""
    return [
        {
            **one.cell.what,
            "runs": one.runs,
            "first": one.first,
            "last": one.cell.amount,
            "per_run_frac": one.per_run_frac,
            "change_frac": one.change_frac,
            "low_frac": one.low_frac,
            "high_frac": one.high_frac,
            "trend": one.word(asked),
        }
        for one in found
    ]
