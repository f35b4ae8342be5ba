"""scatters: the charts of a group with two values per case: its roofline, and predictions against measurements."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from hybridbench.derive.floors import measured_rates, peak_bytes_per_s, peak_flops_per_s
from hybridbench.metrics import METRICS, value
from hybridbench.record import Record
from hybridbench.report.chart import Dot, Guide, Scatter
from hybridbench.report.groups import Group, Series
from hybridbench.suite.workloads import workload_row

_PAIRS = (
    ("predicted-time", "Time of a step against its floor", "floor_s", "step_s", "measured = floor"),
    (
        "predicted-memory",
        "Peak memory against its prediction",
        "predicted_peak_bytes",
        "peak_allocated_bytes",
        "measured = predicted",
    ),
)
"""Name, title, the predicted and the measured metric, and the name of the diagonal."""


def group_scatters(group: Group) -> list[Scatter]:
    """The scatter charts of a group. A chart has every case with both values, and exists if there is one."""
    made = (_roofline(group), *(_pair(group, *pair) for pair in _PAIRS), _two_runs(group))
    return [chart for chart in made if chart is not None]


def _scatter(group: Group, name: str, title: str, axes: tuple[tuple[str, str], tuple[str, str]]) -> Scatter:
    """A chart without dots. ``axes`` has the title and the SI unit of both axes."""
    (x_title, x_unit), (y_title, y_unit) = axes
    return Scatter(
        name=name,
        title=f"{title}, {workload_row(group.workload).word}",
        subtitle=group.subtitle,
        quantities=(x_title, y_title),
        units=(x_unit, y_unit),
        axis=group.axis,
        models={series.name: series.model for series in group.series},
        dots=(),
        guides=(),
    )


def _with(chart: Scatter, dots: list[Dot], guides: Iterable[Guide]) -> Scatter:
    return replace(chart, dots=tuple(dots), guides=tuple(guides))


def _pair(group: Group, name: str, title: str, predicted: str, measured: str, diagonal: str) -> Scatter | None:
    dots = []
    for series in group.series:
        for place, record in series.cells.items():
            x, y = value(record, predicted), value(record, measured)
            if x and y:
                dots.append(Dot(series.name, place, x, y))
    if not dots:
        return None
    low = min(min(dot.x, dot.y) for dot in dots)
    high = max(max(dot.x, dot.y) for dot in dots)
    axes = ((METRICS[predicted].title, METRICS[predicted].unit), (METRICS[measured].title, METRICS[measured].unit))
    return _with(_scatter(group, name, title, axes), dots, [Guide(diagonal, ((low, low), (high, high)))])


def _two_runs(group: Group) -> Scatter | None:
    """The step times of two runs against each other; None unless the group shows two of them side by side.

    It claims nothing: ``compare`` has the intervals.
    """
    runs = list(dict.fromkeys(series.run for series in group.series))
    if len(runs) != 2:
        return None
    sides = [{(_bare(one), at): value(record, "step_s") for one in group.series if one.run == run
              for at, record in one.cells.items()} for run in runs]  # fmt: skip
    dots = [Dot(name, place, x, y) for (name, place), x in sides[0].items() if x and (y := sides[1].get((name, place)))]
    if not dots:
        return None
    low, high = min(min(dot.x, dot.y) for dot in dots), max(max(dot.x, dot.y) for dot in dots)
    axes = ((f"step, {runs[0]}", "s"), (f"step, {runs[1]}", "s"))
    chart = replace(
        _scatter(group, "runs", f"{runs[1]} against {runs[0]}", axes),
        models={_bare(series): series.model for series in group.series},
    )
    return _with(chart, dots, [Guide("no change", ((low, low), (high, high)))])


def _bare(series: Series) -> str:
    """The name of a series without that of its run."""
    return series.name.removesuffix(f" ({series.run})")


def _roofline(group: Group) -> Scatter | None:
    """Model FLOPs per second against FLOPs per must-move byte, under the highest rates that any record knows.

    The roof is min(FLOP rate, bytes per second x FLOPs per byte): Williams, Waterman and Patterson 2009, "Roofline".
    The rates are those measured beside the cases, or the data sheet's where a record has none.
    """
    dots, flops_rates, bytes_rates = [], [], []
    for series in group.series:
        for place, record in series.cells.items():
            flops, moved = value(record, "model_flops"), value(record, "must_move_bytes")
            rate = value(record, "model_flops_per_s")
            if flops and moved and rate:
                dots.append(Dot(series.name, place, flops / moved, rate))
                flops_rate, bytes_rate = _rates(record)
                flops_rates += [flops_rate] if flops_rate else []
                bytes_rates += [bytes_rate] if bytes_rate else []
    if not dots or not flops_rates or not bytes_rates:
        return None
    flops_rate, bytes_rate = max(flops_rates), max(bytes_rates)
    ridge = flops_rate / bytes_rate
    low, high = min(*(dot.x for dot in dots), ridge) / 2, max(*(dot.x for dot in dots), ridge) * 2
    roof = ((low, low * bytes_rate), (ridge, flops_rate), (high, flops_rate))
    axes = (("FLOPs per byte moved", ""), ("model FLOPs per second", "FLOP/s"))
    return _with(_scatter(group, "roofline", "Roofline", axes), dots, [Guide("roof: memory, then arithmetic", roof)])


def _rates(record: Record) -> tuple[float | None, float | None]:
    """FLOPs and bytes per second that no step of a record can exceed, as its floor takes them."""
    rates = measured_rates(record)
    if rates is not None:
        return rates.matmul_flops_per_s, rates.read_bytes_per_s
    return peak_flops_per_s(record), peak_bytes_per_s(record)
