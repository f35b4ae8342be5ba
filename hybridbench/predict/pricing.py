"""pricing: a workload on any GPU of the table: the floor of its step, and what measured efficiency makes of it.

    floor_s = max(model FLOPs / dense peak of the dtype, must-move bytes / memory bandwidth)

Both counts are those of ``metrics`` (convention exact), both rates the datasheet's. Nothing is faster than the floor;
how far a real step is from it is taken, where asked for, from records of a GPU that was measured: the floor's share of
the measured step in the same phase and family, at the nearest scale and batch and interpolated over the context. That
assumes that kernels of equal quality exist on both GPUs. It is a prediction and is called one.

No sourced floor of energy exists: what a card draws at least while it works is in no datasheet. Two figures stand in.
``energy_at_tdp_j`` is the board power limit times the floor's time: what a token takes on a card that is as fast as its
floor and draws all it may. With measured records the share of the board limit they drew stands in its place.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from hybridbench.arch.model import ModelSpec
from hybridbench.arch.model import params as params_of
from hybridbench.errors import BadInput
from hybridbench.machine import Peak, find_peak
from hybridbench.metrics import peak_bytes_per_s, peak_flops_per_s, problems, step_bytes, step_flops, value
from hybridbench.predict.fit import fits, footprint
from hybridbench.record import Record, Status
from hybridbench.suite import DECODE, EAGER, GRAPH, Case, Execution, Workload
from hybridbench.units import format_tokens


@dataclass(frozen=True)
class Efficiency:
    """How near to the datasheet's floor a measured GPU came in one phase.

    Args:
        floor_frac: floor over measured step.
        power_frac: power drawn over the board limit, None where no energy was recorded.
        about: which records, in words.
        beyond: in what the workload lies outside these records, with commas; empty where it does not.
    """

    floor_frac: float
    power_frac: float | None
    about: str
    beyond: str


@dataclass(frozen=True)
class Price:
    """One workload of one model on one GPU; seconds, joules and bytes of a whole step unless the name says token.

    ``step_s``, ``step_tokens_per_s`` and ``energy_per_token_j`` are predictions with a measured efficiency, None
    without one. ``peak_bytes`` is None for a model without a memory formula.
    """

    spec: ModelSpec
    gpu: Peak
    workload: Workload
    dtype: str
    flops: int
    moved_bytes: int
    floor_s: float
    bound: str
    floor_tokens_per_s: float
    energy_at_tdp_j: float
    peak_bytes: int | None
    fits: bool | None
    efficiency: Efficiency | None
    step_s: float | None
    step_tokens_per_s: float | None
    energy_per_token_j: float | None


def price(
    spec: ModelSpec,
    workload: Workload,
    gpu: Peak,
    dtype: str = "bfloat16",
    state_dtype: str | None = None,
    efficiency: Efficiency | None = None,
) -> Price:
    """What a step costs at least on a GPU, and with an efficiency what it would take.

    Raises:
        BadInput: a dtype for which the table has no peak.
    """
    mode = GRAPH if workload.kind == DECODE else EAGER
    case = Case(spec, workload, Execution("cuda", dtype, mode, state_dtype))
    peak = gpu.flops_per_s(dtype)
    if peak is None:
        raise BadInput(f"no peak rate for dtype {dtype} on {gpu.name}: price bfloat16, float16 or float32.")
    flops, moved = step_flops(case), step_bytes(case)
    compute_s, memory_s = flops / peak, moved / gpu.memory_bytes_per_s
    floor_s, tokens = max(compute_s, memory_s), workload.tokens
    try:
        peak_bytes: int | None = footprint(spec, workload, case.execution.storage).total
    except BadInput:
        peak_bytes = None
    step_s = None if efficiency is None else floor_s / efficiency.floor_frac
    drawn = None if efficiency is None else efficiency.power_frac
    return Price(
        spec=spec,
        gpu=gpu,
        workload=workload,
        dtype=dtype,
        flops=flops,
        moved_bytes=moved,
        floor_s=floor_s,
        bound="compute" if compute_s >= memory_s else "memory",
        floor_tokens_per_s=tokens / floor_s,
        energy_at_tdp_j=gpu.tdp_w * floor_s / tokens,
        peak_bytes=peak_bytes,
        fits=None if peak_bytes is None else fits(peak_bytes, gpu),
        efficiency=efficiency,
        step_s=step_s,
        step_tokens_per_s=None if step_s is None else tokens / step_s,
        energy_per_token_j=None if step_s is None or drawn is None else drawn * gpu.tdp_w * step_s / tokens,
    )


def efficiency_of(records: Iterable[Record], spec: ModelSpec, workload: Workload, dtype: str) -> Efficiency | None:
    """The measured efficiency of a phase and family, None where no record speaks of them.

    Of the records of this workload, family and dtype that can be believed, those of the nearest scale in parameters
    count, and of these those of the nearest batch, one stream and no checkpointing, and at each context the fastest;
    between contexts the share is interpolated over their logarithm, and beyond the first and the last it stays.
    """
    known = [record for record in records if _speaks_of(record, spec, workload, dtype)]
    if not known:
        return None
    size = params_of(spec)
    known = _nearest(known, lambda record: params_of(record.case.model), size)
    known = _nearest(known, lambda record: record.case.workload.batch, workload.batch)
    known.sort(key=_floor_frac)  # of several at one context the fastest is what the GPU reached
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
    """``ctx, batch``: what of the workload no record was near to; records are of one scale and batch."""
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
        and (spec.arch != "custom" or case.model.pattern == spec.pattern)
        and case.execution.dtype == dtype
        and case.execution.streams == 1
        and case.execution.checkpoint == "none"
        and value(record, "step_s") is not None
        and peak_flops_per_s(record) is not None
        and not problems(record)
    )


def _nearest(records: Sequence[Record], size: Callable[[Record], int], wanted: int) -> list[Record]:
    """Those of the records whose size is nearest in ratio to the one wanted."""
    best = min((abs(math.log(size(record) / wanted)), size(record)) for record in records)[1]
    return [record for record in records if size(record) == best]


def _floor_frac(record: Record) -> float:
    """The datasheet's floor over the measured step, as the floor of the GPU to be priced is the datasheet's."""
    flops_rate, bytes_rate, step_s = peak_flops_per_s(record), peak_bytes_per_s(record), value(record, "step_s")
    if not flops_rate or not bytes_rate or not step_s:
        raise ValueError("a record without a peak or a step was chosen")
    return max(step_flops(record.case) / flops_rate, step_bytes(record.case) / bytes_rate) / step_s


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
