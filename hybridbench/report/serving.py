"""serving: the share of the floor over batches and scales, and throughput under a limit on a step's time.

A group of ``groups`` holds one scale, and one batch or one context. Where decode was measured at three batches or more
of one context, or a workload at two scales or more, this section sets them side by side.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from hybridbench.arch.families import ARCHS
from hybridbench.arch.model import ModelSpec
from hybridbench.derive.doubts import doubts
from hybridbench.metrics import METRICS, value
from hybridbench.record import Record, Status
from hybridbench.record.caveats import said_of
from hybridbench.report.chart import MEASURED, Failure, Plot, Point
from hybridbench.report.groups import NO_RUNS, Group, arch_order, group_records
from hybridbench.report.measured import outcome_word
from hybridbench.report.part import ReportPart
from hybridbench.report.places import BATCH, SCALE, scale_place
from hybridbench.report.plots import metric_plot
from hybridbench.report.table import NO_VALUE, Column, Table, TableCell
from hybridbench.suite.workloads import DECODE, PASSES
from hybridbench.units import format_number, format_tokens

LIMITS_S = (0.010, 0.020, 0.050)
"""Limits on the median time of a step: a token every 10, 20 and 50 ms."""

_FEWEST_BATCHES = 3
_SHARE, _SHARE_WORDS = "floor_frac", "share of the floor"


def serving_part(records: Sequence[Record], runs: Mapping[str, str] = NO_RUNS) -> ReportPart | None:
    """The section; None where no context has decode at three batches, and no workload was measured at two scales.

    Args:
        records: those that a report shows.
        runs: as for ``group_records``.
    """
    of_kind = {kind: [record for record in records if record.case.workload.kind == kind] for kind in PASSES}
    by_batch = [group for group in _by_batch(of_kind[DECODE], runs) if len(group.places) >= _FEWEST_BATCHES]
    plots = [_named(_batch_plot(group), f"decode-share-by-batch-{n}") for n, group in enumerate(by_batch, 1)]
    for kind, members in of_kind.items():
        by_scale = enumerate(_by_scale(kind, members, runs), 1)
        plots += [_named(plot, f"{kind}-share-by-scale-{n}") for n, plot in by_scale]
    plots = [plot for plot in plots if plot.points]
    tables = [_limits_table(group) for group in by_batch]
    if not (plots or tables):
        return None
    return ReportPart("Over batches and scales", [], tables, plots)


def _by_batch(decoded: Iterable[Record], runs: Mapping[str, str]) -> list[Group]:
    """A group for each context whose axis is the batch."""
    contexts: dict[int, list[Record]] = {}
    for record in decoded:
        contexts.setdefault(record.case.workload.context, []).append(record)
    found = [group for _, members in sorted(contexts.items()) for group in group_records(members, runs)]
    return [group for group in found if group.axis == BATCH]


def _batch_plot(group: Group) -> Plot:
    return replace(metric_plot(group, _SHARE), title="Share of the floor by batch, decode", quantity=_SHARE_WORDS)


def _by_scale(kind: str, members: Iterable[Record], runs: Mapping[str, str]) -> list[Plot]:
    """The share of the floor against the scale, a plot for each set of other conditions that has two scales.

    A batch for each scale is no other condition: the largest models are often measured with a smaller one.
    """
    works: dict[tuple[int, int], list[Record]] = {}
    for record in members:
        if scale_place(record.case.model.scale) is not None:
            work = record.case.workload
            works.setdefault((work.context, work.batch), []).append(record)
    alike: dict[tuple[tuple[str, str], ...], list[Record]] = {}
    for (context, _), some in works.items():
        for group in group_records(some, runs):
            words = {**group.conditions, "batch": "", "context": f"context {format_tokens(context)}"}
            others = tuple((name, text) for name, text in words.items() if name not in ("workload", "scale"))
            alike.setdefault(others, []).extend(group.records)
    return [
        _scale_plot(kind, ", ".join(batch if name == "batch" else text for name, text in others), found, runs)
        for others, some in alike.items()
        for batch, found in _with_one_batch(some).items()
        if len({record.case.model.scale for record in found}) > 1
    ]


def _with_one_batch(records: Sequence[Record]) -> dict[str, list[Record]]:
    """Records of which each scale has one batch, by words for it: all of them, or those of each batch."""
    batches: dict[int, list[Record]] = {}
    for record in records:
        batches.setdefault(record.case.workload.batch, []).append(record)
    pairs = {(record.case.model.scale, record.case.workload.batch) for record in records}
    if len(batches) == 1 or len(pairs) > len({scale for scale, _ in pairs}):
        return {f"batch {batch}": found for batch, found in batches.items()}
    scales = {
        batch: ", ".join(dict.fromkeys(str(record.case.model.scale) for record in found))
        for batch, found in batches.items()
    }
    return {", ".join(f"batch {batch} ({where})" for batch, where in scales.items()): list(records)}


def _scale_plot(kind: str, conditions: str, found: Sequence[Record], runs: Mapping[str, str]) -> Plot:
    """One plot; runs that measured the same model have a line each, as in the groups of a report."""
    names = _names([record.case.model for record in found])
    apart = len({record.case.model for record in found}) < len(found)
    points: list[Point] = []
    failures: list[Failure] = []
    models: dict[str, ModelSpec] = {}
    order = list(dict.fromkeys(["", *runs.values()]))

    def placed(record: Record) -> tuple[int, int, int]:
        run = order.index(runs.get(record.run_id, ""))
        return arch_order(record.case.model), run, scale_place(record.case.model.scale) or 0

    for record in sorted(found, key=placed):
        model, run = record.case.model, runs.get(record.run_id, "")
        series = f"{names[model]} ({run})" if apart and run else names[model]
        models.setdefault(series, model)
        place, share = scale_place(model.scale) or 0, value(record, _SHARE)
        if share is not None:
            points.append(Point(series, place, share, MEASURED))
        elif record.status is not Status.OK:
            failures.append(Failure(series, place, record.status.value.replace("_", " ")))
    return Plot(
        name="share",
        title=f"Share of the floor by scale, {kind}",
        subtitle=conditions,
        quantity=_SHARE_WORDS,
        unit=METRICS[_SHARE].unit,
        axis=SCALE,
        models=models,
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
    """The highest throughput of the batches whose step is under each limit, a row per model."""
    table = Table(
        "throughput under a latency limit",
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
    table.remark("the fastest batch of those whose median step is under the limit; single steps may take longer")
    return table


def _under(table: Table, cells: Mapping[int, Record], limit: float) -> list[TableCell]:
    """The highest throughput under a limit and its batch, with footnotes on doubts about it, and where a larger batch
    was not there to try.
    """
    words = {batch: outcome_word(record) for batch, record in cells.items()}
    steps = {batch: value(cells[batch], "step_s") for batch, word in words.items() if word == Status.OK.value}
    rates = {
        batch: rate
        for batch, step in steps.items()
        if step is not None and step < limit and (rate := value(cells[batch], "tokens_per_s")) is not None
    }
    if not rates:
        return [TableCell(NO_VALUE), TableCell(NO_VALUE)]
    best = max(rates, key=lambda batch: (rates[batch], batch))
    markers = [table.note(said_of(caveat)) for caveat in doubts(cells[best])]
    larger = sorted(batch for batch in cells if batch > best)
    if not larger:
        markers.append(table.note("the largest batch that was measured: a larger one may be under the limit too"))
    elif words[larger[0]] != Status.OK.value:
        markers.append(table.note(f"the next batch measured, {larger[0]}, is {words[larger[0]]}"))
    text = f"{format_number(rates[best])} {''.join(markers)}".rstrip()
    return [TableCell(text, rates[best]), TableCell(str(best), float(best))]
