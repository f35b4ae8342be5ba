"""chart: quality against cost, a column of panels per arm and a row per context, as a Vega-Lite definition.

Filled marks joined by a line are the frontier, hollow ones are beaten. All panels share the axis of quality, and
those of an arm the axis of cost.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import altair as alt

from hybridbench.pareto.frontier import Placed
from hybridbench.pareto.join import Front, ParetoOptions
from hybridbench.report.display import ShownUnit, unit_for
from hybridbench.report.render.charts import CONFIG, FAMILY_COLORS, FAMILY_SHAPES, LABELS_APART, PLAIN_NUMBER, data_of

WIDTH, HEIGHT = 300, 190
_OTHER_COLOR, _OTHER_SHAPE = "#7F7F7F", "cross"


def draw_fronts(fronts: Sequence[Front], asked: ParetoOptions) -> dict[str, Any]:
    """The Vega-Lite definition of the fronts of one stem, which differ in their arm only."""
    points = [placed for front in fronts for found in front.places.values() for placed in found]
    shown_in = unit_for((placed.point.cost for placed in points), asked.cost.unit)
    worths = [placed.point.quality.value for placed in points]
    families = list(dict.fromkeys(_family(placed) for placed in points))
    families.sort(key=lambda name: list(FAMILY_COLORS).index(name) if name in FAMILY_COLORS else len(FAMILY_COLORS))
    places = list(dict.fromkeys(place for front in fronts for place in front.places))
    rows = [
        alt.hconcat(
            *(
                _panel(f"{front.arm}, {place}", front, place, asked, shown_in, worths, families)
                for front in fronts
                if place in front.places
            )
        )
        for place in places
    ]
    title = alt.TitleParams(
        f"{asked.measure.title} against {asked.cost.title}",
        subtitle=[fronts[-1].title, f"{fronts[0].budget}; filled: on the frontier; hollow: another stack beats it"],
        anchor="start",
        offset=12,
    )
    definition: dict[str, Any] = alt.vconcat(*rows).properties(title=title).to_dict()
    definition["config"] = CONFIG
    return definition


def _family(placed: Placed) -> str:
    return placed.point.quality.spec.arch


def _panel(
    title: str,
    front: Front,
    place: str,
    asked: ParetoOptions,
    shown_in: ShownUnit,
    every: Sequence[float],
    families: list[str],
) -> Any:
    percent = 100 if asked.measure.unit == "frac" else 1
    unit = "%" if percent == 100 else asked.measure.unit
    costs = [placed.point.cost / shown_in.size for found in front.places.values() for placed in found]
    worths = [worth * percent for worth in every]
    room = (max(worths) - min(worths) or 1.0) * 0.12
    log = min(costs) > 0 and max(costs) > 4 * min(costs)
    # Room for the names right of the marks.
    spread = max(costs) / min(costs) if log else max(costs) - min(costs) or 1.0
    ends = (
        [min(costs) / spread**0.05, max(costs) * spread**0.3]
        if log
        else [min(costs) - spread * 0.05, max(costs) + spread * 0.3]
    )
    x = alt.X(
        "cost:Q",
        title=shown_in.heading(asked.cost.title),
        scale=alt.Scale(type="log" if log else "linear", domain=ends, nice=False, zero=False),
        axis=alt.Axis(labelExpr=PLAIN_NUMBER, tickCount=5, **LABELS_APART),
    )
    heights = alt.Scale(domain=[min(worths) - room, max(worths) + room], nice=False, zero=False)
    y = alt.Y(
        "quality:Q",
        title=f"{asked.measure.title} [{unit}]" if unit else asked.measure.title,
        scale=heights,
    )
    colors = [FAMILY_COLORS.get(family, _OTHER_COLOR) for family in families]
    color = alt.Color("family:N", title=None, sort=families, scale=alt.Scale(domain=families, range=colors))
    shapes = [FAMILY_SHAPES.get(family, _OTHER_SHAPE) for family in families]
    shape = alt.Shape("family:N", title=None, sort=families, scale=alt.Scale(domain=families, range=shapes))
    rows = [
        {
            "model": placed.point.name,
            "family": _family(placed),
            "cost": placed.point.cost / shown_in.size,
            "quality": placed.point.quality.value * percent,
            "frontier": placed.beaten_by is None,
        }
        for placed in front.places[place]
    ]
    _set_apart(rows, 12 / HEIGHT * (max(worths) - min(worths) + 2 * room))
    base = alt.Chart(data_of(rows))
    best = base.transform_filter("datum.frontier")
    line = best.mark_line(color="#888888", strokeWidth=1, strokeDash=[4, 3]).encode(x=x, y=y, order="cost:Q")
    marks = best.mark_point(filled=True, size=70, opacity=1).encode(x=x, y=y, color=color, shape=shape)
    beaten = base.transform_filter("!datum.frontier").mark_point(filled=False, size=45, opacity=0.8)
    words = best.mark_text(align="left", dx=7, fontSize=10)
    names = words.encode(x=x, y=alt.Y("name_at:Q", scale=heights), text="model:N", color=color)
    return alt.layer(line, beaten.encode(x=x, y=y, color=color, shape=shape), marks, names).properties(
        width=WIDTH, height=HEIGHT, title=title
    )


def _set_apart(rows: list[dict[str, Any]], gap: float) -> None:
    """Give every row of the frontier the height of its name, which is at least ``gap`` above the one below."""
    below = -math.inf
    for row in sorted((row for row in rows if row["frontier"]), key=lambda row: float(row["quality"])):
        row["name_at"] = below = max(row["quality"], below + gap)
