"""run: one cell from its name to what is recorded: resolve, check at size, time, look at its kernels."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

import torch

from hybridbench.bench import Bench
from hybridbench.errors import BadInput
from hybridbench.kernel_suite.agree import agreement
from hybridbench.kernel_suite.bind import bound, drawn
from hybridbench.kernel_suite.cell import Cell
from hybridbench.kernel_suite.guard import Guarded
from hybridbench.kernel_suite.record import Agreement, KernelObserved
from hybridbench.kernel_suite.signature import check_signature
from hybridbench.kernel_suite.timing import Plan, Timed, time_calls
from hybridbench.kernel_suite.traced import longest_first, traced
from hybridbench.kernels.backend import Backend
from hybridbench.kernels.resolver import choose
from hybridbench.kernels.tuning import side_by_side
from hybridbench.measure.caveats import find_caveats
from hybridbench.measure.clock import timer_for
from hybridbench.operations import OPERATIONS
from hybridbench.operations.operation import PLAIN, moved_bytes
from hybridbench.record import Caveat
from hybridbench.units import GIB

LARGE_BYTES = GIB
"""Inputs from this size on are held once and not several times over: they pass through any cache as it is."""


def run_cell(cell: Cell, bench: Bench) -> tuple[KernelObserved, list[Caveat]]:
    """Runs one cell and returns what was observed, with its caveats.

    Raises:
        Unsupported, WrongResult: before anything is timed.
        torch.OutOfMemoryError: its inputs or its work do not fit. Any other error of a kernel is passed on too.
    """
    device, now = bench.device, bench.instruments.now
    bench.phase("ceilings")
    ceilings = bench.ceilings_for(cell.problem.dtype)
    bench.phase("resolve")
    backend = resolved(cell)
    function = backend.load()
    bench.phase("check")
    started = now()
    with side_by_side():  # kernels tune themselves at their first run, which is here
        agreed = agreement(cell, backend, Guarded(cell.op, function) if cell.user_kernel else function, device)
    check_ns = now() - started
    bench.phase("time")
    timed = timed_calls(cell, function, device, now)
    bench.phase("record")
    kernels, blocks = launches(cell, function, device)
    observed = KernelObserved(
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
        agreement=agreed,
        check_ns=check_ns,
        gpu_before=timed.before,
        gpu_after=timed.after,
        ceilings=ceilings,
        blocks_per_sm=blocks,
        kernels=kernels,
    )
    return observed, _caveats(cell, timed, agreed, backend, device)


def resolved(cell: Cell) -> Backend:
    """The backend of a cell; of a person's own kernel, once its signature has been checked.

    Raises:
        Unsupported: it cannot do this here.
        BadInput: a person's own kernel cannot be imported or has another signature.
    """
    importable_here()
    backend = choose(cell.op, cell.backend, cell.problem).backend
    if cell.user_kernel:
        check_signature(cell.op, cell.backend, backend.load())
    return backend


def importable_here() -> None:
    """Makes modules of the current directory importable, as they are for ``python -m``."""
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.insert(0, os.getcwd())


def check_kernel(op: str, path: str) -> None:
    """Check, before anything runs, that a person's own kernel is there and has an operation's signature.

    Raises:
        BadInput: it has not; a sentence for each argument.
    """
    from hybridbench.kernels.loading import named

    importable_here()
    try:
        function = named(path)
    except BadInput:
        raise
    except Exception as exc:
        raise BadInput(f"kernel '{path}' fails as its module is imported: {type(exc).__name__}: {exc}") from exc
    if not callable(function):
        raise BadInput(f"kernel '{path}' is a {type(function).__name__}, not a function.")
    check_signature(op, path, function)


def timed_calls(cell: Cell, function: Callable[..., Any], device: torch.device, now: Callable[[], int]) -> Timed:
    """The samples of a cell."""
    budget = cell.sampling
    large = moved_bytes(OPERATIONS[cell.op], cell.problem) >= LARGE_BYTES
    plan = Plan(
        cold=budget.cold,
        allocations=1 if large and device.type == "cpu" else 3,
        rotate=1 if large else 2,
        warmup_s=min(0.3, budget.max_time_s),
        min_samples=budget.min_samples,
        max_samples=budget.max_samples,
        max_time_s=budget.max_time_s,
        target_rel_ci=budget.target_rel_ci,
    )
    with side_by_side():
        return time_calls(lambda number: bound(cell, function, drawn(cell, device, number)), device, plan, now=now)


def _caveats(cell: Cell, timed: Timed, agreed: Agreement, backend: Backend, device: torch.device) -> list[Caveat]:
    found = set(
        find_caveats(
            timed.samples_ns,
            target_rel_ci=max(cell.sampling.target_rel_ci, 0.02),
            resolution_ns=max(1, timer_for(device).resolution_ns // timed.calls_per_sample),
            before=timed.before,
            after=timed.after,
        )
    )
    if agreed.against is None and backend.name != PLAIN:
        found.add(Caveat.NOT_CHECKED)
    return [caveat for caveat in Caveat if caveat in found]


def launches(cell: Cell, function: Callable[..., Any], device: torch.device) -> tuple[list[str], float | None]:
    """Names of the GPU kernels of a call, the longest first, and the blocks per multiprocessor of that one.

    Unknown on a CPU, and where the profiler fails, so that samples are not lost with it.
    """
    if device.type != "cuda":
        return [], None
    return longest_first(traced(bound(cell, function, drawn(cell, device))))
