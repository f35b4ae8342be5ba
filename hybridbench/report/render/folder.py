"""folder: a report as files: pages in Markdown and HTML, tables as CSV and LaTeX, charts as PNG, SVG and PDF."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from hybridbench.errors import BadInput
from hybridbench.report.build import Report
from hybridbench.report.predicted import PredictedReport
from hybridbench.report.render.charts import chart_files, draw, save
from hybridbench.report.render.csv import csv_files, to_csv
from hybridbench.report.render.html.page import html_page
from hybridbench.report.render.latex import latex_files
from hybridbench.report.render.markdown import predicted_page, report_page
from hybridbench.report.render.page import clear_earlier, own_page
from hybridbench.report.render.panels import draw_panels
from hybridbench.report.render.stacks import draw_stack
from hybridbench.store import make_folder


@dataclass
class ReportFiles:
    """The files that were written; ``web`` is the page in HTML, which a report of predictions has none of."""

    page: Path
    web: Path | None = None
    tables: list[Path] = field(default_factory=list)
    charts: list[Path] = field(default_factory=list)


def write_report(report: Report, out: Path) -> ReportFiles:
    """Write a report into ``out``. An earlier report in that folder is replaced.

    Raises:
        BadInput: the folder cannot be written, or holds a page of that name that is not a report.
    """
    files = ReportFiles(own_page(make_folder(out), "report.md"), own_page(out, "index.html"))
    table_folder, chart_folder = make_folder(out / "tables"), make_folder(out / "charts")
    tables = {table_folder / name: text for name, text in _tables(report).items()}
    plots = {name: plot for section in report.groups for name, plot in section.plots.items()}
    plots |= {plot.name: plot for part in report.parts if part.page is None for plot in part.plots}
    charts = {chart_folder / name: draw(plot, validate=False) for name, plot in plots.items()}
    charts |= {chart_folder / section.stem: draw_stack(section.stack, validate=False) for section in report.traces}
    charts |= {chart_folder / paper.chart: draw_panels(paper.comparison, validate=False) for paper in report.papers}
    clear_earlier(files.page, (*tables, *(path for stem in charts for path in chart_files(stem))))
    write_text(files.page, report_page(report))  # first, so that what it names is known to be hybridbench's
    for path, text in tables.items():
        write_text(path, text)
    files.tables += tables
    for stem, definition in charts.items():
        files.charts += save(definition, stem)
    write_web(report, out)
    return files


def write_web(report: Report, out: Path) -> Path:
    """Write the page in HTML alone, and return it.

    Raises:
        BadInput: as of ``write_report``.
    """
    page = own_page(make_folder(out), "index.html")
    write_text(page, html_page(report))
    return page


def _tables(report: Report) -> dict[str, str]:
    """The text of every file of a table, by name."""
    tables = {name: table for section in report.groups for name, table in section.tables.items()}
    tables |= {name: table for paper in report.papers for name, table in paper.tables.items()}
    tables |= {section.stem: section.table for section in report.traces}
    numbers = {f"{name}.csv": text for name, text in csv_files(report).items()}
    return numbers | latex_files(tables, "preview")


def write_predicted(report: PredictedReport, out: Path) -> ReportFiles:
    """Write predictions into ``out``: the table as Markdown and CSV, and charts against context.

    Raises:
        BadInput: the folder cannot be written, or holds a page of that name that is of something else.
    """
    files = ReportFiles(own_page(make_folder(out), f"{report.name}.md"), tables=[out / f"{report.name}.csv"])
    for name, plot in report.plots.items():
        files.charts += save(draw(plot, validate=False), make_folder(out / "charts") / name)
    write_text(files.tables[0], to_csv(report.table))
    write_text(files.page, predicted_page(report))
    return files


def write_text(path: Path, text: str) -> None:
    """Write a file.

    Raises:
        BadInput: it cannot be written.
    """
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as exc:
        raise BadInput(f"{path} cannot be written ({exc.strerror}): choose another folder with --out.") from exc
