"""tables: what a report says in rows and columns, built once and rendered for the terminal, Markdown and CSV.

A cell holds the text people read and the SI value machines read. Text has three significant digits in a unit that the
heading names; CSV has SI numbers in full, under the metric's own name. A case that failed is a row with the word of its
status and a footnote with the reason; doubts about a measurement are footnotes with advice.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table as RichTable
from rich.text import Text

from hybridbench.arch.model import Cost, LayerCost, ModelSpec
from hybridbench.arch.presets import PRESETS
from hybridbench.metrics import METRICS, doubts, problems, value
from hybridbench.record import ADVICE, Record, Status
from hybridbench.report.display import Scale, scale_for
from hybridbench.report.groups import CONTEXT, Group, arch_order, series_names
from hybridbench.suite.workloads import WORKLOADS, workload_row
from hybridbench.units import format_tokens

INVALID = "invalid"
NOT_RUN = "not run"
NO_VALUE = "-"
_ROOMY = 100
_NAMING = 4
_NAMING_KEYS = ("model", "gpu", "layout", "context", "batch", "scale", "convention", "index", "symbol", "layer")
"""Columns that name a row, among the first few of a table."""
_STYLES = {"ok": "green", "oom": "yellow", "unsupported": "yellow", NOT_RUN: "dim"}


@dataclass(frozen=True)
class Cell:
    """One entry: ``text`` for people, ``value`` in SI for machines, ``word`` the verdict that may be coloured."""

    text: str
    value: float | str | None = None
    word: str | None = None


@dataclass(frozen=True)
class Column:
    """One column: ``key`` names it in CSV, ``wide`` keeps it out of the terminal, ``wraps`` lets its text break."""

    key: str
    heading: str
    numeric: bool = True
    wide: bool = False
    wraps: bool = False


@dataclass
class Table:
    """A table with footnotes, which cells refer to as ``[1]``, ``[2]``, and remarks on all of it below them.

    ``about`` is what all its numbers are of.
    """

    title: str
    columns: list[Column]
    about: str = ""
    rows: list[list[Cell]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    @property
    def full_title(self) -> str:
        """The title for a table that stands alone."""
        return f"{self.about}: {self.title}" if self.about else self.title

    def note(self, sentence: str) -> str:
        """The marker of a footnote, which is added unless it is there."""
        if sentence not in self.notes:
            self.notes.append(sentence)
        return f"[{self.notes.index(sentence) + 1}]"

    def remark(self, sentence: str) -> None:
        """A sentence about the whole table, which no cell refers to."""
        if sentence not in self.remarks:
            self.remarks.append(sentence)

    def footnotes(self) -> list[str]:
        """The footnotes with their markers, then the remarks, which have none."""
        return [*(f"[{number}] {sentence}" for number, sentence in enumerate(self.notes, start=1)), *self.remarks]


# Renderers.


def print_table(table: Table, console: Console) -> None:
    """Prints a table to a terminal, without its wide columns.

    A number that is cut reads as another number: where the columns do not fit, the table goes on below itself, each
    part with the columns that name its rows.
    """
    shown = [place for place, column in enumerate(table.columns) if not column.wide]
    console.print(Text(table.full_title, style="bold"))
    for part in _parts(table, shown, console):
        console.print(_grid(table, part, console), crop=False)
    for footnote in table.footnotes():
        console.print(Text(footnote, style="dim"))
    if table.notes or table.remarks:
        console.print()


def _grid(table: Table, places: Sequence[int], console: Console) -> RichTable:
    # Ten columns fit 80 characters only without air between them, and with a line for each word of a heading.
    roomy = console.width >= _ROOMY
    grid = RichTable(box=box.SIMPLE_HEAD, padding=(0, 1 if roomy else 0), pad_edge=False)
    for place in places:
        column = table.columns[place]
        heading = Text(column.heading.replace(" [" if roomy else " ", "\n[" if roomy else "\n"))
        if column.numeric:
            words = [heading.plain, *(row[place].text for row in table.rows)]
            widest = max(len(word) for text in words for word in text.split())
            grid.add_column(heading, justify="right", vertical="bottom", min_width=widest)
        else:
            grid.add_column(heading, no_wrap=not column.wraps)
    for row in table.rows:
        grid.add_row(*(Text(row[place].text, style=verdict_style(row[place].word)) for place in places))
    return grid


def _parts(table: Table, places: list[int], console: Console) -> list[list[int]]:
    """The columns, in as many parts as it takes for each to fit the console."""
    names = [place for place in places[:_NAMING] if table.columns[place].key in _NAMING_KEYS]
    rest = [place for place in places if place not in names]
    wide_console = console.options.update(width=10_000)
    needed = Measurement.get(console, wide_console, _grid(table, places, console)).minimum
    if needed <= console.width or len(rest) < 2:
        return [places]
    middle = (len(rest) + 1) // 2
    return [part for half in (rest[:middle], rest[middle:]) for part in _parts(table, names + half, console)]


def verdict_style(word: str | None) -> str:
    """The colour of a verdict that stands there in words anyway."""
    return "" if word is None else _STYLES.get(word, "red")


def to_markdown(table: Table, *, alone: bool = True) -> str:
    """A heading, the table and its footnotes as GitHub Markdown.

    Args:
        table: what to render.
        alone: whether the heading repeats what the table is about; no need below a heading that says it.
    """
    import pandas as pd

    frame = pd.DataFrame(
        [[escape(cell.text) for cell in row] for row in table.rows],
        columns=pd.Index([escape(column.heading) for column in table.columns]),
        dtype=object,
    )
    align = ["right" if column.numeric else "left" for column in table.columns]
    lines = [f"### {escape(table.full_title if alone else table.title)}", ""]
    lines.append(frame.to_markdown(index=False, colalign=align, disable_numparse=True) if table.rows else "No rows.")
    if table.notes or table.remarks:
        lines += ["", *(f"{escape(footnote)}  " for footnote in table.footnotes())]
    return "\n".join(lines) + "\n"


def escape(text: str) -> str:
    """Text that Markdown shows as it is."""
    for mark in "\\|*_<>`":
        text = text.replace(mark, f"\\{mark}")
    return " ".join(text.split())


def to_csv(table: Table) -> str:
    """The values in SI and in full, one heading per column, an empty field for what is unknown."""
    import pandas as pd

    frame = pd.DataFrame(
        [[cell.value for cell in row] for row in table.rows],
        columns=pd.Index([column.key for column in table.columns]),
        dtype=object,
    )
    return str(frame.to_csv(index=False, lineterminator="\n"))


# Measured tables.


@dataclass(frozen=True)
class _Detail:
    """A table with a row per case: its columns, and which of them only some workloads have."""

    title: str
    metrics: tuple[str, ...]
    wide: tuple[str, ...] = ()
    workloads: tuple[str, ...] = tuple(WORKLOADS)
    shared: tuple[tuple[str, ...], ...] = ()
    """Metrics shown in one unit, so that predicted and measured compare by eye."""


_SUMMARY = "measured against the floor"
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
    _Detail("energy", ("energy_per_token_j", "power_w")),
)

_OPTIONAL = {
    # Columns that are left out where no case has a value; anything else says "unknown".
    *("token_s", "gradients_bytes", "optimizer_bytes", "paper_flops", "hardware_flops", "hfu_frac"),
    *("energy_per_token_j", "power_w"),
    # A generation timed at depths has no percentiles, any other step no parts.
    *("step_p05_s", "step_p95_s", "step_p99_s", "prefill_part_s", "integration_frac"),
}


def headline_table(group: Group, metric: str = "tokens_per_s") -> Table:
    """One row per model, one column per context (or batch), one metric."""
    shown = METRICS[metric]
    scale = _metric_scale(group, (metric,))
    table = Table(
        scale.heading(shown.title),
        [
            Column("model", "model", numeric=False),
            *(Column(f"{metric}@{place}", group.place_label(place)) for place in group.places),
        ],
        group.title,
    )
    for series in group.series:
        row = [Cell(series.name, series.name)]
        for place in group.places:
            record = series.cells.get(place)
            row.append(Cell(NOT_RUN, NOT_RUN, NOT_RUN) if record is None else _measured(table, record, metric, scale))
        table.rows.append(row)
    for sentence in [*unequal_kernels(group), *several_runs(group)]:
        table.remark(sentence)
    return table


def unequal_kernels(group: Group) -> list[str]:
    """A sentence for each operation that different kernels ran in different models: such arms are not equal."""
    return differing_kernels((series.name, record) for series in group.series for record in series.cells.values())


def several_runs(group: Group) -> list[str]:
    """A sentence that says which models are of which run where there are several: a card differs from day to day."""
    runs: dict[str, list[str]] = {}
    for record in sorted(group.records, key=lambda record: record.started_at):
        runs.setdefault(record.run_id, [])
    for series in group.series:
        for run in dict.fromkeys(record.run_id for record in series.cells.values()):
            runs[run].append(series.name)
    if len(runs) < 2:
        return []
    return [
        f"cells of {len(runs)} runs, and ratios hold best within one: "
        + "; ".join(f"{', '.join(names)} in {run}" for run, names in runs.items())
    ]


def differing_kernels(named: Iterable[tuple[str, Record]]) -> list[str]:
    """``unequal_kernels`` of records with the names of their models."""
    ran: dict[str, dict[str, list[str]]] = {}
    for model, record in named:
        for use in record.observed.backends if record.observed else ():
            names = ran.setdefault(use.op, {}).setdefault(use.ran, [])
            if model not in names:
                names.append(model)
    return [
        f"kernels differ between models: {op} is "
        + "; ".join(f"{backend} in {', '.join(names)}" for backend, names in backends.items())
        for op, backends in ran.items()
        if len(backends) > 1
    ]


def _measured(table: Table, record: Record, metric: str, scale: Scale) -> Cell:
    """A metric with its footnotes, or the word for why there is none."""
    verdict = outcome(table, record)
    if record.status is not Status.OK:
        return verdict
    number = value(record, metric)
    markers = verdict.text.partition(" ")[2]
    return Cell(f"{scale.show(number)} {markers}".rstrip(), number, None if verdict.word == "ok" else verdict.word)


def outcome(table: Table, record: Record) -> Cell:
    """How a case ended, in a word, with footnotes of the table for reasons, contradictions and doubts."""
    word = record.status.value.replace("_", " ")
    sentences = []
    if record.status is not Status.OK:
        reason = " ".join((record.message or "no reason was recorded").split())
        sentences.append(f"{word}: {reason}")
    wrong = problems(record)
    if wrong:
        word = INVALID
        sentences.append(f"{INVALID}: {'; '.join(wrong)}")
    sentences += [f"{caveat.value.replace('_', ' ')}: {ADVICE[caveat]}" for caveat in doubts(record)]
    return Cell(" ".join([word, *("".join([table.note(sentence) for sentence in sentences]),)]).strip(), word, word)


def summary_table(group: Group) -> Table:
    """Median, tail and throughput of every case beside its floor and what share of the machine it used."""
    return _detail_table(group, next(detail for detail in _DETAILS if detail.title == _SUMMARY))


def detail_tables(group: Group) -> list[Table]:
    """Every other table with a row per case: time, work, FLOPs by counter, memory, cache, energy where known."""
    wanted = [detail for detail in _DETAILS if detail.title != _SUMMARY and group.workload in detail.workloads]
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
    scales = {name: _metric_scale(group, _sharing(detail, name)) for name in chosen}
    table = Table(
        detail.title,
        [
            Column("model", "model", numeric=False),
            Column(group.axis, "ctx" if group.axis == CONTEXT else "batch"),
            *(Column(name, scales[name].heading(METRICS[name].title), wide=name in detail.wide) for name in chosen),
            Column("status", "status", numeric=False),
        ],
        group.title,
    )
    for series in group.series:
        for place, record in series.cells.items():
            verdict = outcome(table, record)
            row = [Cell(series.name, series.name), Cell(group.place_label(place), place)]
            for name in chosen:
                number = value(record, name)
                failed = number is None and record.status is not Status.OK
                text = NO_VALUE if failed else scales[name].show(number)
                row.append(Cell(f"{text} {_counter_note(table, record, name)}".rstrip(), number))
            table.rows.append([*row, verdict])
    for sentence in several_runs(group) if len(group.places) == 1 else []:  # else the headline says it
        table.remark(sentence)
    if group.superseded:
        cells = f"{group.superseded} earlier records of the same cells"
        table.remark(f"{cells}, with other sampling or seeds, are not shown")
    return table


def _counter_note(table: Table, record: Record, metric: str) -> str:
    """A footnote with what a FLOP counter did not see, or why it has no answer; nothing for other metrics."""
    seen = record.observed.counts if record.observed else []
    count = next((count for count in seen if f"{count.counter}_flops" == metric), None)
    if count is None:
        return ""
    if count.error is not None:
        return table.note(f"{count.counter} has no count: {' '.join(count.error.split())}")
    if not count.unseen:
        return ""
    missed = ", ".join(f"{name} ({times}x)" for name, times in sorted(count.unseen.items()))
    return table.note(f"{count.counter} counted as nothing: {missed}")


def _sharing(detail: _Detail, name: str) -> tuple[str, ...]:
    return next((names for names in detail.shared if name in names), (name,))


def _metric_scale(group: Group, names: tuple[str, ...]) -> Scale:
    """The unit that suits the first of some metrics that has a value, for all of them."""
    columns = ([value(record, name) for record in group.records] for name in names)
    return scale_for(next((column for column in columns if any(column)), []), METRICS[names[0]].unit)


# Predicted tables.


@dataclass(frozen=True)
class _CostColumn:
    key: str
    title: str
    unit: str
    wide: bool = False


_COST = (
    _CostColumn("params", "params", ""),
    _CostColumn("params_non_embedding", "non-emb.", "", wide=True),
    _CostColumn("params_active", "active", "", wide=True),
    _CostColumn("train_flops", "train", "FLOP"),
    _CostColumn("train_flops_full_mask", "train, full mask", "FLOP"),
    _CostColumn("prefill_flops", "prefill", "FLOP"),
    _CostColumn("decode_flops", "decode", "FLOP"),
    _CostColumn("cache_bytes", "cache", "B"),
    _CostColumn("kv_cache_bytes", "KV cache", "B", wide=True),
    _CostColumn("ssm_state_bytes", "SSM state", "B", wide=True),
    _CostColumn("conv_state_bytes", "conv state", "B", wide=True),
    _CostColumn("decode_bytes_moved", "decode moves", "B"),
    _CostColumn("weight_bytes", "weights", "B", wide=True),
)
_LAYER = (
    _CostColumn("params", "params", ""),
    _CostColumn("train_flops", "train", "FLOP"),
    _CostColumn("prefill_flops", "prefill", "FLOP"),
    _CostColumn("decode_flops", "decode", "FLOP"),
    _CostColumn("kv_cache_bytes", "KV cache", "B"),
    _CostColumn("ssm_state_bytes", "SSM state", "B"),
    _CostColumn("conv_state_bytes", "conv state", "B"),
    _CostColumn("decode_bytes_moved", "decode moves", "B"),
)


_SAID = {"scale": "{}", "convention": "convention {}", "batch": "batch {} for decode moves"}


def _conditions(spec: ModelSpec, cost: Cost) -> dict[str, str | int]:
    return {"scale": spec.scale, "convention": cost.convention.value, "batch": cost.batch}


def cost_table(rows: Sequence[tuple[ModelSpec, Cost]]) -> Table:
    """Predicted cost of each model at each context: parameters, FLOPs and cache of one sequence.

    The title names the convention and the batch; where rows differ in one, it becomes a column.
    """
    told = [_conditions(spec, cost) for spec, cost in rows]
    varying = [key for key in _SAID if len({conditions[key] for conditions in told}) > 1]
    said = [words.format(told[0][key]) for key, words in _SAID.items() if rows and key not in varying]
    models: list[ModelSpec] = []
    for spec, _ in rows:
        if spec not in models:
            models.append(spec)
    names = [model.label for model in models] if "scale" in varying else series_names(models)
    shown = {column.key: scale_for([getattr(cost, column.key) for _, cost in rows], column.unit) for column in _COST}
    # One unit for all of a kind, so that a row adds up by eye.
    caches = ("cache_bytes", "kv_cache_bytes")
    shown |= dict.fromkeys(caches, scale_for([cost.cache_bytes for _, cost in rows], "B"))
    shown |= dict.fromkeys(("params", "params_non_embedding", "params_active"), shown["params"])
    shown |= dict.fromkeys(("train_flops", "train_flops_full_mask"), shown["train_flops"])
    # Where every parameter is active, a column of its own would say the same again.
    routed = any(cost.params_active != cost.params for _, cost in rows)
    wide = {column.key: column.wide and not (routed and column.key == "params_active") for column in _COST}
    table = Table(
        f"predicted cost of one sequence: {', '.join(said)}",
        [
            Column("model", "model", numeric=False),
            *(Column(key, key, numeric=key == "batch") for key in varying),
            Column("context", "ctx"),
            *(Column(column.key, shown[column.key].heading(column.title), wide=wide[column.key]) for column in _COST),
            Column("pattern", "pattern", numeric=False, wide=True),
        ],
    )
    for (spec, cost), conditions in sorted(zip(rows, told, strict=True), key=lambda row: arch_order(row[0][0])):
        name = names[models.index(spec)]
        table.rows.append(
            [
                Cell(name, name),
                *(Cell(str(conditions[key]), conditions[key]) for key in varying),
                Cell(format_tokens(cost.context), cost.context),
                *_cost_cells(cost, _COST, shown),
                Cell(spec.pattern, spec.pattern),
            ]
        )
    for name, model in zip(names, models, strict=True):
        if model.arch in PRESETS and (inferred := PRESETS[model.arch].inferred):
            table.remark(f"{name}: inferred, not published: {inferred}")
    return table


def layer_table(rows: Sequence[LayerCost], title: str) -> Table:
    """Predicted cost of each sublayer of one model; ``title`` says which, where, and in which convention."""
    shown = {column.key: scale_for([getattr(row, column.key) for row in rows], column.unit) for column in _LAYER}
    table = Table(
        title,
        [
            Column("index", "#"),
            Column("symbol", "layer", numeric=False),
            Column("kind", "kind", numeric=False, wraps=True),
            *(Column(column.key, shown[column.key].heading(column.title), wide=column.wide) for column in _LAYER),
        ],
    )
    for row in rows:
        head = [Cell(str(row.index), row.index), Cell(row.symbol, row.symbol), Cell(row.kind, row.kind)]
        table.rows.append([*head, *_cost_cells(row, _LAYER, shown)])
    return table


def _cost_cells(cost: Cost | LayerCost, columns: Iterable[_CostColumn], shown: dict[str, Scale]) -> list[Cell]:
    cells = []
    for column in columns:
        number = getattr(cost, column.key)
        cells.append(Cell(shown[column.key].show(number), number))
    return cells
