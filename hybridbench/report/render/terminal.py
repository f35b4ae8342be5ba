"""terminal: tables and reports on a terminal, with colours for verdicts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table as RichTable
from rich.text import Text

from hybridbench.report.table import NOT_RUN, Table

if TYPE_CHECKING:  # a report of records needs all metrics, and a table none
    from hybridbench.report.build import Report

_ROOMY = 100
_NAMING = 4
_NAMING_KEYS = (
    "model",
    "gpu",
    "layout",
    "context",
    "batch",
    "scale",
    "convention",
    "index",
    "symbol",
    "layer",
    "op",
    "problem",
    "backend",
)
"""Keys of columns that identify a row, if they are among the first ``_NAMING`` columns of a table."""
_STYLES = {"ok": "green", "oom": "yellow", "unsupported": "yellow", NOT_RUN: "dim"}


def print_table(table: Table, console: Console) -> None:
    """Print a table to a terminal, without its wide columns.

    Numbers are never cut, because a cut number reads as another number. If the columns do not fit, the table is printed
    in parts one below the other, each with the columns that identify its rows.
    """
    shown = [place for place, column in enumerate(table.columns) if not column.wide]
    console.print(Text(table.full_title, style="bold"))
    for part in _parts(table, shown, console):
        console.print(_grid(table, part, console), crop=False)
    for footnote in table.footnotes():
        console.print(Text(footnote, style="dim"))
    if table.notes or table.remarks:
        console.print()


def _grid(table: Table, places: Sequence[int], console: Console) -> RichTable:
    # Ten columns fit 80 characters only without extra padding, and with each word of a heading on its own line.
    roomy = console.width >= _ROOMY
    grid = RichTable(box=box.SIMPLE_HEAD, padding=(0, 1 if roomy else 0), pad_edge=False)
    for place in places:
        column = table.columns[place]
        heading = Text(column.heading.replace(" [" if roomy else " ", "\n[" if roomy else "\n"))
        if column.numeric:
            words = [heading.plain, *(row[place].text for row in table.rows)]
            widest = max(len(word) for text in words for word in text.split())
            grid.add_column(heading, justify="right", vertical="bottom", min_width=widest)
        else:
            grid.add_column(heading, no_wrap=not column.wraps)
    for row in table.rows:
        grid.add_row(*(Text(row[place].text, style=verdict_style(row[place].word)) for place in places))
    return grid


def _parts(table: Table, places: list[int], console: Console) -> list[list[int]]:
    """The columns, halved until each part fits the console."""
    names = [place for place in places[:_NAMING] if table.columns[place].key in _NAMING_KEYS]
    rest = [place for place in places if place not in names]
    wide_console = console.options.update(width=10_000)
    needed = Measurement.get(console, wide_console, _grid(table, places, console)).minimum
    if needed <= console.width or len(rest) < 2:
        return [places]
    middle = (len(rest) + 1) // 2
    return [part for half in (rest[:middle], rest[middle:]) for part in _parts(table, names + half, console)]


def verdict_style(word: str | None) -> str:
    """The colour of a verdict. The verdict itself is always shown in words too."""
    return "" if word is None else _STYLES.get(word, "red")


def print_report(report: Report, console: Console, *, brief: bool = False) -> None:
    """Print what fits a terminal: each group's headline and summary, and the comparison with the paper.

    Args:
        report: the report to show.
        console: where to print it.
        brief: print one table per group, and no comparison.
    """
    for section in report.groups:
        several = len(section.group.places) > 1
        if several:
            print_table(section.headline, console)
        if not brief or not several:
            print_table(section.summary, console)
    for paper in () if brief else report.papers:
        for table in paper.tables.values():
            print_table(table, console)
        for sentence in paper.sentences:
            console.print(Text(sentence))
