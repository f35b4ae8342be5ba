"""split: one rank's part of a model under tensor parallelism, as a model of its own, and which weights it holds.

Heads of attention and of Mamba-2 and the columns of an MLP are divided over ``ranks`` ranks, so that each rank's part
is a smaller model of the same pattern, which the same modules and formulas describe. What a rank's part gives after
each sublayer is a summand: the sum over all ranks is what the whole sublayer gives.

    attention   n_heads / t query heads; n_kv_heads / t KV heads, or one that several ranks hold where there are fewer
    Mamba-2     n_heads / t heads; n_groups / t groups of B and C, or one that several ranks hold where there are fewer
    MLP         d_ff / t columns of gate and up, and those of the down projection
    parallel    both branches; norms are per head, and a head is on one rank

The embedding is whole on every rank. This is Megatron-LM's division (arXiv 1909.08053, section 3) with vLLM's for KV
heads and for the groups of a Mamba-2 (``mamba_mixer2.py``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from hybridbench.arch.block import Block, Mixer
from hybridbench.arch.blocks.attention import Attention
from hybridbench.arch.blocks.mamba2 import Mamba2
from hybridbench.arch.blocks.mlp import Mlp
from hybridbench.arch.blocks.parallel import Parallel
from hybridbench.arch.model import ModelSpec
from hybridbench.errors import BadInput

Span = tuple[int, int]


@dataclass(frozen=True)
class HeldPart:
    """What one rank holds of a parameter.

    Args:
        dim: the dimension that is cut.
        spans: first and last index, one after the other in the rank's part; None for all of it.
        shared: of ``spans``, those that other ranks hold too, as (number of the span, number of the group, number of
            groups): ranks with the same group hold the same, so that each of them has a summand of its gradient.
    """

    dim: int = 0
    spans: tuple[Span, ...] | None = None
    shared: tuple[tuple[int, int, int], ...] = ()


@dataclass(frozen=True)
class _Ranks:
    """Rank ``rank`` of ``count``."""

    count: int
    rank: int

    def part(self, whole: int) -> Span:
        """The rank's equal part of ``whole`` units, which divide by the number of ranks."""
        each = whole // self.count
        return self.rank * each, (self.rank + 1) * each

    def group(self, whole: int) -> Span:
        """The rank's part of ``whole`` groups; one group that several ranks hold where there are fewer than ranks."""
        if whole >= self.count:
            return self.part(whole)
        first = self.rank * whole // self.count
        return first, first + 1

    def shares(self, whole: int, *spans: int) -> tuple[tuple[int, int, int], ...]:
        """``HeldPart.shared`` of the spans with these numbers, which hold ``group(whole)``."""
        if whole >= self.count:
            return ()
        return tuple((span, self.group(whole)[0], whole) for span in spans)


def part_of(spec: ModelSpec, ranks: int) -> ModelSpec:
    """The part of a model that each of ``ranks`` ranks holds; all of them have parts of the same size.

    Raises:
        BadInput: a block cannot be divided; the text says which numbers do not fit.
    """
    if ranks == 1:
        return spec
    return replace(spec, blocks={symbol: part_of_block(block, ranks) for symbol, block in spec.blocks.items()})


def part_of_block(block: Block, ranks: int) -> Block:
    """The part of a block that each of ``ranks`` ranks holds.

    Raises:
        BadInput: as ``part_of``.
    """
    row = _ROWS.get(type(block))
    if row is None:
        known = ", ".join(kind.kind for kind in _ROWS)
        raise BadInput(f"tp {ranks} for a block of kind {block.kind}: only blocks of kind {known} are divided.")
    return row[0](block, ranks)


def cuts_of(block: Block, ranks: int, rank: int, borrows_value: bool = False) -> dict[str, HeldPart]:
    """What a rank holds of each parameter of a block's module, by the parameter's name.

    Args:
        borrows_value: the block is a branch whose value is another branch's.
    """
    found: dict[str, HeldPart] = _ROWS[type(block)][1](block, _Ranks(ranks, rank), borrows_value)
    return found


def _divides(ranks: int, number: int, what: str) -> int:
    if number % ranks:
        raise BadInput(f"tp {ranks}: {number} {what} do not divide by {ranks}; give a divisor of {number}.")
    return number // ranks


def _grouped(ranks: int, groups: int, what: str) -> int:
    """Groups on each rank: equal parts, or one that several ranks hold."""
    if groups % ranks and ranks % groups:
        raise BadInput(f"tp {ranks}: {groups} {what} neither divide by {ranks} nor can each be held by as many ranks.")
    return max(1, groups // ranks)


def _attention(block: Attention, ranks: int) -> Attention:
    heads = _divides(ranks, block.n_heads, "query heads")
    return replace(block, n_heads=heads, n_kv_heads=_grouped(ranks, block.n_kv_heads, "KV heads"))


def _attention_cuts(block: Attention, on: _Ranks, borrows_value: bool) -> dict[str, HeldPart]:
    P, V, K = block.head_dim, block.v_head_dim, block.n_kv_heads
    heads, kv = on.part(block.n_heads), on.group(K)
    keys = block.n_heads * P
    values = keys + K * P
    spans = [_wide(heads, P), _wide(kv, P, keys)]
    if not borrows_value:
        spans.append(_wide(kv, V, values))
    shared = on.shares(K, *range(1, len(spans)))
    return {"in_proj.weight": HeldPart(0, tuple(spans), shared), "out_proj.weight": HeldPart(1, (_wide(heads, V),))}


def _mamba2(block: Mamba2, ranks: int) -> Mamba2:
    _divides(ranks, block.n_heads, "SSM heads")
    groups = _grouped(ranks, block.n_groups, "groups of B and C")
    return replace(block, d_inner=block.d_inner // ranks, n_groups=groups)


def _mamba2_cuts(block: Mamba2, on: _Ranks, borrows_value: bool) -> dict[str, HeldPart]:
    inner, groups, N = block.d_inner, block.n_groups, block.d_state
    channels, group, heads = on.part(inner), on.group(groups), on.part(block.n_heads)
    states = groups * N

    def packed(first: int, lends: bool) -> list[Span]:
        """Spans of x (unless it is another branch's), B and C from column ``first`` on."""
        x = [] if lends else [_wide(channels, 1, first)]
        b = first + (0 if lends else inner)
        return [*x, _wide(group, N, b), _wide(group, N, b + states)]

    columns = [channels, *packed(inner, borrows_value)]
    columns.append(_wide(heads, 1, inner + (0 if borrows_value else inner) + 2 * states))
    b = 1 if borrows_value else 2
    conv = HeldPart(0, tuple(packed(0, False)), on.shares(groups, 1, 2))
    per_head, per_channel = HeldPart(0, (heads,)), HeldPart(0, (channels,))
    return {
        "in_proj.weight": HeldPart(0, tuple(columns), on.shares(groups, b, b + 1)),
        "conv_weight_CW": conv,
        "conv_bias_C": conv,
        **dict.fromkeys(("dt_bias_H", "A_log_H", "D_H"), per_head),
        "norm_weight_I": per_channel,
        "out_proj.weight": HeldPart(1, (channels,)),
    }


def _mlp(block: Mlp, ranks: int) -> Mlp:
    return replace(block, d_ff=_divides(ranks, block.d_ff, "columns of the MLP"))


def _mlp_cuts(block: Mlp, on: _Ranks, _borrows_value: bool) -> dict[str, HeldPart]:
    part = on.part(block.d_ff)
    return {"in_proj.weight": HeldPart(0, (part, _wide(part, 1, block.d_ff))), "out_proj.weight": HeldPart(1, (part,))}


def _parallel(block: Parallel, ranks: int) -> Parallel:
    first, second = (part_of_block(branch, ranks) for branch in block.branches)
    assert isinstance(first, Mixer)
    assert isinstance(second, Mixer)
    return replace(block, first=first, second=second)


def _parallel_cuts(block: Parallel, on: _Ranks, _borrows_value: bool) -> dict[str, HeldPart]:
    found: dict[str, HeldPart] = {}
    for name, index in (("first", 0), ("second", 1)):
        cuts = cuts_of(block.branches[index], on.count, on.rank, index == block.borrower)
        found |= {f"{name}.{parameter}": cut for parameter, cut in cuts.items()}
    first, second = (on.part(branch.out_width) for branch in block.branches)
    side_by_side = (first, _wide(second, 1, block.first.out_width))
    everywhere = HeldPart(0, None, ((0, 0, 1),))
    return {
        **found,
        "out_proj.weight": HeldPart(1, side_by_side if block.fusion.op == "concat" else (first,)),
        "scale_first": HeldPart(0, (first,)),
        "scale_second": HeldPart(0, (second,)),
        "scalar": everywhere,
        "gate.weight": everywhere,
    }


def _wide(units: Span, width: int, start: int = 0) -> Span:
    """The columns of some units of a width, of which the first begins at ``start``."""
    return start + units[0] * width, start + units[1] * width


_ROWS: dict[type[Block], tuple[Callable[[Any, int], Block], Callable[[Any, _Ranks, bool], dict[str, HeldPart]]]] = {
    Attention: (_attention, _attention_cuts),
    Mamba2: (_mamba2, _mamba2_cuts),
    Mlp: (_mlp, _mlp_cuts),
    Parallel: (_parallel, _parallel_cuts),
}
"""Kind of block to its part and to what a rank holds of its parameters."""
