"""pages: a report of quality as a folder: one page, its tables as CSV and LaTeX, and its charts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hybridbench.report.render.charts import chart_files, save
from hybridbench.report.render.csv import to_csv
from hybridbench.report.render.folder import write_text
from hybridbench.report.render.latex import latex_files
from hybridbench.report.render.markdown import latex_names, to_markdown
from hybridbench.report.render.page import OPENINGS, clear_earlier, own_page
from hybridbench.report.table import Table
from hybridbench.store import make_folder


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
    page = own_page(make_folder(out), name)
    preview = f"{page.stem}-preview"
    for_tables, for_charts = make_folder(out / "tables"), make_folder(out / "charts")
    texts = {for_tables / f"{one}.csv": to_csv(table) for one, table in tables.items()}
    texts |= {for_tables / file: text for file, text in latex_files(dict(tables), preview).items()}
    stems = {one: for_charts / one for one in charts}
    clear_earlier(page, (*texts, *(path for stem in stems.values() for path in chart_files(stem))))
    write_text(page, _page(name, tables, {one: title for one, (title, _) in charts.items()}, preview))
    for path, text in texts.items():
        write_text(path, text)
    for one, (_, definition) in charts.items():
        save(definition, stems[one])
    return page


def _page(name: str, tables: Mapping[str, Table], charts: Mapping[str, str], preview: str) -> str:
    parts = [OPENINGS[name]]
    for one, table in tables.items():
        parts += [to_markdown(table), f"[{one}.csv](tables/{one}.csv)\n"]
    parts += [f"![{title}](charts/{one}.svg)\n" for one, title in charts.items()]
    return "\n".join([*parts, latex_names([*tables, preview])])
