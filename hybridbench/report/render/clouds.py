"""clouds: scatter charts and distributions of step times as Altair charts, in the colours and shapes of ``charts``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import altair as alt

from hybridbench.report.chart import Kin, Scatter, Spread
from hybridbench.report.display import ShownUnit, unit_for
from hybridbench.report.places import AXIS_TITLES, BATCH, place_text
from hybridbench.report.render.charts import (
    HEIGHT,
    LABELS_APART,
    PLAIN_NUMBER,
    WIDTH,
    AxisParts,
    Layers,
    data_of,
    definition_of,
    looks,
    value_axis,
)

_FAR = 5
"""How many times as far as all 95th percentiles a slowest sample may lie on a linear axis."""
QUARTILES = ("quarter", "three_quarters")


def shown_units(chart: Scatter) -> tuple[ShownUnit, ShownUnit]:
    """The units of both axes: one for both where both show the same quantity."""
    xs, ys = [dot.x for dot in chart.dots], [dot.y for dot in chart.dots]
    y_in = unit_for(ys, chart.units[1])
    if chart.units[0] == chart.units[1]:
        return y_in, y_in
    return unit_for(xs, chart.units[0]) if chart.units[0] else ShownUnit(1.0, ""), y_in


def scatter_rows(chart: Scatter) -> list[dict[str, Any]]:
    """The rows that dots are drawn from, in the units of the axes."""
    x_in, y_in = shown_units(chart)
    return [
        {"series": dot.series, "place": dot.place, "x": dot.x / x_in.size, "y": dot.y / y_in.size} for dot in chart.dots
    ]


def guide_rows(chart: Scatter) -> list[dict[str, Any]]:
    """The rows that guides are drawn from, in the units of the axes."""
    x_in, y_in = shown_units(chart)
    return [
        {"guide": guide.name, "x": x / x_in.size, "y": y / y_in.size}
        for guide in chart.guides
        for x, y in guide.corners
    ]


def scatter_axes(chart: Scatter) -> tuple[AxisParts, AxisParts]:
    """The scale and the ticks of both axes, which hold all dots and guides."""
    rows = [*scatter_rows(chart), *guide_rows(chart)]
    roof = chart.units[0] != chart.units[1]  # a straight line on logarithmic axes alone
    return _axis([row["x"] for row in rows], roof), _axis([row["y"] for row in rows], roof)


def draw_scatter(chart: Scatter, *, validate: bool = True) -> dict[str, Any]:
    """The Vega-Lite definition: dots of a colour and shape per series, on logarithmic axes, and dashed guides."""
    return definition_of(lambda: _scatter(chart), validate=validate)


def _scatter(chart: Scatter) -> Layers:
    x_in, y_in = shown_units(chart)
    (x_scale, x_ticks), (y_scale, y_ticks) = scatter_axes(chart)
    x = alt.X(
        "x:Q",
        title=x_in.heading(chart.quantities[0]),
        scale=alt.Scale(**x_scale),
        axis=alt.Axis(labelExpr=PLAIN_NUMBER, **{**LABELS_APART, **x_ticks}),
    )
    y = alt.Y(
        "y:Q",
        title=y_in.heading(chart.quantities[1]),
        scale=alt.Scale(**y_scale),
        axis=alt.Axis(labelExpr=PLAIN_NUMBER, **y_ticks),
    )
    color, shape = look(chart.models)
    guides = alt.Chart(data_of(guide_rows(chart))).mark_line(strokeDash=[5, 4], strokeWidth=1.5, color="#888888")
    dots = alt.Chart(data_of(scatter_rows(chart))).mark_point(filled=True, size=70, opacity=0.9)
    return _whole(
        alt.layer(guides.encode(x=x, y=y, detail="guide:N"), dots.encode(x=x, y=y, color=color, shape=shape)),
        chart.title,
        chart.subtitle,
    )


def spread_rows(chart: Spread) -> list[dict[str, Any]]:
    """The rows that boxes are drawn from: the median in seconds, all else as a percentage above it."""
    return [
        {
            "series": box.series,
            "place": box.place,
            "samples": box.samples,
            "median": box.median,
            **{
                name: 100 * (getattr(box, name) / box.median - 1)
                for name in ("least", "quarter", "three_quarters", "p95", "most")
            },
        }
        for box in chart.boxes
    ]


def draw_spread(chart: Spread, *, validate: bool = True) -> dict[str, Any]:
    """The Vega-Lite definition: per case a bar from the first to the third quartile, a line from the fastest sample to
    the 95th percentile, and a mark at the slowest, all as distances from the case's median.
    """
    return definition_of(lambda: _spread(chart), validate=validate)


def _spread(chart: Spread) -> Layers:
    places = sorted({box.place for box in chart.boxes})
    names = list(chart.models)
    x = alt.X("place:O", title=AXIS_TITLES[chart.axis], sort=places, axis=_place_axis(chart.axis, places))
    offset = alt.XOffset("series:N", sort=names, scale=alt.Scale(domain=names))
    color, shape = look(chart.models)
    base = alt.Chart(data_of(spread_rows(chart)))
    title = "distance from the median [%]"

    scale, ticks = distance_axis(chart)

    def y(field: str) -> alt.Y:
        return alt.Y(
            f"{field}:Q", title=title, scale=alt.Scale(**scale), axis=alt.Axis(labelExpr=PLAIN_NUMBER, **ticks)
        )

    layers = [
        base.mark_rule(strokeWidth=1.5).encode(x=x, xOffset=offset, y=y("least"), y2="p95:Q", color=color),
        base.mark_rule(opacity=0.5, strokeWidth=max(3, min(12, 200 // (len(places) * len(names))))).encode(
            x=x, xOffset=offset, y=y(QUARTILES[0]), y2=f"{QUARTILES[1]}:Q", color=color
        ),
        base.mark_point(filled=True, size=30, opacity=1).encode(
            x=x, xOffset=offset, y=y("most"), color=color, shape=shape
        ),
    ]
    words = "bar: quartiles; line: fastest to 95th percentile; mark: slowest"
    return _whole(alt.layer(*layers), chart.title, f"{chart.subtitle}; {words}")


def distance_axis(chart: Spread) -> AxisParts:
    """A linear axis; where single samples lie far beyond all others, one that is logarithmic beyond 1%."""
    rows = spread_rows(chart)
    most = max(row["most"] for row in rows)
    usual = max(max(abs(row["least"]), abs(row["p95"])) for row in rows)
    if most <= _FAR * usual:
        return {}, {"tickCount": 6}
    low, high = min(row["least"] for row in rows), most
    steps = [sign * digit * 10**power for sign in (-1, 1) for power in range(5) for digit in (1, 3)]
    ticks = sorted({0, *(step for step in steps if low <= step <= high)})
    return {"type": "symlog", "constant": 1, "domain": [min(low, -1), high * 1.2], "nice": False}, {"values": ticks}


def _place_axis(axis: str, places: list[int]) -> alt.Axis:
    if axis == BATCH:
        return alt.Axis(labelAngle=0)
    known = ", ".join(f"'{place}': '{place_text(axis, place)}'" for place in places)
    return alt.Axis(labelAngle=0, labelExpr=f"({{{known}}})[toString(datum.value)]")


def _axis(amounts: list[float], logarithmic: bool) -> AxisParts:
    return value_axis(amounts, room_below=False, logarithmic=logarithmic)


def look(models: Mapping[str, Kin]) -> tuple[alt.Color, alt.Shape]:
    """Colour and shape by series."""
    names = list(models)
    colors, shapes = looks(models)
    return (
        alt.Color("series:N", sort=names, title=None, scale=alt.Scale(domain=names, range=colors)),
        alt.Shape("series:N", sort=names, title=None, scale=alt.Scale(domain=names, range=shapes)),
    )


def _whole(drawn: Layers, title: str, subtitle: str) -> Layers:
    return drawn.properties(
        width=WIDTH, height=HEIGHT, title=alt.TitleParams(title, subtitle=[subtitle], anchor="start", offset=12)
    )
