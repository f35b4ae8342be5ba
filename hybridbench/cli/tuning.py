"""tuning: ``hybridbench tune``: tilings of a fused decode step's products, searched on the GPU at hand."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hybridbench.cli.options import model_options, stored_options
from hybridbench.cli.output import Plain
from hybridbench.cli.typed import Command, listed
from hybridbench.errors import BadInput, unknown_name
from hybridbench.machine import visible_gpus
from hybridbench.suite.case import GRAPH, Case
from hybridbench.suite.sweep import Sweep, cases
from hybridbench.suite.workloads import DECODE
from hybridbench.version import full_version

if TYPE_CHECKING:
    from hybridbench.model.tiling_table import Searched, TiledProduct
    from hybridbench.model.tune import TilingSearch, Told

RANGES = "such as 4, 4,16, 1..64 (doubling) or 32..128+32"
CONTEXT = "64"
"""Tokens cached. No product depends on it."""

PRODUCTS = ("qkv", "mamba2", "segments", "rwkv7", "swiglu", "residual", "head", "state", "whole-state")
"""What a fused step has: input projections of attention, Mamba-2, other mixers and RWKV-7, other products, updates."""


@click.command(cls=Command)
@model_options()
@stored_options
@listed("--product", "products", help=f"With commas: {', '.join(PRODUCTS)}.  [all]")
@click.option("--most", type=int, default=32, show_default=True, help="Tilings to try of each product.")
@click.option("-o", "--out", type=click.Path(path_type=Path), help="The table's file.  [the user's cache of this GPU]")
@click.option("--dry-run", is_flag=True, help="Say how many tilings would be tried and how long it takes, and stop.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout and nothing else.")
def tune(*, products: str | None, most: int, out: Path | None, dry_run: bool, as_json: bool, **options: Any) -> None:
    """Search how the products of a fused decode step are cut into programs, on this GPU and at these batches.

    Each tiling's step is compared with the one by rules before it is timed. The fastest go into a table, which decode
    looks at from then on, if it is in the user's cache and not in a file of -o, and until another release of Triton is
    installed; records say whether a step's tilings were searched. Whole steps are timed at the end, against the rules
    and not an older table: a tiling is kept if its model's step is faster with it, and those of the other models here
    are not slower. Where only some products have one, records say "searched in part".
    """
    chosen = tuple(name.strip() for name in products.split(",")) if products else ()
    if "" in chosen:
        raise BadInput(f"--product '{products}' has an empty part: write names with single commas between them.")
    for name in chosen:
        if name not in PRODUCTS:
            raise unknown_name("product", name, PRODUCTS)
    if most < 1:
        raise BadInput(f"--most {most}: at least one tiling has to be tried.")
    planned = cases(Sweep(DECODE, ctx=CONTEXT, device="cuda", mode=GRAPH, **options), has_gpu=True)
    if not visible_gpus():
        raise BadInput("tune: this machine shows no NVIDIA GPU, and tilings are searched on one.")
    found, path = _searched(planned, chosen, most, out, dry_run)
    if as_json:
        click.echo(json.dumps([_row(product, one) for product, one in found.items()]))
    elif found:
        _show(found, path)


def _of_tune(params: Iterable[click.Parameter]) -> Iterator[click.Parameter]:
    """The options without ``--ctx``, on which no product depends, and what the others say of it and of ``--dtype``."""
    for one in params:
        if isinstance(one, click.Option) and one.help:
            one.help = one.help.replace("[as --dtype]", "[bfloat16]").replace("in the same range syntax", RANGES)
        if one.name != "ctx":
            yield one


tune.params = list(_of_tune(tune.params))


def _searched(
    planned: list[Case], only: tuple[str, ...], most: int, out: Path | None, dry_run: bool
) -> tuple[dict[TiledProduct, Searched], Path]:
    """What was found over all cases, and the file that it was written to.

    Raises:
        BadInput: a case has nothing to search, or none has a product of ``only``.
        BadResults: the file cannot take a table of this GPU; nothing was searched.
    """
    import torch

    from hybridbench.model.tiling_table import TilingTable, check_place, own_table, write_table
    from hybridbench.model.tune import TilingSearch, check_fused, graph_timer, inputs_of

    told = Plain(stderr=True, soft_wrap=True)
    device = torch.device("cuda")
    gpu = torch.cuda.get_device_name(device)
    path = out or own_table(gpu)
    for case in planned:  # all of them before the first is searched, which takes minutes
        check_fused(case)
    if not dry_run:
        check_place(path, gpu)
    made_with = {name: version(name) for name in ("torch", "triton")} | {"hybridbench": full_version()}
    found: dict[TiledProduct, Searched] = {}
    here: set[str] = set()
    slow: set[TiledProduct] = set()
    for case in planned:
        with torch.no_grad():
            known = found.keys() | slow
            search = TilingSearch(inputs_of(case, device), graph_timer, most=most, only=only, known=known)
            here |= search.names
            count = sum(map(len, search.tried.values()))
            where = f"{case.model.label} {case.model.scale}, batch {case.workload.batch}"
            told.print(f"{where}: {count} tilings of {len(search.tried)} products, some {search.seconds:.0f} s.")
            if dry_run or not (search.tried or found):
                continue
            better, slower = _kept(search, found, where, told)
        slow |= slower
        taken_out = slow & found.keys()
        found = {product: one for product, one in {**found, **better}.items() if product not in slow}
        if better or taken_out:  # after each case, so that what was found stays if a later one is stopped
            write_table(path, TilingTable(gpu, made_with, better), without=taken_out)
    if only and not here & set(only):
        has = ", ".join(name for name in PRODUCTS if name in here)
        raise BadInput(f"--product {','.join(only)}: no model here has such a product; they have {has}.")
    return found, path


def _kept(
    search: TilingSearch, known: Mapping[TiledProduct, Searched], where: str, told: Plain
) -> tuple[dict[TiledProduct, Searched], set[TiledProduct]]:
    """What was found and makes a whole step faster, and the products whose tiling makes it slower."""

    def tell(seen: Told) -> None:
        told.print(f"  {seen.done} of {seen.total}, {len(seen.dropped)} dropped")

    found = search.run(tell)
    for line in search.dropped:
        told.print(f"  dropped: {line}")
    whole = search.together(found, known)
    for product in sorted(found.keys() - whole.kept.keys()):
        told.print(f"  not kept, since the step is no faster with it: {_named(product)}")
    for product in sorted(whole.slower & known.keys()):
        told.print(f"  taken out again, since this step is slower with it: {_named(product)}")
    told.print(f"{where}: a step takes {whole.us:.1f} us, and {whole.rules_us:.1f} us by the rules.")
    return whole.kept, whole.slower


def _named(product: TiledProduct) -> str:
    return f"{product.name} {product.n_rows} x {product.k}"


def _row(product: TiledProduct, one: Searched) -> dict[str, Any]:
    from dataclasses import asdict

    return {**asdict(product), **asdict(one)}


def _show(found: dict[TiledProduct, Searched], path: Path) -> None:
    import torch

    from hybridbench.model.tiling_table import own_table
    from hybridbench.report.render.terminal import print_table
    from hybridbench.report.table import Column, Table, TableCell
    from hybridbench.units import format_number

    columns = [Column("product", "product", numeric=False), Column("tokens", "tokens")]
    columns += [Column(name, name.replace("_", " ")) for name in ("rows", "splits", "block_k", "stages", "warps")]
    columns += [Column("us", "a launch [us]"), Column("rules_us", "by rules [us]")]
    table = Table("tilings", columns)
    for product, one in found.items():
        name = _named(product)
        cut = (getattr(one.tiling, column.key) for column in columns[2:7])
        cells = [TableCell(name, name), TableCell(str(product.tokens), product.tokens)]
        cells += [TableCell(str(value), value) for value in cut]
        cells += [TableCell(format_number(time), time) for time in (one.us, one.rules_us)]
        table.rows.append(cells)
    print_table(table, Plain())
    told, own = Plain(stderr=True, soft_wrap=True), own_table(torch.cuda.get_device_name(torch.device("cuda")))
    if path == own:
        told.print(f"Written to {path}. Decode on this GPU uses it from now on.")
    else:
        told.print(f"Written to {path}. Decode does not look there: copy it to {own}, or tune without -o.")
