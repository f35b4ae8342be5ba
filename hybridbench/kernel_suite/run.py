"""run: cells from their names to what is recorded: resolve, check at size, time in turns, look at their kernels."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from hybridbench.audit.observe.tuned import taken
from hybridbench.bench import Bench
from hybridbench.errors import BadInput
from hybridbench.kernel_suite.agree import agreement
from hybridbench.kernel_suite.bind import bound, drawn
from hybridbench.kernel_suite.cell import BACKWARD, Cell
from hybridbench.kernel_suite.record import Agreement, Chosen, KernelObserved
from hybridbench.kernel_suite.signature import check_signature
from hybridbench.kernel_suite.timing import Plan, Timed, interleaved
from hybridbench.kernel_suite.traced import longest_first, traced, tuned
from hybridbench.kernels.backend import Backend
from hybridbench.kernels.loading import own_kernel
from hybridbench.kernels.resolver import choose
from hybridbench.kernels.tuning import side_by_side
from hybridbench.measure.caveats import find_caveats
from hybridbench.measure.clock import timer_for
from hybridbench.measure.memory import free_bytes, reset_peaks
from hybridbench.operations import OPERATIONS
from hybridbench.operations.operation import PLAIN, moved_bytes, training_bytes
from hybridbench.record import Caveat
from hybridbench.units import GIB, format_bytes

ROOM = 0.8
"""Share of the free memory that cells that are timed in turns may hold."""
LARGE_BYTES = GIB
"""Inputs from this size on are held once and not several times over: they pass through any cache as it is."""


@dataclass(frozen=True)
class ReadyCase:
    """A cell that may be timed.

    Attributes:
        agreed: what its outputs were compared with.
        check_ns: how long that took; ns.
        peak_allocated_bytes: the allocator's peak in one call, inputs included; None on a CPU.
    """

    cell: Cell
    backend: Backend
    function: Callable[..., Any]
    agreed: Agreement
    check_ns: int
    peak_allocated_bytes: int | None


def run_cell(cell: Cell, bench: Bench) -> tuple[KernelObserved, list[Caveat]]:
    """Runs one cell by itself and returns what was observed, with its caveats; raises as ``ready`` does."""
    one = ready(cell, bench)
    (timed,) = timed_in_turns([one], bench)
    return observed(one, timed, bench)


def ready(cell: Cell, bench: Bench, known: Agreement | None = None) -> ReadyCase:
    """Resolves a cell and compares its outputs, unless an earlier process did (``known``).

    Raises:
        Unsupported, WrongResult: it cannot run here, or it is wrong.
        torch.OutOfMemoryError: its inputs or its work do not fit. Any other error of a kernel is passed on too.
    """
    device, now = bench.device, bench.instruments.now
    bench.phase("resolve")
    backend = resolved(cell)
    function = backend.load()
    bench.phase("check")
    started = now()
    with side_by_side():  # kernels tune themselves at their first run, which is here
        agreed = agreement(cell, backend, function, device) if known is None else known
        check_ns = now() - started
        peak = peak_of_call(cell, function, device)
    return ReadyCase(cell, backend, function, agreed, check_ns, peak)


def timed_in_turns(some: Sequence[ReadyCase], bench: Bench) -> list[Timed]:
    """The samples of cells of the same work, taken in turns."""
    bench.phase("time")
    makes = [partial(_made, one, bench.device) for one in some]
    with side_by_side():
        return interleaved(makes, bench.device, plan_of(some[0].cell, bench.device), now=bench.instruments.now)


def _made(one: ReadyCase, device: torch.device, number: int) -> Callable[[], object]:
    return bound(one.cell, one.function, drawn(one.cell, device, number))


def observed(
    one: ReadyCase,
    timed: Timed,
    bench: Bench,
    turns: Sequence[str] = (),
    why_apart: str | None = None,
    pinned: bool = False,
) -> tuple[KernelObserved, list[Caveat]]:
    """What is recorded of a cell that was timed, with its caveats.

    Args:
        turns: the other backends that it took turns with.
        why_apart: why it took none.
        pinned: whether its autotuners were given their choices.
    """
    bench.phase("ceilings")
    ceilings = bench.ceilings_for(one.cell.problem.dtype)
    bench.phase("record")
    kernels, blocks, tuning = launches(one.cell, one.function, bench.device)
    backend = one.backend
    seen = KernelObserved(
        samples_ns=timed.samples_ns,
        by_allocation=timed.by_allocation,
        calls_per_sample=timed.calls_per_sample,
        graph=timed.graph,
        cold=timed.cold,
        warmup_ns=timed.warmup_ns,
        timer=timed.timer,
        ran=backend.ran,
        package=backend.package,
        version=backend.version,
        agreement=one.agreed,
        check_ns=one.check_ns,
        gpu_before=timed.before,
        gpu_after=timed.after,
        ceilings=ceilings,
        blocks_per_sm=blocks,
        kernels=kernels,
        turns=list(turns),
        why_apart=why_apart,
        peak_allocated_bytes=one.peak_allocated_bytes,
        tuning=tuning,
        pinned=pinned,
        not_captured=timed.not_captured,
        rested=timed.rested,
        waited_frac=timed.waited_frac,
        canary_ns=timed.canary_ns,
    )
    return seen, _caveats(one, timed, bench.device)


def resolved(cell: Cell) -> Backend:
    """The backend of a cell; of a person's own kernel, once its signature has been checked.

    Raises:
        Unsupported: it cannot do this here.
        BadInput: a person's own kernel cannot be imported or has another signature.
    """
    backend = choose(cell.op, cell.backend, cell.problem).backend
    if cell.user_kernel:
        check_signature(cell.op, cell.backend, backend.load())
    return backend


def check_kernel(op: str, path: str) -> None:
    """Check, before anything runs, that a person's own kernel is there and has an operation's signature.

    Raises:
        BadInput: it has not; a sentence for each argument.
    """
    try:
        function = own_kernel(path)
    except BadInput as problem:
        raise BadInput(f"kernel {problem}") from problem
    check_signature(op, path, function)


def plan_of(cell: Cell, device: torch.device) -> Plan:
    """How a cell is timed."""
    budget = cell.sampling
    large = moved_bytes(OPERATIONS[cell.op], cell.problem) >= LARGE_BYTES
    return Plan(
        cold=budget.cold,
        allocations=1 if large and device.type == "cpu" else 3,
        rotate=1 if large else 2,
        warmup_s=min(0.3, budget.max_time_s),
        min_samples=budget.min_samples,
        max_samples=budget.max_samples,
        max_time_s=budget.max_time_s,
        target_rel_ci=budget.target_rel_ci,
        sustained=budget.sustained,
    )


def fitting(some: Sequence[ReadyCase], device: torch.device) -> tuple[list[ReadyCase], str | None]:
    """The cells whose inputs can be in memory at the same time, and why the others cannot; the smallest go first.

    Each cell holds its sets of inputs. What a call allocates beside them stays where calls are replayed from a graph,
    which large ones are not: of those one at a time is in memory.
    """
    free = free_bytes(device)
    kept: list[ReadyCase] = []
    for one in sorted(some, key=lambda one: _held_bytes([one], device)):
        if free is None or _held_bytes([*kept, one], device) <= ROOM * free:
            kept.append(one)
    if len(kept) == len(some):
        return list(some), None
    needed = format_bytes(_held_bytes(some, device))
    return kept, f"all together need {needed}, and {format_bytes(free)} of memory are free"


def _held_bytes(some: Sequence[ReadyCase], device: torch.device) -> int:
    inputs, small, large = 0, 0, 0
    for one in some:
        cell, row = one.cell, OPERATIONS[one.cell.op]
        moved = training_bytes(row, cell.problem) if cell.direction == BACKWARD else moved_bytes(row, cell.problem)
        call = moved if one.peak_allocated_bytes is None else one.peak_allocated_bytes
        inputs += plan_of(cell, device).rotate * moved
        small, large = (small, max(large, call)) if call >= LARGE_BYTES else (small + call, large)
    return inputs + small + large


def _caveats(one: ReadyCase, timed: Timed, device: torch.device) -> list[Caveat]:
    found = set(
        find_caveats(
            timed.samples_ns,
            target_rel_ci=max(one.cell.sampling.target_rel_ci, 0.02),
            resolution_ns=max(1, timer_for(device).resolution_ns // timed.calls_per_sample),
            before=timed.before,
            after=timed.after,
            waited_frac=timed.waited_frac,
        )
    )
    if one.agreed.against is None and one.backend.name != PLAIN:
        found.add(Caveat.NOT_CHECKED)
    return [caveat for caveat in Caveat if caveat in found]


def peak_of_call(cell: Cell, function: Callable[..., Any], device: torch.device) -> int | None:
    """The allocator's peak in one call, its inputs included; bytes. None on a CPU, which has no such allocator."""
    if device.type != "cuda":
        return None
    bound(cell, function, drawn(cell, device))()  # compiles and tunes, and libraries take workspaces that they keep
    torch.cuda.synchronize(device)
    before = torch.cuda.memory_allocated(device)
    call = bound(cell, function, drawn(cell, device))
    torch.cuda.synchronize(device)
    reset_peaks(device)
    call()
    torch.cuda.synchronize(device)
    return int(torch.cuda.max_memory_allocated(device) - before)


def launches(
    cell: Cell, function: Callable[..., Any], device: torch.device
) -> tuple[list[str], float | None, list[Chosen]]:
    """Names of the GPU kernels of a call, the longest first, the blocks per multiprocessor of that one, and tuning.

    Kernels are unknown on a CPU, and where the profiler fails, so that samples are not lost with it.
    """
    if device.type != "cuda":
        return [], None, []
    call = bound(cell, function, drawn(cell, device))
    with tuned() as used:
        events = traced(call)
    return *longest_first(events), _chosen(used)


def _chosen(used: Iterable[str]) -> list[Chosen]:
    """The choices of this process's autotuners, of those that ran with these configurations."""
    known = set(used)
    return [
        Chosen(one.module, one.kernel, json.dumps(one.key), one.configuration)
        for one in taken()
        if f"{one.module}.{one.kernel}: {one.configuration}" in known
    ]
