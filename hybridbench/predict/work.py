"""work: what one step of a workload must do: its FLOPs, and the bytes it must move through memory, phase by phase.

A phase is work whose arithmetic and memory traffic can overlap. A training step, a prefill and a decode step are one
phase each. A generation is two, its prefill and its decoding, since the first token waits for the whole prompt:

    >>> from hybridbench.arch.families import build_spec
    >>> spec, storage = build_spec("mamba", "1b"), Storage()
    >>> [phase.flops for phase in phases(spec, Workload("generate", context=1024, batch=1, prompt=512), storage)]
    [1031133986816, 1299580977152]
    >>> step_flops(spec, Workload("prefill", context=512, batch=1))
    1031133986816

FLOPs are in the ``exact`` convention of ``arch.block`` unless a caller asks for another; bytes are the least that any
implementation moves.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

from hybridbench.arch import model as arch
from hybridbench.arch.block import Block, Convention, Flops, Storage
from hybridbench.arch.model import ModelSpec
from hybridbench.errors import unknown_name
from hybridbench.suite import DECODE, GENERATE, PREFILL, TRAIN, Workload


@dataclass(frozen=True, slots=True)
class Phase:
    """Work of the whole batch whose arithmetic and memory traffic can overlap.

    Args:
        flops: model FLOPs, convention ``exact``.
        moved_bytes: the least bytes that must move through device memory.
    """

    flops: int
    moved_bytes: int


def phases(spec: ModelSpec, work: Workload, storage: Storage) -> list[Phase]:
    """The phases of one step of a workload, one after the other.

    Raises:
        BadInput: an unknown kind of workload.
    """
    if work.kind not in PHASES_OF:
        raise unknown_name("workload", work.kind, PHASES_OF)
    return PHASES_OF[work.kind](spec, work, storage)


def step_flops(spec: ModelSpec, work: Workload, convention: Convention = Convention.EXACT) -> int:
    """FLOPs of one step over the whole batch.

    A generation is a prefill of its prompt and ``context - prompt`` decode steps. They cost what one forward over the
    whole context costs, with the head at each position that yields a token, because prefilling costs exactly the sum
    of decoding (``exact`` only).

    Raises:
        BadInput: an unknown kind of workload, or a block that the convention has no formula for.
        ValueError: a generation in another convention than ``exact``, where prefill is not the sum of decoding.
    """
    if work.kind == GENERATE:
        if convention is not Convention.EXACT:
            raise ValueError(f"generation has no closed form in the {convention} convention")
        return sum(_generation_flops(spec, work))
    if work.kind not in _SEQUENCE_FLOPS:
        raise unknown_name("workload", work.kind, PHASES_OF)
    return work.batch * _SEQUENCE_FLOPS[work.kind](spec, work.context, convention).total


def step_bytes(spec: ModelSpec, work: Workload, storage: Storage) -> int:
    """Least bytes one step of the whole batch must move through device memory.

    Decode: ``arch.model.decode_bytes_moved``. Prefill: every weight once and the caches written. Train: every weight
    once; activations, gradients and optimizer state are left out, so it is a bound and not an estimate. Generation:
    its prefill and each of its decode steps.

    Raises:
        BadInput: an unknown kind of workload.
    """
    return sum(phase.moved_bytes for phase in phases(spec, work, storage))


def prefill_of(work: Workload) -> Workload:
    """The prefill that a generation begins with."""
    return Workload(PREFILL, work.prompt, work.batch)


def first_decode_of(work: Workload) -> Workload:
    """The first decode step of a generation."""
    return Workload(DECODE, work.prompt, work.batch)


def cache_tokens(work: Workload) -> int:
    """Tokens each sequence's cache must have room for; 0 in training, which keeps none.

    Raises:
        BadInput: an unknown kind of workload.
    """
    if work.kind not in PHASES_OF:
        raise unknown_name("workload", work.kind, PHASES_OF)
    return {TRAIN: 0, PREFILL: work.context, DECODE: work.context + 1, GENERATE: work.context}[work.kind]


def _train(spec: ModelSpec, work: Workload, storage: Storage) -> list[Phase]:
    return [Phase(step_flops(spec, work), _weights_read(spec, work.batch * work.context, storage))]


def _prefill(spec: ModelSpec, work: Workload, storage: Storage) -> list[Phase]:
    written = work.batch * arch.cache_bytes(spec, work.context, storage).total
    return [Phase(step_flops(spec, work), _weights_read(spec, work.batch * work.context, storage) + written)]


def _decode(spec: ModelSpec, work: Workload, storage: Storage) -> list[Phase]:
    return [Phase(step_flops(spec, work), arch.decode_bytes_moved(spec, work.context, work.batch, storage))]


def _generate(spec: ModelSpec, work: Workload, storage: Storage) -> list[Phase]:
    start, stop = work.prompt, work.context
    _, rest = _generation_flops(spec, work)
    caches = sum(n * _cache_traffic(block, start, stop, storage) for block, n in spec.uses)
    cacheless = arch.decode_bytes_moved(spec, start, work.batch, storage) - work.batch * sum(
        n * block.cache_traffic(start, storage) for block, n in spec.uses
    )
    decoding = Phase(rest, (stop - start) * cacheless + work.batch * caches)
    return [*_prefill(spec, prefill_of(work), storage), decoding]


PHASES_OF: dict[str, Callable[[ModelSpec, Workload, Storage], list[Phase]]] = {
    TRAIN: _train,
    PREFILL: _prefill,
    DECODE: _decode,
    GENERATE: _generate,
}
"""Kind of workload to the phases of its step."""

_SEQUENCE_FLOPS: dict[str, Callable[[ModelSpec, int, Convention], Flops]] = {
    TRAIN: arch.train_flops,
    PREFILL: arch.prefill_flops,
    DECODE: arch.decode_flops,
}
"""Kind of workload to the FLOPs of one sequence, of the kinds that have them in every convention."""


def _generation_flops(spec: ModelSpec, work: Workload) -> tuple[int, int]:
    """FLOPs of a generation's prefill, and of its decoding."""
    prompt = arch.prefill_flops(spec, work.prompt).total
    whole = arch.prefill_flops(spec, work.context, head_positions=1 + work.context - work.prompt).total
    return work.batch * prompt, work.batch * (whole - prompt)


def _weights_read(spec: ModelSpec, tokens: int, storage: Storage) -> int:
    """Bytes of the weights that ``tokens`` tokens meet: all of them, but for experts no token is routed to."""
    idle = sum(n * (block.weight_bytes(storage) - block.weight_traffic(tokens, storage)) for block, n in spec.uses)
    return arch.weight_bytes(spec, storage) - idle


@functools.lru_cache(maxsize=1024)
def _cache_traffic(block: Block, start: int, stop: int, storage: Storage) -> int:
    """Sum of a block's cache traffic over the contexts ``start`` to ``stop - 1``; it never shrinks with the context."""
    if stop <= start:
        return 0
    if block.cache_traffic(start, storage) == block.cache_traffic(stop - 1, storage):
        return (stop - start) * block.cache_traffic(start, storage)
    return sum(block.cache_traffic(context, storage) for context in range(start, stop))
