"""stacks: shares of a whole as Altair charts: a bar per case, and in it a strip of one colour for each class.

The colours are those of Paul Tol's "muted" scheme, which people with any kind of colour vision can tell apart. No
architecture has one of them. Strips have the order of the legend.
"""

from __future__ import annotations

from typing import Any

import altair as alt

from hybridbench.report.chart import StackedBars
from hybridbench.report.render.charts import WIDTH, Layers, data_of, definition_of

CLASS_COLORS = {
    "matrix products": "#44AA99",
    "attention": "#CC6677",
    "scan": "#117733",
    "conv": "#88CCEE",
    "norm and elementwise": "#DDCC77",
    "memory": "#AA4499",
    "loss": "#999933",
    "optimizer": "#332288",
    "gaps": "#888888",
}
_OTHER = "#882255"


def stack_colors(stack: StackedBars) -> list[str]:
    """The colour of each class of a chart, which is the same in every chart."""
    return [CLASS_COLORS.get(name, _OTHER) for name in stack.classes]


def stack_rows(stack: StackedBars) -> list[dict[str, Any]]:
    """The rows that strips are drawn from: shares in percent, times in milliseconds."""
    order = {name: at for at, name in enumerate(stack.classes)}
    return [
        {
            "bar": strip.bar,
            "series": strip.part,
            "share": 100 * strip.share_frac,
            "time": 1000 * strip.seconds,
            "order": order[strip.part],
        }
        for strip in stack.strips
    ]


def draw_stack(stack: StackedBars, *, validate: bool = True) -> dict[str, Any]:
    """The Vega-Lite definition: horizontal bars from 0 to 100%."""
    return definition_of(lambda: _drawn(stack), validate=validate)


def _drawn(stack: StackedBars) -> Layers:
    bars, classes = list(stack.bars), list(stack.classes)
    strips = (
        alt.Chart(data_of(stack_rows(stack)))
        .mark_bar(height={"band": 0.7}, stroke="white", strokeWidth=1)
        .encode(
            x=alt.X(
                "share:Q",
                title="share of a step [%]",
                stack="zero",
                scale=alt.Scale(domain=[0, 100], nice=False),
                axis=alt.Axis(values=[0, 20, 40, 60, 80, 100]),
            ),
            y=alt.Y(
                "bar:N",
                title=None,
                sort=bars,
                scale=alt.Scale(domain=bars),
                axis=alt.Axis(ticks=False, labelLimit=260),
            ),
            color=alt.Color(
                "series:N", title=None, sort=classes, scale=alt.Scale(domain=classes, range=stack_colors(stack))
            ),
            order=alt.Order("order:Q"),
        )
    )
    return alt.layer(strips).properties(
        width=WIDTH,
        height={"step": 34},
        title=alt.TitleParams(stack.title, subtitle=[stack.subtitle], anchor="start", offset=12),
    )
