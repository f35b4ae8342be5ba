"""markdown: tables and whole pages as GitHub Markdown.

A report's page begins with the findings of each group. The comparison with the paper and the machines follow, then the
tables and charts of each group, and last the meaning of every column. The page links charts as ``charts/*.svg`` and
tables as ``tables/*.csv``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from hybridbench.metrics import METRICS
from hybridbench.report.build import GroupSection, PaperSection, Report
from hybridbench.report.chart import Plot
from hybridbench.report.paper.sentences import ABOUT
from hybridbench.report.part import ReportPart
from hybridbench.report.predicted import PredictedReport
from hybridbench.report.table import Table
from hybridbench.report.traces import TraceSection


def to_markdown(table: Table, *, alone: bool = True) -> str:
    """A heading, the table and its footnotes as GitHub Markdown.

    Args:
        table: what to render.
        alone: whether the heading includes what the table is about; a heading above it may already say that.
    """
    import pandas as pd

    frame = pd.DataFrame(
        [[escape(cell.text) for cell in row] for row in table.rows],
        columns=pd.Index([escape(column.heading) for column in table.columns]),
        dtype=object,
    )
    align = ["right" if column.numeric else "left" for column in table.columns]
    lines = [f"### {escape(table.full_title if alone else table.title)}", ""]
    lines.append(frame.to_markdown(index=False, colalign=align, disable_numparse=True) if table.rows else "No rows.")
    if table.notes or table.remarks:
        lines += ["", *(f"{escape(footnote)}  " for footnote in table.footnotes())]
    return "\n".join(lines) + "\n"


def escape(text: str) -> str:
    """Escape a text so that Markdown shows it unchanged."""
    for mark in "\\|*_<>`":
        text = text.replace(mark, f"\\{mark}")
    return " ".join(text.split())


def report_page(report: Report) -> str:
    """A report as one page."""
    return "\n".join(
        [
            "# hybridbench report\n",
            _findings(report),
            *(_paper(section) for section in report.papers),
            *(_part(part) for part in report.parts),
            _machines(report),
            *(_group(section) for section in report.groups),
            *(_trace(section) for section in report.traces),
            _meanings(report),
        ]
    )


def predicted_page(report: PredictedReport) -> str:
    """Predictions as one page."""
    return "\n".join([f"# {report.title}\n", to_markdown(report.table), *_pictures(report.plots)])


def _findings(report: Report) -> str:
    lines = [f"- **{escape(one.group.title)}.** {escape(' '.join(one.findings))}" for one in report.groups]
    if report.traces and not lines:
        lines = ["No step was timed here; what was traced is below."]
    return "\n".join(["## Findings\n", *lines, ""])


def _machines(report: Report) -> str:
    if not report.machines:
        return ""
    return "\n".join(["## Machines\n", *(f"- {escape(line)}" for line in report.machines), ""])


def _paper(section: PaperSection) -> str:
    lines = [f"## The paper, twice: {escape(section.comparison.machine)}\n", f"{escape(ABOUT)}\n"]
    lines += [*(f"- {escape(sentence)}" for sentence in section.sentences), ""]
    lines += [f"![Decode throughput against total length, paper and ours](charts/{section.chart}.svg)\n"]
    lines += [to_markdown(table, alone=False) for table in section.tables.values()]
    return "\n".join([*lines, latex_names(section.tables)])


def _part(part: ReportPart) -> str:
    lines = [f"## {escape(part.title)}\n", *(f"- {escape(sentence)}" for sentence in part.sentences), ""]
    if part.page is not None:
        return "\n".join([*lines, f"All of it: [{part.page}]({part.page}).\n"])
    pictures = _pictures({plot.name: plot for plot in part.plots})
    return "\n".join([*lines, *pictures, *(to_markdown(table) for table in part.tables)])


def _group(section: GroupSection) -> str:
    lines = [f"## {escape(section.group.title)}\n", to_markdown(section.headline, alone=False)]
    if section.leaders:
        lines.append(to_markdown(section.leaders, alone=False))
    lines += _pictures(section.plots)
    lines += [to_markdown(table, alone=False) for table in (section.summary, *section.details)]
    if section.kernels:
        lines += ["### kernels\n", *(f"- {escape(line)}" for line in section.kernels), ""]
    if section.repeat:
        lines.append(f"To repeat it: `{section.repeat}`\n")
    if section.software:
        lines.append(f"{section.software}\n")
    lines.append(latex_names(section.tables))
    return "\n".join(lines)


def _trace(section: TraceSection) -> str:
    lines = [f"## Where the time goes: {escape(section.group.title)}\n"]
    lines += [*(f"- {escape(sentence)}" for sentence in section.sentences), ""]
    lines += [f"![{section.stack.title}: {section.stack.subtitle}](charts/{section.stem}.svg)\n"]
    lines += [to_markdown(section.table, alone=False), f"In full: {_linked([section.stem])}.\n"]
    return "\n".join([*lines, latex_names([section.stem])])


def latex_names(tables: Iterable[str]) -> str:
    """A line that names the files in LaTeX of some tables."""
    return f"In LaTeX: {_spelled(tables)}.\n"


def _spelled(tables: Iterable[str]) -> str:
    return ", ".join(f"`tables/{name}.tex`" for name in tables)


def _pictures(plots: Mapping[str, Plot]) -> list[str]:
    return [f"![{plot.title}: {plot.subtitle}](charts/{name}.svg)\n" for name, plot in plots.items()]


def _meanings(report: Report) -> str:
    files = f"Charts are also PDF beside their SVG. {_spelled(['preview'])} shows all tables in LaTeX.\n"
    if not report.records:
        return files
    lines = ["## What the columns mean\n"]
    lines.append(
        "Predicted FLOPs count a multiply-add as 2. Convention exact: causal pairs only, an SSM as its recurrence, the "
        "head included. Convention paper: the formulas of arXiv 2510.04800, without embedding and head. Convention "
        "hardware: whole tiles, the chunked scan, recomputation. MFU is of convention exact, HFU of hardware.\n"
    )
    lines += [
        f"- **{escape(metric.title)}** (`{metric.name}`{f', {metric.unit}' if metric.unit else ''}): "
        f"{escape(metric.formula)}"
        for metric in METRICS.values()
    ]
    lines += ["", f"Every number of every record, in SI and in full: {_linked(report.workloads)}."]
    compared = [name for section in report.papers for name in section.tables]
    if compared:
        lines += ["", f"The comparison with the paper: {_linked(compared)}."]
    return "\n".join([*lines, "", files])


def _linked(names: Iterable[str]) -> str:
    return ", ".join(f"[{name}.csv](tables/{name}.csv)" for name in names)
