"""triton_words: the first kernel of a decode step where each rank has a part of the vocabulary: a summand.

Importing this module needs triton.
"""

from __future__ import annotations

import triton.language as tl

from hybridbench.kernels.triton_jit import jit
from hybridbench.kernels.triton_launch import wait


@jit
def embed_words(
    token_ptr: tl.tensor,
    embedding_ptr: tl.tensor,
    sum_ptr: tl.tensor,
    first: tl.tensor,
    rows: tl.tensor,
    D: tl.constexpr,
    D_TILE: tl.constexpr,
    PDL: tl.constexpr,
) -> None:
    """One program per sequence: its token's row in float32 (B, D) if this rank has it, and zeros if another has.

    The rank has the rows of the words from ``first`` to ``first + rows - 1``.
    """
    b = tl.program_id(0)
    wait(PDL)
    place = tl.load(token_ptr + b).to(tl.int64) - first
    mine = (place >= 0) & (place < rows)
    d = tl.arange(0, D_TILE)
    x = tl.load(embedding_ptr + tl.where(mine, place, 0) * D + d, mask=(d < D) & mine, other=0.0)
    tl.store(sum_ptr + b * D + d, x.to(tl.float32), mask=d < D)
