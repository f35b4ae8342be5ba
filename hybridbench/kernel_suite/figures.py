"""figures: every number that can be reported of one record of a kernel, each a named pure function of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from hybridbench.kernel_suite.cell import BACKWARD
from hybridbench.kernel_suite.record import KernelObserved, KernelRecord
from hybridbench.machine import find_peak
from hybridbench.operations import OPERATIONS
from hybridbench.operations.operation import flops, moved_bytes, training_bytes
from hybridbench.predict.floor import floor_s
from hybridbench.predict.work import Phase
from hybridbench.record import Status
from hybridbench.report.leaders import Lead
from hybridbench.stats import median, median_interval
from hybridbench.units import NS_PER_S

Number = Callable[[KernelRecord], float | None]

LAUNCH_BOUND_S = 50e-6
"""Calls shorter than this that are launched one by one wait for the host."""


def _seen(record: KernelRecord) -> KernelObserved | None:
    return record.observed if record.status is Status.OK else None


def median_s(record: KernelRecord) -> float | None:
    """The median time of one call; seconds."""
    seen = _seen(record)
    return None if seen is None else median(seen.samples_ns) / NS_PER_S


def interval_s(record: KernelRecord) -> tuple[float, float] | None:
    """The 95% interval of that median; seconds."""
    seen = _seen(record)
    if seen is None:
        return None
    low, high = median_interval(seen.samples_ns)
    return low / NS_PER_S, high / NS_PER_S


def work_flops(record: KernelRecord) -> int:
    """FLOPs of a call, convention exact; with its backward three times the forward's."""
    cell = record.case
    return flops(OPERATIONS[cell.op], cell.problem, training=cell.direction == BACKWARD)


def work_bytes(record: KernelRecord) -> int:
    """The fewest bytes that a call moves: inputs read and outputs written once, and with a backward their gradients."""
    cell = record.case
    counted = training_bytes if cell.direction == BACKWARD else moved_bytes
    return counted(OPERATIONS[cell.op], cell.problem)


def flops_per_s(record: KernelRecord) -> float | None:
    """FLOPs per second of the median call."""
    seconds = median_s(record)
    return None if seconds is None else work_flops(record) / seconds


def bytes_per_s(record: KernelRecord) -> float | None:
    """Must-move bytes per second of the median call."""
    seconds = median_s(record)
    return None if seconds is None else work_bytes(record) / seconds


def floor_of(record: KernelRecord) -> float | None:
    """The least time of a call at the rates measured in the same process, else at the datasheet's; seconds."""
    seen, environment = _seen(record), record.environment
    rates = seen.ceilings if seen else None
    peak = find_peak(environment.device) if environment.device_kind == "cuda" else None
    phase = Phase(work_flops(record), work_bytes(record))
    if rates is not None:
        return floor_s([phase], rates.matmul_flops_per_s, rates.read_bytes_per_s)
    rate = None if peak is None else peak.flops_per_s(record.case.problem.dtype)
    return None if peak is None or rate is None else floor_s([phase], rate, peak.memory_bytes_per_s)


def floor_frac(record: KernelRecord) -> float | None:
    """The floor as a share of the median: 1 is as fast as this machine can be."""
    least, seconds = floor_of(record), median_s(record)
    return None if least is None or seconds is None else least / seconds


def half_interval_frac(record: KernelRecord) -> float | None:
    """Half the width of the median's interval, relative to the median."""
    interval, middle = interval_s(record), median_s(record)
    return None if interval is None or middle is None else (interval[1] - interval[0]) / 2 / middle


def samples(record: KernelRecord) -> float | None:
    """How many samples the median is of."""
    seen = _seen(record)
    return None if seen is None else float(len(seen.samples_ns))


def blocks_per_sm(record: KernelRecord) -> float | None:
    """Thread blocks of the longest kernel for each multiprocessor; below 1 the GPU is not full."""
    seen = _seen(record)
    return None if seen is None else seen.blocks_per_sm


def peak_bytes(record: KernelRecord) -> float | None:
    """The allocator's peak in one call, inputs included; unknown on a CPU."""
    seen = _seen(record)
    return None if seen is None or seen.peak_allocated_bytes is None else float(seen.peak_allocated_bytes)


@dataclass(frozen=True)
class Figure:
    """A number by name: its heading, its SI unit, and how it follows from a record; None is unknown."""

    heading: str
    unit: str
    compute: Number


FIGURES: dict[str, Figure] = {
    "median_s": Figure("median", "s", median_s),
    "low_s": Figure("low", "s", lambda record: (interval_s(record) or (None,))[0]),
    "high_s": Figure("high", "s", lambda record: (interval_s(record) or (None,))[-1]),
    "half_interval_frac": Figure("+-", "frac", half_interval_frac),
    "samples": Figure("samples", "", samples),
    "flops": Figure("work", "FLOP", lambda record: float(work_flops(record))),
    "bytes": Figure("moves", "B", lambda record: float(work_bytes(record))),
    "flops_per_s": Figure("arithmetic", "FLOP/s", flops_per_s),
    "bytes_per_s": Figure("memory", "B/s", bytes_per_s),
    "floor_s": Figure("floor", "s", floor_of),
    "floor_frac": Figure("of floor", "frac", floor_frac),
    "blocks_per_sm": Figure("blocks/SM", "", blocks_per_sm),
    "peak_allocated_bytes": Figure("peak", "B", peak_bytes),
}
"""Every number of a record, in SI."""


def speedup(record: KernelRecord, over: KernelRecord | None) -> Lead | None:
    """The speed-up of a record over another of the same work; None where one of them has no time."""
    if over is None:
        return None
    ours, theirs = interval_s(record), interval_s(over)
    middle, other = median_s(record), median_s(over)
    if ours is None or theirs is None or not middle or other is None:
        return None
    return Lead(other / middle, theirs[0] / ours[1], theirs[1] / ours[0])
