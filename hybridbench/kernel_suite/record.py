"""record: what one cell yielded, and its stored form: raw samples and what was seen around them; the rest is derived.

Schema history:
    1   first version.
    2   which cells were timed in turns, the peak of memory, the choices of autotuners, guards around every backend, and
        checks that an earlier process of the run made.
    3   rests where power limits the clocks; calls of older records ran back to back.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from hybridbench.kernel_suite.cell import Cell
from hybridbench.operations import OPERATIONS
from hybridbench.plain import check_values, from_plain
from hybridbench.record import (
    Caveat,
    Ceilings,
    Environment,
    GpuState,
    Line,
    Status,
    body_of,
    stating_fields,
    time_of,
)

SCHEMA = 3


@dataclass(frozen=True)
class Agreement:
    """How the outputs, at the size that was timed, agreed with those of something else.

    Attributes:
        against: what they were compared with; None if nothing could compute them here.
        compared: how many tensors.
        worst: the one that came closest to its bound.
        error, bound: its relative error, and the largest that was allowed.
        why_not: why there was nothing to compare with.
        guarded: whether guards stood around the inputs meanwhile: nothing was written outside them, nor into them.
        poisoned: whether memory that the kernel allocated held NaN until it was written. What torch.compile compiles
            does not run so.
        why_unguarded: why there were none; None where there were, or nothing was compared.
        run: the run whose process compared them; None is the record's own.
    """

    against: str | None
    compared: int = 0
    worst: str | None = None
    error: float | None = None
    bound: float | None = None
    why_not: str | None = None
    guarded: bool = False
    poisoned: bool = False
    why_unguarded: str | None = None
    run: str | None = None


@dataclass(frozen=True)
class Chosen:
    """The configuration that an autotuner took for one kind of problem.

    Attributes:
        module, kernel: the kernel, and the module that defines it.
        key: the arguments and dtypes by which the tuner distinguishes problems, as JSON.
        configuration: as text.
    """

    module: str
    kernel: str
    key: str
    configuration: str


@dataclass(frozen=True)
class KernelObserved:
    """What was seen while a cell ran.

    Attributes:
        samples_ns: of one call each, in order.
        by_allocation: how many of them each fresh set of memory gave, in order.
        calls_per_sample: how many calls one sample is the mean of.
        graph: whether calls were replays of a CUDA graph.
        cold: whether the cache was flushed before each call.
        timer: the clock.
        ran: the backend, with the sequences at a time if not all ran at once.
        package, version: where it comes from.
        blocks_per_sm: thread blocks of its longest kernel for each multiprocessor; None is unknown.
        kernels: names of the GPU kernels of a call, the longest first.
        check_ns: how long the comparison took; ns.
        turns: the other backends that it was timed in turns with, in short blocks.
        why_apart: why it was timed by itself, though other backends of the same work were asked for; None where it was
            not, or nothing else was asked for.
        peak_allocated_bytes: the allocator's peak in one call, inputs included; None on a CPU.
        tuning: what the autotuners of its kernels took.
        pinned: whether they were given an earlier process's choices.
        not_captured: why calls ran eagerly that a graph should replay; None where they ran as asked.
        rested: whether rests between blocks kept the GPU below its power limit.
        waited_frac: share of the time that threads waited for a processor, on a CPU.
        canary_ns: how long a fixed loop took between samples, on a CPU.
    """

    samples_ns: list[int]
    by_allocation: list[int]
    calls_per_sample: int
    graph: bool
    cold: bool
    warmup_ns: int
    timer: str
    ran: str
    package: str
    version: str | None
    agreement: Agreement
    check_ns: int
    gpu_before: GpuState | None = None
    gpu_after: GpuState | None = None
    ceilings: Ceilings | None = None
    blocks_per_sm: float | None = None
    kernels: list[str] = field(default_factory=list)
    turns: list[str] = field(default_factory=list)
    why_apart: str | None = None
    peak_allocated_bytes: int | None = None
    tuning: list[Chosen] = field(default_factory=list)
    pinned: bool = False
    not_captured: str | None = None
    rested: bool = False
    waited_frac: float | None = None
    canary_ns: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class KernelRecord(Line):
    """One cell, how it ended, and what was observed; ``message`` and ``traceback`` are set unless it is ok."""

    FILES: ClassVar[str] = "kernels"
    WORKER: ClassVar[str] = "hybridbench.kernel_suite.worker"
    OBSERVED: ClassVar[type] = KernelObserved

    case: Cell
    status: Status
    run_id: str
    started_at: str
    environment: Environment
    observed: KernelObserved | None = None
    message: str | None = None
    traceback: str | None = None
    caveats: list[Caveat] = field(default_factory=list)
    schema: int = SCHEMA

    @classmethod
    def from_json(cls, line: str) -> KernelRecord:
        """Read one line back.

        Raises:
            BadResults: not JSON, not such a record, from a newer schema, or a field that cannot be right.
        """
        body = body_of(line, SCHEMA, "case")
        with stating_fields():
            if not isinstance(body["case"], dict) or "op" not in body["case"]:
                raise ValueError("the case has no operation")
            if body["case"]["op"] not in OPERATIONS:
                raise ValueError(f"this version knows no operation {body['case']['op']!r}")
            record = from_plain(cls, {**body, "case": Cell.from_dict(body["case"])})
            check_values(record)
            time_of(record.started_at)
            seen = record.observed
            if seen is not None and (not seen.samples_ns or min(seen.samples_ns) <= 0):
                raise ValueError("samples_ns is empty or holds a duration that is not above 0")
            return record
