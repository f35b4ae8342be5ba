"""render: a report of tasks as a page with tables and charts, and as one JSON document."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import altair as alt

from hybridbench.quality.pages import write_page
from hybridbench.quality.tasks.report import SolvedStack, TaskReport, about, rows
from hybridbench.quality.tasks.task import TASKS
from hybridbench.report.render.charts import CONFIG, HEIGHT, WIDTH, data_of, looks

PAGE = "solve.md"


def write(report: TaskReport, out: Path) -> Path:
    """Write a report into ``out`` and return its page. An earlier one in that folder is replaced.

    Raises:
        BadInput: the folder cannot be written, or holds a page of that name that hybridbench did not write.
    """
    charts = {
        f"solve-{name}": (f"Right answers of {name} by size", chart)
        for name, stacks in report.stacks.items()
        if (chart := accuracies(stacks)) is not None
    }
    return write_page(out, PAGE, report.tables, charts)


def accuracies(stacks: Sequence[SolvedStack]) -> dict[str, Any] | None:
    """The Vega-Lite definition of the share of right answers by part; None where no run went well."""
    case = stacks[0].case
    several = len({stack.case.model.scale for stack in stacks}) > 1
    models = {_series(stack, several): stack.case.model for stack in stacks}
    parts = [part.label for part in case.setting.test]
    points = [
        {
            "model": _series(stack, several),
            "part": part,
            "right": sum(shares) / len(shares),
            "low": min(shares),
            "high": max(shares),
        }
        for stack in stacks
        if stack.scores
        for part, shares in zip(parts, zip(*stack.scores, strict=True), strict=True)
    ]
    if not points:
        return None
    colors, shapes = looks(models)
    scale = alt.Scale(domain=list(models), range=colors)
    heading = "tokens x pairs" if case.setting.test[0].pairs else "positions"
    base = alt.Chart(data_of(points)).encode(
        x=alt.X("part:N", title=heading, sort=parts, axis=alt.Axis(labelAngle=0)),
        color=alt.Color("model:N", title=None, scale=scale, sort=list(models)),
    )
    y = alt.Y("right:Q", title="share of right answers", scale=alt.Scale(domain=[0, 1]))
    range_ = base.mark_rule(strokeWidth=1.5, opacity=0.6).encode(y=alt.Y("low:Q", title=""), y2="high:Q")
    line = base.mark_line().encode(y=y)
    shape = alt.Shape("model:N", title=None, scale=alt.Scale(domain=list(models), range=shapes), sort=list(models))
    marks = base.mark_point(filled=True, size=60, opacity=1).encode(y=y, shape=shape)
    guess = TASKS[case.task].chance(case.setting)
    rule = alt.Chart(data_of([{"guess": guess}])).mark_rule(strokeDash=[4, 4], color="#888888").encode(y="guess:Q")
    title = alt.TitleParams(
        f"{case.task}: right answers by size",
        subtitle=[about(stacks[0].records[0]), "bars: least and most of the seeds; dashed: a guess"],
        anchor="start",
        offset=12,
    )
    drawn = alt.layer(rule, range_, line, marks).properties(width=WIDTH, height=HEIGHT, title=title)
    definition: dict[str, Any] = drawn.to_dict()
    definition["config"] = CONFIG
    return definition


def _series(stack: SolvedStack, with_scale: bool) -> str:
    model = stack.case.model
    return f"{model.label} {model.scale}" if with_scale else model.label


def document(report: TaskReport, written: str | None) -> dict[str, Any]:
    """Every figure of every run in SI, and the path of the page if one was written."""
    return {"report": written, "runs": rows(report)}
