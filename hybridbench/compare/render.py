"""render: a comparison on the terminal, as one JSON document, and as files in a folder."""

from __future__ import annotations

import json
from pathlib import Path

from rich.console import Console
from rich.text import Text

from hybridbench.compare.judging import Comparison
from hybridbench.compare.tables import (
    about,
    comparison_table,
    flat_table,
    outcome,
    plain_rows,
    side_lines,
    summary,
    title,
)
from hybridbench.report.part import ReportPart
from hybridbench.report.render.page import OPENINGS, own_page
from hybridbench.report.render.terminal import print_table
from hybridbench.store import make_folder


def print_comparison(comparison: Comparison, console: Console) -> None:
    """A line per side, the table, and what became of it."""
    for line in side_lines(comparison):
        console.print(Text(line), soft_wrap=True)
    print_table(comparison_table(comparison), console)
    for line in (summary(comparison), *outcome(comparison)):
        console.print(Text(line))


def as_part(comparison: Comparison) -> ReportPart:
    """A comparison as a section of a report."""
    lines = [summary(comparison), *side_lines(comparison)]
    return ReportPart("Two runs side by side", lines, [comparison_table(comparison)])


def document(comparison: Comparison) -> str:
    """One JSON document with every row in SI."""
    return json.dumps(
        {
            "metric": comparison.asked.metric,
            "unit": comparison.asked.unit,
            "better": comparison.asked.better,
            "across": list(comparison.across),
            "fail_above_frac": comparison.limit_frac,
            "exit_code": comparison.exit_code,
            "intervals": comparison.judged,
            "sides": [
                {
                    "side": side.letter,
                    "title": side.title,
                    "records": len(side.cells),
                    "runs": list(dict.fromkeys(cell.run for cell in side.cells)),
                    "made_by": list(dict.fromkeys(cell.made_by for cell in side.cells)),
                }
                for side in comparison.sides
            ],
            "rows": plain_rows(comparison),
        },
        allow_nan=False,
    )


def outline(comparison: Comparison) -> str:
    """The comparison in Markdown, without files beside it: sides, what became of it, and the table."""
    from hybridbench.report.render.markdown import escape, to_markdown

    lines = [escape(about(comparison)), "", *(f"- {escape(line)}" for line in side_lines(comparison)), ""]
    lines += [escape(line) + "\n" for line in (summary(comparison), *outcome(comparison))]
    return "\n".join([*lines, to_markdown(comparison_table(comparison))])


def page(comparison: Comparison) -> str:
    """The comparison as one page in Markdown."""
    from hybridbench.report.render.markdown import escape, to_markdown

    lines = [f"{OPENINGS['compare.md']}: {escape(about(comparison))}", ""]
    lines += [*(f"- {escape(line)}" for line in side_lines(comparison)), ""]
    lines += [escape(line) + "\n" for line in (summary(comparison), *outcome(comparison))]
    lines += [f"![{escape(title(comparison))}](charts/compare.svg)", ""]
    lines += [to_markdown(comparison_table(comparison), alone=False)]
    lines += ["Every row, in SI and in full: [compare.csv](compare.csv), [compare.json](compare.json).", ""]
    return "\n".join(lines)


def write_comparison(comparison: Comparison, out: Path) -> Path:
    """``compare.md``, ``compare.csv``, ``compare.json`` and ``charts/compare.png`` and ``.svg``; returns the page.

    Raises:
        BadInput: the folder cannot be written, or holds a page of that name that is of something else.
    """
    from hybridbench.compare.chart import draw_ratios
    from hybridbench.report.render.charts import save
    from hybridbench.report.render.csv import to_csv
    from hybridbench.report.render.folder import write_text

    path = own_page(make_folder(out), "compare.md")
    save(draw_ratios(comparison), make_folder(out / "charts") / "compare")
    texts = {"compare.csv": to_csv(flat_table(comparison)), "compare.json": document(comparison)}
    for name, text in {**texts, path.name: page(comparison)}.items():
        write_text(out / name, text)
    return path
