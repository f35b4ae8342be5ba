"""looking: ``hybridbench ls`` and ``show``: which results there are, and quick questions put to them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hybridbench.cli.options import GIVEN_PATH, check_plot, plot_option
from hybridbench.cli.output import Plain
from hybridbench.cli.stored import all_records, damaged, stored_kinds, stored_records, warn
from hybridbench.cli.typed import Command, listed
from hybridbench.errors import BadInput, BadResults

if TYPE_CHECKING:
    from hybridbench.record import Record
    from hybridbench.record.traced import TraceRecord

EVERYWHERE = Path("results")
"""Where results are looked for if no folder is named."""


@click.command(cls=Command)
@click.argument("paths", nargs=-1, type=GIVEN_PATH)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout and nothing else.")
def ls(paths: tuple[Path, ...], as_json: bool) -> None:
    """List stored results: a row per folder, with its runs, newest date, machine, kinds of work and how cases ended.

    PATHS are folders or .jsonl files; without one, all below results/ are listed. What is damaged is named and left
    out, and the exit code is 2.
    """
    from hybridbench.report.listing import Folder, folder_of, listing_table
    from hybridbench.report.progress import computed
    from hybridbench.report.render.terminal import print_table
    from hybridbench.store import StoredRecord, folders, is_of, load

    kinds = stored_kinds()
    if not paths and not EVERYWHERE.is_dir():
        raise BadResults("there is no folder results here: measure something first, such as hybridbench quickstart.")

    def read(folder: tuple[Path, list[Path]]) -> Folder | None:
        place, files = folder
        records: list[StoredRecord] = []
        for kind in kinds:
            of_kind = [file for file in files if is_of(file, kind)]
            try:
                records += load(of_kind, warn, damaged, kind) if of_kind else []
            except BadResults as exc:
                damaged(str(exc))
        return folder_of(place, records) if records else None

    found = list(folders(paths or (EVERYWHERE,), kinds).items())
    if not found:
        where = ", ".join(map(str, paths or (EVERYWHERE,)))
        raise BadResults(f"{where} holds no results: measure something first, such as hybridbench quickstart.")
    there = [one for one in computed(read, found, "folders", Plain(stderr=True)) if one is not None]
    if as_json:
        click.echo(json.dumps({"rows": [asdict(one) | {"cases": one.cases} for one in there]}))
    elif there:
        print_table(listing_table(there), Plain())


@click.command(cls=Command)
@click.argument("results", nargs=-1, required=True, type=GIVEN_PATH)
@click.option(
    "--where", multiple=True, metavar="FIELD=VALUE", help="Only cases with it: arch=inter, ctx=4k; repeatable."
)
@listed("--metric", help="Metrics, with commas, as docs/metrics.md lists them.  [tokens_per_s,step_s,floor_frac]")
@plot_option("Draw the first of the metrics against context or batch.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout and nothing else.")
def show(results: tuple[Path, ...], where: tuple[str, ...], metric: str | None, plot: bool, as_json: bool) -> None:
    """Answer a quick question about stored results: a small table of some cases and some metrics.

    RESULTS are folders or .jsonl files. Of a case that they hold more than once, the newest record is shown. A field
    is one of arch, model, scale, ratio, workload, ctx, batch, mode, dtype, status and others; all --where must hold.
    Cases that hybridbench trace stored are shown below, with the share of each class of operation.
    """
    check_plot(plot, as_json)
    from hybridbench.record import Record
    from hybridbench.record.traced import TraceRecord
    from hybridbench.report.answers import answer, metrics_named, rows, selected
    from hybridbench.report.render.terminal import print_table
    from hybridbench.report.traces import plain, trace_sections
    from hybridbench.store import exists, holds

    metrics = metrics_named(metric)
    there = [path for path in results if exists(path)]
    traces = _traces([path for path in there if holds([path], TraceRecord)])
    measured = [path for path in results if path not in there or holds([path], Record)]
    if traces and not measured and (metric is not None or plot):
        word = "--metric" if metric is not None else "--plot"
        raise BadInput(f"{word} is of measured steps, and there are only traces here: leave it out, or name a run.")
    # Where there is nothing at all, reading it says what there is instead.
    steps = stored_records(measured or results) if measured or not traces else []
    chosen = selected([*steps, *(bare for bare, _ in traces)], where)
    told = [trace for bare, trace in traces if any(bare is one for one in chosen)]
    records = [one for one in chosen if not any(one is bare for bare, _ in traces)]
    if as_json:
        document = {"rows": rows(records, metrics), **({"traces": plain(told)} if told else {})}
        click.echo(json.dumps(document))
        return
    if records:
        print_table(answer(records, metrics), Plain())
    for section in trace_sections(told):
        print_table(section.table, Plain())
    if plot and records:
        from hybridbench.cli.rendering import print_plots

        print_plots(records, metrics[0])


def _traces(paths: Sequence[Path]) -> list[tuple[Record, TraceRecord]]:
    """The latest trace of every case and machine, each with its case as a record, by which it is chosen."""
    from hybridbench.record.traced import TraceRecord
    from hybridbench.store import newest

    return [(trace.bare, trace) for trace in newest(all_records(paths, TraceRecord))] if paths else []
