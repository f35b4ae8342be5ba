"""measured: the tables of a group of records.

The row of a failed case has the word of its status and a footnote with the reason. Caveats of a measurement are
footnotes with advice.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from hybridbench.derive.doubts import doubts, problems
from hybridbench.metrics import METRICS, value
from hybridbench.record import Record, Status, power_limit_text, said_of
from hybridbench.report.display import ShownUnit, unit_for
from hybridbench.report.groups import Group
from hybridbench.report.places import CONTEXT
from hybridbench.report.table import NO_VALUE, NOT_RUN, Column, Table, TableCell
from hybridbench.suite.models import same_stack
from hybridbench.suite.workloads import WORKLOADS, workload_row

INVALID = "invalid"


@dataclass(frozen=True)
class _Detail:
    """The description of a table with a row per case: its columns, and those that only some workloads have."""

    title: str
    metrics: tuple[str, ...]
    wide: tuple[str, ...] = ()
    workloads: tuple[str, ...] = tuple(WORKLOADS)
    shared: tuple[tuple[str, ...], ...] = ()
    """Metrics that are shown in the same unit, so that predicted and measured numbers can be compared directly."""


_SUMMARY = "measured against the floor"
_SEVERAL = "several GPUs"
_DETAILS = (
    _Detail(
        _SUMMARY,
        ("step_s", "step_p95_s", "tokens_per_s", "floor_s", "floor_frac", "mbu_frac", "mfu_frac"),
        shared=(("step_s", "step_p95_s", "floor_s"),),
    ),
    _Detail(
        "time",
        (
            *("step_s", "step_low_s", "step_high_s", "step_p05_s", "step_p95_s", "step_p99_s"),
            *("prefill_part_s", "integration_frac", "token_s", "samples", "build_s", "prepare_s"),
        ),
        shared=(("step_s", "step_low_s", "step_high_s", "step_p05_s", "step_p95_s", "step_p99_s"),),
    ),
    _Detail(
        "work, FLOPs in convention exact",
        (
            *("model_flops", "model_flops_per_token", "model_flops_per_s", "hfu_frac"),
            *("must_move_bytes", "must_move_bytes_per_s"),
        ),
    ),
    _Detail(
        "FLOPs of one step, by convention and by counter",
        ("model_flops", "paper_flops", "hardware_flops", "torch_flops", "torch_ratio", "fvcore_flops", "fvcore_ratio"),
        shared=(("model_flops", "paper_flops", "hardware_flops", "torch_flops", "fvcore_flops"),),
    ),
    _Detail(
        "memory, predicted and observed",
        (
            *("predicted_weights_bytes", "weights_bytes", "gradients_bytes", "optimizer_bytes", "activations_bytes"),
            *("predicted_peak_bytes", "peak_allocated_bytes", "peak_reserved_bytes"),
        ),
        shared=(
            ("predicted_weights_bytes", "weights_bytes"),
            ("predicted_peak_bytes", "peak_allocated_bytes", "peak_reserved_bytes"),
        ),
    ),
    _Detail(
        "cache of the whole batch, predicted and observed",
        (
            *("predicted_cache_bytes", "cache_bytes", "predicted_kv_cache_bytes", "kv_cache_bytes"),
            *("predicted_ssm_state_bytes", "ssm_state_bytes", "predicted_conv_state_bytes", "conv_state_bytes"),
        ),
        workloads=tuple(name for name, row in WORKLOADS.items() if not row.trains),
        shared=(
            ("predicted_cache_bytes", "cache_bytes", "predicted_kv_cache_bytes", "kv_cache_bytes"),
            ("predicted_ssm_state_bytes", "ssm_state_bytes"),
            ("predicted_conv_state_bytes", "conv_state_bytes"),
        ),
    ),
    _Detail(
        _SEVERAL,
        (
            *("step_s", "gpu_tokens_per_s", "exposed_s", "exposed_frac", "transfer_s", "transfer_bytes"),
            *("scaling_floor_frac", "slowest_rank_ratio", "rank_peak_bytes"),
        ),
        shared=(("step_s", "exposed_s", "transfer_s"),),
    ),
    _Detail("energy", ("energy_per_token_j", "power_w")),
)

_OPTIONAL = {
    # Columns that are left out if no case has a value; cells of other columns say "unknown".
    *("token_s", "gradients_bytes", "optimizer_bytes", "paper_flops", "hardware_flops", "hfu_frac"),
    *("energy_per_token_j", "power_w"),
    *("gpu_tokens_per_s", "exposed_s", "exposed_frac", "transfer_s", "transfer_bytes"),
    *("scaling_floor_frac", "slowest_rank_ratio", "rank_peak_bytes"),
    # A generation timed at several contexts has no percentiles; any other step has no parts.
    *("step_p05_s", "step_p95_s", "step_p99_s", "prefill_part_s", "integration_frac"),
}


def headline_table(group: Group, metric: str = "tokens_per_s") -> Table:
    """The table of one metric, with a row per model and a column per context (or batch)."""
    shown = METRICS[metric]
    shown_in = _metric_unit(group, (metric,))
    table = Table(
        shown_in.heading(shown.title),
        [
            Column("model", "model", numeric=False),
            *(Column(f"{metric}@{place}", group.place_label(place)) for place in group.places),
        ],
        group.title,
    )
    for series in group.series:
        row = [TableCell(series.name, series.name)]
        for place in group.places:
            record = series.cells.get(place)
            row.append(
                TableCell(NOT_RUN, NOT_RUN, NOT_RUN) if record is None else _measured(table, record, metric, shown_in)
            )
        table.rows.append(row)
    for sentence in [
        *merged_ratios(group),
        *unequal_kernels(group),
        *several_runs(group),
        *power_limits(group.records),
    ]:
        table.remark(sentence)
    return table


def power_limits(records: Iterable[Record]) -> list[str]:
    """A sentence on the cells that ran at the power limit of their GPU, if any did."""
    seen = [record.observed for record in records if record.observed]
    text = power_limit_text([(one.gpu_before, one.gpu_after) for one in seen])
    return [] if text is None else [text]


def merged_ratios(group: Group) -> list[str]:
    """A sentence for each stack that was measured once for several ratios."""
    asked = {record.case.ratios: record.case.model for series in group.series for record in series.cells.values()}
    return [same_stack(model, ratios) for ratios, model in asked.items() if ratios]


def unequal_kernels(group: Group) -> list[str]:
    """A sentence for each operation that ran on different kernels in different models, which makes them unequal, or in
    different cells of each.
    """
    cells = (
        (series.name, group.place_label(place), record)
        for series in group.series
        for place, record in series.cells.items()
    )
    return differing_kernels(cells, "contexts" if group.axis == CONTEXT else "batches")


def several_runs(group: Group) -> list[str]:
    """If there are several runs, a sentence with the models of each: a card's speed differs from day to day."""
    runs: dict[str, list[str]] = {}
    for record in sorted(group.records, key=lambda record: record.started):
        runs.setdefault(record.run_id, [])
    for series in group.series:
        for run in dict.fromkeys(record.run_id for record in series.cells.values()):
            runs[run].append(series.name)
    if len(runs) < 2:
        return []
    return [
        f"cells come from {len(runs)} runs; compare ratios within one run: "
        + "; ".join(f"{', '.join(names)} in {run}" for run, names in runs.items())
    ]


def differing_kernels(cells: Iterable[tuple[str, str, Record]], axis: str) -> list[str]:
    """The sentences of ``unequal_kernels``.

    Args:
        cells: a model's name, the place on the axis and the record of each.
        axis: what places are, in the plural.
    """
    seen: dict[str, dict[tuple[str, str], list[str]]] = {}
    for model, place, record in cells:
        for use in record.observed.backends if record.observed else ():
            ran = seen.setdefault(use.op, {}).setdefault((model, place), [])
            if use.ran not in ran:
                ran.append(use.ran)
    found = []
    for op, of_cell in seen.items():
        at: dict[str, set[frozenset[str]]] = {}
        of_model: dict[str, set[frozenset[str]]] = {}
        for (model, place), ran in of_cell.items():
            at.setdefault(place, set()).add(frozenset(ran))
            of_model.setdefault(model, set()).add(frozenset(ran))
        if any(len(kinds) > 1 for kinds in at.values()):
            between = "models"
        elif any(len(kinds) > 1 for kinds in of_model.values()):
            between = axis
        elif len(set().union(*of_model.values())) > 1:
            between = "models"
        else:
            continue
        backends = dict.fromkeys(backend for ran in of_cell.values() for backend in ran)
        parts = [f"{backend} in {_where(backend, of_cell)}" for backend in backends]
        found.append(f"kernels differ between {between}: {op} is {'; '.join(parts)}")
    return found


def _where(backend: str, of_cell: Mapping[tuple[str, str], Sequence[str]]) -> str:
    """The models that an operation ran on a backend in, with the places where that is not in all of a model's cells."""
    places: dict[str, list[str]] = {}
    cells: dict[str, list[str]] = {}
    for (model, place), ran in of_cell.items():
        cells.setdefault(model, []).append(place)
        if backend in ran:
            places.setdefault(model, []).append(place)
    alike: dict[str, list[str]] = {}
    for model, here in places.items():
        alike.setdefault("" if here == cells[model] else f" (at {', '.join(here)})", []).append(model)
    return " and ".join(f"{', '.join(models)}{at}" for at, models in alike.items())


def _measured(table: Table, record: Record, metric: str, shown_in: ShownUnit) -> TableCell:
    """The cell of a metric with its footnotes, or with the word of the status where there is no value."""
    verdict = outcome(table, record)
    if record.status is not Status.OK:
        return verdict
    number = value(record, metric)
    markers = verdict.text.partition(" ")[2]
    return TableCell(
        f"{shown_in.show(number)} {markers}".rstrip(), number, None if verdict.word == "ok" else verdict.word
    )


def outcome(table: Table, record: Record) -> TableCell:
    """The cell that says in a word how a case ended, with footnotes for reasons, contradictions and caveats."""
    word, sentences = outcome_word(record), []
    if record.status is not Status.OK:
        sentences.append(f"{record.status.value.replace('_', ' ')}: {_reason(record)}")
    if wrong := problems(record):
        sentences.append(f"{INVALID}: {'; '.join(wrong)}")
    sentences += [said_of(caveat) for caveat in doubts(record)]
    return TableCell(
        " ".join([word, *("".join([table.note(sentence) for sentence in sentences]),)]).strip(), word, word
    )


def outcome_word(record: Record) -> str:
    """How a case ended, in a word: that of its status, or that the record contradicts itself."""
    return INVALID if problems(record) else record.status.value.replace("_", " ")


def _reason(record: Record) -> str:
    """Why a case has no value, on one line; of what ran out of memory the first sentence.

    PyTorch goes on with its allocator's state and advice, which differ from case to case. CSV and JSON have all of it.
    """
    said = " ".join((record.message or "no reason was recorded").split())
    first, end, _ = said.partition(". ")
    return first + end.strip() if record.status is Status.OOM else said


def summary_table(group: Group) -> Table:
    """The table of each case's median, tail and throughput, its floor, and its share of the machine's peaks."""
    return _detail_table(group, next(detail for detail in _DETAILS if detail.title == _SUMMARY))


def detail_tables(group: Group) -> list[Table]:
    """All other tables with a row per case: time, work, FLOPs by counter, memory, cache, and energy where known."""
    wanted = [detail for detail in _DETAILS if detail.title != _SUMMARY and group.workload in detail.workloads]
    if all(record.case.ranks == 1 for record in group.records):
        wanted = [detail for detail in wanted if detail.title != _SEVERAL]
    tables = [_detail_table(group, detail) for detail in wanted]
    return [table for table in tables if len(table.columns) > 3]


def _detail_table(group: Group, detail: _Detail) -> Table:
    chosen = [
        name
        for name in detail.metrics
        if name not in _OPTIONAL or any(value(record, name) is not None for record in group.records)
    ]
    if detail.title == _SUMMARY:
        chosen.remove("mfu_frac" if workload_row(group.workload).utilisation == "mbu_frac" else "mbu_frac")
    units = {name: _metric_unit(group, _sharing(detail, name)) for name in chosen}
    table = Table(
        detail.title,
        [
            Column("model", "model", numeric=False),
            Column(group.axis, "ctx" if group.axis == CONTEXT else "batch"),
            *(Column(name, units[name].heading(METRICS[name].title), wide=name in detail.wide) for name in chosen),
            Column("status", "status", numeric=False),
        ],
        group.title,
    )
    for series in group.series:
        for place, record in series.cells.items():
            verdict = outcome(table, record)
            row = [TableCell(series.name, series.name), TableCell(group.place_label(place), place)]
            for name in chosen:
                number = value(record, name)
                failed = number is None and record.status is not Status.OK
                text = NO_VALUE if failed else units[name].show(number)
                row.append(TableCell(f"{text} {_counter_note(table, record, name)}".rstrip(), number))
            table.rows.append([*row, verdict])
    alone = len(group.places) == 1  # else the headline says it
    for sentence in [*several_runs(group), *power_limits(group.records)] if alone else []:
        table.remark(sentence)
    if group.superseded:
        one = group.superseded == 1
        cells = f"{group.superseded} earlier record{'' if one else 's'} of the same cells"
        table.remark(f"{cells} {'is' if one else 'are'} not shown, only the newest of each")
    return table


def _counter_note(table: Table, record: Record, metric: str) -> str:
    """A footnote with what a FLOP counter missed, or why it has no count; empty for other metrics."""
    seen = record.observed.counts if record.observed else []
    count = next((count for count in seen if f"{count.counter}_flops" == metric), None)
    if count is None:
        return ""
    if count.error is not None:
        return table.note(f"{count.counter} has no count: {' '.join(count.error.split())}")
    markers = ""
    if count.unseen:
        missed = ", ".join(f"{name} ({times}x)" for name, times in sorted(count.unseen.items()))
        markers += table.note(f"{count.counter} counted as nothing: {missed}")
    if count.formulas:
        shown_in = unit_for(count.formulas.values(), "FLOP")
        parts = ", ".join(f"{name} {shown_in.show(flops)}" for name, flops in count.formulas.items())
        markers += table.note(
            f"{count.counter} cannot look into kernels that closed forms count, in {shown_in.label}: {parts}"
        )
    return markers


def _sharing(detail: _Detail, name: str) -> tuple[str, ...]:
    return next((names for names in detail.shared if name in names), (name,))


def _metric_unit(group: Group, names: tuple[str, ...]) -> ShownUnit:
    """One unit for several metrics: the one that suits the first metric that has a value."""
    columns = ([value(record, name) for record in group.records] for name in names)
    return unit_for(next((column for column in columns if any(column)), []), METRICS[names[0]].unit)
