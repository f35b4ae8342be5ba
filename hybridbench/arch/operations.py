"""operations: a model's FLOPs operation by operation, in each convention, and why two conventions differ.

An operation is a product (``mamba2 in_proj``), a mixer's core (``attention core``, ``mamba2 scan``, ``mamba2 conv``) or
the ``head``. The operations of a model add up exactly to the totals of ``model``.

A reason is a name and the FLOPs it explains, computed from the shapes and never from the difference it is to explain.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from hybridbench.arch.block import WORKS, Block, Convention
from hybridbench.arch.blocks.attention import Attention
from hybridbench.arch.blocks.latent import LatentAttention
from hybridbench.arch.blocks.mamba2 import Mamba2
from hybridbench.arch.model import ModelSpec, head_flops
from hybridbench.arch.recurrent import Recurrent

HEAD = "head"
SCORES_AGAIN = "scores computed again in the backward"
CHUNKED = "chunked or parallel scan in place of the recurrence"
SCAN_BACKWARD = "a backward of the scan that is not twice its forward"


@dataclass(frozen=True)
class Reason:
    """Why an operation is counted differently, and the FLOPs of one sequence that this explains, with their sign."""

    operation: str
    text: str
    flops: int


def operations(spec: ModelSpec, work: str, context: int, convention: Convention = Convention.EXACT) -> dict[str, int]:
    """FLOPs of one sequence by operation.

    Args:
        work: ``train`` or ``prefill`` over ``context`` tokens, or ``decode`` of one token with so many cached.
    """
    assert work in WORKS, work
    found: Counter[str] = Counter()
    for symbol, times in spec.counts.items():
        for name, flops in spec.blocks[symbol].operations(work, context, convention).items():
            found[name] += times * flops
    found[HEAD] += head_flops(spec, convention) * (3 * context if work == "train" else 1)
    return dict(found)


def reasons(spec: ModelSpec, work: str, context: int, convention: Convention) -> list[Reason]:
    """Why ``convention`` differs from ``exact``, operation by operation; equal reasons of several blocks are one."""
    found: Counter[tuple[str, str]] = Counter()
    for symbol, times in spec.counts.items():
        for reason in _of_block(spec.blocks[symbol], work, context, convention):
            found[reason.operation, reason.text] += times * reason.flops
    if convention is Convention.PAPER:
        found[HEAD, "the paper leaves the head out"] -= operations(spec, work, context)[HEAD]
    return [Reason(*key, flops) for key, flops in found.items() if flops]


def _of_block(block: Block, work: str, context: int, convention: Convention) -> list[Reason]:
    if convention is Convention.EXACT:
        return []
    if convention is Convention.PAPER:
        return _paper(block, work, context)
    found = _padding(block, work, context)
    for part in block.mixers:
        if isinstance(part, Attention):
            found += _attention_tiles(part, work, context)
        elif isinstance(part, LatentAttention):
            found += _latent(part, work, context)
        elif isinstance(part, Mamba2 | Recurrent):
            found += _chunked_scan(part, work, context)
    return found


def _padding(block: Block, work: str, context: int) -> list[Reason]:
    """Columns that mean nothing, in the products of ``hardware``."""
    exact, padded = (
        block.products(convention, work != "decode") for convention in (Convention.EXACT, Convention.HARDWARE)
    )
    tokens = (3 if work == "train" else 1) * (1 if work == "decode" else context)
    text = "columns in whole tiles of 256"
    return [Reason(name, text, tokens * (padded[name] - flops)) for name, flops in exact.items()]


def _attention_tiles(spec: Attention, work: str, context: int) -> list[Reason]:
    core, both = f"{spec.name} core", 2 * spec.n_heads * (spec.head_dim + spec.v_head_dim)
    tiles = "whole tiles of 128 x 128 where a pair in them is visible"
    if work == "decode":
        rounded = spec.core_decode(context, Convention.HARDWARE).attention
        return [Reason(core, tiles, rounded - both * spec.keys(context))]
    pairs, covered = spec.pairs(context), spec.tile_pairs(context)
    times = 3 if work == "train" else 1
    found = [Reason(core, tiles, times * both * (covered - pairs))]
    if work == "train":
        again = 2 * spec.n_heads * spec.backward_width * covered - 2 * both * covered
        found.append(Reason(core, SCORES_AGAIN, again))
    return found


def _latent(spec: LatentAttention, work: str, context: int) -> list[Reason]:
    core = f"{spec.name} core"
    exact, tiles = (
        spec.cores("decode" if work == "decode" else "prefill", context, convention)[spec.name].attention
        for convention in (Convention.EXACT, Convention.HARDWARE)
    )
    if work == "decode":
        return [Reason(core, "scored and weighed in the latent, in whole tiles of 128", tiles - exact)]
    times = 3 if work == "train" else 1
    found = [Reason(core, "whole tiles of 128 x 128 where a pair in them is visible", times * (tiles - exact))]
    if work == "train":
        again = spec.core_train(context, Convention.HARDWARE).attention - 3 * tiles
        found.append(Reason(core, SCORES_AGAIN, again))
    return found


def _chunked_scan(spec: Mamba2 | Recurrent, work: str, context: int) -> list[Reason]:
    if work == "decode":
        return []
    scan = f"{spec.name} scan"
    exact, chunked = (
        spec.core_prefill(context, convention).scan for convention in (Convention.EXACT, Convention.HARDWARE)
    )
    times = 3 if work == "train" else 1
    found = [Reason(scan, CHUNKED, times * (chunked - exact))]
    if work == "train":
        both = spec.core_train(context, Convention.HARDWARE).scan
        found.append(Reason(scan, SCAN_BACKWARD, both - 3 * chunked))
    return found


PAPER_TEXTS = {
    "core": "the new token's own key left out",
    "conv": "conv priced by its parameters",
    "scan": "recurrence priced at 9 FLOPs a state, not 5",
    "parameters": "all parameters priced as products",
    "router": "the router left out",
    "gate": "the gate priced by its parameters",
}


def _paper(block: Block, work: str, context: int) -> list[Reason]:
    """The paper's formulas are definitions: each operation that differs is named by what its formula does."""
    exact, paper = (block.operations(work, context, convention) for convention in (Convention.EXACT, Convention.PAPER))
    names = dict.fromkeys([*exact, *paper])
    changed = {name: paper.get(name, 0) - exact.get(name, 0) for name in names}
    return [
        Reason(name, PAPER_TEXTS[name.split()[-1]], flops)
        for name, flops in changed.items()
        if flops and name.split()[-1] in PAPER_TEXTS
    ]
