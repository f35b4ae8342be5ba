"""triton_across: the end of a sublayer in a decode step where each rank has a part of it: a summand, and what follows.

Between the two kernels the ranks' summands are added up. Importing this module needs triton.
"""

from __future__ import annotations

import triton.language as tl

from hybridbench.kernels.step.triton_product import last_to_arrive, load_squares, product_of, sum_of_parts
from hybridbench.kernels.triton_jit import jit
from hybridbench.kernels.triton_launch import wait


@jit
def project_summand(
    first_ptr: tl.tensor,
    second_ptr: tl.tensor,
    squares_ptr: tl.tensor,
    first_w_ptr: tl.tensor,
    second_w_ptr: tl.tensor,
    sum_ptr: tl.tensor,
    part_ptr: tl.tensor,
    count_ptr: tl.tensor,
    first_w_width: tl.tensor,
    second_w_width: tl.tensor,
    D: tl.constexpr,
    K1: tl.constexpr,
    K2: tl.constexpr,
    SUBTRACT: tl.constexpr,
    NORMED: tl.constexpr,
    PARTS: tl.constexpr,
    PARTS_TILE: tl.constexpr,
    B: tl.constexpr,
    TOKENS: tl.constexpr,
    ROWS: tl.constexpr,
    SPLITS: tl.constexpr,
    BLOCK_K: tl.constexpr,
    STAGES: tl.constexpr,
    PDL: tl.constexpr,
) -> None:
    """A rank's summand of an output projection in float32 (B, D), and behind it, where NORMED, of the squares (B).

    It is W1 first, and where K2 is not 0 W2 second is added or subtracted.
    """
    split = tl.program_id(0) % SPLITS
    tile = tl.program_id(0) // SPLITS
    row = tile * ROWS + tl.arange(0, ROWS)
    row_ok = row < D
    of_tile = tl.arange(0, ROWS)
    first_w_ptr += (tile * ROWS).to(tl.int64) * first_w_width
    second_w_ptr += (tile * ROWS).to(tl.int64) * second_w_width
    BLOCKS: tl.constexpr = (K1 + K2) // BLOCK_K
    low = (split * BLOCKS // SPLITS) * BLOCK_K
    high = ((split + 1) * BLOCKS // SPLITS) * BLOCK_K
    b = tl.arange(0, TOKENS)
    wait(PDL)
    acc = tl.zeros((ROWS, TOKENS), tl.float32)
    if K2 > 0:
        acc = product_of(
            acc, second_ptr, second_w_ptr, of_tile, row_ok, tl.maximum(low - K1, 0), tl.maximum(high - K1, 0), K2,
            second_w_width, B, TOKENS, BLOCK_K, STAGES,
        )  # fmt: skip
        if SUBTRACT:
            acc = -acc
    acc = product_of(
        acc, first_ptr, first_w_ptr, of_tile, row_ok, tl.minimum(low, K1), tl.minimum(high, K1), K1,
        first_w_width, B, TOKENS, BLOCK_K, STAGES,
    )  # fmt: skip
    if SPLITS > 1:
        if not last_to_arrive(acc, part_ptr, count_ptr, tile, split, SPLITS, ROWS, TOKENS):
            return
        acc = sum_of_parts(part_ptr, count_ptr, tile, SPLITS, ROWS, TOKENS)
    ok = row_ok[:, None] & (b < B)[None, :]
    tl.store(sum_ptr + (b * D)[None, :] + row[:, None], acc, mask=ok)
    if NORMED:
        squares = load_squares(squares_ptr, PARTS, PARTS_TILE, B, TOKENS)
        tl.store(sum_ptr + B * D + b, tl.sum(squares, 0), mask=(b < B) & (tile == 0))


@jit
def join_residual(
    sum_ptr: tl.tensor,
    norm_weight_ptr: tl.tensor,
    x_ptr: tl.tensor,
    xw_ptr: tl.tensor,
    out_squares_ptr: tl.tensor,
    eps: tl.tensor,
    D: tl.constexpr,
    WIDTH: tl.constexpr,
    NORMED: tl.constexpr,
    B: tl.constexpr,
    TOKENS: tl.constexpr,
    ROWS: tl.constexpr,
    PDL: tl.constexpr,
) -> None:
    """Adds the ranks' sum to the residual stream, and prepares the next norm.

    Where NORMED the sum is scaled first to finish a norm over the ``WIDTH`` channels of all ranks.
    """
    tile = tl.program_id(0)
    row = tile * ROWS + tl.arange(0, ROWS)
    row_ok = row < D
    b = tl.arange(0, TOKENS)
    ok = row_ok[:, None] & (b < B)[None, :]
    at = (b * D)[None, :] + row[:, None]
    weight = tl.load(norm_weight_ptr + row, mask=row_ok, other=0.0).to(tl.float32)
    wait(PDL)
    acc = tl.load(sum_ptr + at, mask=ok, other=0.0)
    if NORMED:
        squares = tl.load(sum_ptr + B * D + b, mask=b < B, other=1.0)
        acc = acc * tl.rsqrt(squares / WIDTH + eps)[None, :]
    kind = x_ptr.dtype.element_ty
    x = (tl.load(x_ptr + at, mask=ok, other=0.0).to(tl.float32) + acc).to(kind)
    wide = x.to(tl.float32)
    tl.store(x_ptr + at, x, mask=ok)
    tl.store(xw_ptr + at, (wide * weight[:, None]).to(kind), mask=ok)
    tl.store(out_squares_ptr + tile * B + b, tl.sum(wide * wide, 0), mask=b < B)
