"""efficiency: how near recorded steps came to the data sheet's floor, to predict similar steps on other GPUs.

Efficiency is the floor over the measured step, in the same phase and family, at the nearest scale and batch, and
interpolated over the context.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence

from hybridbench.arch.model import CUSTOM, ModelSpec
from hybridbench.arch.model import params as params_of
from hybridbench.derive.doubts import problems
from hybridbench.derive.floors import datasheet_floor_s
from hybridbench.machine import find_peak
from hybridbench.metrics import value
from hybridbench.predict.pricing import Efficiency
from hybridbench.record import Record, Status
from hybridbench.suite.workloads import Workload
from hybridbench.units import format_tokens


def efficiency_of(records: Iterable[Record], spec: ModelSpec, workload: Workload, dtype: str) -> Efficiency | None:
    """The measured efficiency of a phase and family; None if no record covers them.

    It uses the valid records of this workload, family and dtype. Of these it takes the nearest scale in parameters,
    then the nearest batch, with one stream and no checkpointing, and at each context the fastest record. Between
    contexts it interpolates linearly in the logarithm of the context; outside them it takes the nearest end.
    """
    known = [record for record in records if _speaks_of(record, spec, workload, dtype)]
    if not known:
        return None
    size = params_of(spec)
    known = _nearest(known, lambda record: params_of(record.case.model), size)
    known = _nearest(known, lambda record: record.case.workload.batch, workload.batch)
    known.sort(key=_floor_frac)  # of several records at one context, the fastest shows what the GPU can reach
    points = sorted({record.case.workload.context: record for record in known}.items())
    shares = [(context, _floor_frac(record)) for context, record in points]
    powers = [(context, share) for context, record in points if (share := _power_frac(record)) is not None]
    first = points[0][1]
    ends = dict.fromkeys(format_tokens(context) for context, _ in (points[0], points[-1]))
    about = (
        f"{workload.kind} of {first.case.model.label} {first.case.model.scale}, batch {first.case.workload.batch}, "
        f"{' to '.join(ends)}, on {first.environment.device} ({len(points)} record{'s' if len(points) > 1 else ''})"
    )
    return Efficiency(
        floor_frac=_interpolated(shares, workload.context),
        power_frac=_interpolated(powers, workload.context) if powers else None,
        about=about,
        beyond=_beyond([record for _, record in points], spec, workload),
    )


def _beyond(records: Sequence[Record], spec: ModelSpec, workload: Workload) -> str:
    """Respects in which the workload lies outside the records, all of one batch and scale, such as ``ctx, batch``."""
    first, contexts = records[0].case, [record.case.workload.context for record in records]
    differs = {
        "model": first.model.label != spec.label and first.model.scale == spec.scale,
        "scale": first.model.scale != spec.scale,
        "ctx": not min(contexts) <= workload.context <= max(contexts),
        "batch": first.workload.batch != workload.batch,
    }
    return ", ".join(word for word, is_so in differs.items() if is_so)


def _speaks_of(record: Record, spec: ModelSpec, workload: Workload, dtype: str) -> bool:
    case = record.case
    return (
        record.status is Status.OK
        and case.workload.kind == workload.kind
        and case.model.arch == spec.arch
        and (spec.arch != CUSTOM or case.model.pattern == spec.pattern)
        and case.execution.dtype == dtype
        and case.execution.streams == 1
        and case.execution.checkpoint == "none"
        and value(record, "step_s") is not None
        and datasheet_floor_s(record) is not None
        and not problems(record)
    )


def _nearest(records: Sequence[Record], size: Callable[[Record], int], wanted: int) -> list[Record]:
    """The records whose size is nearest to the wanted one, by ratio."""
    best = min((abs(math.log(size(record) / wanted)), size(record)) for record in records)[1]
    return [record for record in records if size(record) == best]


def _floor_frac(record: Record) -> float:
    """The data sheet's floor over the measured step; the GPU to predict for has only a data sheet's floor too."""
    floor_s, step_s = datasheet_floor_s(record), value(record, "step_s")
    if floor_s is None or not step_s:
        raise ValueError("a record without a peak or a step was chosen")
    return floor_s / step_s


def _power_frac(record: Record) -> float | None:
    power_w, peak = value(record, "power_w"), find_peak(record.environment.device)
    return None if power_w is None or peak is None else power_w / peak.tdp_w


def _interpolated(points: Sequence[tuple[int, float]], context: int) -> float:
    """The value at a context, linear in the logarithm of the context, constant outside."""
    if context <= points[0][0]:
        return points[0][1]
    for (low, left), (high, right) in itertools.pairwise(points):
        if context <= high:
            share = math.log(context / low) / math.log(high / low)
            return left + share * (right - left)
    return points[-1][1]
