"""folder: a report as files: a page in Markdown, one in HTML, ``tables/*.csv``, and ``charts/*.png`` and ``*.svg``."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from hybridbench.errors import BadInput
from hybridbench.report.build import Report
from hybridbench.report.predicted import PredictedReport
from hybridbench.report.render.charts import draw, save
from hybridbench.report.render.csv import csv_files, to_csv
from hybridbench.report.render.html.page import html_page
from hybridbench.report.render.markdown import predicted_page, report_page
from hybridbench.report.render.page import own_page
from hybridbench.report.render.panels import draw_panels
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
    clear_earlier(files.page, (table_folder, (".csv",)), (chart_folder, (".png", ".svg")))
    for name, text in csv_files(report).items():
        files.tables.append(table_folder / f"{name}.csv")
        write_text(files.tables[-1], text)
    for section in report.groups:
        for name, plot in section.plots.items():
            files.charts += save(draw(plot), chart_folder / name)
    for paper in report.papers:
        files.charts += save(draw_panels(paper.comparison), chart_folder / paper.chart)
    write_text(files.page, report_page(report))
    write_text(out / "index.html", html_page(report))
    return files


def write_predicted(report: PredictedReport, out: Path) -> ReportFiles:
    """Write predictions into ``out``: the table as Markdown and CSV, and charts against context.

    Raises:
        BadInput: the folder cannot be written, or holds a page of that name that is of something else.
    """
    files = ReportFiles(own_page(make_folder(out), f"{report.name}.md"), tables=[out / f"{report.name}.csv"])
    for name, plot in report.plots.items():
        files.charts += save(draw(plot), make_folder(out / "charts") / name)
    write_text(files.tables[0], to_csv(report.table))
    write_text(files.page, predicted_page(report))
    return files


def clear_earlier(page: Path, *folders: tuple[Path, tuple[str, ...]]) -> None:
    """Remove the files that an earlier page links to, by folder and endings; the new one may not overwrite them all."""
    before = page.read_text(encoding="utf-8", errors="replace") if page.is_file() else ""
    for folder, endings in folders:
        _clear(folder, endings, before)


def _clear(folder: Path, endings: tuple[str, ...], before: str) -> None:
    """Remove the files that an earlier report links to; the new report may not overwrite all of them."""
    for path in folder.iterdir():
        if path.suffix in endings and f"({folder.name}/{path.stem}." in before:
            path.unlink()


def write_text(path: Path, text: str) -> None:
    """Write a file.

    Raises:
        BadInput: it cannot be written.
    """
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as exc:
        raise BadInput(f"{path} cannot be written ({exc.strerror}): choose another folder with --out.") from exc
