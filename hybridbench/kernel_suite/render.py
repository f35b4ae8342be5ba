"""render: a report of kernels on the terminal, as one JSON document, and as a page with tables and charts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hybridbench.kernel_suite.noise_table import noise_rows
from hybridbench.kernel_suite.report import KernelReport, rows
from hybridbench.report.render.charts import chart_files, draw, save
from hybridbench.report.render.csv import to_csv
from hybridbench.report.render.folder import write_text
from hybridbench.report.render.latex import latex_files
from hybridbench.report.render.markdown import latex_names, to_markdown
from hybridbench.report.render.page import OPENINGS, clear_earlier, own_page
from hybridbench.store import make_folder

PAGE, PREVIEW = "kernels.md", "kernels-preview"
MEANINGS = (
    "The median of one call, with half its 95% interval beside it. FLOPs count a multiply-add as 2 (convention exact), "
    "a backward as two forwards. Bytes are the fewest that a call moves: inputs read once, outputs written once, and "
    "with a backward their gradients. The floor is the larger of both times at the rates that the process measured. "
    "Backends of the same work are timed in turns. A speed-up says tie where the intervals allow 1.\n"
)


def write(report: KernelReport, out: Path) -> Path:
    """Write a report into ``out`` and return its page. An earlier one in that folder is replaced.

    Raises:
        BadInput: the folder cannot be written, or holds a page of that name that hybridbench did not write.
    """
    page = own_page(make_folder(out), PAGE)
    tables, charts = make_folder(out / "tables"), make_folder(out / "charts")
    texts = {tables / f"{name}.csv": to_csv(table) for name, table in report.tables.items()}
    texts |= {tables / name: text for name, text in latex_files(report.tables, PREVIEW).items()}
    plots = {charts / name: plot for name, plot in report.plots.items() if plot.points}
    clear_earlier(page, (*texts, *(path for stem in plots for path in chart_files(stem))))
    write_text(page, _page(report))
    for path, text in texts.items():
        write_text(path, text)
    for stem, plot in plots.items():
        save(draw(plot), stem)
    return page


def _page(report: KernelReport) -> str:
    parts = [OPENINGS[PAGE], MEANINGS]
    for name, table in report.tables.items():
        parts += [to_markdown(table), f"[{name}.csv](tables/{name}.csv)\n"]
    for name, plot in report.plots.items():
        if plot.points:
            parts.append(f"![{plot.title}: {plot.subtitle}](charts/{name}.svg)\n")
    return "\n".join([*parts, latex_names([*report.tables, PREVIEW])])


def document(report: KernelReport, written: str | None, self_test: dict[str, float] | None = None) -> dict[str, Any]:
    """Every figure of every record in SI, the path of the page if one was written, and the self test of the timing."""
    noise = {"noise": noise_rows(report.noise)} if report.noise else {}
    return {"report": written, "self_test": self_test, "kernels": rows(report), **noise}
