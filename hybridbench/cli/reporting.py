"""reporting: ``hybridbench report``: tables and charts from stored records."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import click

from hybridbench.cli.options import GIVEN_PATH, check_plot, out_options, plot_option
from hybridbench.cli.stored import all_records
from hybridbench.cli.typed import Command
from hybridbench.record import Record


@click.command(cls=Command)
@click.argument("results", nargs=-1, required=True, type=GIVEN_PATH)
@plot_option("Draw throughput against context or batch on the terminal, too.")
@out_options
def report(results: tuple[Path, ...], plot: bool, as_json: bool, out: Path | None) -> None:
    """Make tables and charts from stored records. RESULTS are folders or .jsonl files.

    Several RESULTS are shown side by side where they hold the same cases, such as those before and after a change. Of
    a case that one of them holds more than once, the newest record is shown. What is damaged is named and left out, and
    the exit code is 2. Without -o the report goes into the folder ``report`` beside the first of RESULTS.
    """
    check_plot(plot, as_json)
    from hybridbench.cli.rendering import render, render_kernels
    from hybridbench.kernel_suite.record import KernelRecord
    from hybridbench.record import Record
    from hybridbench.store import exists, holds, newest

    there = [path for path in results if exists(path)]
    first = results[0]
    folder = out or (first if os.path.isdir(first) else first.parent) / "report"

    kernels = [path for path in there if holds([path], KernelRecord)]
    others = [path for path in results if path not in kernels or holds([path], Record)]
    records: dict[tuple[str, str], Record] = {}
    runs: dict[str, str] = {}
    for path, name in zip(others, _names(others), strict=True):
        for record in all_records([path], Record):
            records.setdefault((record.run_id, record.case.key), record)
            runs.setdefault(record.run_id, name)
    of_kernels = newest(all_records(kernels, KernelRecord)) if kernels else []
    if others:
        side_by_side = runs if len(others) > 1 else {}
        render(list(records.values()), folder, as_json=as_json, runs=side_by_side, kernels=of_kernels, plot=plot)
    else:
        render_kernels(of_kernels, folder, as_json=as_json)


def _names(paths: Sequence[Path]) -> list[str]:
    """A name for what each path holds: its own, or the whole path where two would be called alike."""
    own = [path.resolve().name.removesuffix(".jsonl") for path in paths]
    return [str(path) if own.count(name) > 1 else name for path, name in zip(paths, own, strict=True)]
