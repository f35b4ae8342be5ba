"""metrics: every reportable number, one entry each: a name, a unit, a direction, and a pure function of a record.

There are three kinds of numbers, each computed in a module of ``derive``. Measured numbers come from the record alone.
Predicted numbers are those of ``predict`` for the case alone, in the ``exact`` convention unless the name says
otherwise. The third kind compares the two with what the machine can do: the peaks of its data sheet, and the rates
measured beside the case. Those rates set the floor, or the data sheet does if a record has none.

    floor_s      no step can be faster (``predict.floor``)
    mfu_frac     model FLOPs per second over the peak         what the arithmetic units did for the model
    hfu_frac     hardware FLOPs per second over the peak      what they did in all: whole tiles, chunked scan, recompute
    mbu_frac     must-move bytes per second over bandwidth    what the memory did for the model

Values are SI; None is unknown. A record that is not ok has no measured value: neither a failed case nor one with wrong
results has a speed.
"""

from __future__ import annotations

from dataclasses import replace

from hybridbench.derive.kept import once
from hybridbench.metrics.memory import MEMORY
from hybridbench.metrics.metric import Metric
from hybridbench.metrics.ranks import RANKS
from hybridbench.metrics.rates import RATES
from hybridbench.metrics.run import RUN
from hybridbench.metrics.times import TIMES
from hybridbench.record import Record

__all__ = ["METRICS", "Metric", "value"]

METRICS: dict[str, Metric] = {
    metric.name: replace(metric, compute=once(metric.compute)) for metric in (*TIMES, *RATES, *MEMORY, *RANKS, *RUN)
}
"""Every metric by its name, in the order of a report."""


def value(record: Record, name: str) -> float | None:
    """One metric of a record."""
    return METRICS[name].compute(record)
