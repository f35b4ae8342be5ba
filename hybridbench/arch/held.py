"""held: which rows and columns of each parameter a rank holds under tensor parallelism.

How much a rank holds is decided by ``Block.shard`` alone. ``Block.packing`` says how the parameters of the block's
module are packed: each is a row of segments along one dimension, and a segment is some units (heads, groups, columns)
of one width. The rest follows from the whole block and a rank's part of it. A segment of U units, of which a part has
u, is cut into U / u groups:

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

from dataclasses import dataclass

from hybridbench.arch.block import Block, Packed, rows_of
from hybridbench.arch.kinds import KINDS
from hybridbench.arch.model import ModelSpec
from hybridbench.errors import BadInput

Span = tuple[int, int]


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


def check_runs(spec: ModelSpec, tp: int) -> None:
    """Check that modules can run one rank's part of a model that ``tp`` ranks share.

    Raises:
        BadInput: a kind of block does not say how its parameters are packed.
    """
    for block, _ in spec.uses:
        if tp > 1 and not runs(block):
            kind = next(one.kind for one in (*block.branches, block) if not _is_packed(one))
            divided = (row.spec.kind for row in KINDS if row.spec.packing is not Block.packing)
            known = ", ".join(dict.fromkeys(divided))
            raise BadInput(f"tp {tp} for a block of kind {kind}: only blocks of kind {known} run divided.")


def runs(block: Block) -> bool:
    """Whether modules run a rank's part of a block."""
    return all(_is_packed(one) for one in (block, *block.branches))


def _is_packed(block: Block) -> bool:
    return type(block).packing is not Block.packing


def held_parts(block: Block, tp: int, rank: int) -> dict[str, HeldPart]:
    """What a rank holds of each parameter of a block's module, by the parameter's name.

    Raises:
        Uncut: so many ranks cannot share the block.
    """
    whole, part = block.packing(), block.shard(tp).packing()
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
    whole, part = block.packing(), block.shard(tp).packing()
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
