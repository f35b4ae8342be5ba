"""charts: Altair charts of the frames that ``hybridbench.load``, ``cost`` and ``price`` return.

    hybridbench.charts.throughput(df[df.workload == "decode"])

Each draws one quantity against the context, a line per model. Where rows differ in more than the model and the context,
such as in the batch or the GPU, the name of a line says it. The result is an ``altair.Chart``, to be changed or saved.
"""

from __future__ import annotations

from collections.abc import Mapping

import altair as alt
import pandas as pd

from hybridbench.errors import BadInput
from hybridbench.report.chart import Family
from hybridbench.report.display import unit_for
from hybridbench.report.render.charts import HEIGHT, PLAIN_NUMBER, WIDTH, data_of, looks
from hybridbench.units import format_tokens

__all__ = ["cache", "energy", "flops", "latency", "memory", "throughput"]

_TELLING = (
    *("workload", "gpu", "device", "scale", "batch", "prompt_tokens", "depths", "dtype", "state_dtype", "mode"),
    *("weight_dtype", "kv_dtype", "convention", "checkpoint", "streams", "gpus", "tp", "backends"),
)
"""What tells two lines of a model apart."""


def throughput(frame: pd.DataFrame) -> alt.Chart:
    """Tokens per second of the whole batch: measured, predicted, or at the floor, whichever the frame has first."""
    return _lines(frame, "throughput", "tokens/s", "tokens_per_s", "step_tokens_per_s", "floor_tokens_per_s")


def latency(frame: pd.DataFrame) -> alt.Chart:
    """The time of a step: measured, predicted, or its floor, whichever comes first in the frame."""
    return _lines(frame, "step", "s", "step_s", "floor_s")


def memory(frame: pd.DataFrame) -> alt.Chart:
    """The peak of allocated memory: measured, or predicted."""
    return _lines(frame, "peak memory", "B", "peak_allocated_bytes", "peak_bytes")


def cache(frame: pd.DataFrame) -> alt.Chart:
    """Bytes of the cache: of the whole batch in records, of one sequence in predicted costs."""
    return _lines(frame, "cache", "B", "cache_bytes")


def energy(frame: pd.DataFrame) -> alt.Chart:
    """Energy of a token: measured, predicted, or at the board's power limit."""
    return _lines(frame, "energy of a token", "J", "energy_per_token_j", "energy_at_tdp_j")


def flops(frame: pd.DataFrame) -> alt.Chart:
    """Model FLOPs: of a token in records, of training on one sequence in predicted costs."""
    return _lines(frame, "model FLOPs", "FLOP", "model_flops_per_token", "train_flops")


def _lines(frame: pd.DataFrame, title: str, unit: str, *columns: str) -> alt.Chart:
    """A line per model of the first column that has a value.

    Raises:
        BadInput: none has, or the frame is none of ours.
    """
    if missing := [name for name in ("model", "arch", "context_tokens") if name not in frame]:
        raise BadInput(f"the frame has no {missing[0]}: charts are of what hybridbench.load, cost or price returns.")
    column = next((name for name in columns if name in frame and frame[name].notna().any()), None)
    if column is None:
        raise BadInput(f"the frame has no value of {' or '.join(columns)}: there is nothing to draw.")
    rows = frame[frame[column].notna()]
    telling = [name for name in _TELLING if name in rows and rows[name].nunique(dropna=False) > 1]
    names = [
        ", ".join([str(row["model"]), *(f"{name} {row[name]}" for name in telling if not pd.isna(row[name]))])
        for _, row in rows.iterrows()
    ]
    kin: Mapping[str, Family] = {name: Family(arch) for name, arch in zip(names, rows["arch"].astype(str), strict=True)}
    shown_in = unit_for([float(value) for value in rows[column]], unit)
    series = list(kin)
    colors, shapes = looks(kin)
    values = [
        {"series": name, "context": int(context), "amount": float(amount) / shown_in.size}
        for name, context, amount in zip(names, rows["context_tokens"], rows[column], strict=True)
    ]
    labels = {str(int(context)): format_tokens(int(context)) for context in rows["context_tokens"]}
    chart: alt.Chart = (
        alt.Chart(data_of(values))
        .mark_line(point=alt.OverlayMarkDef(filled=True, size=60))
        .encode(
            x=alt.X(
                "context:Q",
                title="context [tokens]",
                scale=alt.Scale(type="log", base=2, nice=False),
                axis=alt.Axis(values=[int(key) for key in labels], labelExpr=f"({labels!r})[toString(datum.value)]"),
            ),
            y=alt.Y("amount:Q", title=shown_in.heading(title), axis=alt.Axis(labelExpr=PLAIN_NUMBER)),
            color=alt.Color("series:N", title=None, sort=series, scale=alt.Scale(domain=series, range=colors)),
            shape=alt.Shape("series:N", title=None, sort=series, scale=alt.Scale(domain=series, range=shapes)),
        )
        .properties(width=WIDTH, height=HEIGHT)
    )
    return chart
