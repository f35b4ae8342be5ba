"""caching: ``hybridbench cache``: the bytes of a cache, as libraries and serving engines keep it."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hybridbench import units
from hybridbench.arch.block import Storage
from hybridbench.arch.model import ModelSpec, mixers, shard
from hybridbench.arch.stored import StorageOptions
from hybridbench.cli.options import dtype_options, given_options, given_tps, model_options, tp_option
from hybridbench.cli.output import Plain
from hybridbench.cli.predicting import chosen_specs, file_notes
from hybridbench.cli.typed import Command, listed
from hybridbench.errors import BadInput
from hybridbench.predict.layouts import (
    LAYOUTS,
    check_layout,
    dtypes_in,
    find_layout,
    layout_bytes,
    layouts_of,
    paged,
    storage_of,
)
from hybridbench.report.progress import computed

if TYPE_CHECKING:
    from hybridbench.report.caches import CacheLine


@click.command(cls=Command)
@model_options()
@given_options
@listed("--cache-layout", "layouts", default="ours", show_default=True,
        help=f"With commas, or all that have a model's mixers: {', '.join(LAYOUTS)}.")  # fmt: skip
@click.option("--page-size", type=int, help="Tokens of an attention page in serving.  [16; sglang 1, llama.cpp 256]")
@click.option("--no-align", is_flag=True, help="States in memory of their own, not in pages as large as attention's.")
@tp_option
@dtype_options
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
    page_size: int | None,
    no_align: bool,
    tp: str | None,
    asked: StorageOptions,
    as_json: bool,
    **options: Any,
) -> None:
    """Count the cache of a batch four ways: by formula, in built tensors, as allocated on a GPU, in serving pages.

    The first two must agree to the byte. A page is what a serving engine reserves: attention fills whole pages, and
    a state takes a page as large as attention's, unless --no-align is given. vllm, sglang and llama.cpp are engines:
    their states are as their code lays them out, and no tensors are built. With --tp it is the cache of one of so many
    GPUs: heads are divided, and key and value heads are copied where there are fewer than GPUs.
    """
    from hybridbench.report.caches import cache_row, cache_table
    from hybridbench.report.render.terminal import print_table

    named = None if layouts == "all" else [part.strip() for part in layouts.split(",")]
    for name in named or ():
        _check_fixed(name, asked.state, asked.kv)
    contexts = units.parse_range("8k" if ctx is None else ctx, "context")
    batches = units.parse_range("1" if batch is None else batch, "batch")
    specs = chosen_specs(models, configs, arch=arch, scale=scale, **options)
    # A row builds its caches, in some milliseconds.
    tps = given_tps(tp) or (None,)
    units.check_rows(specs, tps, LAYOUTS if named is None else named, contexts, batches, most=2_000)
    kept = [(spec, name) for spec in specs for name in (layouts_of(spec) if named is None else named)]
    for spec, name in kept:
        check_layout(spec, name)
    for (spec, _), one in itertools.product(kept, tps):
        shard(spec, one or 1)
    wanted = list(itertools.product(kept, tps, batches, contexts))

    def line(asked_for: tuple[tuple[ModelSpec, str], int | None, int, int]) -> CacheLine:
        (spec, name), one, count, context = asked_for
        found = _line(shard(spec, one or 1), context, count, name, asked, page_size, not no_align)
        return replace(found, spec=spec, tp=one)

    rows = computed(line, wanted, "rows", Plain(stderr=True))
    if as_json:
        click.echo(json.dumps({"rows": [cache_row(row) for row in rows]}))
        return
    table = cache_table(rows)
    for sentence in file_notes(specs):
        table.remark(sentence)
    print_table(table, Plain())


def _check_fixed(name: str, state_dtype: str | None, kv_dtype: str | None) -> None:
    """Check that no dtype is typed that a named layout fixes.

    Raises:
        BadInput: one is, or there is no such layout.
    """
    layout = find_layout(name)
    if state_dtype is not None and (layout.state is not None or layout.state_least is not None):
        raise BadInput(f"--state-dtype with layout {name}: that layout fixes the dtype of the SSM state.")
    if kv_dtype is not None and layout.kv is not None:
        raise BadInput(f"--kv-dtype with layout {name}: that layout fixes the dtype of keys and values.")


def _line(
    spec: ModelSpec, context: int, batch: int, name: str, asked: StorageOptions, page_size: int | None, align: bool
) -> CacheLine:
    """One row: the caches of ``batch`` sequences of a model in a layout."""
    from hybridbench.count.caches import built_bytes
    from hybridbench.report.caches import CacheLine

    layout = find_layout(name)
    state_named = (asked.state or spec.stored.state) is not None
    kinds = {mixer.kind for _, mixer in mixers(spec) if mixer.cache(1, Storage()).ssm}
    dtypes = dtypes_in(name, asked.dtypes(spec.stored), state_named, kinds)
    storage = storage_of(name, dtypes)
    tensors, allocated = built_bytes(spec, batch, context, name, dtypes.weights, storage)
    formula = batch * layout_bytes(spec, context, name, storage)
    tokens = layout.page_tokens if page_size is None else page_size
    pages = paged(spec, context, storage, tokens, align and layout.aligned, name)
    return CacheLine(spec, context, batch, name, formula, tensors, allocated, pages, dtypes)
