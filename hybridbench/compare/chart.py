"""chart: the ratios of a comparison with their intervals, on a logarithmic axis, as a Vega-Lite definition.

Colours are those of reports, of Okabe and Ito 2008: vermilion for worse, green for better, grey for the rest. The
verdict stands beside each mark in words too.
"""

from __future__ import annotations

from typing import Any

import altair as alt

from hybridbench.compare.judging import Comparison, JudgedPair, Verdict
from hybridbench.compare.tables import about, fields_of, row_name, title, verdict_word
from hybridbench.report.render.charts import CONFIG, LABELS_APART, PLAIN_NUMBER, WIDTH, data_of

MOST_ROWS = 80
_STEP = 20
_WORSE, _BETTER, _OTHER = "#D55E00", "#009E73", "#7F7F7F"
_COLORS = {Verdict.WORSE: _WORSE, Verdict.BETTER: _BETTER, Verdict.BROKE: _WORSE, Verdict.INCOMPARABLE: _WORSE}


def draw_ratios(comparison: Comparison) -> dict[str, Any]:
    """The Vega-Lite definition: a row per pair in the order of the table, a failure as a word.

    Only the first ``MOST_ROWS`` rows are drawn; the subtitle says so.
    """
    names, _ = fields_of(comparison)
    rows = comparison.rows[:MOST_ROWS]
    subtitle = [about(comparison), *(f"{side.letter}: {side.title}" for side in comparison.sides)]
    if len(rows) < len(comparison.rows):
        subtitle.append(f"the first {len(rows)} of {len(comparison.rows)} rows")
    data = [_values(row, place, row_name(row, names, comparison), comparison) for place, row in enumerate(rows)]
    ends = [1.0, *(value[end] for value in data for end in ("ratio", "low", "high") if value[end])]
    low, high = min(ends), max(ends)
    span = max(high / low, 1.01)
    # Room for the words on the right of the widest mark, and for half a mark on the left of the first.
    scale = alt.Scale(type="log", domain=[low / span**0.02, high * span**0.3], nice=False)
    labels = {value["place"]: value["name"] for value in data}
    y = alt.Y(
        "place:O",
        title=None,
        axis=alt.Axis(ticks=False, labelLimit=340, labelExpr=f"({labels!r})[toString(datum.value)]"),
    )
    x = alt.X(
        "ratio:Q",
        title=title(comparison),
        scale=scale,
        axis=alt.Axis(labelExpr=PLAIN_NUMBER, tickCount=6, **LABELS_APART),
    )
    color = alt.Color("color:N", scale=None, legend=None)
    base = alt.Chart(data_of(data))
    measured = base.transform_filter("isValid(datum.ratio)")
    layers = [
        alt.Chart(data_of([{"ratio": 1.0}])).mark_rule(color="#333333", strokeDash=[4, 3]).encode(x=x),
        measured.transform_filter("isValid(datum.low)")
        .mark_rule(strokeWidth=2)
        .encode(x=alt.X("low:Q", scale=scale), x2="high:Q", y=y, color=color),
        measured.mark_point(filled=True, size=60, opacity=1).encode(x=x, y=y, color=color),
        base.mark_text(align="left", dx=8, fontSize=11).encode(
            x=alt.X("text_at:Q", scale=scale), y=y, text="word:N", color=color
        ),
    ]
    drawn = alt.layer(*layers).properties(
        width=WIDTH,
        height={"step": _STEP},
        title=alt.TitleParams(
            f"{comparison.asked.title}: ratio and interval", subtitle=subtitle, anchor="start", offset=12
        ),
    )
    definition: dict[str, Any] = drawn.to_dict()
    definition["config"] = CONFIG
    return definition


def _values(row: JudgedPair, place: int, name: str, comparison: Comparison) -> dict[str, Any]:
    ratio = row.ratio
    return {
        "place": place,
        "name": name,
        "ratio": ratio.value if ratio else None,
        "low": ratio.low if ratio else None,
        "high": ratio.high if ratio else None,
        "text_at": max(1.0, ratio.high or ratio.value) if ratio else 1.0,  # right of the line at 1
        "word": verdict_word(row, comparison),
        "color": _COLORS.get(row.verdict, _OTHER),
    }
