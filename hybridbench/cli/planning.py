"""planning: what fits a GPU, and what a cache takes: ``hybridbench fit`` and ``cache``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hybridbench import units
from hybridbench.arch.block import Storage
from hybridbench.cli.measuring import execution_of, measure_with, told
from hybridbench.cli.options import (
    GPU_HELP,
    RESULTS,
    check_names,
    dtype_option,
    given_options,
    match_options,
    matching,
    model_options,
    out_options,
    refuse_idle,
    state_dtype_option,
    workload_option,
)
from hybridbench.cli.output import Plain
from hybridbench.cli.predicting import chosen_specs
from hybridbench.cli.typed import Command, listed
from hybridbench.errors import BadInput
from hybridbench.machine import Peak, find_gpu, find_gpus, find_peak, visible_gpus
from hybridbench.suite.case import CHECKPOINTS
from hybridbench.suite.sweep import check_checkpoint, check_seconds
from hybridbench.suite.workloads import workload_row

if TYPE_CHECKING:
    from hybridbench.searches import Verified


@click.command(cls=Command, short_help="The largest batch or context that fits a GPU.")
@model_options()
@given_options
@workload_option
@listed("--gpu", help=f"{GPU_HELP}  [h200; with --verify the one that is here]")
@click.option(
    "--checkpoint",
    default="none",
    show_default=True,
    help=f"Activations a training step keeps: {', '.join(CHECKPOINTS)}.",
)
@dtype_option
@state_dtype_option
@match_options
@click.option("--verify", is_flag=True, help="Find the true boundary on the GPU here, by bisection, and show both.")
@click.option("--limit", "limit_s", type=float, default=600.0, show_default=True, help="Seconds a trial may take.")
@out_options
def fit(
    *,
    arch: str,
    scale: str | None,
    ctx: str | None,
    batch: str | None,
    models: str | None,
    configs: tuple[Path, ...],
    workload: str,
    gpu: str | None,
    checkpoint: str,
    dtype: str,
    state_dtype: str | None,
    match: str | None,
    to: str | None,
    by: str,
    tolerance: float,
    verify: bool,
    limit_s: float,
    as_json: bool,
    out: Path | None,
    **options: Any,
) -> None:
    """Solve for the largest batch at --ctx, or the largest context at --batch; with both, say whether they fit.

    Nothing is run unless --verify is given, and no GPU is needed.
    """
    from hybridbench.predict.fit import largest_fit
    from hybridbench.report.plans import fit_row, fit_table
    from hybridbench.report.render.terminal import print_table
    from hybridbench.searches import Stopped, verify_fit
    from hybridbench.store import RecordWriter

    check_names(workload, dtype, state_dtype)
    check_checkpoint(checkpoint, workload_row(workload), "--checkpoint")
    if not verify:
        refuse_idle("--verify", "out", "limit_s")
    check_seconds(limit_s, "--limit", "to run a trial")
    if verify and ctx is not None and batch is not None:
        raise BadInput("--verify with both --ctx and --batch leaves nothing to find: give one of them.")
    contexts = None if ctx is None else units.parse_range(ctx, "context")
    batches = None if batch is None else units.parse_range(batch, "batch")
    if contexts is None and batches is None:
        contexts = units.parse_range("8k", "context")
    here = visible_gpus() if verify else []
    gpus = _fit_gpus(gpu, verify, here)
    specs = chosen_specs(models, configs, arch=arch, scale=scale, **options)
    storage = Storage.of(dtype, state_dtype)
    specs, notes = matching(specs, match, to, by, tolerance, scale, contexts or (8192,), batches or (1,), storage)
    units.check_rows(specs, gpus, contexts or (None,), batches or (None,))
    fits = [
        largest_fit(spec, one, workload, storage, context=context, batch=count, checkpoint=checkpoint)
        for spec in specs
        for one in gpus
        for count in batches or (None,)
        for context in contexts or (None,)
    ]
    found: list[Verified | None] = [None] * len(fits)
    stopped: KeyboardInterrupt | None = None
    if verify:
        execution = execution_of("cuda", dtype, state_dtype, workload, checkpoint)
        with RecordWriter(out or RESULTS / f"fit-{datetime.now():%Y%m%d-%H%M%S}") as writer:
            try:
                for place, one in enumerate(fits):
                    found[place] = verify_fit(one, execution, measure_with(writer, here), limit_s=limit_s, tell=told())
            except Stopped as exc:
                found[place], stopped = exc.found, exc
    if as_json:
        rows = [fit_row(one, seen) for one, seen in zip(fits, found, strict=True)]
        click.echo(json.dumps({"rows": rows, "matches": notes}))
    else:
        table = fit_table(fits, found)
        for sentence in notes:
            table.remark(sentence)
        print_table(table, Plain())
    if stopped:
        raise stopped


def _fit_gpus(gpu: str | None, verify: bool, here: Sequence[str]) -> list[Peak]:
    if not verify:
        return find_gpus("h200" if gpu is None else gpu)
    if not here:
        raise BadInput("--verify: this machine shows no NVIDIA GPU; leave it out, or see hybridbench doctor.")
    name = _device_name()
    peak = find_peak(name)
    if peak is None:
        raise BadInput(f"--verify: {name} is not in the table of GPUs, so there is no prediction to start from.")
    if gpu is not None and find_gpu(gpu) != peak:
        raise BadInput(f"--gpu {gpu} with --verify: the GPU here is {peak.name}; leave --gpu out.")
    return [peak]


def _device_name() -> str:
    import torch

    return torch.cuda.get_device_name(0)


@click.command(cls=Command, short_help="Cache bytes by formula, in tensors, as allocated and in pages.")
@model_options()
@given_options
@listed("--cache-layout", "layouts", default="ours", show_default=True,
        help="Layouts, with commas, or all: ours, paper, mamba_ssm, transformers.")  # fmt: skip
@click.option("--page-size", type=int, default=16, show_default=True, help="Tokens of an attention page in serving.")
@click.option("--no-align", is_flag=True, help="States in memory of their own, not in pages as large as attention's.")
@dtype_option
@state_dtype_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout and nothing else.")
def cache(
    *,
    arch: str,
    scale: str | None,
    ctx: str | None,
    batch: str | None,
    models: str | None,
    configs: tuple[Path, ...],
    layouts: str,
    page_size: int,
    no_align: bool,
    dtype: str,
    state_dtype: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Count the cache of a batch four ways: by formula, in built tensors, as allocated on a GPU, in serving pages.

    The first two must agree to the byte. A page is what a serving engine reserves: attention fills whole pages, and
    a state takes a page as large as attention's, unless --no-align is given.
    """
    from hybridbench.count.caches import built_bytes
    from hybridbench.predict.layouts import LAYOUTS, layout_bytes, paged, storage_of
    from hybridbench.report.plans import CacheLine, cache_row, cache_table
    from hybridbench.report.render.terminal import print_table

    check_names(None, dtype, state_dtype)
    named = list(LAYOUTS) if layouts == "all" else [part.strip() for part in layouts.split(",")]
    stored = {layout: storage_of(layout, dtype, state_dtype) for layout in named}
    contexts = units.parse_range("8k" if ctx is None else ctx, "context")
    batches = units.parse_range("1" if batch is None else batch, "batch")
    specs = chosen_specs(models, configs, arch=arch, scale=scale, **options)
    units.check_rows(specs, stored, contexts, batches)
    rows = []
    for spec in specs:
        for layout, storage in stored.items():
            for count in batches:
                for context in contexts:
                    tensors, allocated = built_bytes(spec, count, context, layout, dtype, storage)
                    formula = count * layout_bytes(spec, context, layout, storage)
                    pages = paged(spec, context, storage, page_size, not no_align)
                    rows.append(CacheLine(spec, context, count, layout, formula, tensors, allocated, pages))
    if as_json:
        click.echo(json.dumps({"rows": [cache_row(row) for row in rows]}))
        return
    print_table(cache_table(rows), Plain())
