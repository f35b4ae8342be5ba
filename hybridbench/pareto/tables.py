"""tables: fronts as tables with a row per stack, and as plain rows for CSV and JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hybridbench.pareto.frontier import Placed
from hybridbench.pareto.join import COUNTED, MEAN, Front, ParetoOptions, listed
from hybridbench.pareto.quality import Quality
from hybridbench.report.display import unit_for
from hybridbench.report.table import NO_VALUE, Column, Table, TableCell
from hybridbench.units import format_number

ON_FRONTIER = "frontier"
_DIGITS = 4
"""Digits of a loss: seeds differ in the third decimal."""


def front_table(front: Front, asked: ParetoOptions) -> Table:
    """A row per stack, the best first: its quality and, of each context, its cost and the stack that beats it."""
    shown_in = unit_for((placed.point.cost for found in front.places.values() for placed in found), asked.cost.unit)
    measure = asked.measure
    unit = {"frac": "%", "": ""}.get(measure.unit, measure.unit)
    columns = [
        Column("model", "model", numeric=False),
        Column(measure.name, f"{measure.title} [{unit}]" if unit else measure.title),
    ]
    for place in front.places:
        columns.append(Column(f"{asked.cost.name} {place}", shown_in.heading(place)))
        columns.append(Column(f"beaten by {place}", "beaten by", numeric=False))
    table = Table(f"{asked.cost.title} against {measure.title}: {front.arm}", columns, front.title)
    by_name = {place: {placed.point.name: placed for placed in found} for place, found in front.places.items()}
    for name, quality in _stacks(front):
        cells = [TableCell(name, name), TableCell(_worth(quality), quality.value)]
        for found in by_name.values():
            placed = found.get(name)
            cells.append(
                TableCell(shown_in.show(placed.point.cost), placed.point.cost) if placed else TableCell(NO_VALUE)
            )
            cells.append(TableCell(verdict(placed), verdict(placed)) if placed else TableCell(NO_VALUE))
        table.rows.append(cells)
    for sentence in remarks(front, asked):
        table.remark(sentence)
    return table


def verdict(placed: Placed) -> str:
    """The stack that beats one, or that none does."""
    return ON_FRONTIER if placed.beaten_by is None else placed.beaten_by.name


def _worth(quality: Quality) -> str:
    return format_number(quality.value * 100) if quality.score.unit == "frac" else format_number(quality.value, _DIGITS)


def _stacks(front: Front) -> list[tuple[str, Quality]]:
    """The stacks of a front with their quality, the best first."""
    found = {placed.point.name: placed.point.quality for points in front.places.values() for placed in points}
    return sorted(found.items(), key=lambda item: item[1].value * (1 if item[1].score.better == "lower" else -1))


def remarks(front: Front, asked: ParetoOptions) -> list[str]:
    """What the whole table rests on: budget, noise, sources, and what is missing."""
    qualities = [quality for _, quality in _stacks(front)]
    said = [f"quality: {front.budget}; {'; '.join(front.sources) or 'no source given'}"]
    if all(quality.noise for quality in qualities):
        noises = sorted({quality.noise for quality in qualities})
        least, most = (f"{noise:.2g}" for noise in (noises[0], noises[-1]))
        unit = "" if asked.measure.unit == "frac" else f" {asked.measure.unit}"
        between = least if least == most else f"{least} to {most}"
        said.append(f"qualities that differ by less than the noise between seeds, {between}{unit}, tie")
    else:
        said.append(
            f"the noise of {asked.score} between seeds is not known for all stacks: small differences may be noise"
        )
    said.append(
        "costs tie if they are equal" if asked.metric in COUNTED else f"costs tie within {front.noise_frac:.0%}"
    )
    if front.repeats > 1 + front.noise_frac:
        said.append(
            f"these costs repeat poorly: the same generation, timed two ways, differed by {front.repeats:.2g} times"
        )
    if MEAN in front.places:
        said.append(f"{MEAN}: of all these contexts; the paper's figure 1b is the mean from 2k to 32k")
    if front.missing:
        more = f"; --matched {front.otherwise} joins more stacks" if front.otherwise else ""
        said.append(f"without a figure of quality in this budget: {listed(front.missing, 20)}{more}")
    return said


_ROW = (
    *("arm", "conditions", "place", "model", "arch", "scale", "ratio", "recipe", "pattern"),
    *("cost", "cost_value", "score", "quality_value", "quality_noise", "tokens", "flops", "source"),
    *("on_frontier", "beaten_by", "ties"),
)


def plain_rows(fronts: Sequence[Front], asked: ParetoOptions) -> list[dict[str, Any]]:
    """Every point as plain values, in SI."""
    return [
        {
            "arm": front.arm,
            "conditions": front.title,
            "place": place,
            "model": placed.point.name,
            **_model(placed.point.quality),
            "cost": asked.cost.name,
            "cost_value": placed.point.cost,
            "score": asked.score,
            "quality_value": placed.point.quality.value,
            "quality_noise": placed.point.quality.noise or None,
            "tokens": placed.point.quality.tokens,
            "flops": placed.point.quality.flops,
            "source": placed.point.quality.source,
            "on_frontier": placed.beaten_by is None,
            "beaten_by": None if placed.beaten_by is None else placed.beaten_by.name,
            "ties": ", ".join(point.name for point in placed.ties),
        }
        for front in fronts
        for place, found in front.places.items()
        for placed in found
    ]


def _model(quality: Quality) -> dict[str, Any]:
    spec = quality.spec
    return {name: getattr(spec, name) for name in ("arch", "scale", "ratio", "recipe", "pattern")}


def flat_table(fronts: Sequence[Front], asked: ParetoOptions) -> Table:
    """Every point as a row of a CSV."""
    table = Table("points", [Column(name, name) for name in _ROW])
    for row in plain_rows(fronts, asked):
        table.rows.append([TableCell(str(row[name]), row[name]) for name in _ROW])
    return table
