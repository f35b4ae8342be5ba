"""second: the second products of low rank of a mixer, all in one launch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from hybridbench.model.tiling import power_of_two

if TYPE_CHECKING:
    from torch import Tensor

    from hybridbench.model.chain import Chain  # it needs triton

ROWS, MOST_TOKENS, MOST = 64, 64, 4
"""Rows and sequences of one program, and products of one launch."""

MOST_RANK = 512
"""Columns of a product: a program has all those of both its factors in shared memory at once."""


def large_rank(*ranks: int) -> str | None:
    """Why low ranks are unsupported."""
    large = next((rank for rank in ranks if rank > MOST_RANK), None)
    return None if large is None else f"second products of low rank take up to {MOST_RANK} columns, and one has {large}"


def second_products(chain: Chain, x: Tensor, weights: Sequence[Tensor | None], width: int) -> Tensor:
    """Products of ``width`` rows each, one beside the other (B, products x width), rounded as the modules round them.

    They are not part of the state's update: a head's weights are as many bytes as its state, and with both in registers
    one program fits on an SM. At 1b an H200 takes 792 us a step of 4 sequences of RWKV-7 and 817 of KDA; with products
    in the update, which save a launch of some 2 us, 906 and 887.

    Args:
        x: the columns that they read, each after the one before.
        weights: (width, columns) each; None is a product that is left out, whose place nothing writes.
    """
    from hybridbench.kernels.step.triton_low_rank import multiply_low_ranks

    given = [*weights, *[None] * (MOST - len(weights))]
    ranks = [0 if one is None else one.shape[1] for one in given]
    out = chain.between("second products", len(weights) * width)
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
