"""elements: text, tables, lists and scripts as HTML in which nothing from a record can become markup or code."""

from __future__ import annotations

import html
import json
from collections.abc import Iterable, Sequence
from typing import Any

from hybridbench.report.table import Column, Table, TableCell
from hybridbench.text import printable

_VERDICTS = {"ok": "good", "not run": "quiet"}


def text(words: str) -> str:
    """Words as the text of an element or the value of a quoted attribute; what cannot be shown is spelled out."""
    return html.escape(printable(words))


def json_script(name: str, value: Any) -> str:
    """A value as JSON in a script element, which ``document.getElementById(name)`` finds.

    No ``<`` is left in it, so that no text can end the element or open a comment, and no character beyond ASCII.
    """
    body = json.dumps(value, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    return f'<script type="application/json" id="{text(name)}">{body}</script>'


def code_script(code: str) -> str:
    """JavaScript of our own or of a library as a script element; strings and patterns keep their meaning."""
    kept = code.replace("</script", "<\\/script").replace("<!--", "<\\!--")
    return f"<script>{kept}</script>"


def bullets(lines: Iterable[str]) -> str:
    """A list of sentences; empty if there are none."""
    items = "".join(f"<li>{text(line)}</li>" for line in lines)
    return f"<ul>{items}</ul>" if items else ""


def to_html(table: Table) -> str:
    """A table, its footnotes and remarks; it scrolls within itself where the page is narrower."""
    notes = "".join(f"<li>{text(note)}</li>" for note in table.footnotes())
    return rows_to_html(table.title, table.columns, table.rows) + (f'<ul class="notes">{notes}</ul>' if notes else "")


def rows_to_html(title: str, columns: Sequence[Column], rows: Iterable[Sequence[TableCell]]) -> str:
    """Columns and rows under a caption."""
    head = "".join(f"<th{_right(column)}>{text(column.heading)}</th>" for column in columns)
    body = "".join(
        f"<tr>{''.join(_cell(column, cell) for column, cell in zip(columns, row, strict=True))}</tr>" for row in rows
    )
    return (
        f'<div class="wide" tabindex="0" role="region" aria-label="{text(title)}"><table>'
        f"<caption>{text(title)}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _right(column: Column) -> str:
    return ' class="n"' if column.numeric else ""


def _cell(column: Column, cell: TableCell) -> str:
    classes = ["n"] if column.numeric else []
    if cell.word is not None:
        classes.append(_VERDICTS.get(cell.word, "bad"))
    opening = f'<td class="{" ".join(classes)}">' if classes else "<td>"
    return f"{opening}{text(cell.text)}</td>"
