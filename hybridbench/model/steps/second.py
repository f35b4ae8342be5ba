"""second: the second products of low rank of a mixer, all in one launch, where many sequences share their weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from hybridbench.model.tiling import power_of_two

if TYPE_CHECKING:
    from torch import Tensor

    from hybridbench.model.chain import Chain  # it needs triton

FEW_SEQUENCES = 0
"""Up to so many sequences the second products are part of the state's update, which loads their weights before it waits
and saves a launch. A head's weights are as many bytes as its state, so a program has to go over several sequences with
them, one after the other, and its registers leave room for one program on an SM. At 64 sequences of RWKV-7 at 1b that
was 512 programs of 8 sequences each, one on an SM at a time, and the step reached 25% of the floor (H200). A launch
takes some 2 us; the states of 64 sequences alone take 16.
"""
ROWS, MOST_TOKENS, MOST = 64, 64, 4
"""Rows and sequences of one program, and products of one launch."""


def multiplied_alone(chain: Chain) -> bool:
    """Whether the second products have a launch of their own."""
    return chain.B > FEW_SEQUENCES


def second_products(chain: Chain, x: Tensor, weights: Sequence[Tensor | None], width: int) -> Tensor:
    """Products of ``width`` rows each, one beside the other (B, products x width), rounded as the modules round them.

    Args:
        x: the columns that they read, each after the one before.
        weights: (width, columns) each; None is a product that is left out, whose place nothing writes.
    """
    from hybridbench.kernels.step.triton_low_rank import multiply_low_ranks

    given = [*weights, *[None] * (MOST - len(weights))]
    ranks = [0 if one is None else one.shape[1] for one in given]
    name = f"second products of {len(weights)} x {width}"
    if name not in chain.shared:  # every layer uses the same, so that it stays in the L2 cache
        chain.shared[name] = chain.new(len(weights) * width)
    out = chain.shared[name]
    tokens = max(16, min(MOST_TOKENS, power_of_two(chain.B)))
    names = "FIRST", "SECOND", "THIRD", "FOURTH"
    chain.launch(
        multiply_low_ranks,
        len(weights) * -(-width // ROWS) * -(-chain.B // tokens),
        x,
        *(x if one is None else one for one in given),
        out,
        B=chain.B,
        I=width,
        **dict(zip(names, ranks, strict=True)),
        **{f"{name}_TILE": power_of_two(max(rank, 16)) for name, rank in zip(names, ranks, strict=True)},
        X_WIDTH=x.stride(0),
        WIDTH=out.stride(0),
        TOKENS=tokens,
        ROWS=ROWS,
    )
    return out
