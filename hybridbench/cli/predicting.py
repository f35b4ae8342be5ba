"""predicting: ``hybridbench cost``: what each architecture must cost, from formulas alone."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hybridbench import units
from hybridbench.arch.block import Convention, Storage
from hybridbench.arch.families import MAMBA2
from hybridbench.arch.imports.huggingface import read_config
from hybridbench.arch.model import Cost, LayerCost, ModelSpec, layer_costs, rank_layer_costs
from hybridbench.arch.stored import StorageOptions
from hybridbench.cli.options import (
    MatchOptions,
    dtype_options,
    given_groups,
    given_options,
    gpus_option,
    match_options,
    matching,
    model_options,
    out_options,
    tp_option,
)
from hybridbench.cli.output import Plain
from hybridbench.cli.typed import Command, listed
from hybridbench.errors import BadInput, unknown_name
from hybridbench.predict.group import GpuGroup
from hybridbench.predict.group_cost import shared_cost
from hybridbench.report.progress import computed
from hybridbench.report.render.page import own_page
from hybridbench.suite.models import ALL_ARCHS, model_specs, preset_specs

if TYPE_CHECKING:
    from hybridbench.report.table import Table

Rows = list[tuple[ModelSpec, Cost]]


def chosen_specs(
    models: str | None, configs: tuple[Path, ...], *, arch: str, scale: str | None, **options: Any
) -> list[ModelSpec]:
    """The models that ``--model`` and ``--config`` name, or those of the families if neither is given.

    Raises:
        BadInput: an unknown model, a config that cannot be read, or an option that only families have.
    """
    if models is None and not configs:
        return model_specs(arch=arch, scale="1b" if scale is None else scale, every_ratio=True, **options)
    given = {"arch": None if arch == ALL_ARCHS else arch, "scale": scale, **options}
    for name, value in given.items():
        if value not in (None, False) and (name, value) not in (("recipe", "paper"), ("mixer", MAMBA2)):
            which = "--config" if models is None else "--model"
            raise BadInput(f"{which} with --{name.replace('_', '-')}: the model is what it is; leave one of them out.")
    found = [] if models is None else preset_specs(models)
    return found + configured(configs)


def file_notes(specs: Sequence[ModelSpec]) -> list[str]:
    """What the files of the models leave out or have beside them, one sentence each."""
    return list(dict.fromkeys(f"{spec.label}: {note}" for spec in specs for note in spec.notes))


def configured(paths: Sequence[Path]) -> list[ModelSpec]:
    """The models of config.json files, named after their model type, and after their file if two share a type."""
    found = [(path, read_config(path)) for path in dict.fromkeys(paths)]
    types = [spec.arch for _, spec in found]
    return [replace(spec, arch=f"{spec.arch} {path}") if types.count(spec.arch) > 1 else spec for path, spec in found]


def predict(
    specs: list[ModelSpec],
    contexts: tuple[int, ...],
    batches: tuple[int, ...],
    convention: str,
    asked: StorageOptions,
    groups: Sequence[GpuGroup | None] = (None,),
    trains: bool = False,
) -> Rows:
    """Every model at every context and batch in each of a list of conventions, with commas.

    Args:
        groups: GPUs that share a model, whose costs are of one of them; None for whole models.
        trains: with what a GPU of a group stores and exchanges in training.

    Raises:
        BadInput: an unknown convention, an empty part of the list, or GPUs that cannot share a model.
    """
    names = list(dict.fromkeys(part.strip() for part in convention.split(",")))
    for name in names:
        if name not in list(Convention):
            raise unknown_name("convention", name, [known.value for known in Convention])
    units.check_rows(specs, groups, contexts, batches, names)
    kept = [(spec, asked.dtypes(spec.stored).storage) for spec in specs]
    wanted = list(itertools.product(kept, groups, map(Convention, names), batches, contexts))

    def row(
        asked_for: tuple[tuple[ModelSpec, Storage], GpuGroup | None, Convention, int, int],
    ) -> tuple[ModelSpec, Cost]:
        (spec, storage), group, convention, batch, context = asked_for
        return spec, shared_cost(spec, group, context, batch, convention, storage, trains=trains)

    return computed(row, wanted, "rows", Plain(stderr=True))


@click.command(cls=Command)
@model_options()
@given_options
@listed("--convention", default="exact", show_default=True, help="With commas: exact, paper, hardware.")
@gpus_option
@tp_option
@dtype_options
@match_options
@click.option("--layers", "per_layer", is_flag=True, help="Show every layer of each model too.")
@out_options
def cost(
    *,
    arch: str,
    scale: str | None,
    ctx: str | None,
    batch: str | None,
    models: str | None,
    configs: tuple[Path, ...],
    convention: str,
    gpus: str | None,
    tp: str | None,
    asked: StorageOptions,
    match: MatchOptions,
    per_layer: bool,
    as_json: bool,
    out: Path | None,
    **options: Any,
) -> None:
    """Parameters, FLOPs, cache and bytes moved, without running anything.

    FLOPs and cache bytes are for one sequence; decode is one token of it. The bytes a decode step must move are for the
    whole step at --batch, because the batch shares one read of the weights. With --tp all of it is of one GPU, and what
    the GPUs add up per token of a forward has a column of its own; with --gpus, what training stores and exchanges too.
    """
    if out is not None:
        own_page(out, "cost.md")
    specs = chosen_specs(models, configs, arch=arch, scale=scale, **options)
    contexts = units.parse_range("8k" if ctx is None else ctx, "context")
    batches = units.parse_range("1" if batch is None else batch, "batch")
    specs, notes = matching(specs, match, scale, contexts, batches, asked)
    groups = given_groups(gpus, tp)
    if per_layer:
        units.check_rows(specs, groups, contexts, batches, most=1_000)  # each row is a table of its own
    rows = predict(specs, contexts, batches, convention, asked, groups, gpus is not None)
    from hybridbench.report.predicted import build_cost, cost_row, layer_row

    dtypes = {id(spec): asked.dtypes(spec.stored) for spec in specs}
    if as_json:
        document: dict[str, Any] = {"rows": [cost_row(spec, row, dtypes[id(spec)]) for spec, row in rows]}
        if notes:
            document["matches"] = notes
        if per_layer:
            for entry, (spec, row) in zip(document["rows"], rows, strict=True):
                storage = dtypes[id(spec)].storage
                entry["layers"] = [layer_row(layer) for layer in _layers(spec, row, storage)]
        click.echo(json.dumps(document))
        if out is None:
            return
    report = build_cost(rows, [dtypes[id(spec)] for spec, _ in rows])
    if not as_json:
        _show(replace(report.table, remarks=[*report.table.remarks, *notes]), rows, per_layer, asked)
    if out is not None:
        from hybridbench.report.render.folder import write_predicted

        files = write_predicted(report, out)
        Plain(stderr=as_json).print(f"Tables and charts: {files.page.parent}", soft_wrap=True)


def _layers(spec: ModelSpec, row: Cost, storage: Storage) -> list[LayerCost]:
    if row.tp is None:
        return layer_costs(spec, row.context, row.batch, row.convention, storage)
    return rank_layer_costs(spec, row.tp, row.context, row.batch, row.convention, storage)


def _show(table: Table, rows: Rows, per_layer: bool, asked: StorageOptions) -> None:
    from hybridbench.report.predicted import layer_table
    from hybridbench.report.render.terminal import print_table

    console = Plain()
    print_table(table, console)
    if per_layer:
        for spec, row in rows:
            title = f"{spec.label} {spec.scale} at {units.format_tokens(row.context)}, batch {row.batch}"
            title += "" if row.tp is None else f", per GPU of {row.gpus}"
            dtypes = asked.dtypes(spec.stored)
            layers = _layers(spec, row, dtypes.storage)
            print_table(layer_table(layers, f"{title}, convention {row.convention}, {dtypes.words}"), console)
