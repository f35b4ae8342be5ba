"""render: fronts on the terminal, as one JSON document, and as files in a folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from hybridbench.pareto.join import Front, ParetoOptions
from hybridbench.pareto.tables import flat_table, front_table, plain_rows
from hybridbench.report.render.folder import write_text
from hybridbench.report.render.markdown import escape, to_markdown
from hybridbench.report.render.page import OPENINGS, own_page
from hybridbench.report.render.terminal import print_table
from hybridbench.store import make_folder


def print_fronts(fronts: Sequence[Front], asked: ParetoOptions, console: Console) -> None:
    """A table per front."""
    for front in fronts:
        print_table(front_table(front, asked), console)


def document(fronts: Sequence[Front], asked: ParetoOptions) -> str:
    """One JSON document with every point in SI."""
    return json.dumps(
        {
            "cost": asked.cost.name,
            "cost_unit": asked.cost.unit,
            "score": asked.score,
            "score_unit": asked.measure.unit,
            "score_better": asked.measure.better,
            "matched": asked.matched,
            "rows": plain_rows(fronts, asked),
        },
        allow_nan=False,
    )


def page(fronts: Sequence[Front], asked: ParetoOptions) -> str:
    """The fronts as one page in Markdown."""
    lines = [f"{OPENINGS['pareto.md']} {escape(asked.cost.title)} and {escape(asked.measure.title)}.", ""]
    for stem in dict.fromkeys(front.stem for front in fronts):
        of_stem = [front for front in fronts if front.stem == stem]
        lines += [f"## {escape(of_stem[-1].title)}", "", f"![Quality against cost](charts/{_chart(stem)}.svg)", ""]
        lines += [to_markdown(front_table(front, asked), alone=False) for front in of_stem]
    lines += ["Every point, in SI and in full: [pareto.csv](pareto.csv), [pareto.json](pareto.json).", ""]
    return "\n".join(lines)


def write_fronts(fronts: Sequence[Front], asked: ParetoOptions, out: Path) -> Path:
    """``pareto.md``, ``pareto.csv``, ``pareto.json`` and ``charts/pareto-*.png`` and ``.svg``; returns the page.

    Raises:
        BadInput: the folder cannot be written, or holds a page of that name that is of something else.
    """
    from hybridbench.pareto.chart import draw_fronts
    from hybridbench.report.render.charts import chart_files, save
    from hybridbench.report.render.csv import to_csv
    from hybridbench.report.render.page import clear_earlier

    path = own_page(make_folder(out), "pareto.md")
    charts = make_folder(out / "charts")
    stems = list(dict.fromkeys(front.stem for front in fronts))
    clear_earlier(path, [file for stem in stems for file in chart_files(charts / _chart(stem))])
    write_text(path, page(fronts, asked))
    for stem in stems:
        save(draw_fronts([front for front in fronts if front.stem == stem], asked), charts / _chart(stem))
    write_text(out / "pareto.csv", to_csv(flat_table(fronts, asked)))
    write_text(out / "pareto.json", document(fronts, asked))
    return path


def _chart(stem: str) -> str:
    return f"pareto-{stem}"
