"""predicted: what ``predict`` computes for a record's case, in convention ``exact`` unless a name says otherwise."""

from __future__ import annotations

from collections.abc import Callable

from hybridbench.arch import model as arch
from hybridbench.arch.block import CacheBytes, Convention
from hybridbench.derive.kept import once
from hybridbench.derive.measured import Number
from hybridbench.errors import BadInput
from hybridbench.predict.memory import footprint
from hybridbench.predict.work import in_every_convention, step_bytes, step_flops
from hybridbench.record import Record
from hybridbench.suite.case import COMPILE, EAGER, GRAPH, Case
from hybridbench.suite.spread import part_of_case


def cache_capacity(record: Record) -> int:
    """Tokens that each sequence's cache has room for: as observed, else as the workload needs; 0 in training."""
    work = record.case.workload
    if record.observed is not None and record.observed.cache is not None:
        return record.observed.cache.tokens
    return work.cache_tokens


def predicted_params(record: Record) -> int:
    """Parameters of the model; under tensor parallelism of the part that one rank holds."""
    return arch.params(part_of_case(record.case).model)


def predicted_weights_bytes(record: Record) -> float:
    """Bytes of the weights that one rank holds."""
    execution = record.case.execution
    return arch.weight_bytes(part_of_case(record.case).model, execution.storage) / execution.gpus


@once
def predicted_cache(record: Record) -> CacheBytes | None:
    """Bytes that the whole batch's caches must take, for all tokens they have room for; None in training. Under tensor
    parallelism those of one rank.
    """
    case = part_of_case(record.case)
    if case.workload.row.trains:
        return None
    return case.workload.batch * arch.cache_bytes(case.model, cache_capacity(record), case.execution.storage)


def predicted_peak_bytes(record: Record) -> float | None:
    """The predicted peak of a record's case, as ``peak_of_case``."""
    return peak_of_case(record.case)


def peak_of_case(case: Case) -> float | None:
    """The predicted peak of a case on a GPU, in bytes, of one rank where there are several; None where there is no
    formula.

    Training that is compiled layer by layer keeps what eager training keeps (within 0.07% at 1b on an H200).
    """
    execution, part = case.execution, part_of_case(case)
    modes = (EAGER, GRAPH, COMPILE) if part.workload.row.trains else (EAGER, GRAPH)
    if execution.device != "cuda" or execution.mode not in modes:
        return None
    graph, ranks, tp = execution.mode == GRAPH, execution.gpus, execution.tp
    given = part.model, part.workload, execution.storage, execution.checkpoint
    try:
        return footprint(*given, graph=graph, ranks=ranks, tp=tp).total
    except BadInput:
        return None


def flops(record: Record, convention: Convention = Convention.EXACT) -> int:
    """FLOPs of a step in a convention."""
    return step_flops(record.case.model, record.case.workload, convention)


@once
def model_flops(record: Record) -> float:
    """FLOPs of a step in convention ``exact``."""
    return flops(record)


def stepped_flops(record: Record) -> float:
    """Model FLOPs of what the operator counter runs: one step, or the prefill and one decode step of a generation."""
    return sum(step_flops(record.case.model, work) for work in record.case.workload.first_steps)


def traced_flops(record: Record) -> float:
    """Model FLOPs of what the tracing counter traces: one forward, or the prefill of a generation."""
    first = record.case.workload.first_steps[0]
    return step_flops(record.case.model, first) / (3 if first.row.trains else 1)


def flops_in(convention: Convention) -> Number:
    """FLOPs of a step in another convention; None for a generation, and where the convention has no formula."""

    def compute(record: Record) -> float | None:
        if not in_every_convention(record.case.workload):
            return None
        try:
            return flops(record, convention)
        except BadInput:  # the paper has formulas only for the blocks that it compares
            return None

    return once(compute)


hardware_flops = flops_in(Convention.HARDWARE)
"""FLOPs of a step as kernels execute them: whole tiles, the chunked scan, recomputation."""


@once
def must_move_bytes(record: Record) -> float:
    """The fewest bytes that a step must move between memory and the processor."""
    return step_bytes(record.case.model, record.case.workload, record.case.execution.storage)


def of_predicted_cache(part: Callable[[CacheBytes], float]) -> Number:
    """A number taken from the bytes that the caches must take; None in training."""

    def compute(record: Record) -> float | None:
        cache = predicted_cache(record)
        return None if cache is None else part(cache)

    return compute
