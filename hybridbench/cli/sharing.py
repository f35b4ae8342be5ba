"""sharing: ``hybridbench run``, whose suite many workers may share, and ``status`` and ``merge`` for what they do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from hybridbench.cli.measuring import (
    MODELS,
    PLOT_HELP,
    check_backends,
    measure_cases,
    tell_merged,
    with_plot,
)
from hybridbench.cli.options import GIVEN_PATH, check_plot, out_options, plot_option
from hybridbench.cli.output import Plain
from hybridbench.cli.placing import place_of, place_options
from hybridbench.cli.stored import stored_kinds
from hybridbench.cli.typed import Command
from hybridbench.machine import visible_gpus
from hybridbench.suite.file import decoding_as_published, load_suite


@click.command(cls=Command)
@click.argument("suite", type=GIVEN_PATH)
@click.option("--resume", is_flag=True, help="Skip cases that -o already holds a record of.")
@click.option("--dry-run", is_flag=True, help="List the cases and stop.")
@click.option("--as-published", is_flag=True, help="Decode and generate only, in mode published.")
@place_options
@plot_option(PLOT_HELP)
@out_options
def run(
    *,
    suite: Path,
    resume: bool,
    dry_run: bool,
    as_published: bool,
    plot: bool,
    as_json: bool,
    out: Path | None,
    **where: Any,
) -> None:
    """Run every case of a suite, a TOML file of sweeps."""
    check_plot(plot, as_json)
    place = place_of(**where)
    gpus = visible_gpus()
    loaded = decoding_as_published(load_suite(suite)) if as_published else load_suite(suite)
    has_gpu = place.has_gpu(gpus)
    planned = loaded.cases(has_gpu=has_gpu)
    check_backends(planned, installed=False)
    tell_merged(loaded.merged_ratios(has_gpu=has_gpu))
    measure_cases(
        planned,
        loaded.name,
        gpus,
        as_json=as_json,
        out=out,
        resume=resume,
        dry_run=dry_run,
        kind=with_plot(MODELS) if plot else MODELS,
        place=place,
    )


@click.command(cls=Command)
@click.argument("folder", type=GIVEN_PATH)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout and nothing else.")
def status(folder: Path, as_json: bool) -> None:
    """How far a run is: its cases, the time left, its workers with their nodes, and what failed.

    FOLDER is the one that run was given with -o. It may be looked at from any machine that sees it.
    """
    from hybridbench.cluster.status import look, tables
    from hybridbench.report.render.terminal import print_table

    seen = look(folder)
    if as_json:
        click.echo(json.dumps(seen.to_dict()))
        return
    console = Plain(soft_wrap=True)
    for line in seen.lines():
        console.print(line)
    for table in tables(seen):
        print_table(table, Plain())


@click.command(cls=Command)
@click.argument("folders", nargs=-1, required=True, type=GIVEN_PATH)
@click.option("-o", "--out", required=True, type=GIVEN_PATH, help="Folder for what is written.")
@click.option(
    "--allow",
    multiple=True,
    type=click.Choice(["machines", "versions"]),
    help="Join records that differ in it; repeatable.",
)
def merge(folders: tuple[Path, ...], out: Path, allow: tuple[str, ...]) -> None:
    """Join folders of results into a new one, unless their records are of different machines or versions.

    FOLDERS hold records of any command, such as those of a suite that ran on two clusters, or seeds of learn that ran
    on several hosts, whose weights come along.
    """
    from hybridbench.cluster.merging import merge as joined
    from hybridbench.quality.training.record import LearnRecord

    def weights_of(record: Any) -> str | None:
        return record.observed.weights if isinstance(record, LearnRecord) and record.observed else None

    done = joined(folders, out, frozenset(allow), stored_kinds(), weights_of)
    Plain(stderr=True, soft_wrap=True).print(done.sentence)
