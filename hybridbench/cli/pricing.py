"""pricing: ``hybridbench price``: what a workload would take on any GPU."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hybridbench import units
from hybridbench.arch.model import ModelSpec
from hybridbench.arch.stored import Dtypes, StorageOptions
from hybridbench.cli.options import (
    GIVEN_PATH,
    GPU_HELP,
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
from hybridbench.cli.stored import stored_records
from hybridbench.cli.typed import Command, listed
from hybridbench.errors import BadInput
from hybridbench.machine import find_gpus
from hybridbench.predict.group import GpuGroup
from hybridbench.report.progress import computed
from hybridbench.report.render.page import own_page
from hybridbench.suite.workloads import Workload, check_one_pass

if TYPE_CHECKING:
    from hybridbench.predict.pricing import Price


@click.command(cls=Command)
@model_options()
@given_options
@workload_option
@listed("--gpu", default="h200", show_default=True, help=GPU_HELP)
@gpus_option
@tp_option
@click.option(
    "--link", "link_gb_per_s", type=float, help="GB/s of a GPU's links in each direction.  [NVLink's of the table]"
)
@click.option(
    "--efficiency", "records", multiple=True, type=GIVEN_PATH, metavar="PATH",
    help="Records of a GPU: predicts steps by the share of the floor that it reached; repeatable.",
)  # fmt: skip
@dtype_options
@match_options
@click.option("--sort", help="Order of rows, best first: floor, step, throughput, energy, peak, weights or cache.")
@out_options
def price(
    *,
    arch: str,
    scale: str | None,
    ctx: str | None,
    batch: str | None,
    models: str | None,
    configs: tuple[Path, ...],
    workload: str,
    gpu: str,
    gpus: str | None,
    tp: str | None,
    link_gb_per_s: float | None,
    records: tuple[Path, ...],
    asked: StorageOptions,
    match: MatchOptions,
    sort: str | None,
    as_json: bool,
    out: Path | None,
    **options: Any,
) -> None:
    """Predict a workload's step time, throughput and energy on any GPUs, without having them.

    The floor is a lower bound from the data sheet: no step can be faster. With --efficiency, the share of the floor
    that a measured GPU reached, in the same phase, family and formats, turns it into a prediction of the step itself.
    With --tp or --gpus memory is that of one of the GPUs, which exchange their results over links; --batch is that of
    the --tp which share a matrix.
    """
    from hybridbench.efficiency import MeasuredSteps
    from hybridbench.predict.pricing import price as price_of
    from hybridbench.report.prices import price_report, price_row, price_table, sorted_prices
    from hybridbench.report.render.terminal import print_table

    if out is not None:
        own_page(out, "price.md")
    check_one_pass(workload, "--workload")
    if sort == "step" and not records:
        raise BadInput("--sort step needs predicted steps: add --efficiency, or use --sort floor.")
    cards, groups = find_gpus(gpu), given_groups(gpus, tp, workload)
    if groups == (None,):
        refuse_idle("--tp or --gpus", "link_gb_per_s")
    link = _link(link_gb_per_s)
    contexts = units.parse_range("8k" if ctx is None else ctx, "context")
    batches = units.parse_range("4" if batch is None else batch, "batch")
    specs = chosen_specs(models, configs, arch=arch, scale=scale, **options)
    specs, notes = matching(specs, match, scale, contexts, batches, asked)
    units.check_rows(specs, contexts, batches, cards, groups)
    measured = MeasuredSteps(stored_records(records) if records else [])
    kept = [(spec, asked.dtypes(spec.stored)) for spec in specs]
    wanted = list(itertools.product(kept, groups, batches, contexts))

    def on_gpus(step: tuple[tuple[ModelSpec, Dtypes], GpuGroup | None, int, int]) -> list[Price]:
        (spec, dtypes), group, count, context = step
        work = Workload(workload, context, count)
        share = measured.efficiency_of(spec, work, dtypes, group)
        return [price_of(spec, work, one, dtypes, share, group, link) for one in cards]

    found = computed(on_gpus, wanted, "steps", Plain(stderr=True))
    prices = sorted_prices([price for of_step in found for price in of_step], sort)
    table = price_table(prices, bool(records))
    for sentence in [*notes, *file_notes(specs)]:
        table.remark(sentence)
    if as_json:
        click.echo(json.dumps({"rows": [price_row(one) for one in prices], "matches": notes}))
    else:
        print_table(table, Plain())
    if out is not None:
        from hybridbench.report.render.folder import write_predicted

        files = write_predicted(price_report(prices, bool(records), table), out)
        Plain(stderr=as_json).print(f"Tables and charts: {files.page.parent}", soft_wrap=True)


def _link(gb_per_s: float | None) -> float | None:
    """Bytes per second of ``--link``.

    Raises:
        BadInput: it is no rate.
    """
    if gb_per_s is None:
        return None
    if not (math.isfinite(gb_per_s) and gb_per_s > 0):
        raise BadInput(f"--link {gb_per_s:g}: give GB/s in each direction, such as 450 for NVLink 4.")
    return gb_per_s * 1e9
