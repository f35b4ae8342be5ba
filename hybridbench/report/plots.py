"""plots: the charts that a group of records gets, as data."""

from __future__ import annotations

from dataclasses import dataclass

from hybridbench.metrics import METRICS, value
from hybridbench.record import Status
from hybridbench.report.chart import MEASURED, PREDICTED, Failure, Plot, Point
from hybridbench.report.groups import Group
from hybridbench.suite.workloads import WORKLOADS, workload_row


@dataclass(frozen=True)
class _Wanted:
    """A chart of each group of some workloads: the metrics of its solid line, its dashed line and its band."""

    name: str
    title: str
    measured: str | None
    predicted: str | None = None
    band: tuple[str, str] | None = None
    kinds: tuple[str, str] = (MEASURED, PREDICTED)
    workloads: tuple[str, ...] = tuple(WORKLOADS)


_WANTED = (
    _Wanted("throughput", "Throughput", "tokens_per_s"),
    _Wanted(
        "latency",
        "Median time of a step",
        "step_s",
        "floor_s",
        ("step_p05_s", "step_p95_s"),
        (MEASURED, "floor"),
    ),
    _Wanted("memory", "Peak memory", "peak_allocated_bytes", "predicted_peak_bytes"),
    _Wanted(
        "cache",
        "Cache of the whole batch",
        "cache_bytes",
        "predicted_cache_bytes",
        workloads=tuple(name for name, row in WORKLOADS.items() if not row.trains),
    ),
    _Wanted("energy", "Energy per token", "energy_per_token_j"),
    _Wanted("flops", "Model FLOPs per token, convention exact", None, "model_flops_per_token"),
)


def group_plots(group: Group) -> list[Plot]:
    """The plots of a group. A measured quantity has a plot only if at least one case has a value."""
    made = []
    for wanted in _WANTED:
        if group.workload in wanted.workloads:
            plot = _group_plot(group, wanted)
            # A floor alone, under the title of a measurement, would look like a measurement.
            if any(point.kind == MEASURED or wanted.measured is None for point in plot.points):
                made.append(plot)
    return made


def metric_plot(group: Group, metric: str) -> Plot:
    """The plot of one metric of a group, with the prediction or the floor that its chart in a report has."""
    known = next((wanted for wanted in _WANTED if wanted.measured == metric), None)
    wanted = known or _Wanted(metric, METRICS[metric].title.capitalize(), metric)
    return _group_plot(group, wanted)


def _group_plot(group: Group, wanted: _Wanted) -> Plot:
    points: list[Point] = []
    failures: list[Failure] = []
    for series in group.series:
        for place, record in series.cells.items():
            if wanted.measured is not None:
                number = value(record, wanted.measured)
                if number is not None:
                    low, high = (value(record, name) for name in wanted.band) if wanted.band else (None, None)
                    points.append(Point(series.name, place, number, MEASURED, low, high))
                elif record.status is not Status.OK:
                    failures.append(Failure(series.name, place, record.status.value.replace("_", " ")))
            number = value(record, wanted.predicted) if wanted.predicted else None
            if number is not None:
                points.append(Point(series.name, place, number, PREDICTED))
    shown = METRICS[wanted.measured or wanted.predicted or ""]
    return Plot(
        name=wanted.name,
        title=f"{wanted.title}, {workload_row(group.workload).word}",
        subtitle=group.subtitle,
        quantity=shown.title,
        unit=shown.unit,
        axis=group.axis,
        models={series.name: series.model for series in group.series},
        points=points,
        failures=failures,
        kinds=wanted.kinds,
    )
