"""operations: a model's FLOPs operation by operation, in each convention, and why two conventions differ.

An operation is a product (``mamba2 in_proj``), a mixer's core (``attention core``, ``mamba2 scan``, ``mamba2 conv``) or
the ``head``. The operations of a model add up exactly to the totals of ``model``.
"""

from __future__ import annotations

from collections import Counter

from hybridbench.arch.block import WORKS, Convention
from hybridbench.arch.model import ModelSpec, head_flops
from hybridbench.arch.reasons import Reason

HEAD = "head"


def operations(spec: ModelSpec, work: str, context: int, convention: Convention = Convention.EXACT) -> dict[str, int]:
    """FLOPs of one sequence by operation.

    Args:
        work: ``train`` or ``prefill`` over ``context`` tokens, or ``decode`` of one token with so many cached.
    """
    assert work in WORKS, work
    found: Counter[str] = Counter()
    for block, times in spec.uses:
        for name, flops in block.operations(work, context, convention).items():
            found[name] += times * flops
    found[HEAD] += head_flops(spec, convention) * (3 * context if work == "train" else 1)
    return dict(found)


def reasons(spec: ModelSpec, work: str, context: int, convention: Convention) -> list[Reason]:
    """Why ``convention`` differs from ``exact``, operation by operation; equal reasons of several blocks are one."""
    found: Counter[tuple[str, str]] = Counter()
    for block, times in spec.uses:
        for reason in block.reasons(work, context, convention):
            found[reason.operation, reason.text] += times * reason.flops
    if convention is Convention.PAPER:
        found[HEAD, "the paper leaves the head out"] -= operations(spec, work, context)[HEAD]
    return [Reason(*key, flops) for key, flops in found.items() if flops]
