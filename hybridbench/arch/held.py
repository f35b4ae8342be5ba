"""held: which rows and columns of each parameter a rank holds under tensor parallelism.

How much a rank holds is decided by ``Block.shard`` alone. Here stands how the parameters of a block's module are
packed: each is a row of segments along one dimension, and a segment is some units (heads, groups, columns) of one
width. The rest follows from the whole block and a rank's part of it. A segment of U units, of which a part has u, is
cut into U / u groups:

    as many as ranks         its units are divided
    fewer than ranks         several ranks hold each group, such as KV heads or groups of B and C of which there are few
    one                      every rank holds all of it

    >>> from hybridbench.arch.families import build_spec
    >>> block = build_spec("transformer", "toy").blocks["*"]     # 4 query heads of 16 share one KV head
    >>> held_parts(block, 2, rank=1)["in_proj.weight"].spans
    ((32, 64), (64, 80), (80, 96))

What a rank's part gives after each sublayer is a summand: the sum over all ranks is what the whole sublayer gives. This
is Megatron-LM's division (arXiv 1909.08053, section 3) with vLLM's for KV heads and for the groups of a Mamba-2
(``mamba_mixer2.py``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hybridbench.arch.block import Block, rows_of
from hybridbench.arch.blocks.attention import Attention
from hybridbench.arch.blocks.gated_delta import GatedDelta
from hybridbench.arch.blocks.kda import Kda
from hybridbench.arch.blocks.mamba2 import Mamba2
from hybridbench.arch.blocks.mamba3 import Mamba3
from hybridbench.arch.blocks.mlp import Mlp
from hybridbench.arch.blocks.moe import Moe
from hybridbench.arch.blocks.parallel import Parallel
from hybridbench.arch.blocks.rwkv7 import Rwkv7
from hybridbench.arch.model import ModelSpec
from hybridbench.errors import BadInput

Span = tuple[int, int]
Segment = tuple[int, int]
"""Units side by side, and the width of each."""


@dataclass(frozen=True, slots=True)
class Packed:
    """How a parameter is packed.

    Args:
        segments: one after the other along ``dim``.
        beside: elements of the parameter for each place along ``dim``.
        dim: the dimension that is cut.
    """

    segments: tuple[Segment, ...]
    beside: int = 1
    dim: int = 0

    @property
    def size(self) -> int:
        """Elements of the parameter."""
        return self.beside * sum(units * width for units, width in self.segments)


@dataclass(frozen=True, slots=True)
class HeldPart:
    """What one rank holds of a parameter.

    Args:
        dim: the dimension that is cut.
        spans: first and last index, one after the other in the rank's part.
        shared: of ``spans``, those that other ranks hold too, as (number of the span, number of the group, number of
            groups): ranks with the same group hold the same, so that each of them has a summand of its gradient.
    """

    dim: int
    spans: tuple[Span, ...]
    shared: tuple[tuple[int, int, int], ...] = ()


Packing = dict[str, Packed]


def check_runs(spec: ModelSpec, tp: int) -> None:
    """Check that modules can run one rank's part of a model that ``tp`` ranks share.

    Raises:
        BadInput: a kind of block has no row here.
    """
    for block, _ in spec.uses:
        if tp > 1 and not runs(block):
            kind = next(one.kind for one in (*block.branches, block) if type(one) not in PACKINGS)
            known = ", ".join(one.kind for one in PACKINGS)
            raise BadInput(f"tp {tp} for a block of kind {kind}: only blocks of kind {known} run divided.")


def runs(block: Block) -> bool:
    """Whether modules run a rank's part of a block."""
    return all(type(one) in PACKINGS for one in (block, *block.branches))


def packing(block: Block, borrows_value: bool = False) -> Packing:
    """How each parameter of a block's module is packed, by the parameter's name.

    Args:
        borrows_value: the block is a branch whose value is another branch's.
    """
    found: Packing = PACKINGS[type(block)](block, borrows_value)
    return found


def held_parts(block: Block, tp: int, rank: int) -> dict[str, HeldPart]:
    """What a rank holds of each parameter of a block's module, by the parameter's name.

    Raises:
        Uncut: so many ranks cannot share the block.
    """
    whole, part = packing(block), packing(block.shard(tp))
    return {name: _held(one, part[name], tp, rank) for name, one in whole.items()}


def _held(whole: Packed, part: Packed, tp: int, rank: int) -> HeldPart:
    start, spans, shared = 0, [], []
    for number, ((units, width), (mine, _)) in enumerate(zip(whole.segments, part.segments, strict=True)):
        groups = units // mine
        group = rank * groups // tp
        spans.append((start + group * mine * width, start + (group + 1) * mine * width))
        if groups < tp:
            shared.append((number, group, groups))
        start += units * width
    return HeldPart(whole.dim, tuple(spans), tuple(shared))


def shared_params(block: Block, tp: int) -> int:
    """How many of a block's parameters several of ``tp`` ranks hold, each counted once.

    Ranks have a summand each of their gradients, which are added up.

    Raises:
        Uncut: so many ranks cannot share the block.
    """
    whole, part = packing(block), packing(block.shard(tp))
    return sum(
        one.beside * units * width
        for name, one in whole.items()
        for (units, width), (mine, _) in zip(one.segments, part[name].segments, strict=True)
        if units // mine < tp
    )


def held_words(vocabulary: int, tp: int, rank: int) -> Span:
    """The rows of embedding and head that a rank holds: equally many, but for the last ones where they do not divide.

    >>> [held_words(10, 4, rank) for rank in range(4)]
    [(0, 3), (3, 6), (6, 9), (9, 10)]
    """
    each = rows_of(vocabulary, tp)
    return min(rank * each, vocabulary), min((rank + 1) * each, vocabulary)


def _attention(block: Attention, borrows_value: bool) -> Packing:
    heads, groups = block.n_heads, block.n_kv_heads
    values = () if borrows_value else ((groups, block.v_head_dim),)
    return {
        "in_proj.weight": Packed(((heads, block.head_dim), (groups, block.head_dim), *values), block.d_model),
        "out_proj.weight": Packed(((heads, block.v_head_dim),), block.d_model, 1),
    }


def _mamba2(block: Mamba2, borrows_value: bool) -> Packing:
    channels, heads = (block.n_heads, block.head_dim), (block.n_heads, 1)
    b_and_c = ((block.n_groups, block.d_state),) * 2
    x = () if borrows_value else (channels,)
    found = {
        "in_proj.weight": Packed((channels, *x, *b_and_c, heads), block.d_model),
        "conv_weight_CW": Packed((channels, *b_and_c), block.d_conv),
        "conv_bias_C": Packed((channels, *b_and_c)),
        **dict.fromkeys(("dt_bias_H", "A_log_H", "D_H"), Packed((heads,))),
        "out_proj.weight": Packed((channels,), block.d_model, 1),
    }
    return found | ({"norm_weight_I": Packed((channels,))} if block.gated_norm else {})


def _delta(block: GatedDelta | Kda, borrows_value: bool) -> Packing:
    keys, values, heads = (block.n_k_heads, block.k_head_dim), (block.n_heads, block.v_head_dim), (block.n_heads, 1)
    low_rank = (1, block.k_head_dim)
    gate, decay = (low_rank, low_rank) if block.low_rank else (values, heads)
    found = {
        "in_proj.weight": Packed(
            (keys, keys, *(() if borrows_value else (values,)), gate, decay, heads), block.d_model
        ),
        "conv_weight_CW": Packed((keys, keys, values), block.d_conv),
        "A_log_H": Packed((heads,)),
        "dt_bias": Packed((heads,), block.k_head_dim if block.low_rank else 1),
        "norm_weight_V": Packed(((1, block.v_head_dim),)),
        "out_proj.weight": Packed((values,), block.d_model, 1),
    }
    up = Packed((values,), block.k_head_dim)
    return found | (dict.fromkeys(("gate_proj.weight", "decay_proj.weight"), up) if block.low_rank else {})


def _mamba3(block: Mamba3, borrows_value: bool) -> Packing:
    channels, heads, states = (block.n_heads, block.head_dim), (block.n_heads, 1), (1, block.d_state)
    b_and_c = ((block.n_groups, block.d_state),) * 2
    x = () if borrows_value else (channels,)
    return {
        "in_proj.weight": Packed((channels, *x, *b_and_c, *(heads,) * 3, (1, block.n_angles)), block.d_model),
        **dict.fromkeys(("B_norm_weight_N", "C_norm_weight_N"), Packed((states,))),
        **dict.fromkeys(("dt_bias_H", "D_H"), Packed((heads,))),
        **dict.fromkeys(("B_bias_HN", "C_bias_HN"), Packed((heads,), block.d_state)),
        "out_proj.weight": Packed((channels,), block.d_model, 1),
    }


def _rwkv7(block: Rwkv7, borrows_value: bool) -> Packing:
    channels, heads = (block.n_heads, block.head_dim), (block.n_heads, 1)
    ranks = {"decay": block.decay_rank, "rate": block.rate_rank, "gate": block.gate_rank, "value": block.value_rank}
    found = {
        "in_proj.weight": Packed((channels,) * (2 if borrows_value else 3), block.d_model),
        "share_LD": Packed(((1, len(block.mixed(borrows_value))),), block.d_model),
        **dict.fromkeys(("decay_I", "rate_I", "removal_I", "added_I"), Packed((channels,))),
        **dict.fromkeys(("bonus_HP", "norm_weight_HV", "norm_bias_HV"), Packed((heads,), block.head_dim)),
        "out_proj.weight": Packed((channels,), block.d_model, 1),
    }
    for name, rank in ranks.items():
        if rank:
            found[f"{name}_down.weight"] = Packed(((1, rank),), block.d_model)
            found[f"{name}_up.weight"] = Packed((channels,), rank)
    return found | ({"value_I": Packed((channels,))} if block.value_rank else {})


def _moe(block: Moe, _borrows_value: bool) -> Packing:
    """Each rank has columns of every expert, and all ranks choose experts alike."""
    columns, shared, experts = (block.d_expert, 1), (block.d_shared, 1), block.n_experts * block.d_model
    found = {
        "router.weight": Packed(((1, block.n_experts),), block.d_model),
        "in_weight_EFD": Packed((columns, columns), experts, 1),
        "out_weight_EDF": Packed((columns,), experts, 2),
    }
    if block.d_shared:
        found["shared_in.weight"] = Packed((shared, shared), block.d_model)
        found["shared_out.weight"] = Packed((shared,), block.d_model, 1)
    return found


def _mlp(block: Mlp, _borrows_value: bool) -> Packing:
    columns = block.d_ff, 1
    return {
        "in_proj.weight": Packed((columns, columns), block.d_model),
        "out_proj.weight": Packed((columns,), block.d_model, 1),
    }


def _parallel(block: Parallel, _borrows_value: bool) -> Packing:
    joint, scale = block.fusion.out == "joint", block.fusion.scale
    found: Packing = {}
    for index, (name, branch) in enumerate(zip(("first", "second"), block.branches, strict=True)):
        own = packing(branch, index == block.borrower)
        found |= {f"{name}.{key}": one for key, one in own.items() if not (joint and key == "out_proj.weight")}
    outs = tuple((branch.out_heads, branch.out_width // branch.out_heads) for branch in block.branches)
    if joint:
        read = outs if block.fusion.op == "concat" else outs[:1]
        found["out_proj.weight"] = Packed(read, block.d_model, 1)
    if scale == "vector":
        found |= {"scale_first": Packed(outs[:1]), "scale_second": Packed(outs[1:])}
    elif scale == "gate":
        found["gate.weight"] = Packed(((1, 1),), block.d_model)
    elif scale != "none":
        found["scalar"] = Packed(((1, 1),))
    return found


PACKINGS: dict[type[Block], Callable[[Any, bool], Packing]] = {
    Attention: _attention,
    Mamba2: _mamba2,
    Mamba3: _mamba3,
    GatedDelta: _delta,
    Kda: _delta,
    Rwkv7: _rwkv7,
    Mlp: _mlp,
    Moe: _moe,
    Parallel: _parallel,
}
"""Kind of block that runs divided to how its module's parameters are packed."""
