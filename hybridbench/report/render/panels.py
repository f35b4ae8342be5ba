"""panels: decode throughput against total length, the paper's and ours in panels with the same axes."""

from __future__ import annotations

from typing import Any

import altair as alt

from hybridbench.report.paper.compare import PaperComparison
from hybridbench.report.paper.figures import LENGTHS, MAIN, STACKS
from hybridbench.report.render.charts import FAMILY_COLORS, FAMILY_SHAPES, data_of, definition_of
from hybridbench.units import format_tokens

WIDTH, HEIGHT = 270, 340


def draw_panels(comparison: PaperComparison, *, validate: bool = True) -> dict[str, Any]:
    """The Vega-Lite definition, with a panel per source and a colour per family. Thick lines are stacks of ``MAIN``."""
    return definition_of(lambda: _drawn(comparison), validate=validate)


def _drawn(comparison: PaperComparison) -> alt.FacetChart:
    family = {stack.name: stack.arch for stack in STACKS}
    rows = [
        {
            "source": source,
            "stack": name,
            "family": family[name],
            "main": name in MAIN,
            "place": length,
            "amount": amount,
        }
        for source in comparison.measured
        for name, by_length in comparison.sources[source].rates.items()
        for length, amount in by_length.items()
    ]
    families = [arch for arch in FAMILY_COLORS if any(row["family"] == arch for row in rows)]
    labels = ", ".join(f"'{length}': '{format_tokens(length)}'" for length in LENGTHS)
    x = alt.X(
        "place:Q",
        title="total length [tokens]",
        scale=alt.Scale(type="log", base=2, nice=False, domain=[LENGTHS[0], LENGTHS[-1]], padding=14),
        axis=alt.Axis(values=list(LENGTHS), labelExpr=f"({{{labels}}})[toString(datum.value)]", grid=False),
    )
    y = alt.Y(
        "amount:Q",
        title="throughput [tokens/s]",
        scale=alt.Scale(type="log", nice=True),
        axis=alt.Axis(format=",.6~g", values=[digit * 10**power for power in range(1, 5) for digit in (1, 2, 5)]),
    )
    color = alt.Color(
        "family:N",
        sort=families,
        title=None,
        scale=alt.Scale(domain=families, range=[FAMILY_COLORS[arch] for arch in families]),
        legend=alt.Legend(symbolOpacity=1),
    )
    shape = alt.Shape(
        "family:N",
        sort=families,
        title=None,
        scale=alt.Scale(domain=families, range=[FAMILY_SHAPES[arch] for arch in families]),
    )
    base = alt.Chart()
    thin = base.transform_filter("!datum.main").mark_line(strokeWidth=1, opacity=0.45)
    thick = base.transform_filter("datum.main").mark_line(strokeWidth=2.5)
    marks = base.transform_filter("datum.main").mark_point(filled=True, size=55, opacity=1)
    layers = alt.layer(
        thin.encode(x=x, y=y, color=color, detail="stack:N"),
        thick.encode(x=x, y=y, color=color, detail="stack:N"),
        marks.encode(x=x, y=y, color=color, shape=shape),
        data=data_of(rows),
    ).properties(width=WIDTH, height=HEIGHT)
    header = alt.Header(title=None, labelFontSize=13, labelFontWeight="bold")
    return layers.facet(column=alt.Column("source:N", sort=comparison.measured, header=header)).properties(
        title=alt.TitleParams(
            "Decode throughput, new tokens of 4 sequences",
            subtitle=[
                f"1B, prompt of 512 tokens, {comparison.machine}; thick: ratio 1:5, thin: the paper's other ratios"
            ],
            anchor="start",
            offset=12,
        )
    )
