"""kernels: records of operations that were timed by themselves, as cells of a comparison.

Which work was done is the operation, its problem and the direction. The backend and whether the cache was flushed are
conditions, as are machine and software. A kernel's time alone can be compared: its record has no peak of memory.
"""

from __future__ import annotations

from collections.abc import Sequence

from hybridbench.compare.cell import Asked, Cell, Noise
from hybridbench.compare.conditions import canaries, conditions, denied, made_by, sentences
from hybridbench.compare.noise import CLOCKS_MOVED, KERNELS, LAUNCHES, ON_CPU, PRODUCTS, NoiseClass, spread_of
from hybridbench.kernel_suite.cell import sizes_text
from hybridbench.kernel_suite.figures import interval_s, median_s
from hybridbench.kernel_suite.record import KernelObserved, KernelRecord
from hybridbench.record import Caveat, Status
from hybridbench.stats import median
from hybridbench.units import NS_PER_S

LAUNCH_BOUND_S = 50e-6
"""Calls shorter than this that are launched one by one wait for the host."""


def kernel_cells(records: Sequence[KernelRecord], asked: Asked) -> list[Cell]:
    """The cells of records, in the order given."""
    return [_cell(record, asked) for record in records]


def _cell(record: KernelRecord, asked: Asked) -> Cell:
    case, seen = record.case, record.observed
    amount, ends = (median_s(record), interval_s(record)) if asked.name == "step" else (None, None)
    return Cell(
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
        low=ends[0] if ends else None,
        high=ends[1] if ends else None,
        samples=len(seen.samples_ns) if seen else 0,
        noise=noise_of(record),
        memory_bytes=None,
        run=record.run_id,
        started_at=record.started_at,
        made_by=made_by(record.environment),
        doubts=sentences(denied(record.environment, record.caveats)) if record.status is Status.OK else (),
        ran={case.op: f"{seen.ran}, in a CUDA graph" if seen.graph else seen.ran} if seen else {},
        canaries=canaries(record.environment, seen.ceilings if seen else None),
    )


def noise_of(record: KernelRecord) -> Noise:
    """What the samples of a process cannot show; at least what its own allocations of memory differ by."""
    found, seen = _class_of(record), record.observed
    if seen is None:
        return Noise(found.frac, 0.0, found.sentence)
    spread = spread_of([seen.samples_ns])
    between = max(found.frac, _between_allocations(seen), spread if record.environment.device_kind == "cpu" else 0.0)
    return Noise(between, spread if Caveat.UNSTEADY in record.caveats else 0.0, found.sentence)


def _class_of(record: KernelRecord) -> NoiseClass:
    seconds, seen = median_s(record), record.observed
    if record.environment.device_kind == "cpu":
        return ON_CPU
    if Caveat.CLOCK_DROPPED in record.caveats:
        return CLOCKS_MOVED
    if seconds is not None and seen is not None and not seen.graph and seconds < LAUNCH_BOUND_S:
        return LAUNCHES
    return PRODUCTS if record.case.op == "product" else KERNELS


def _between_allocations(seen: KernelObserved) -> float:
    """The spread of the medians of a process's own allocations, each a fresh set of memory."""
    medians, start = list[float](), 0
    for count in seen.by_allocation:
        if count:
            medians.append(median(seen.samples_ns[start : start + count]) / NS_PER_S)
        start += count
    return spread_of([medians]) if len(medians) > 1 else 0.0
