"""predicted: the tables and plots of predicted costs, by model and layer by layer."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any

from hybridbench.arch.model import Cost, LayerCost, ModelSpec
from hybridbench.arch.presets import PRESETS
from hybridbench.arch.stored import Dtypes
from hybridbench.report.chart import PREDICTED, Plot, Point
from hybridbench.report.columns import dtype_words, model_fields, names_of
from hybridbench.report.display import ShownUnit, unit_for
from hybridbench.report.groups import arch_order, names_in_scales
from hybridbench.report.places import CONTEXT
from hybridbench.report.table import NO_VALUE, Column, Table, TableCell
from hybridbench.suite.models import distinct, same_stacks
from hybridbench.units import format_tokens


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
    _CostColumn("all_reduce_bytes", "all-reduce a token", "B"),
    _CostColumn("train_state_bytes", "stored to train", "B"),
    _CostColumn("gathered_bytes", "gathered a step", "B"),
    _CostColumn("scattered_bytes", "scattered a step", "B"),
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
    _CostColumn("all_reduce_bytes", "all-reduce a token", "B"),
)


_SAID = {
    "scale": "{}",
    "gpus": "{} GPUs",
    "tp": "tp {}",
    "convention": "convention {}",
    "batch": "batch {} for decode moves",
}
_HEADINGS = {"gpus": "GPUs"}
_COUNTS = ("gpus", "tp", "batch")
_OF_GROUPS = ("gpus", "tp", "all_reduce_bytes", "train_state_bytes", "gathered_bytes", "scattered_bytes")
"""Fields that only a model which GPUs share has; the plain values of others lack them."""


def _conditions(spec: ModelSpec, cost: Cost) -> dict[str, str | int]:
    shared = {} if cost.gpus is None or cost.tp is None else {"gpus": cost.gpus, "tp": cost.tp}
    return {"scale": spec.scale, **shared, "convention": cost.convention.value, "batch": cost.batch}


def _columns(rows: Sequence[Cost | LayerCost], columns: Sequence[_CostColumn]) -> list[_CostColumn]:
    """The columns that rows have values for."""
    return [
        column
        for column in columns
        if column.key not in _OF_GROUPS or any(getattr(row, column.key) is not None for row in rows)
    ]


def cost_row(spec: ModelSpec, cost: Cost, dtypes: Dtypes) -> dict[str, Any]:
    """One cost as plain values."""
    notes = {"notes": list(spec.notes)} if spec.notes else {}
    costs = _plain(cost)
    return {**model_fields(spec), **notes, **dtypes.to_dict(), **costs, "convention": cost.convention.value}


def layer_row(layer: LayerCost) -> dict[str, Any]:
    """One layer's cost as plain values."""
    return _plain(layer)


def _plain(cost: Cost | LayerCost) -> dict[str, Any]:
    values = {field.name: getattr(cost, field.name) for field in fields(cost)}  # asdict copies each, which is slow
    return {name: value for name, value in values.items() if value is not None or name not in _OF_GROUPS}


def cost_table(rows: Sequence[tuple[ModelSpec, Cost]], dtypes: Sequence[Dtypes] = ()) -> Table:
    """The predicted cost of each model at each context: parameters, FLOPs and cache of one sequence.

    The title names the convention and the batch. Whichever of them differs between rows becomes a column. It ends with
    ``dtypes``, one of each row, that bytes are in.
    """
    told = [_conditions(spec, cost) for spec, cost in rows]
    costs = _columns([cost for _, cost in rows], _COST)
    per_gpu = ", per GPU" if rows and "gpus" in told[0] else ""
    varying = [key for key in _SAID if len({conditions.get(key) for conditions in told}) > 1]
    alike = {key: value for key, value in told[0].items() if key not in varying} if rows else {}
    said = [_SAID[key].format(value) for key, value in alike.items()]
    stored = dtype_words([spec for spec, _ in rows], dtypes) if dtypes else ""
    models = distinct(spec for spec, _ in rows)
    names = dict(zip(models, names_in_scales(models), strict=True))
    shown = {column.key: unit_for([getattr(cost, column.key) for _, cost in rows], column.unit) for column in costs}
    # One unit for all columns of a kind, so that numbers of a row can be added.
    caches = ("cache_bytes", "kv_cache_bytes")
    shown |= dict.fromkeys(caches, unit_for([cost.cache_bytes for _, cost in rows], "B"))
    shown |= dict.fromkeys(("params", "params_non_embedding", "params_active"), shown["params"])
    shown |= dict.fromkeys(("train_flops", "train_flops_full_mask"), shown["train_flops"])
    # If every parameter is active, the column of active parameters would repeat the one of all parameters.
    routed = any(cost.params_active != cost.params for _, cost in rows)
    wide = {column.key: column.wide and not (routed and column.key == "params_active") for column in costs}
    with_ratio = any(spec.ratio is not None for spec, _ in rows)
    table = Table(
        f"predicted cost of one sequence{per_gpu}: {', '.join(said)}{f'; {stored}' if stored else ''}",
        [
            Column("model", "model", numeric=False),
            *(Column(key, _HEADINGS.get(key, key), numeric=key in _COUNTS) for key in varying),
            Column("context", "ctx"),
            *(Column(column.key, shown[column.key].heading(column.title), wide=wide[column.key]) for column in costs),
            *([Column("ratio", "ratio", numeric=False, wide=True)] if with_ratio else []),
            Column("pattern", "pattern", numeric=False, wide=True),
        ],
    )
    for (spec, cost), conditions in sorted(zip(rows, told, strict=True), key=lambda row: arch_order(row[0][0])):
        name = names[spec]
        table.rows.append(
            [
                TableCell(name, name),
                *(TableCell(str(conditions[key]), conditions[key]) for key in varying),
                TableCell(format_tokens(cost.context), cost.context),
                *_cost_cells(cost, costs, shown),
                *([TableCell(spec.ratio or NO_VALUE, spec.ratio)] if with_ratio else []),
                TableCell(spec.pattern, spec.pattern),
            ]
        )
    for sentence in same_stacks(models):
        table.remark(sentence)
    for model, name in names.items():
        if model.arch in PRESETS and (inferred := PRESETS[model.arch].inferred):
            table.remark(f"{name}: inferred, not published: {inferred}")
        for note in model.notes:
            table.remark(f"{name}: {note}")
    return table


def layer_table(rows: Sequence[LayerCost], title: str) -> Table:
    """The predicted cost of each sublayer of one model. ``title`` names the model, context and convention."""
    columns = _columns(rows, _LAYER)
    shown = {column.key: unit_for([getattr(row, column.key) for row in rows], column.unit) for column in columns}
    table = Table(
        title,
        [
            Column("index", "#"),
            Column("symbol", "layer", numeric=False),
            Column("kind", "kind", numeric=False, wraps=True),
            *(Column(column.key, shown[column.key].heading(column.title), wide=column.wide) for column in columns),
        ],
    )
    for row in rows:
        head = [TableCell(str(row.index), row.index), TableCell(row.symbol, row.symbol), TableCell(row.kind, row.kind)]
        table.rows.append([*head, *_cost_cells(row, columns, shown)])
    return table


def _cost_cells(cost: Cost | LayerCost, columns: Iterable[_CostColumn], shown: dict[str, ShownUnit]) -> list[TableCell]:
    cells = []
    for column in columns:
        number = getattr(cost, column.key)
        cells.append(TableCell(shown[column.key].show(number), number))
    return cells


def cost_plots(rows: Sequence[tuple[ModelSpec, Cost]]) -> list[Plot]:
    """Predicted FLOPs and cache of one sequence against context, for one convention and batch.

    Raises:
        ValueError: the rows mix conventions.
    """
    if len({cost.convention for _, cost in rows}) > 1:
        raise ValueError("the rows mix conventions: give rows of one convention")
    models = distinct(spec for spec, _ in sorted(rows, key=lambda row: arch_order(row[0])))
    names = dict(zip(models, names_of(models), strict=True))
    per_token: tuple[tuple[str, str, str, str, Callable[[Cost], float]], ...] = (
        ("train-flops", "Training FLOPs per token", "FLOPs per token", "FLOP", lambda c: c.train_flops / c.context),
        ("decode-flops", "Decode FLOPs per token", "FLOPs per token", "FLOP", lambda c: c.decode_flops),
        ("cache", "Cache of one sequence", "cache", "B", lambda c: c.cache_bytes),
    )
    said = [f"convention {rows[0][1].convention.value}", *dict.fromkeys(spec.scale for spec, _ in rows)] if rows else []
    if rows and rows[0][1].gpus is not None:
        said.append(f"one of {rows[0][1].gpus} GPUs, tp {rows[0][1].tp}")
    return [
        Plot(
            name=name,
            title=f"{title}, predicted",
            subtitle=", ".join(said),
            quantity=quantity,
            unit=unit,
            axis=CONTEXT,
            models={name: model for model, name in names.items()},
            points=[Point(names[spec], cost.context, get(cost), PREDICTED) for spec, cost in rows],
            failures=[],
        )
        for name, title, quantity, unit, get in per_token
    ]


@dataclass(frozen=True)
class PredictedReport:
    """Predictions: one table, and plots by the name of their files, without an ending.

    ``name`` is that of the page and of the table's file, ``title`` is the page's.
    """

    name: str
    title: str
    table: Table
    plots: dict[str, Plot]


def build_cost(rows: Sequence[tuple[ModelSpec, Cost]], dtypes: Sequence[Dtypes] = ()) -> PredictedReport:
    """The report of predicted costs.

    A plot is of one scale, one convention, the first batch and the first group of GPUs: it is of one sequence.
    """
    scales = list(dict.fromkeys(spec.scale for spec, _ in rows))
    conventions = list(dict.fromkeys(cost.convention for _, cost in rows))
    plots: dict[str, Plot] = {}
    for scale, convention in itertools.product(scales, conventions):
        shown = [
            (spec, cost)
            for spec, cost in rows
            if (spec.scale, cost.convention, cost.batch, cost.gpus, cost.tp)
            == (scale, convention, rows[0][1].batch, rows[0][1].gpus, rows[0][1].tp)
        ]
        parts = ["cost", *([scale] if len(scales) > 1 else []), *([convention.value] if len(conventions) > 1 else [])]
        plots |= {f"{'-'.join(parts)}-{plot.name}": plot for plot in cost_plots(shown)}
    return PredictedReport("cost", "Predicted cost", cost_table(rows, dtypes), plots)
