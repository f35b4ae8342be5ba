"""render: a report of training runs as a page with tables and charts, and as one JSON document."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import altair as alt

from hybridbench.quality.training.cells import about, names
from hybridbench.quality.training.report import LearnReport, rows
from hybridbench.report.render.charts import CONFIG, HEIGHT, WIDTH, data_of, looks
from hybridbench.report.render.page import OPENINGS
from hybridbench.report.render.tabled import page_parts, write_page

PAGE, PREVIEW, QUALITY = "learn.md", "learn-preview", "quality"
AXES = {"tokens": "tokens", "train_flops": "training FLOPs", "train_s": "seconds of training", "energy_j": "joules"}
"""What held-out loss is drawn against: columns of the table of curves, with the title of their axis."""


def write(report: LearnReport, out: Path) -> Path:
    """Write a report into ``out`` and return its page. An earlier one in that folder is replaced.

    Raises:
        BadInput: the folder cannot be written, or holds a page of that name that hybridbench did not write.
    """
    drawn = {axis: chart for axis in AXES if (chart := curves(report, axis)) is not None}
    shown = [f"![Bits per byte against {AXES[axis]}](charts/learn-{axis}.svg)\n" for axis in drawn]
    join = f"Beside costs: `hybridbench pareto RESULTS --quality` [{QUALITY}.csv](tables/{QUALITY}.csv)\n"
    text = "\n".join([OPENINGS[PAGE], *page_parts(report.tables), *shown, join])
    charts = {f"learn-{axis}": one for axis, one in drawn.items()}
    return write_page(out, PAGE, PREVIEW, text, report.tables, charts, {QUALITY: report.quality})


def curves(report: LearnReport, axis: str) -> dict[str, Any] | None:
    """The Vega-Lite definition of held-out bits per byte against one of ``AXES``; None where it is unknown.

    The first judgement, of an untrained model, is left out: it would press the rest together.
    """
    table = report.tables.get("learn-curves")
    if table is None:
        return None
    keys = [column.key for column in table.columns]
    values = [dict(zip(keys, (cell.value for cell in row), strict=True)) for row in table.rows]
    points = [
        {
            "model": row["model"],
            "x": row[axis],
            "bits": row["bits_per_byte"],
            "low": float(row["bits_per_byte"] or 0) - float(row["half_interval"] or 0),
            "high": float(row["bits_per_byte"] or 0) + float(row["half_interval"] or 0),
        }
        for row in values
        if row["step"] and row[axis] is not None
    ]
    if not points:
        return None
    models = {name: arm.first.case.model for name, arm in zip(names(report.arms), report.arms, strict=True)}
    colors, _ = looks(models)
    color = alt.Color(
        "model:N", title=None, legend=alt.Legend(symbolOpacity=1), scale=alt.Scale(domain=list(models), range=colors)
    )
    x = alt.X("x:Q", title=AXES[axis], axis=alt.Axis(format="~s"))
    scale = alt.Scale(zero=False)
    base = alt.Chart(data_of(points)).encode(x=x, color=color)
    band = base.mark_area(opacity=0.15).encode(y=alt.Y("low:Q", title="", scale=scale), y2="high:Q")
    line = base.mark_line(point=True).encode(y=alt.Y("bits:Q", title="held-out bits per byte", scale=scale))
    band_said = "; band: 95% interval over seeds" if any(row["half_interval"] is not None for row in values) else ""
    title = alt.TitleParams(
        f"Held-out loss against {AXES[axis]}",
        subtitle=[about(record for arm in report.arms for record in arm.records) + band_said],
        anchor="start",
        offset=12,
    )
    definition: dict[str, Any] = alt.layer(band, line).properties(width=WIDTH, height=HEIGHT, title=title).to_dict()
    definition["config"] = CONFIG
    return definition


def document(report: LearnReport, written: str | None) -> dict[str, Any]:
    """Every figure of every run in SI, and the path of the page if one was written."""
    return {"report": written, "runs": rows(report)}
