"""rendering: records as tables on the terminal or as one JSON document, and as files in a folder."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

import click

from hybridbench.cli.output import Plain
from hybridbench.record import Record
from hybridbench.report.build import Report, build_report
from hybridbench.report.groups import NO_RUNS
from hybridbench.report.render.json import to_json
from hybridbench.report.render.terminal import print_report


def render(
    records: Sequence[Record],
    folder: Path,
    *,
    as_json: bool,
    brief: bool = False,
    written: Sequence[Record] = (),
    runs: Mapping[str, str] = NO_RUNS,
) -> None:
    """Write the report into ``folder`` and show the tables (``brief``: throughput only), or print one JSON document.

    If ``written`` is given, the report covers those records, so that it includes earlier runs in the same folder. If
    the chart libraries are missing, as on many cluster nodes, no report is written, and a message says how to make it
    later from the records. If ``runs`` names the runs of some ``run_id``, they are shown side by side.
    """
    report = build_report(records, runs)
    whole = build_report(written) if written and list(written) != list(records) else report
    where = _written(whole, folder)
    if as_json:
        click.echo(to_json(report, where))
        return
    console = Plain()
    print_report(report, console, brief=brief)
    if where and not brief:
        more = len(written) - len(records)
        of_all = f", with {more} more of the records in {folder.parent}" if more > 0 else ""
        console.print(f"Report: {where}{of_all}", soft_wrap=True)


def _written(report: Report, folder: Path) -> str | None:
    try:
        from hybridbench.report.render.folder import write_report
    except ModuleNotFoundError as missing:
        Plain(stderr=True, soft_wrap=True).print(
            f"No report written: {missing.name} is not installed. Records are kept; where it is installed, "
            f"hybridbench report {shlex.quote(str(folder.parent))} makes tables and charts of them.",
        )
        return None
    return str(write_report(report, folder).page)
