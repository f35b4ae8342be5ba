"""work: what one step of a workload must do: its FLOPs, and the bytes it must move through memory, phase by phase.

A phase is one pass of a step; its arithmetic and memory traffic can overlap. A training step, a prefill and a decode
step have one phase. A generation has two, its prefill and its decoding, because the first token waits for the whole
prompt:

    >>> from hybridbench.arch.families import build_spec
    >>> spec, storage = build_spec("mamba", "1b"), Storage()
    >>> [phase.flops for phase in phases(spec, Workload("generate", context=1024, batch=1, prompt=512), storage)]
    [1031133986816, 1299580977152]
    >>> step_flops(spec, Workload("prefill", context=512, batch=1))
    1031133986816

FLOPs are in the ``exact`` convention of ``arch.block`` unless a caller asks for another. Bytes are the fewest that any
implementation must move.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

from hybridbench.arch import model as arch
from hybridbench.arch.block import Block, Convention, Storage
from hybridbench.arch.model import ModelSpec
from hybridbench.errors import BadInput
from hybridbench.suite.workloads import DECODE, PREFILL, TRAIN, Pass, Workload


@dataclass(frozen=True, slots=True)
class Phase:
    """One phase's work over the whole batch. Its arithmetic and memory traffic can overlap.

    Args:
        flops: model FLOPs, convention ``exact``.
        moved_bytes: the fewest bytes that must move through device memory.
    """

    flops: int
    moved_bytes: int


@functools.lru_cache(maxsize=1 << 14)
def phases(spec: ModelSpec, work: Workload, storage: Storage) -> tuple[Phase, ...]:
    """The phases of one step of a workload, one for each of its passes."""
    return tuple(PHASE_OF[one.kind](spec, one, work.batch, storage) for one in work.passes)


@functools.lru_cache(maxsize=1 << 14)
def step_flops(spec: ModelSpec, work: Workload, convention: Convention = Convention.EXACT) -> int:
    """FLOPs of one step over the whole batch.

    Raises:
        BadInput: the convention has no formula for a block.
        ValueError: the convention is not ``exact``, and the step has a closed form in ``exact`` only.
    """
    if convention is not Convention.EXACT and not in_every_convention(work):
        raise ValueError(f"a step of {work.kind} has no closed form in the {convention} convention")
    return sum(_flops(spec, one, work.batch, convention) for one in work.passes)


def in_every_convention(work: Workload) -> bool:
    """Whether a step has a closed form in every convention: it must be one pass, and one step if it decodes.

    Several decode steps have a closed form in ``exact`` only: there, prefilling costs exactly the sum of decoding.
    """
    passes = work.passes
    return len(passes) == 1 and (passes[0].kind != DECODE or passes[0].tokens == 1)


def step_bytes(spec: ModelSpec, work: Workload, storage: Storage) -> int:
    """The fewest bytes that one step of the whole batch must move through device memory.

    Decode: ``arch.model.decode_bytes_moved``. Prefill: every weight once and the caches written. Train: every weight
    once; activations, gradients and optimizer state are left out, so it is a bound and not an estimate. Generation:
    its prefill and each of its decode steps.
    """
    return sum(phase.moved_bytes for phase in phases(spec, work, storage))


def _train(spec: ModelSpec, one: Pass, batch: int, storage: Storage) -> Phase:
    refuse_quantised(storage)
    return Phase(_flops(spec, one, batch), _weights_read(spec, batch * one.tokens, storage))


def refuse_quantised(storage: Storage) -> None:
    """Check that weights can be trained as they are stored.

    Raises:
        BadInput: they are quantised.
    """
    if storage.quantised is not None:
        raise BadInput(
            f"a training step with weights in {storage.quantised.scheme.name}: quantised weights are not trained; give "
            f"a plain --weight-dtype, or another workload."
        )


def _prefill(spec: ModelSpec, one: Pass, batch: int, storage: Storage) -> Phase:
    written = batch * arch.cache_bytes(spec, one.tokens, storage).total
    return Phase(_flops(spec, one, batch), _weights_read(spec, batch * one.tokens, storage) + written)


def _decode(spec: ModelSpec, one: Pass, batch: int, storage: Storage) -> Phase:
    caches = sum(n * _cache_traffic(block, one.start, one.stop, storage) for block, n in spec.uses)
    cacheless = arch.cacheless_bytes_moved(spec, batch, storage)
    return Phase(_flops(spec, one, batch), one.tokens * cacheless + batch * caches)


PHASE_OF: dict[str, Callable[[ModelSpec, Pass, int, Storage], Phase]] = {
    TRAIN: _train,
    PREFILL: _prefill,
    DECODE: _decode,
}
"""Maps the kind of a pass to the function that computes its phase."""


def _flops(spec: ModelSpec, one: Pass, batch: int, convention: Convention = Convention.EXACT) -> int:
    """FLOPs of a pass over a batch.

    Several decode steps cost as much as one forward over all tokens they see, with the head at each position that
    yields a token, minus the forward over the tokens cached before.
    """
    if one.kind == TRAIN:
        return batch * arch.train_flops(spec, one.stop, convention).total
    if one.kind == PREFILL:
        return batch * arch.prefill_flops(spec, one.stop, convention).total
    if one.tokens == 1:
        return batch * arch.decode_flops(spec, one.start, convention).total
    whole = arch.prefill_flops(spec, one.stop, head_positions=1 + one.tokens).total
    return batch * (whole - arch.prefill_flops(spec, one.start).total)


@arch.once
def _weights_read(spec: ModelSpec, tokens: int, storage: Storage) -> int:
    """Bytes of the weights that ``tokens`` tokens use: all weights except those of experts that no token reaches."""
    idle = sum(
        n * (block.weight_bytes(kept) - block.weight_traffic(tokens, kept))
        for block, n, kept in arch.stored_uses(spec, storage)
    )
    return arch.weight_bytes(spec, storage) - idle


@functools.lru_cache(maxsize=1024)
def _cache_traffic(block: Block, start: int, stop: int, storage: Storage) -> int:
    """Sum of a block's cache traffic over the contexts ``start`` to ``stop - 1``. Traffic never falls with context."""
    if stop <= start:
        return 0
    if block.cache_traffic(start, storage) == block.cache_traffic(stop - 1, storage):
        return (stop - start) * block.cache_traffic(start, storage)
    return sum(block.cache_traffic(context, storage) for context in range(start, stop))
