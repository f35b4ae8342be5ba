"""charts: throughput, latency, memory, cache and FLOPs against context: Altair charts, saved as PNG, SVG and PDF.

A model has one colour and one shape in all charts of a report. Measured values are solid lines with filled marks;
predicted values and the floor are dashed lines with hollow marks. A failed case is a word at the bottom of the chart,
at its context. The colours are those of Okabe and Ito 2008, "Color Universal Design", without the light yellow; people
with any kind of colour vision can distinguish them. Rendering needs no network: vl-convert includes Vega-Lite.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import altair as alt
import vl_convert
from altair.utils.schemapi import debug_mode

from hybridbench.errors import BadInput
from hybridbench.report.chart import MEASURED, PREDICTED, Kin, Plot, Point
from hybridbench.report.display import ShownUnit, unit_for
from hybridbench.report.places import AXIS_TITLES, BATCH, place_text
from hybridbench.text import printable

WIDTH, HEIGHT = 560, 340
PNG_SCALE = 2
FAMILY_COLORS = {
    "transformer": "#0072B2",
    "swa": "#56B4E9",
    "mamba": "#009E73",
    "inter": "#D55E00",
    "intra": "#CC79A7",
}
_OTHER_COLORS = ("#E69F00", "#000000", "#7F7F7F", "#882255", "#999933", "#332288")
"""What remains of Okabe and Ito's colours, grey, and three of Paul Tol's "muted" ones that no family is near."""
FAMILY_SHAPES = {
    "transformer": "circle",
    "swa": "square",
    "mamba": "triangle-up",
    "inter": "diamond",
    "intra": "triangle-down",
}
_OTHER_SHAPES = ("cross", "triangle-right", "triangle-left", "square", "circle", "diamond")
PLAIN_NUMBER = "format(datum.value, abs(datum.value) < 1e6 ? ',.6~g' : ',.0f')"
"""The text of a tick, without an exponent; d3's ``g`` writes one where a number has more digits than its precision."""
LABELS_APART: dict[str, Any] = {"labelOverlap": "greedy", "labelSeparation": 12}
"""Of a horizontal axis of numbers: a label that would touch the one before it is left out; pixels."""
Layers: TypeAlias = alt.LayerChart | alt.FacetChart
"""What ``altair.layer`` is declared to return."""
AxisParts: TypeAlias = tuple[dict[str, Any], dict[str, Any]]
"""What ``altair.Scale`` and the ticks of ``altair.Axis`` take. Building and checking those takes 1 ms."""
_DECADE = 10
_MOST_TICKS = 11


CONFIG = {
    "background": "white",
    "padding": 12,
    "font": "sans-serif",
    "view": {"stroke": None},
    "axis": {
        "gridColor": "#E6E6E6",
        "domainColor": "#888888",
        "tickColor": "#888888",
        "labelFontSize": 12,
        "titleFontSize": 12,
        "titleFontWeight": "normal",
    },
    "legend": {"labelFontSize": 12, "symbolSize": 90, "symbolStrokeWidth": 2, "labelLimit": 260},
    "title": {"fontSize": 15, "subtitleFontSize": 12, "subtitleColor": "#555555", "subtitlePadding": 4},
}


def places_of(plot: Plot) -> list[int]:
    """The contexts (or batches) of a plot, in order. With one alone, it is drawn as bars."""
    return sorted({*(point.place for point in plot.points), *(failure.place for failure in plot.failures)})


def definition_of(make: Callable[[], alt.TopLevelMixin], *, validate: bool) -> dict[str, Any]:
    """The Vega-Lite definition of what ``make`` draws, in the look of all charts.

    Altair checks each part against Vega-Lite's schema as it is made, and then the whole. That takes half of the time,
    and definitions are drawn by the hundred: reports leave it out, and tests ask for it (``validate``).
    """
    with debug_mode(validate):
        definition: dict[str, Any] = make().to_dict(validate=validate)
    definition["config"] = CONFIG
    return definition


def draw(plot: Plot, *, validate: bool = True) -> dict[str, Any]:
    """The Vega-Lite definition of a plot: lines over two or more places, bars over one.

    Where a floor lies so far below the measured lines that they would be pressed together, the axis is theirs, and the
    subtitle says that the floor is below it.
    """
    return definition_of(lambda: _drawn(plot), validate=validate)


def _drawn(plot: Plot) -> Layers:
    places = places_of(plot)
    suffix = f", {_place(plot, places[0])}" if len(places) == 1 else ""
    if len(places) > 1 and any(point.low is not None for point in plot.points):
        suffix = "; band: 5th to 95th percentile"
    if len(places) > 1 and _beneath(plot) and "type" in bounds(plot)[0]:
        suffix += f"; {plot.kinds[1]} below the axis where it is missing"
    drawn = alt.layer(*(_bars(plot) if len(places) < 2 else _lines(plot, places))).properties(
        width=WIDTH,
        height={"step": 40} if len(places) < 2 else HEIGHT,
        title=alt.TitleParams(plot.title, subtitle=[plot.subtitle + suffix], anchor="start", offset=12),
    )
    if len(places) < 2:
        drawn = drawn.resolve_scale(color="independent")
    return drawn


def _place(plot: Plot, place: int) -> str:
    return f"{plot.axis} {place_text(plot.axis, place)}"


def looks(models: Mapping[str, Kin]) -> tuple[list[str], list[str]]:
    """A colour and a shape per series: a family's own for its first series, unused ones for the others."""
    colors, shapes = [], []
    spare_colors = [*_OTHER_COLORS, *(FAMILY_COLORS[arch] for arch in FAMILY_COLORS if arch not in _archs(models))]
    spare_shapes = list(_OTHER_SHAPES)
    seen: set[str] = set()
    for model in models.values():
        if model.arch in FAMILY_COLORS and model.arch not in seen:
            colors.append(FAMILY_COLORS[model.arch])
            shapes.append(FAMILY_SHAPES[model.arch])
            seen.add(model.arch)
        else:
            index = len(colors)
            colors.append(spare_colors.pop(0) if spare_colors else tuple(FAMILY_COLORS.values())[index % 5])
            shapes.append(spare_shapes[0])
            spare_shapes.append(spare_shapes.pop(0))
    return colors, shapes


def _archs(models: Mapping[str, Kin]) -> set[str]:
    return {model.arch for model in models.values()}


def data_of(rows: list[dict[str, Any]]) -> alt.Data:
    """Rows as the inline data of a chart."""
    return alt.Data(values=rows)


def unit_of(plot: Plot) -> ShownUnit:
    """The unit that suits the measured values, or the predicted ones if there are no measured values."""
    measured = [point.amount for point in plot.points if point.kind == MEASURED]
    return unit_for(measured or [point.amount for point in plot.points], plot.unit)


def _measured(plot: Plot) -> list[Point]:
    return [point for point in plot.points if point.kind == MEASURED]


def _amounts(points: Iterable[Point]) -> list[float]:
    return [part for point in points for part in (point.amount, point.low, point.high) if part is not None]


def _beneath(plot: Plot) -> bool:
    """Whether predictions lie ten times below all measured values and would take over half of a logarithmic axis."""
    measured = _amounts(_measured(plot))
    every = _amounts(plot.points)
    if not measured or min(every) <= 0 or min(measured) < _DECADE * min(every):
        return False
    return math.log(max(measured) / min(measured)) < math.log(max(every) / min(every)) / 2


def bounds(plot: Plot) -> AxisParts:
    """The scale of the value axis, and its ticks, both as Altair takes them."""
    shown_in = unit_of(plot)
    amounts = _amounts(_measured(plot) if _beneath(plot) else plot.points)
    return value_axis([amount / shown_in.size for amount in amounts], room_below=bool(plot.failures))


def rows_of(plot: Plot) -> list[dict[str, Any]]:
    """The rows that lines are drawn from, with amounts in the unit of the axis."""
    shown_in = unit_of(plot)
    labels = dict(zip((MEASURED, PREDICTED), plot.kinds, strict=True))
    return [
        {
            "series": point.series,
            "place": point.place,
            "amount": point.amount / shown_in.size,
            "low": None if point.low is None else point.low / shown_in.size,
            "high": None if point.high is None else point.high / shown_in.size,
            "kind": labels[point.kind],
        }
        for point in plot.points
    ]


def _lines(plot: Plot, places: list[int]) -> list[alt.Chart]:
    shown_in = unit_of(plot)
    names = list(plot.models)
    colors, shapes = looks(plot.models)
    kinds = [kind for kind in (MEASURED, PREDICTED) if any(point.kind == kind for point in plot.points)]
    labels = dict(zip((MEASURED, PREDICTED), plot.kinds, strict=True))
    y_scale, ticks = bounds(plot)
    x = alt.X(
        "place:Q",
        title=AXIS_TITLES[plot.axis],
        scale=alt.Scale(type="log", base=2, nice=False, domain=[places[0], places[-1]], padding=24),
        axis=alt.Axis(values=_thinned(places), labelExpr=label_expr(plot.axis, places), grid=False),
    )
    y = alt.Y(
        "amount:Q",
        title=shown_in.heading(plot.quantity),
        scale=alt.Scale(**y_scale),
        axis=alt.Axis(labelExpr=PLAIN_NUMBER, labelOverlap=False, **ticks),
    )
    color = alt.Color(
        "series:N",
        sort=names,
        title=None,
        scale=alt.Scale(domain=names, range=colors),
        legend=alt.Legend(symbolOpacity=1),
    )
    shape = alt.Shape("series:N", sort=names, title=None, scale=alt.Scale(domain=names, range=shapes))
    both = len(kinds) > 1
    dash = alt.StrokeDash(
        "kind:N",
        title=None,
        scale=alt.Scale(domain=list(plot.kinds), range=[[1, 0], [5, 4]]),
        legend=alt.Legend(symbolType="stroke", symbolStrokeColor="#333333", symbolSize=500) if both else None,
    )
    base = alt.Chart(data_of(rows_of(plot)))
    clip = _beneath(plot) or alt.Undefined
    layers: list[alt.Chart] = []
    if any(point.low is not None for point in plot.points):
        band = base.transform_filter("isValid(datum.low)")
        layers.append(
            band.mark_area(opacity=0.18).encode(
                x=x, y=alt.Y("low:Q", scale=alt.Scale(**y_scale)), y2="high:Q", color=color
            )
        )
    # Predictions first: where both agree, the measured mark is drawn inside the predicted ring and both are visible.
    for kind in reversed(kinds):
        ring = kind == PREDICTED and both
        part = base.transform_filter(alt.datum.kind == labels[kind])
        layers.append(part.mark_line(strokeWidth=2, clip=clip).encode(x=x, y=y, color=color, strokeDash=dash))
        marks = part.mark_point(filled=not ring, size=150 if ring else 60, strokeWidth=1.5, opacity=1, clip=clip)
        layers.append(marks.encode(x=x, y=y, color=color, shape=shape))
    if plot.failures:
        layers.extend(_failure_words(plot, x, color))
    return layers


def value_axis(amounts: list[float], room_below: bool, *, logarithmic: bool = False) -> AxisParts:
    """A scale that is linear from zero, or logarithmic with ticks at 1, 2 and 5 if amounts span more than a decade.

    ``logarithmic`` makes it that in any case, of amounts above 0.
    """
    low, high = min(amounts), max(amounts)
    if low <= 0 or (high <= _DECADE * low and not logarithmic):
        return {"zero": True, "nice": True}, {"tickCount": 6}
    steps = [
        digit * 10.0**exponent
        for exponent in range(math.floor(math.log10(low)) - 1, math.floor(math.log10(high)) + 2)
        for digit in (1, 2, 5)
    ]
    first = max(place for place, step in enumerate(steps) if step <= low) - (1 if room_below else 0)
    last = min(place for place, step in enumerate(steps) if step >= high)
    ticks = steps[first : last + 1]
    shown = ticks if len(ticks) <= _MOST_TICKS else [tick for tick in ticks if steps.index(tick) % 3 == 0]
    return {"type": "log", "nice": False, "domain": [ticks[0], ticks[-1]]}, {"values": shown}


def _failure_words(plot: Plot, x: alt.X, color: alt.Color) -> list[alt.Chart]:
    """Words above the x axis, a line for each series and way to fail: at their places they would lie on each other."""
    failed: dict[tuple[str, str], list[int]] = {}
    for failure in plot.failures:
        failed.setdefault((failure.series, failure.word), []).append(failure.place)
    last = places_of(plot)[-1]
    layers = []
    for line, ((series, word), places) in enumerate(failed.items()):
        where = ", ".join(place_text(plot.axis, place) for place in places)
        row = {"series": series, "place": last, "word": f"{series}: {word} at {where}"}
        mark = alt.Chart(data_of([row])).mark_text(align="right", baseline="bottom", fontSize=11, dx=22)
        layers.append(mark.encode(x=x, y=alt.value(HEIGHT - 4 - 14 * line), text="word:N", color=color))
    return layers


def _thinned(places: list[int]) -> list[int]:
    """At most ``_MOST_TICKS`` evenly chosen ticks, which include the last."""
    step = -(-len(places) // _MOST_TICKS)
    return places[::-1][::step][::-1]


def label_expr(axis: str, places: list[int]) -> str:
    """A Vega expression that writes 4096 as 4k. It is a lookup, because the places are known."""
    if axis == BATCH:
        return "datum.label"
    known = ", ".join(f"'{place}': '{place_text(axis, place)}'" for place in places)
    return f"({{{known}}})[toString(datum.value)]"


def _bars(plot: Plot) -> list[alt.Chart]:
    amounts = [point.amount for point in plot.points]
    shown_in = unit_of(plot)
    there = {*(point.series for point in plot.points), *(failure.series for failure in plot.failures)}
    names = [name for name in plot.models if name in there]
    colors, _ = looks(plot.models)
    look = dict(zip(plot.models, colors, strict=True))
    kinds = [kind for kind in (MEASURED, PREDICTED) if any(point.kind == kind for point in plot.points)]
    lead = kinds[0]
    said = {point.series for point in plot.points if point.kind == lead}
    bars: list[dict[str, Any]] = [
        {
            "series": point.series,
            "amount": point.amount / shown_in.size,
            "text": shown_in.show(point.amount),
        }
        for point in plot.points
        if point.kind == lead
    ]
    words = [{"series": f.series, "amount": 0, "text": f.word} for f in plot.failures if f.series not in said]
    ticks = [
        {"series": point.series, "amount": point.amount / shown_in.size, "kind": plot.kinds[1]}
        for point in plot.points
        if point.kind != lead
    ]
    # An eighth more than the longest bar, as room for the number after it.
    widest = max(amounts) / shown_in.size * 1.125
    x = alt.X(
        "amount:Q",
        title=shown_in.heading(plot.quantity),
        scale=alt.Scale(domain=[0, widest], nice=False),
        axis=alt.Axis(labelExpr=PLAIN_NUMBER, tickCount=5, **LABELS_APART),
    )
    y = alt.Y(
        "series:N", sort=names, title=None, scale=alt.Scale(domain=names), axis=alt.Axis(ticks=False, labelLimit=260)
    )
    color = alt.Color(
        "series:N", scale=alt.Scale(domain=names, range=[look[name] for name in names]), sort=names, legend=None
    )
    base = alt.Chart(data_of(bars))
    layers: list[alt.Chart] = [base.mark_bar(height={"band": 0.62}).encode(x=x, y=y, color=color)]
    labels = alt.Chart(data_of([*bars, *words]))
    layers.append(labels.mark_text(align="left", dx=6, fontSize=12, color="#222222").encode(x=x, y=y, text="text:N"))
    if ticks:
        marks = alt.Chart(data_of(ticks)).mark_tick(thickness=3, height=30, opacity=1)
        kind = alt.Color(
            "kind:N",
            title=None,
            scale=alt.Scale(domain=[plot.kinds[1]], range=["#222222"]),
            legend=alt.Legend(symbolType="stroke", symbolStrokeWidth=3, symbolStrokeColor="#222222"),
        )
        layers.append(marks.encode(x=x, y=y, color=kind))
    return layers


def chart_files(stem: Path) -> tuple[Path, Path, Path]:
    """The files of a chart: PNG, SVG and PDF."""
    return stem.with_name(f"{stem.name}.png"), stem.with_name(f"{stem.name}.svg"), stem.with_name(f"{stem.name}.pdf")


def save(definition: dict[str, Any], stem: Path) -> tuple[Path, ...]:
    """Write a Vega-Lite definition as ``<stem>.png``, ``<stem>.svg`` and ``<stem>.pdf``, whose paths are returned.

    vl-convert ends the process (exit code 134) over characters that no XML holds, so they are spelled out before.

    Raises:
        BadInput: the files cannot be written.
    """
    definition = spelled(definition)
    png, svg, pdf = chart_files(stem)
    try:
        drawn = vl_convert.vegalite_to_svg(definition, allowed_base_urls=[])
        svg.write_text(drawn, encoding="utf-8")
        png.write_bytes(vl_convert.svg_to_png(drawn, scale=PNG_SCALE))
        pdf.write_bytes(vl_convert.svg_to_pdf(drawn))
    except OSError as exc:
        raise BadInput(
            f"{stem.parent} cannot take a chart ({exc.strerror}): choose another folder with --out."
        ) from exc
    return png, svg, pdf


def spelled(part: Any) -> Any:
    """JSON values whose text can be drawn."""
    if isinstance(part, dict):
        return {spelled(key): spelled(value) for key, value in part.items()}
    if isinstance(part, list):
        return [value if type(value) in (float, int) else spelled(value) for value in part]  # most are numbers
    return printable(part) if isinstance(part, str) else part
