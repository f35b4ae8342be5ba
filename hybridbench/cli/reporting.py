"""reporting: ``hybridbench report``: tables and charts from stored records."""

from __future__ import annotations

from pathlib import Path

import click

from hybridbench.cli.options import GIVEN_PATH, out_options
from hybridbench.cli.stored import stored_records
from hybridbench.cli.typed import Command


@click.command(cls=Command, short_help="Tables and charts from stored records.")
@click.argument("results", nargs=-1, required=True, type=GIVEN_PATH)
@out_options
def report(results: tuple[Path, ...], as_json: bool, out: Path | None) -> None:
    """Make tables and charts from stored records. RESULTS are folders or .jsonl files; several are merged.

    If a case was measured more than once on a machine, the newest record is shown. What is damaged is named and left
    out, and the exit code is 2. Without -o the report goes into the
    folder ``report`` beside the first of RESULTS.
    """
    from hybridbench.cli.rendering import render

    records = stored_records(results)
    first = results[0]
    render(records, out or (first if first.is_dir() else first.parent) / "report", as_json=as_json)
