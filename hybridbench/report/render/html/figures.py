"""figures: the charts of a report as data for a page: each definition once, compact rows, and words for hovering.

A page draws the definitions of ``charts`` and ``clouds``. Here they lose what the page says in HTML (title, legend),
and gain what only a screen has: the page's width and colours, hovering, and series that can be hidden. Charts that look
alike share one definition, because a page of thousands of records has hundreds of charts.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hybridbench.report.chart import Family, Kin, Plot, Scatter, Spread, StackedBars
from hybridbench.report.paper.compare import PaperComparison
from hybridbench.report.places import AXIS_TITLES, place_text
from hybridbench.report.render.charts import bounds, draw, looks, places_of, rows_of, spelled, unit_of
from hybridbench.report.render.clouds import (
    distance_axis,
    draw_scatter,
    draw_spread,
    guide_rows,
    scatter_axes,
    scatter_rows,
    shown_units,
    spread_rows,
)
from hybridbench.report.render.html.elements import text
from hybridbench.report.render.panels import draw_panels
from hybridbench.report.render.stacks import draw_stack, stack_colors, stack_rows

Columns = Sequence[tuple[str, str]]
"""The field and the heading of each column of a chart's rows."""
_DIGITS = 7
"""Significant digits of a value in a page: more than any clock has."""
_SHOWN = ("#000000", "#222222", "#333333")
"""Colours that mean the colour of text."""


@dataclass
class Figures:
    """The charts of one page."""

    specs: list[Any] = field(default_factory=list)
    charts: list[dict[str, Any]] = field(default_factory=list)
    _known: dict[str, int] = field(default_factory=dict)

    def plot(self, plot: Plot) -> str:
        """The figure of a plot: lines over contexts, or bars over one."""
        places = places_of(plot)
        shown_in = unit_of(plot)
        heading = shown_in.heading(plot.quantity)
        columns = [("series", "model"), ("place", AXIS_TITLES[plot.axis]), ("kind", "kind"), ("amount", heading)]
        if any(point.low is not None for point in plot.points):
            columns += [("low", "5th percentile"), ("high", "95th percentile")]
        rows = rows_of(plot)
        hovered = columns if len(places) > 1 else [columns[0], columns[3]]
        definition = self._cached(
            _look(plot) if len(places) > 1 else "", lambda: _interactive(draw(plot, validate=False), hovered, rows)
        )
        both = len({point.kind for point in plot.points}) > 1
        subtitle = plot.subtitle if len(places) > 1 else f"{plot.subtitle}, {_place(plot.axis, places)}"
        marks = zip(plot.kinds, ("solid", "dashed"), strict=True) if len(places) > 1 else [(plot.kinds[1], "tick")]
        lines = list(marks) if both else []
        failures = [[one.series, one.place, one.word] for one in plot.failures]
        own = {**({"failed": failures} if failures else {}), **({"bars": True} if len(places) < 2 else {})}
        return self._add(plot.title, subtitle, definition, columns, rows, plot.models, lines, own)

    def scatter(self, chart: Scatter) -> str:
        """The figure of a chart with two values per case."""
        x_in, y_in = shown_units(chart)
        columns = [
            ("series", "model"),
            ("place", AXIS_TITLES[chart.axis]),
            ("x", x_in.heading(chart.quantities[0])),
            ("y", y_in.heading(chart.quantities[1])),
        ]
        rows, guides = scatter_rows(chart), guide_rows(chart)
        axes = [list(axis) for axis in scatter_axes(chart)]
        key = json.dumps([columns, axes, _kin(chart.models)])
        definition = self._cached(
            key, lambda: _interactive(draw_scatter(chart, validate=False), columns, rows, guides=guides)
        )
        lines = [(guide.name, "dashed") for guide in chart.guides]
        return self._add(
            chart.title, chart.subtitle, definition, columns, rows, chart.models, lines, {"guides": guides}
        )

    def spread(self, chart: Spread) -> str:
        """The figure of the distributions of step times."""
        columns = [
            ("series", "model"),
            ("place", AXIS_TITLES[chart.axis]),
            ("samples", "samples"),
            ("median", "median [s]"),
            ("least", "fastest [% of median]"),
            ("quarter", "1st quartile [%]"),
            ("three_quarters", "3rd quartile [%]"),
            ("p95", "95th percentile [%]"),
            ("most", "slowest [%]"),
        ]
        scale, ticks = distance_axis(chart)
        places = sorted({box.place for box in chart.boxes})
        key = json.dumps([chart.axis, places, _kin(chart.models), scale, ticks])
        rows = spread_rows(chart)
        definition = self._cached(
            f"spread {key}", lambda: _interactive(draw_spread(chart, validate=False), columns, rows)
        )
        words = "bar: quartiles; line: fastest to 95th percentile; mark: slowest"
        subtitle = f"{chart.subtitle}; {words}"
        return self._add(chart.title, subtitle, definition, columns, rows, chart.models, [], {})

    def panels(self, comparison: PaperComparison) -> str:
        """The figure of the paper's decode throughput beside ours."""
        drawn = draw_panels(comparison, validate=False)
        columns = [
            ("stack", "stack"),
            ("source", "source"),
            ("place", "total length [tokens]"),
            ("amount", "throughput [tokens/s]"),
        ]
        rows = drawn["data"]["values"]
        models = {row["family"]: Family(row["family"]) for row in rows}
        title = drawn["title"]
        definition = self._cached("", lambda: _interactive(drawn, columns, rows, "family"))
        every = [*columns, ("family", ""), ("main", "")]
        own = {"facet": True}
        return self._add(title["text"], title["subtitle"][0], definition, every, rows, models, [], own)

    def stack(self, chart: StackedBars) -> str:
        """The figure of shares: a bar per case, and in it a strip per class."""
        columns = [("bar", "case"), ("series", "class"), ("share", "share [%]"), ("time", "time [ms]")]
        rows = stack_rows(chart)
        definition = self._cached("", lambda: _interactive(draw_stack(chart, validate=False), columns, rows))
        every = [*columns, ("order", "")]
        legend = [
            [name, _themed(color), "square"] for name, color in zip(chart.classes, stack_colors(chart), strict=True)
        ]
        own = {"bars": True, "legend": legend}
        return self._add(chart.title, chart.subtitle, definition, every, rows, {}, [], own)

    def _cached(self, key: str, make: Callable[[], dict[str, Any]]) -> int:
        """The number of the definition that a key stands for; an empty key stands for no other chart."""
        if key and key in self._known:
            return self._known[key]
        self.specs.append(make())
        if key:
            self._known[key] = len(self.specs) - 1
        return len(self.specs) - 1

    def _add(
        self,
        title: str,
        subtitle: str,
        definition: int,
        columns: Columns,
        rows: Sequence[Mapping[str, Any]],
        models: Mapping[str, Kin],
        lines: Sequence[tuple[str, str]],
        own: Mapping[str, Any],
    ) -> str:
        number = len(self.charts)
        colors, shapes = looks(models)
        there = {row.get("series", row.get("family")) for row in rows} | {one[0] for one in own.get("failed", ())}
        self.charts.append(
            {
                "spec": definition,
                "columns": [list(column) for column in columns],
                "rows": [[_short(row[name]) for name, _ in columns] for row in rows],
                "legend": [
                    [name, _themed(color), shape]
                    for name, color, shape in zip(models, colors, shapes, strict=True)
                    if name in there
                ],
                "lines": [list(line) for line in lines],
                **own,
            }
        )
        return (
            f'<figure id="chart-{number}"><figcaption><b>{text(title)}</b><span>{text(subtitle)}</span></figcaption>'
            f'<div class="legend"></div><div class="plot" role="img" aria-label="{text(title)}"></div>'
            '<details class="behind"><summary>table</summary></details></figure>'
        )

    def data(self) -> dict[str, Any]:
        """What the page's script draws from."""
        return {"specs": spelled(self.specs), "charts": spelled(self.charts)}


def _place(axis: str, places: Sequence[int]) -> str:
    return ", ".join(f"{axis} {place_text(axis, place)}" for place in places)


def _kin(models: Mapping[str, Kin]) -> list[tuple[str, str]]:
    return [(name, model.arch) for name, model in models.items()]


def _look(plot: Plot) -> str:
    """Everything that a plot's definition depends on, but for its rows and its titles."""
    scale, ticks = bounds(plot)
    definition = [
        *(plot.axis, plot.quantity, plot.unit, plot.kinds, unit_of(plot).label, places_of(plot), _kin(plot.models)),
        [[one.series, one.place, one.word] for one in plot.failures],
        sorted({point.kind for point in plot.points}),
        any(point.low is not None for point in plot.points),
        [scale, ticks],
    ]
    return json.dumps(definition)


def _short(value: Any) -> Any:
    return float(f"{value:.{_DIGITS}g}") if isinstance(value, float) else value


def _themed(color: str) -> str:
    """A colour that the page's style may change in the dark."""
    return "currentColor" if color in _SHOWN else f"var(--c-{color[1:].lower()}, {color})"


def _interactive(
    definition: dict[str, Any],
    columns: Columns,
    rows: Sequence[Mapping[str, Any]],
    series: str = "series",
    guides: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """A definition as a page draws it: without title, legend and rows, with hovering and series that can be hidden."""
    made: dict[str, Any] = _with_themed_colors({**definition, "config": {}})
    for name in ("title", "config", "$schema"):
        made.pop(name, None)
    layers = made.get("spec", made)["layer"]
    made["params"] = [*made.get("params", ()), {"name": "hidden", "value": []}]
    if isinstance(made.get("height"), dict):  # so much per bar, which no chart as wide as the page may have
        made["height"] = made["height"]["step"] * len(layers[0]["encoding"]["y"]["scale"]["domain"])
    for part in (made, *layers):
        if part.get("data", {}).get("values") == rows:
            part["data"] = {"name": "rows"}
        elif guides and part.get("data", {}).get("values") == guides:
            part["data"] = {"name": "guides"}
    for layer in layers:
        _open_layer(layer, columns, series)
    return made


def _open_layer(layer: dict[str, Any], columns: Columns, series: str) -> None:
    encoding = layer["encoding"]
    for name in ("color", "shape", "strokeDash"):
        if "field" in encoding.get(name, {}):
            encoding[name]["legend"] = None
    fields = {part.get("field") for part in encoding.values() if isinstance(part, dict)}
    if series in fields:
        layer["transform"] = [*layer.get("transform", ()), {"filter": f"indexof(hidden, datum.{series}) < 0"}]
    mark = layer["mark"]["type"]
    if mark == "text":
        encoding.pop("color", None)
        layer["mark"]["color"] = "currentColor"
    elif series in fields and mark != "area":
        encoding["tooltip"] = [_hover(name, heading) for name, heading in columns if heading]


def _hover(name: str, heading: str) -> dict[str, Any]:
    named = {"field": name, "title": heading}
    if name in ("series", "kind", "stack", "source", "bar"):
        return {**named, "type": "nominal"}
    return {**named, "type": "quantitative", "format": f",.{_DIGITS}~r"}


def _with_themed_colors(part: Any) -> Any:
    if isinstance(part, dict):
        return {key: _with_themed_colors(value) for key, value in part.items()}
    if isinstance(part, list):
        return [_with_themed_colors(value) for value in part]
    if isinstance(part, str) and len(part) == 7 and part.startswith("#"):
        return _themed(part)
    return part
