"""kernels: records of operations that were timed by themselves, as cells of a comparison.

Which work was done is the operation, its problem and the direction. The backend and whether the cache was flushed are
conditions, as are machine and software. Time and the allocator's peak in one call can be compared.
"""

from __future__ import annotations

from collections.abc import Sequence

from hybridbench.compare.calibrated import NONE, Calibrations, MeasuredNoise
from hybridbench.compare.cell import EXACT, ComparedCell, ComparedMetric, Noise
from hybridbench.compare.conditions import canaries, conditions, denied, made_by, sentences
from hybridbench.compare.noise import (
    CLOCKS_MOVED,
    KERNELS,
    LAUNCHES,
    ON_CPU,
    PRODUCTS,
    RESTED,
    NoiseClass,
    between,
    clocks_moved,
)
from hybridbench.kernel_suite.cell import sizes_text
from hybridbench.kernel_suite.figures import LAUNCH_BOUND_S, interval_s, median_s, peak_bytes
from hybridbench.kernel_suite.noise import CellNoise, allocation_spread
from hybridbench.kernel_suite.noise import noise_of as processes_of
from hybridbench.kernel_suite.record import KernelObserved, KernelRecord
from hybridbench.record import Caveat, Status
from hybridbench.stats import log_spread


def kernel_cells(
    records: Sequence[KernelRecord], asked: ComparedMetric, known: Calibrations = NONE
) -> list[ComparedCell]:
    """The cells of one side's records, in the order given.

    Where the side has a cell from enough processes of the same code, the noise between them is its own.
    """
    own = {record.run_id + record.case.key: one for one in processes_of(records) for record in one.records}
    return [_cell(record, asked, known, own.get(record.run_id + record.case.key)) for record in records]


def _cell(record: KernelRecord, asked: ComparedMetric, known: Calibrations, own: CellNoise | None) -> ComparedCell:
    case, seen, ok = record.case, record.observed, record.status is Status.OK
    amount, low, high, samples = _amount(record, asked)
    return ComparedCell(
        what={"op": case.op, "problem": sizes_text(case.problem), "direction": case.direction},
        how={
            "dtype": case.problem.dtype,
            "backends": case.backend,
            "cache": "cold" if case.sampling.cold else "hot",
            "seed": str(case.seed),
            **conditions(record.environment, f"kernels {record.schema}"),
        },
        status=record.status.value.replace("_", " "),
        message=record.message,
        amount=amount,
        low=low,
        high=high,
        samples=samples,
        noise=noise_of(record, known, own) if asked.timed else EXACT,
        memory_bytes=peak_bytes(record),
        run=record.run_id,
        started_at=record.started_at,
        made_by=made_by(record.environment),
        doubts=sentences(denied(record.environment, record.caveats)) if asked.timed and ok else (),
        ran={case.op: _ran(seen)} if seen else {},
        canaries=canaries(record.environment, seen.ceilings, seen.canary_ns) if asked.timed and seen else (),
    )


def _ran(seen: KernelObserved) -> str:
    """The backend, and how its calls were timed."""
    return seen.ran + (", in a CUDA graph" if seen.graph else "") + (", with rests" if seen.rested else "")


def _amount(record: KernelRecord, asked: ComparedMetric) -> tuple[float | None, float | None, float | None, int | None]:
    """The metric, the ends of its 95% interval, and how many samples it is of; a counted one has none.

    A kernel has no tokens, and its energy is not measured.
    """
    if asked.name == "peak-memory":
        peak = peak_bytes(record)
        return peak, peak, peak, None
    if asked.name != "step":
        return None, None, None, 0
    low, high = interval_s(record) or (None, None)
    return median_s(record), low, high, len(record.observed.samples_ns) if record.observed else 0


def noise_of(record: KernelRecord, known: Calibrations = NONE, own: CellNoise | None = None) -> Noise:
    """What the samples of a process cannot show; at least what its own allocations of memory differ by.

    Args:
        known: what was calibrated, which counts where there is no ``own``.
        own: the cell in several processes, of which the record is one.
    """
    measured = known.of_kernel(record)
    if own is not None:
        measured = MeasuredNoise(own.between_frac, f"between {len(own.records)} processes of the same side")
    (frac, source), seen = between(measured, _class_of(record)), record.observed
    if seen is None:
        return Noise(frac, 0.0, source)
    spread = log_spread([seen.samples_ns])
    least = spread if record.environment.device_kind == "cpu" else 0.0
    drift = spread if Caveat.UNSTEADY in record.caveats else 0.0
    return Noise(max(frac, allocation_spread(seen), least), drift, source)


def _class_of(record: KernelRecord) -> NoiseClass:
    seconds, seen = median_s(record), record.observed
    if record.environment.device_kind == "cpu":
        return ON_CPU
    if clocks_moved(record) and not (seen and seen.rested):
        return CLOCKS_MOVED
    if seconds is not None and seen is not None and not seen.graph and seconds < LAUNCH_BOUND_S:
        return LAUNCHES
    if seconds is not None and seen is not None and seen.rested and seconds >= LAUNCH_BOUND_S:
        return RESTED
    return PRODUCTS if record.case.op == "product" else KERNELS
