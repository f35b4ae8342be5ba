"""pages: a report of quality as a folder: one page, its tables as CSV and LaTeX, and its charts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hybridbench.report.render import tabled
from hybridbench.report.render.page import OPENINGS
from hybridbench.report.table import Table


def write_page(
    out: Path, name: str, tables: Mapping[str, Table], charts: Mapping[str, tuple[str, dict[str, Any]]]
) -> Path:
    """Write a report into ``out`` and return its page. An earlier one in that folder is replaced.

    Args:
        name: of the page, one of ``OPENINGS``.
        tables: by file name without the ending.
        charts: by file name likewise: what each shows, and its Vega-Lite definition.

    Raises:
        BadInput: the folder cannot be written, or holds a page of that name that hybridbench did not write.
    """
    shown = [f"![{title}](charts/{one}.svg)\n" for one, (title, _) in charts.items()]
    text = "\n".join([OPENINGS[name], *tabled.page_parts(tables), *shown])
    definitions = {one: definition for one, (_, definition) in charts.items()}
    return tabled.write_page(out, name, f"{Path(name).stem}-preview", text, tables, definitions)
