"""frames: what notebooks ask for, as pandas DataFrames: stored records, and predicted costs, fits and prices.

    df = hybridbench.load("results/nvidia-h200/efficiency")
    df[df.workload == "decode"].pivot(index="context_tokens", columns="model", values="tokens_per_s")

A frame has one row per case and one column per quantity. Names end with the unit (``_s _bytes _flops _j _tokens
_frac``), values are SI, and what is unknown is missing. FLOPs and counts have no further unit.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from hybridbench import units
from hybridbench.arch.block import Convention
from hybridbench.arch.imports.huggingface import read_config
from hybridbench.arch.model import ModelSpec
from hybridbench.arch.stored import Dtypes, StorageOptions
from hybridbench.efficiency import MeasuredSteps
from hybridbench.errors import BadInput, unknown_name
from hybridbench.machine import find_gpus
from hybridbench.predict.fit import largest_fit
from hybridbench.predict.group import GpuGroup, groups_of
from hybridbench.predict.group_cost import shared_cost
from hybridbench.predict.pricing import price as price_of
from hybridbench.record import Record, Status
from hybridbench.report.frame import to_frame
from hybridbench.report.plans import fit_row
from hybridbench.report.predicted import cost_row
from hybridbench.report.prices import price_row
from hybridbench.store import load as load_records
from hybridbench.store import newest
from hybridbench.suite.models import ALL_ARCHS, model_specs, preset_specs
from hybridbench.suite.sweep import check_checkpoint
from hybridbench.suite.workloads import Workload, check_one_pass, workload_row

Amounts = int | str | Sequence[int]
"""Contexts or batches: a number, numbers, or a range as typed on the command line (``4k..128k``)."""

_RENAMED = {"label": "model", "context": "context_tokens", "prompt": "prompt_tokens"}
_COUNTS = ("context_tokens", "prompt_tokens", "batch", "depths", "streams", "gpus", "tp", "seed", "d_model")


_UNITS = ("_s", "_j", "_w", "_frac", "_bytes", "_flops", "_full_mask", "_per_token")


def load(*results: str | Path, every: bool = False) -> pd.DataFrame:
    """Stored records as a frame: one row per case, with its identity and every metric.

    Args:
        results: folders and ``.jsonl`` files.
        every: all records, where otherwise each case and machine has its latest only.

    Raises:
        BadResults: no record, or one that is damaged; the text names file, line and field.
    """
    records: list[Record] = load_records([Path(path) for path in results], warnings.warn)
    return record_frame(records if every else newest(records))


def record_frame(records: Sequence[Record]) -> pd.DataFrame:
    """Records as ``load`` gives them, in the order given."""
    frame = _typed(to_frame(records))
    frame["started_at"] = pd.to_datetime([record.started for record in records], utc=True)
    frame["status"] = pd.Categorical(frame["status"], categories=[status.value for status in Status])
    return frame


def cost(
    arch: str = ALL_ARCHS,
    *,
    scale: str = "1b",
    ctx: Amounts = "8k",
    batch: Amounts = 1,
    gpus: Amounts | None = None,
    tp: Amounts | None = None,
    model: str | None = None,
    config: str | Path | None = None,
    convention: str = "exact",
    dtype: str | None = None,
    state_dtype: str | None = None,
    weight_dtype: str | None = None,
    kv_dtype: str | None = None,
    **options: Any,
) -> pd.DataFrame:
    """What models must cost, as ``hybridbench cost``: FLOPs and cache of one sequence, bytes moved of a whole step.

    Args:
        arch, scale, options: families with their options, as on the command line (``ratio="1:1,1:5"``).
        ctx, batch: contexts in tokens, and sequences.
        gpus, tp: GPUs in all, and those that share every matrix; figures are of one of them, and columns of what it
            exchanges are added. ``gpus`` alone divides training by FSDP2, ``tp`` alone is all GPUs.
        model: published models in their place, with commas.
        config: a Hugging Face config.json in their place.
        convention: ``exact``, ``paper`` or ``hardware``.
        dtype, state_dtype, weight_dtype, kv_dtype: as on the command line.

    Raises:
        BadInput: a name, range or option that does not fit.
    """
    if convention not in list(Convention):
        raise unknown_name("convention", convention, [known.value for known in Convention])
    asked = StorageOptions(dtype, state_dtype, kv_dtype, weight_dtype)
    specs, groups = _specs(arch, scale, model, config, options), _groups(gpus, tp)
    rows = [
        cost_row(
            spec,
            shared_cost(spec, group, context, count, Convention(convention), dtypes.storage, trains=gpus is not None),
            dtypes,
        )
        for spec, dtypes, group, count, context in _cells(specs, asked, groups, batch, ctx)
    ]
    return _typed(pd.DataFrame(rows))


def fit(
    arch: str = ALL_ARCHS,
    *,
    scale: str = "1b",
    gpu: str = "h200",
    workload: str = "decode",
    ctx: Amounts | None = None,
    batch: Amounts | None = None,
    gpus: Amounts | None = None,
    tp: Amounts | None = None,
    checkpoint: str = "none",
    model: str | None = None,
    config: str | Path | None = None,
    dtype: str | None = None,
    state_dtype: str | None = None,
    weight_dtype: str | None = None,
    kv_dtype: str | None = None,
    **options: Any,
) -> pd.DataFrame:
    """The largest batch at ``ctx``, or the largest context at ``batch``, that fits GPUs, as ``hybridbench fit``.

    Args:
        gpu: names with commas, or ``all``.
        workload: ``train``, ``prefill`` or ``decode``.
        checkpoint: which activations a training step keeps.
        gpus, tp: as of ``cost``; the batch is that of the GPUs which share a matrix.
        arch, scale, ctx, batch, model, config, dtype, state_dtype, weight_dtype, kv_dtype, options: as of ``cost``.

    Raises:
        BadInput: a name, range or option that does not fit.
    """
    check_one_pass(workload, "workload")
    check_checkpoint(checkpoint, workload_row(workload), "checkpoint")
    asked = StorageOptions(dtype, state_dtype, kv_dtype, weight_dtype)
    contexts = (8192,) if ctx is None and batch is None else (None,) if ctx is None else _amounts(ctx, "context")
    counts = (None,) if batch is None else _amounts(batch, "batch")
    specs, groups = _specs(arch, scale, model, config, options), _groups(gpus, tp, workload)
    found = [
        largest_fit(
            *(spec, one, workload, asked.dtypes(spec.stored)),
            context=context,
            batch=count,
            checkpoint=checkpoint,
            group=group,
        )
        for spec, one, group, count, context in itertools.product(specs, find_gpus(gpu), groups, counts, contexts)
    ]
    frame = _typed(pd.DataFrame([fit_row(one, None) for one in found]))
    return frame.drop(columns=[name for name in frame if str(name).startswith("found")])


def price(
    arch: str = ALL_ARCHS,
    *,
    scale: str = "1b",
    gpu: str = "h200",
    workload: str = "decode",
    ctx: Amounts = "8k",
    batch: Amounts = 4,
    gpus: Amounts | None = None,
    tp: Amounts | None = None,
    efficiency: str | Path | None = None,
    model: str | None = None,
    config: str | Path | None = None,
    dtype: str | None = None,
    state_dtype: str | None = None,
    weight_dtype: str | None = None,
    kv_dtype: str | None = None,
    **options: Any,
) -> pd.DataFrame:
    """Floor, throughput and energy on any GPUs, without having them, as ``hybridbench price``.

    Args:
        efficiency: records of a GPU, whose share of the floor predicts steps.
        arch, scale, gpu, workload, ctx, batch, gpus, tp, model, config, dtype, state_dtype, weight_dtype, kv_dtype,
            options: as of ``fit``.

    Raises:
        BadInput: a name, range or option that does not fit.
        BadResults: ``efficiency`` holds no records.
    """
    check_one_pass(workload, "workload")
    asked = StorageOptions(dtype, state_dtype, kv_dtype, weight_dtype)
    measured = MeasuredSteps([] if efficiency is None else newest(load_records([Path(efficiency)], warnings.warn)))
    specs, groups = _specs(arch, scale, model, config, options), _groups(gpus, tp, workload)
    rows = []
    for spec, dtypes, group, count, context in _cells(specs, asked, groups, batch, ctx):
        work = Workload(workload, context, count)
        share = measured.efficiency_of(spec, work, dtypes, group)
        rows += [price_row(price_of(spec, work, one, dtypes, share, group)) for one in find_gpus(gpu)]
    return _typed(pd.DataFrame(rows))


def _specs(
    arch: str, scale: str, model: str | None, config: str | Path | None, options: dict[str, Any]
) -> list[ModelSpec]:
    """The models asked for: published ones, one of a file, or families."""
    if model is None and config is None:
        return model_specs(arch=arch, scale=scale, every_ratio=True, **options)
    if options or arch != ALL_ARCHS:
        given = ", ".join(["arch"] * (arch != ALL_ARCHS) + list(options))
        raise BadInput(f"model or config with {given}: the model is what it is; leave one of them out.")
    named = [] if model is None else preset_specs(model)
    return [*named, *([] if config is None else [read_config(Path(config))])]


def _cells(
    specs: Iterable[ModelSpec], asked: StorageOptions, groups: Sequence[GpuGroup | None], batch: Amounts, ctx: Amounts
) -> Iterator[tuple[ModelSpec, Dtypes, GpuGroup | None, int, int]]:
    """Each model with its dtypes, in each group at each size, in the order of the commands' rows."""
    counts, contexts = _amounts(batch, "batch"), _amounts(ctx, "context")
    for spec in specs:
        dtypes = asked.dtypes(spec.stored)
        for group, count, context in itertools.product(groups, counts, contexts):
            yield spec, dtypes, group, count, context


def _groups(gpus: Amounts | None, tp: Amounts | None, workload: str | None = None) -> tuple[GpuGroup | None, ...]:
    return groups_of(
        None if gpus is None else _amounts(gpus, "gpus"), None if tp is None else _amounts(tp, "tp"), workload
    )


def _amounts(given: Amounts, what: str) -> tuple[int, ...]:
    text = given if isinstance(given, str) else ",".join(map(str, [given] if isinstance(given, int) else given))
    return units.parse_range(text, what)


def _typed(frame: pd.DataFrame) -> pd.DataFrame:
    """A frame with the names of notebooks, counts as whole numbers that may be missing, and text as text."""
    frame = frame.rename(columns=_RENAMED)
    return frame.astype({name: kind for name in frame if (kind := _kind(frame[name])) is not None})


def _kind(column: pd.Series[Any]) -> str | None:
    """The type that a column is to have; None where it has it. A whole number of FLOPs may exceed 64 bits."""
    name, kept = str(column.name), column.dropna()
    if name in _COUNTS:
        return "Int64"
    if name.endswith(_UNITS):
        return None if name.endswith("_bytes") and column.dtype == "int64" else "float64"
    if len(kept) and all(isinstance(value, bool) for value in kept):
        return "boolean"
    return None if pd.api.types.is_numeric_dtype(column) else "string"
