"""fit: the largest batch or context whose predicted peak fits a GPU's memory, and where the true boundary is.

A process can allocate less than the card has: the CUDA context and loaded kernels need memory, and the allocator leaves
part of what it reserved unused. Both are constants here, measured on a GPU:

    budget = memory PyTorch reports x (1 - FRAGMENTATION) - CONTEXT_BYTES
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from hybridbench.arch.model import ModelSpec, shard
from hybridbench.arch.stored import Dtypes
from hybridbench.errors import BadInput
from hybridbench.machine import Peak
from hybridbench.predict.group import GpuGroup
from hybridbench.predict.memory import Footprint, footprint
from hybridbench.suite.workloads import Workload
from hybridbench.units import MIB

CONTEXT_BYTES = 600 * MIB
"""CUDA context, kernels and libraries of a process on a current NVIDIA card."""
FRAGMENTATION = 0.02
"""Share of a card's memory that the allocator holds but cannot hand out when an allocation fails."""
LARGEST_BATCH = 1 << 20
LONGEST_CONTEXT = 1 << 30
"""The longest context of the search. A model that fits here has no limit: its memory does not grow with the context."""


@dataclass(frozen=True)
class Fit:
    """The largest batch or context of one model that fits a GPU.

    Args:
        solved: ``batch`` or ``context``, or empty if both were given.
        workload: with the largest value in place; with 1 where not even that fits, with ``LONGEST_CONTEXT`` or
            ``LARGEST_BATCH`` where there is no limit.
        footprint: the predicted peak of that workload.
        budget: bytes that may be allocated.
        fits: whether that workload fits.
        dtypes: of what is stored.
        unlimited: whether the search ended before memory did.
        group: the GPUs that share the model, if that was asked for; footprint and budget are of one of them, and the
            batch is of those that share a matrix.
    """

    spec: ModelSpec
    gpu: Peak
    workload: Workload
    solved: str
    footprint: Footprint
    budget: int
    fits: bool
    dtypes: Dtypes
    unlimited: bool = False
    group: GpuGroup | None = None


def budget(gpu: Peak) -> int:
    """Bytes the allocator can hand out on a GPU."""
    return int(gpu.usable_bytes * (1 - FRAGMENTATION)) - CONTEXT_BYTES


def fits(peak_bytes: int, gpu: Peak) -> bool:
    """Whether a peak fits a GPU."""
    return peak_bytes <= budget(gpu)


def largest_fit(
    spec: ModelSpec,
    gpu: Peak,
    kind: str,
    dtypes: Dtypes,
    *,
    context: int | None = None,
    batch: int | None = None,
    checkpoint: str = "none",
    group: GpuGroup | None = None,
) -> Fit:
    """The largest batch at a context, or the largest context at a batch; if both are given, whether they fit.

    Raises:
        BadInput: neither is given, a block without a memory formula, or GPUs that cannot share the model.
    """
    if context is None and batch is None:
        raise BadInput("fit needs a context or a batch to solve for the other: give --ctx or --batch.")

    storage, shared = dtypes.storage, group or GpuGroup()
    part = shard(spec, shared.tp)

    def need(value: int) -> Workload:
        return Workload(kind, value if context is None else context, value if batch is None else batch)

    def fitting(value: int) -> bool:
        return fits(footprint(part, need(value), storage, checkpoint, ranks=shared.ranks, tp=shared.tp).total, gpu)

    solved = "batch" if batch is None else "context" if context is None else ""
    if not solved:
        most, ok, unlimited = 1, fitting(1), False
    else:
        end = LARGEST_BATCH if solved == "batch" else LONGEST_CONTEXT
        unlimited = fitting(end)
        most = end if unlimited else last_true(fitting, end)
        ok = most > 0
    work = need(max(most, 1))
    found = footprint(part, work, storage, checkpoint, ranks=shared.ranks, tp=shared.tp)
    return Fit(spec, gpu, work, solved, found, budget(gpu), ok, dtypes, unlimited, group)


def last_true(holds: Callable[[int], bool], end: int) -> int:
    """The largest value from 1 to ``end`` at which ``holds`` is true; 0 where it never is.

    ``holds`` must be true up to some value and false beyond it.
    """
    low, high = 0, end + 1
    while high - low > 1:
        middle = (low + high) // 2
        if holds(middle):
            low = middle
        else:
            high = middle
    return low


def find_boundary(
    trial: Callable[[int], bool], guess: int, *, step: int = 1, resolution: float = 0.0, end: int = LONGEST_CONTEXT
) -> tuple[int, int | None]:
    """The value from which on trials fail, searched from a guess outwards and then by bisection.

    Args:
        trial: whether a value works; each call may take minutes.
        guess: the first value to try.
        step: all values are multiples of it.
        resolution: the gap at which the search ends, as a share of the guess; at least one step.
        end: the largest value to try.

    Returns:
        the largest value that worked (0: none did), and the smallest that failed (None: none did, up to ``end``).
    """
    near = max(step, int(guess * resolution))
    worked, failed = 0, None
    value, stride = min(end, max(step, guess - guess % step)), max(step, guess // 50 - guess // 50 % step)
    while failed is None or worked == 0:
        if trial(value):
            worked = value
            if value == end or failed is not None:
                break
            value = min(end, value + stride)
        else:
            failed = value
            if value == step or worked:
                break
            value = max(step, value - stride)
        stride *= 2
    while worked and failed is not None and failed - worked > near:
        middle = (worked + failed) // 2
        middle = max(worked + step, middle - middle % step)
        if middle >= failed:
            break
        if trial(middle):
            worked = middle
        else:
            failed = middle
    return worked, failed
