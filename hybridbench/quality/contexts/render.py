"""render: a report of long contexts as a page with tables, curves and heat maps, and as one JSON document."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import altair as alt

from hybridbench.arch.model import ModelSpec
from hybridbench.quality.contexts.report import ContextReport, StretchedStack, about, rows
from hybridbench.quality.pages import write_page
from hybridbench.quality.training.figures import estimate
from hybridbench.report.render.charts import CONFIG, HEIGHT, WIDTH, data_of, looks
from hybridbench.text import counted
from hybridbench.units import format_tokens

PAGE = "contexts.md"
_CELL = 24
"""Pixels of a side of a heat map's cell."""


def write(report: ContextReport, out: Path) -> Path:
    """Write a report into ``out`` and return its page. An earlier one in that folder is replaced.

    Raises:
        BadInput: the folder cannot be written, or holds a page of that name that hybridbench did not write.
    """
    drawn = {
        "contexts-positions": ("Loss by position", by_position(report)),
        "contexts-needles": ("Needles found by length and depth", heat_map(report, "found")),
        "contexts-needle-loss": ("Loss of needles' numbers by length and depth", heat_map(report, "loss")),
    }
    return write_page(out, PAGE, report.tables, {name: (title, one) for name, (title, one) in drawn.items() if one})


def _series(report: ContextReport) -> Mapping[str, StretchedStack]:
    several = len({stack.case.model.scale for stack in report.stacks}) > 1
    return {f"{stack.name} {stack.case.model.scale}" if several else stack.name: stack for stack in report.stacks}


def by_position(report: ContextReport) -> dict[str, Any] | None:
    """The Vega-Lite definition of loss against position; None where no run went well.

    The first range, in which a document has hardly begun, is left out: it would press the rest together. The subtitle
    says so.
    """
    points = []
    for name, stack in _series(report).items():
        for one in stack.stretches[1:]:
            found = estimate(stack.by_document(one.first, one.last))
            half = found.half or 0.0
            middle = (one.first + one.last) / 2
            values = {"loss": found.mean, "low": found.mean - half, "high": found.mean + half}
            points.append({"model": name, "position": middle, **values})
    if not points:
        return None
    models: dict[str, ModelSpec] = {name: stack.case.model for name, stack in _series(report).items()}
    colors, _ = looks(models)
    scale = alt.Scale(domain=list(models), range=colors)
    color = alt.Color("model:N", title=None, sort=list(models), scale=scale, legend=alt.Legend(symbolOpacity=1))
    first = report.stacks[0]
    trained = first.case.trained
    read = [stack.stretches for stack in report.stacks if stack.stretches]
    hidden, end = max(one[0].last for one in read), max(one[-1].last for one in read)
    multiples = range(0, end + 1, trained)
    axis = alt.Axis(values=list(multiples), labelExpr=_labels(multiples))
    domain = alt.Scale(nice=False, domain=[0, end])  # the last range's middle is before its end
    x = alt.X("position:Q", title="position [tokens]", axis=axis, scale=domain)
    base = alt.Chart(data_of(points)).encode(x=x, color=color)
    fitted = alt.Scale(zero=False)
    band = base.mark_area(opacity=0.15).encode(y=alt.Y("low:Q", title="", scale=fitted), y2="high:Q")
    line = base.mark_line(point=True).encode(y=alt.Y("loss:Q", title="loss [nats/token]", scale=fitted))
    rule = alt.Chart(data_of([{"trained": trained}])).mark_rule(strokeDash=[4, 4], color="#888888")
    title = alt.TitleParams(
        "Loss by position",
        subtitle=[
            about(first),
            f"dashed: the trained length; band: 95% interval over documents; the first "
            f"{counted(hidden, 'position')}, of higher loss, are not shown",
        ],
        anchor="start",
        offset=12,
    )
    drawn = alt.layer(band, line, rule.encode(x="trained:Q")).properties(width=WIDTH, height=HEIGHT, title=title)
    return _with_config(drawn)


def heat_map(report: ContextReport, value: str) -> dict[str, Any] | None:
    """The Vega-Lite definition of needles by length and depth, a panel for each model; None where there are none.

    Args:
        value: ``found``, the share of prompts, or ``loss`` of the number in nats a token.
    """
    cells = [
        {
            "model": name,
            "length": cell.length,
            "depth": cell.depth,
            "found": cell.found / cell.trials,
            "loss": cell.loss,
        }
        for name, stack in _series(report).items()
        for cell in stack.needles
    ]
    if not cells:
        return None
    lengths = sorted({int(str(cell["length"])) for cell in cells})
    depths = sorted({int(str(cell["depth"])) for cell in cells})
    found = value == "found"
    color = alt.Color(
        f"{value}:Q",
        title="found" if found else "nats/token",
        scale=alt.Scale(scheme="viridis", domain=[0, 1]) if found else alt.Scale(scheme="viridis", reverse=True),
    )
    label = alt.Axis(labelExpr=_labels(lengths), labelAngle=-60)
    panel = (
        alt.Chart(data_of(cells))
        .mark_rect()
        .encode(
            x=alt.X("length:O", title="prompt [tokens]", sort=lengths, axis=label),
            y=alt.Y("depth:O", title="depth [%]", sort=depths),
            color=color,
        )
        .properties(width=_CELL * len(lengths), height=_CELL * len(depths))
    )
    what = "Needles found" if found else "Loss of needles' numbers"
    title = alt.TitleParams(
        f"{what} by length and depth", subtitle=[about(report.stacks[0])], anchor="start", offset=12
    )
    drawn = panel.facet(facet=alt.Facet("model:N", title=None, sort=list(_series(report))), columns=2)
    return _with_config(drawn.properties(title=title))


def _labels(counts: Iterable[int]) -> str:
    """The expression by which an axis writes token counts as tables do."""
    known = ", ".join(f"'{count}': '{format_tokens(count)}'" for count in counts)
    return f"({{{known}}})[toString(datum.value)]"


def _with_config(drawn: Any) -> dict[str, Any]:
    definition: dict[str, Any] = drawn.to_dict()
    definition["config"] = CONFIG
    return definition


def document(report: ContextReport, written: str | None) -> dict[str, Any]:
    """Every figure of every run in SI, and the path of the page if one was written."""
    return {"report": written, "runs": rows(report)}
