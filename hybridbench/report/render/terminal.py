"""terminal: tables and reports on a terminal, with colours for verdicts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.segment import Segment, Segments
from rich.table import Table as RichTable
from rich.text import Text

from hybridbench.report.table import NOT_RUN, Column, Table, TableCell

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
    "workload",
    "ctx",
)
"""Keys of columns that identify a row, if they are among the first ``_NAMING`` columns of a table."""
_GROUP_KEYS = ("gpus", "tp", "ranks")
"""Keys of more, which only tables of several GPUs have."""
_STYLES = {"ok": "green", "oom": "yellow", "unsupported": "yellow", NOT_RUN: "dim"}


def print_table(table: Table, console: Console) -> None:
    """Print a table to a terminal, without its wide columns.

    Numbers are never cut, because a cut number reads as another number. If the columns do not fit, the table is printed
    in parts one below the other, each with the columns that identify its rows.
    """
    table = _said_once(table)
    shown = [place for place, column in enumerate(table.columns) if not column.wide]
    console.print(Text(table.full_title, style="bold"))
    longest = _longest(table, shown)
    for part in _parts(longest, shown, console):
        lines = _aligned(table, longest, part, console)
        if lines is None:
            console.print(_grid(table, part, console), crop=False)
        else:
            console.print(lines, crop=False, end="")
    for footnote in table.footnotes():
        console.print(Text(footnote, style="dim"))
    if table.notes or table.remarks:
        console.print()


def _said_once(table: Table) -> Table:
    """The table without what its rows repeat of the row above, in columns that are for once."""
    places = [place for place, column in enumerate(table.columns) if column.once]
    if not places:
        return table
    rows, above = [], None
    for row in table.rows:
        named = [row[place].text for place in places]
        again = named == above
        rows.append([TableCell("") if again and place in places else cell for place, cell in enumerate(row)])
        above = named
    return replace(table, rows=rows)


def _heading(column: Column, console: Console) -> str:
    """A heading in lines: with its unit on its own line, or each word of it where the console is narrow."""
    return column.heading.replace(" [", "\n[") if console.width >= _ROOMY else column.heading.replace(" ", "\n")


def _grid(table: Table, places: Sequence[int], console: Console) -> RichTable:
    # Ten columns fit 80 characters only without extra padding, and with each word of a heading on its own line.
    roomy = console.width >= _ROOMY
    grid = RichTable(box=box.SIMPLE_HEAD, padding=(0, 1 if roomy else 0), pad_edge=False)
    for place in places:
        column = table.columns[place]
        heading = Text(_heading(column, console))
        if column.numeric:
            words = [heading.plain, *(row[place].text for row in table.rows)]
            widest = max(len(word) for text in words for word in text.split())
            grid.add_column(heading, justify="right", vertical="bottom", min_width=widest)
        else:
            # rich measures the longest word of a column, also where it may not break between words.
            texts = [row[place].text for row in table.rows]
            pieces = [word for text in texts for word in text.split()] if column.wraps else texts
            least = min(max(map(len, [*heading.plain.split("\n"), *pieces])), console.width // 2)
            grid.add_column(heading, no_wrap=not column.wraps, vertical="bottom", min_width=least)
    for row in table.rows:
        grid.add_row(*(Text(row[place].text, style=verdict_style(row[place].word)) for place in places))
    return grid


def _longest(table: Table, places: Sequence[int]) -> Table:
    """A table of the rows that set the widths of columns: those with a column's widest cell, or its longest word."""
    chosen: set[int] = set()
    for place in places if table.rows else ():
        texts = [row[place].text for row in table.rows]
        widths = [cell_len(text) for text in texts]
        words = [max(map(cell_len, text.split()), default=0) if " " in text else 0 for text in texts]
        chosen |= {widths.index(max(widths)), words.index(max(words))}
    return replace(table, rows=[table.rows[at] for at in sorted(chosen)])


def _aligned(table: Table, longest: Table, places: Sequence[int], console: Console) -> Segments | None:
    """The lines of ``_grid``, a hundred times sooner; None where a cell has a colour, or breaks into lines.

    rich takes a millisecond for each row. It lays out the longest rows alone. If it gives each of their columns the
    width of its widest cell, every other row is filled up to the same widths.
    """
    texts = [[row[place].text for place in places] for row in table.rows]
    if any(row[place].word is not None for row in table.rows for place in places):
        return None
    if not all(text.isprintable() for row in texts for text in row):
        return None
    drawn = _rendered(longest, places, console)
    top = len(drawn) - len(longest.rows) - 1  # the headings and the line below them; the last line is empty
    columns = [table.columns[place] for place in places]
    shown = [
        [*_heading(column, console).split("\n"), *(row[place].text for row in longest.rows)]
        for place, column in zip(places, columns, strict=True)
    ]
    widths = [max(map(cell_len, words)) for words in shown]
    gap = " " * (3 if console.width >= _ROOMY else 1)

    def line(texts: Sequence[str]) -> str:
        filled = (_filled(text, width, one.numeric) for text, width, one in zip(texts, widths, columns, strict=True))
        return f" {gap.join(filled)} "

    if [line([row[place].text for place in places]) for row in longest.rows] != list(map(_plain, drawn[top:-1])):
        return None
    above = [part for made in drawn[:top] for part in (*made, Segment.line())]
    return Segments([*above, *(Segment(f"{line(row)}\n") for row in texts), *drawn[-1], Segment.line()])


def _filled(text: str, width: int, right: bool) -> str:
    space = " " * (width - cell_len(text))
    return space + text if right else text + space


def _plain(line: Sequence[Segment]) -> str:
    return "".join(part.text for part in line)


def _rendered(table: Table, places: Sequence[int], console: Console) -> list[list[Segment]]:
    return list(Segment.split_lines(console.render(_grid(table, places, console), console.options)))


def _parts(table: Table, places: list[int], console: Console) -> list[list[int]]:
    """The columns, halved until each part fits the console."""
    most = _NAMING + sum(table.columns[place].key in _GROUP_KEYS for place in places)
    names = [place for place in places[:most] if table.columns[place].key in (*_NAMING_KEYS, *_GROUP_KEYS)]
    rest = [place for place in places if place not in names]
    # As rendered: rich may take width from columns that need it, so what columns need in all says too little.
    needed = max(Segment.get_line_length(line) for line in _rendered(table, places, console))
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
    for table in report.scaling:
        print_table(table, console)
    for traced in report.traces:
        print_table(traced.table, console)
    for paper in () if brief else report.papers:
        for table in paper.tables.values():
            print_table(table, console)
        for sentence in paper.sentences:
            console.print(Text(sentence))
