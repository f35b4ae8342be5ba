"""planning: ``hybridbench fit``: the largest batch or context that fits a GPU."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hybridbench import units
from hybridbench.arch.model import ModelSpec
from hybridbench.arch.stored import StorageOptions
from hybridbench.cli.measuring import execution_of, measure_with, told
from hybridbench.cli.options import (
    GPU_HELP,
    RESULTS,
    MatchOptions,
    dtype_options,
    given_groups,
    given_options,
    gpus_option,
    match_options,
    matching,
    model_options,
    out_options,
    refuse_idle,
    tp_option,
    workload_option,
)
from hybridbench.cli.output import Plain
from hybridbench.cli.predicting import chosen_specs, file_notes
from hybridbench.cli.typed import Command, listed
from hybridbench.errors import BadInput
from hybridbench.machine import Peak, find_gpu, find_gpus, find_peak, visible_gpus
from hybridbench.predict.group import GpuGroup
from hybridbench.report.progress import computed
from hybridbench.suite.case import CHECKPOINTS
from hybridbench.suite.sweep import check_checkpoint, check_seconds
from hybridbench.suite.workloads import check_one_pass, workload_row

if TYPE_CHECKING:
    from hybridbench.predict.fit import Fit
    from hybridbench.searches import Verified


@click.command(cls=Command)
@model_options()
@given_options
@workload_option
@listed("--gpu", help=f"{GPU_HELP}  [h200; with --verify the one that is here]")
@gpus_option
@tp_option
@click.option(
    "--checkpoint",
    default="none",
    show_default=True,
    help=f"Activations a training step keeps: {', '.join(CHECKPOINTS)}.",
)
@dtype_options
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
    gpus: str | None,
    tp: str | None,
    checkpoint: str,
    asked: StorageOptions,
    match: MatchOptions,
    verify: bool,
    limit_s: float,
    as_json: bool,
    out: Path | None,
    **options: Any,
) -> None:
    """Solve for the largest batch at --ctx, or the largest context at --batch; with both, say whether they fit.

    Nothing is run unless --verify is given, and no GPU is needed. With --tp or --gpus memory is that of one of the
    GPUs, and the batch that of the --tp which share a matrix.
    """
    from hybridbench.predict.fit import largest_fit
    from hybridbench.report.plans import fit_row, fit_table
    from hybridbench.report.render.terminal import print_table
    from hybridbench.searches import Stopped, verify_fit
    from hybridbench.store import RecordWriter

    check_one_pass(workload, "--workload")
    check_checkpoint(checkpoint, workload_row(workload), "--checkpoint")
    if not verify:
        refuse_idle("--verify", "out", "limit_s")
    check_seconds(limit_s, "--limit", "to run a trial")
    if verify and ctx is not None and batch is not None:
        raise BadInput("--verify with both --ctx and --batch leaves nothing to find: give one of them.")
    contexts, batches = _sizes(ctx, batch)
    here = visible_gpus() if verify else []
    groups = given_groups(gpus, tp, workload)
    _check_alone(verify, groups)
    cards = _fit_gpus(gpu, verify, here)
    specs = chosen_specs(models, configs, arch=arch, scale=scale, **options)
    specs, notes = matching(specs, match, scale, contexts or (8192,), batches or (1,), asked)
    # A row tries many sizes.
    units.check_rows(specs, cards, groups, contexts or (None,), batches or (None,), most=500)
    wanted = list(itertools.product(specs, cards, groups, batches or (None,), contexts or (None,)))

    def row(asked_for: tuple[ModelSpec, Peak, GpuGroup | None, int | None, int | None]) -> Fit:
        spec, one, group, count, context = asked_for
        kept = asked.dtypes(spec.stored)
        sizes = {"context": context, "batch": count}
        return largest_fit(spec, one, workload, kept, **sizes, checkpoint=checkpoint, group=group)

    fits = computed(row, wanted, "rows", Plain(stderr=True))
    found: list[Verified | None] = [None] * len(fits)
    stopped: KeyboardInterrupt | None = None
    if verify:
        executions = [execution_of("cuda", one.dtypes, workload, checkpoint) for one in fits]
        with RecordWriter(out or RESULTS / f"fit-{datetime.now():%Y%m%d-%H%M%S}") as writer:
            try:
                for place, (one, execution) in enumerate(zip(fits, executions, strict=True)):
                    found[place] = verify_fit(one, execution, measure_with(writer, here), limit_s=limit_s, tell=told())
            except Stopped as exc:
                found[place], stopped = exc.found, exc
    if as_json:
        rows = [fit_row(one, seen) for one, seen in zip(fits, found, strict=True)]
        click.echo(json.dumps({"rows": rows, "matches": notes}))
    else:
        table = fit_table(fits, found)
        for sentence in [*notes, *file_notes(specs)]:
            table.remark(sentence)
        print_table(table, Plain())
    if stopped:
        raise stopped


def _check_alone(verify: bool, groups: Sequence[GpuGroup | None]) -> None:
    """Check that trials are not asked for on several GPUs.

    Raises:
        BadInput: they are.
    """
    if verify and any(groups):
        raise BadInput("--verify runs on one GPU: leave --gpus and --tp out.")


def _sizes(ctx: str | None, batch: str | None) -> tuple[tuple[int, ...] | None, tuple[int, ...] | None]:
    """The contexts and batches that are given; None is what to solve for."""
    if ctx is None and batch is None:
        ctx = "8k"
    contexts = None if ctx is None else units.parse_range(ctx, "context")
    return contexts, None if batch is None else units.parse_range(batch, "batch")


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
