"""rendering: records as tables on the terminal or as one JSON document, and as files in a folder."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from pathlib import Path

import click
from rich.console import Console

from hybridbench.record import Record
from hybridbench.report.frame import to_frame
from hybridbench.report.groups import group_records
from hybridbench.report.paper import compare, paper_tables, sentences
from hybridbench.report.tables import headline_table, print_table, summary_table


def render(
    records: Sequence[Record],
    folder: Path,
    *,
    as_json: bool,
    brief: bool = False,
    written: Sequence[Record] = (),
) -> None:
    """Writes the report into ``folder`` and shows the tables (``brief``: throughput only), or prints one JSON document.

    The report is of ``written`` where that is given: a folder keeps what earlier runs left in it. Where the chart
    libraries are missing, as on many a cluster node, the records and tables are no less worth having: the report is
    left out and the way to make it later is said.
    """
    where = _written(written or records, folder)
    if as_json:
        rows = json.loads(to_frame(records).to_json(orient="records"))
        click.echo(json.dumps({"report": where, "rows": rows}))
        return
    console = Console()
    for group in group_records(records):
        if len(group.places) > 1:
            print_table(headline_table(group), console)
        if not brief or len(group.places) == 1:
            print_table(summary_table(group), console)
    for comparison in [] if brief else compare(records):
        for table in paper_tables(comparison).values():
            print_table(table, console)
        for sentence in sentences(comparison):
            console.print(sentence, highlight=False)
    if where and not brief:
        more = len(written) - len(records)
        of_all = f", with {more} more of the records in {folder.parent}" if more > 0 else ""
        console.print(f"Report: {where}{of_all}", highlight=False, soft_wrap=True)


def _written(records: Sequence[Record], folder: Path) -> str | None:
    try:
        from hybridbench.report.write import write_report
    except ModuleNotFoundError as missing:
        Console(stderr=True, soft_wrap=True).print(
            f"No report written: {missing.name} is not installed. Records are kept; where it is installed, "
            f"hybridbench report {shlex.quote(str(folder.parent))} makes tables and charts of them.",
            highlight=False,
        )
        return None
    return str(write_report(records, folder).page)
