"""floors: how fast a record's machine could have been: datasheet peaks, rates measured in the same process, floors.

A machine that is not in the table of GPUs has no peaks; numbers that need them are None.
"""

from __future__ import annotations

from collections.abc import Callable

from hybridbench.derive.kept import once
from hybridbench.derive.measured import Number, observed, per_step, ratio
from hybridbench.derive.predicted import hardware_flops, model_flops, must_move_bytes
from hybridbench.machine import Peak, find_peak
from hybridbench.predict import floor
from hybridbench.predict.work import Phase, phases
from hybridbench.record import Ceilings, Record
from hybridbench.suite.spread import part_of_case


def peak_of(record: Record) -> Peak | None:
    """The peaks of the GPU a record was made on; None for a CPU and for a GPU that is not in the table."""
    return find_peak(record.environment.device) if record.environment.device_kind == "cuda" else None


def peak_flops_per_s(record: Record) -> float | None:
    """The peak rate of dense products in the case's dtype, FLOP/s, of all its ranks' devices."""
    peak = peak_of(record)
    rate = None if peak is None else peak.flops_per_s(record.case.execution.dtype)
    return None if rate is None else rate * record.case.ranks


def peak_bytes_per_s(record: Record) -> float | None:
    """The memory bandwidth by its datasheet, bytes/s, of all the devices of the case's ranks."""
    peak = peak_of(record)
    return None if peak is None else peak.memory_bytes_per_s * record.case.ranks


def measured_rates(record: Record) -> Ceilings | None:
    """The rates of products and of memory that the same process measured; None in older records."""
    seen = observed(record)
    return None if seen is None else seen.ceilings


def of_ceilings(part: Callable[[Ceilings], float | None]) -> Number:
    """One of the measured rates; None where the record has none."""

    def compute(record: Record) -> float | None:
        rates = measured_rates(record)
        return None if rates is None else part(rates)

    return compute


@once
def rank_phases(record: Record) -> tuple[Phase, ...]:
    """The phases of what each rank of a case computes in a step; of the whole step where there is one rank."""
    part = part_of_case(record.case)
    return phases(part.model, part.workload, part.execution.storage)


def _floor_from(record: Record, flops_rate: float | None, bytes_rate: float | None) -> float | None:
    """The floor of one rank's work, by the rates of one device."""
    if flops_rate is None or bytes_rate is None:
        return None
    return floor.floor_s(rank_phases(record), flops_rate, bytes_rate)


def _peaks(record: Record) -> tuple[float | None, float | None]:
    """The rates of one device by its datasheet."""
    peak = peak_of(record)
    return (None, None) if peak is None else (peak.flops_per_s(record.case.execution.dtype), peak.memory_bytes_per_s)


@once
def datasheet_floor_s(record: Record) -> float | None:
    """The floor of a step by the rates of the datasheet, in seconds; None for a machine that is not in the table."""
    return _floor_from(record, *_peaks(record))


@once
def floor_s(record: Record) -> float | None:
    """The floor of a step in seconds, by the rates measured with it, else by those of the datasheet."""
    rates = measured_rates(record)
    if rates is None:
        return datasheet_floor_s(record)
    return _floor_from(record, rates.matmul_flops_per_s, rates.read_bytes_per_s)


@once
def floor_set_by(record: Record) -> floor.Bound | None:
    """Whether arithmetic or memory sets the larger part of ``floor_s``; None where that is unknown."""
    rates = measured_rates(record)
    flops_rate, bytes_rate = _peaks(record) if rates is None else (rates.matmul_flops_per_s, rates.read_bytes_per_s)
    if flops_rate is None or bytes_rate is None:
        return None
    return floor.bound(rank_phases(record), flops_rate, bytes_rate)


model_flops_per_s = per_step(model_flops)
"""Model FLOPs per second of the median step."""
hardware_flops_per_s = per_step(hardware_flops)
"""Executed FLOPs (convention ``hardware``) per second of the median step."""
must_move_bytes_per_s = per_step(must_move_bytes)
"""Bytes that must move, per second of the median step."""
sustained_flops_per_s = of_ceilings(lambda ceilings: ceilings.sustained_matmul_flops_per_s)
"""The rate of large products after a second of running them; None on a CPU and in older records."""


def model_flops_per_s_of_sequences(record: Record) -> float | None:
    """Model FLOPs per second of a step over whole sequences, where products are large; None of any other step."""
    return None if record.case.workload.row.decodes else model_flops_per_s(record)


mfu_frac = ratio(model_flops_per_s, peak_flops_per_s)
"""Model FLOPs per second divided by the peak of the dtype."""
