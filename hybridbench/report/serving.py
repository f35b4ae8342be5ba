"""serving: decode over batches and scales: the share of the floor, and throughput under a limit on a step's time.

A group of ``groups`` holds one batch or one context. Where decode was measured at three batches or more of one context,
or at two scales or more, this section sets them side by side.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from hybridbench.arch.families import ARCHS
from hybridbench.arch.model import ModelSpec
from hybridbench.metrics import METRICS, value
from hybridbench.record import Record, Status
from hybridbench.report.chart import MEASURED, Failure, Plot, Point
from hybridbench.report.groups import NO_RUNS, Group, arch_order, group_records
from hybridbench.report.part import ReportPart
from hybridbench.report.places import BATCH, SCALE, scale_place
from hybridbench.report.plots import metric_plot
from hybridbench.report.table import NO_VALUE, Column, Table, TableCell
from hybridbench.suite.workloads import DECODE
from hybridbench.units import format_number, format_tokens

LIMITS_S = (0.010, 0.020, 0.050)
"""Limits on the median time of a step: a token every 10, 20 and 50 ms."""

_FEWEST_BATCHES = 3
_SHARE, _SHARE_WORDS = "floor_frac", "share of the floor"


def serving_part(records: Sequence[Record], runs: Mapping[str, str] = NO_RUNS) -> ReportPart | None:
    """The section; None where no context has decode at three batches, and no batch at two scales.

    Args:
        records: those that a report shows.
        runs: as for ``group_records``.
    """
    decoded = [record for record in records if record.case.workload.kind == DECODE]
    by_batch = [group for group in _by_batch(decoded, runs) if len(group.places) >= _FEWEST_BATCHES]
    plots = [_named(_batch_plot(group), f"decode-share-by-batch-{n}") for n, group in enumerate(by_batch, 1)]
    plots += [_named(plot, f"decode-share-by-scale-{n}") for n, plot in enumerate(_by_scale(decoded), 1)]
    plots = [plot for plot in plots if plot.points]
    tables = [_limits_table(group) for group in by_batch]
    if not (plots or tables):
        return None
    return ReportPart("Decode over batches and scales", [], tables, plots)


def _by_batch(decoded: Iterable[Record], runs: Mapping[str, str]) -> list[Group]:
    """A group for each context whose axis is the batch."""
    contexts: dict[int, list[Record]] = {}
    for record in decoded:
        contexts.setdefault(record.case.workload.context, []).append(record)
    found = [group for _, members in sorted(contexts.items()) for group in group_records(members, runs)]
    return [group for group in found if group.axis == BATCH]


def _batch_plot(group: Group) -> Plot:
    return replace(metric_plot(group, _SHARE), title="Share of the floor by batch, decode", quantity=_SHARE_WORDS)


def _by_scale(decoded: Iterable[Record]) -> list[Plot]:
    """The share of the floor against the scale, a plot for each set of other conditions that has two scales."""
    alike: dict[tuple[object, ...], list[tuple[int, Record]]] = {}
    for record in decoded:
        place = scale_place(record.case.model.scale)
        if place is not None:
            work, execution = record.case.workload, record.case.execution
            key = (record.environment.device, work.context, work.batch, str(execution))
            alike.setdefault(key, []).append((place, record))
    several = [found for found in alike.values() if len({place for place, _ in found}) > 1]
    return [_scale_plot(found) for found in several]


def _scale_plot(found: Sequence[tuple[int, Record]]) -> Plot:
    first = found[0][1]
    work = first.case.workload
    names = _names([record.case.model for _, record in found])
    points, failures = [], []
    for place, record in sorted(found, key=lambda one: one[0]):
        series, share = names[record.case.model], value(record, _SHARE)
        if share is not None:
            points.append(Point(series, place, share, MEASURED))
        elif record.status is not Status.OK:
            failures.append(Failure(series, place, record.status.value.replace("_", " ")))
    return Plot(
        name="share",
        title="Share of the floor by scale, decode",
        subtitle=f"{first.environment.device}, context {format_tokens(work.context)}, batch {work.batch}",
        quantity=_SHARE_WORDS,
        unit=METRICS[_SHARE].unit,
        axis=SCALE,
        models={name: model for model, name in sorted(names.items(), key=lambda one: arch_order(one[0]))},
        points=points,
        failures=failures,
    )


def _names(models: Sequence[ModelSpec]) -> dict[ModelSpec, str]:
    """The series of each model: its family, whose label differs with the scale, if no scale has two models of it."""
    distinct = list(dict.fromkeys(models))
    kinds = Counter((model.arch, model.scale) for model in distinct)
    alone = {model.arch for model in distinct if kinds[model.arch, model.scale] == 1}
    alone -= {arch for (arch, _), count in kinds.items() if count > 1}
    return {model: model.arch if model.arch in alone and model.arch in ARCHS else model.label for model in distinct}


def _named(plot: Plot, name: str) -> Plot:
    return replace(plot, name=name)


def _limits_table(group: Group) -> Table:
    """Tokens per second at the largest batch whose step is under each limit, a row per model."""
    table = Table(
        f"throughput under a latency limit, {group.conditions.get('context', '')}".rstrip(", "),
        [
            Column("model", "model", numeric=False),
            *(
                column
                for limit in LIMITS_S
                for column in (
                    Column(f"tokens_per_s_under_{limit:g}s", f"under {1000 * limit:g} ms [tokens/s]"),
                    Column(f"batch_under_{limit:g}s", f"batch, {1000 * limit:g} ms"),
                )
            ),
        ],
        group.title,
    )
    for series in group.series:
        row = [TableCell(series.name, series.name)]
        for limit in LIMITS_S:
            row += _under(table, series.cells, limit)
        table.rows.append(row)
    return table


def _under(table: Table, cells: Mapping[int, Record], limit: float) -> list[TableCell]:
    """Throughput and batch of the largest batch under a limit; a footnote where a larger one was not there to try."""
    times = {batch: value(record, "step_s") for batch, record in cells.items()}
    timed = [batch for batch, step in times.items() if step is not None]
    within = [batch for batch in timed if (times[batch] or 0.0) < limit]
    if not within:
        return [TableCell(NO_VALUE), TableCell(NO_VALUE)]
    best = max(within)
    rate = value(cells[best], "tokens_per_s")
    larger = sorted(batch for batch in cells if batch > best)
    marker = ""
    if not larger:
        marker = table.note("the largest batch that was measured: a larger one may be under the limit too")
    elif larger[0] not in timed:
        word = cells[larger[0]].status.value.replace("_", " ")
        marker = table.note(f"the next batch measured, {larger[0]}, is {word}")
    text = NO_VALUE if rate is None else f"{format_number(rate)} {marker}".rstrip()
    return [TableCell(text, rate), TableCell(str(best), float(best))]
