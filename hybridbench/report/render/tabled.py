"""tabled: a page of tables and charts with their files beside it, for suites that have pages of their own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from hybridbench.report.render.charts import chart_files, save
from hybridbench.report.render.csv import to_csv
from hybridbench.report.render.folder import write_text
from hybridbench.report.render.latex import latex_files
from hybridbench.report.render.markdown import latex_names, to_markdown
from hybridbench.report.render.page import clear_earlier, own_page
from hybridbench.report.table import Table
from hybridbench.store import make_folder

NO_TABLES: Mapping[str, Table] = MappingProxyType({})


def page_parts(tables: Mapping[str, Table]) -> Iterator[str]:
    """Each table in Markdown, with a link to its CSV."""
    for name, table in tables.items():
        yield to_markdown(table)
        yield f"[{name}.csv](tables/{name}.csv)\n"


def write_page(
    out: Path,
    name: str,
    preview: str,
    text: str,
    tables: Mapping[str, Table],
    charts: Mapping[str, dict[str, Any]],
    more: Mapping[str, Table] = NO_TABLES,
) -> Path:
    """Write a page with its tables and charts into ``out`` and return it. An earlier one in that folder is replaced.

    Args:
        name: the page's file.
        preview: the LaTeX file that shows all tables, without its ending.
        text: the page in Markdown; the names of LaTeX files are added to it.
        tables: by their files, without endings.
        charts: Vega-Lite definitions by their files, without endings.
        more: tables for programs, which get a CSV only.

    Raises:
        BadInput: the folder cannot be written, or holds a page of that name that hybridbench did not write.
    """
    page = own_page(make_folder(out), name)
    tables_at, charts_at = make_folder(out / "tables"), make_folder(out / "charts")
    texts = {tables_at / f"{stem}.csv": to_csv(table) for stem, table in (*tables.items(), *more.items())}
    texts |= {tables_at / file: latex for file, latex in latex_files(tables, preview).items()}
    clear_earlier(page, (*texts, *(path for stem in charts for path in chart_files(charts_at / stem))))
    write_text(page, "\n".join([text, latex_names([*tables, preview])]))
    for path, body in texts.items():
        write_text(path, body)
    for stem, chart in charts.items():
        save(chart, charts_at / stem)
    return page
