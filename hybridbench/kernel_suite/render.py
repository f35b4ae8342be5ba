"""render: a report of kernels on the terminal, as one JSON document, and as a page with tables and charts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hybridbench.kernel_suite.noise_table import noise_rows
from hybridbench.kernel_suite.report import KernelReport, rows
from hybridbench.report.render.charts import draw
from hybridbench.report.render.page import OPENINGS
from hybridbench.report.render.tabled import page_parts, write_page

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
    plots = {name: plot for name, plot in report.plots.items() if plot.points}
    shown = [f"![{plot.title}: {plot.subtitle}](charts/{name}.svg)\n" for name, plot in plots.items()]
    text = "\n".join([OPENINGS[PAGE], MEANINGS, *page_parts(report.tables), *shown])
    return write_page(
        out, PAGE, PREVIEW, text, report.tables, {name: draw(plot, validate=False) for name, plot in plots.items()}
    )


def document(report: KernelReport, written: str | None, self_test: dict[str, float] | None = None) -> dict[str, Any]:
    """Every figure of every record in SI, the path of the page if one was written, and the self test of the timing."""
    noise = {"noise": noise_rows(report.noise)} if report.noise else {}
    return {"report": written, "self_test": self_test, "kernels": rows(report), **noise}
