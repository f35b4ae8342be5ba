"""triton_dense: the kernels of a decode step that every kind of block ends with, and that of an MLP.

Importing this module needs triton.
"""

from __future__ import annotations

import triton.language as tl

from hybridbench.kernels.step.triton_conv import HELD
from hybridbench.kernels.step.triton_product import (
    early_squares,
    first_weights,
    halves_of,
    last_to_arrive,
    norm_factor,
    product_after,
    product_of,
    row_scales,
    scaled_rows,
    sum_of_parts,
)
from hybridbench.kernels.triton_jit import jit
from hybridbench.kernels.triton_launch import wait
from hybridbench.kernels.triton_narrow import as_pointed


@jit
def project_swiglu(
    xw_ptr: tl.tensor,
    squares_ptr: tl.tensor,
    w_ptr: tl.tensor,
    scale_ptr: tl.tensor,
    act_ptr: tl.tensor,
    part_ptr: tl.tensor,
    count_ptr: tl.tensor,
    eps: tl.tensor,
    D: tl.constexpr,
    F: tl.constexpr,
    PARTS: tl.constexpr,
    PARTS_TILE: tl.constexpr,
    B: tl.constexpr,
    TOKENS: tl.constexpr,
    HALF: tl.constexpr,
    SPLITS: tl.constexpr,
    BLOCK_K: tl.constexpr,
    STAGES: tl.constexpr,
    PDL: tl.constexpr,
) -> None:
    """The norm, gate and up in one product, and ``silu(gate) * up`` (B, F)."""
    split = tl.program_id(0) % SPLITS
    tile = tl.program_id(0) // SPLITS
    i = tl.arange(0, 2 * HALF)
    unit = tile * HALF + i % HALF
    unit_ok = unit < F
    row = (tl.where(unit_ok, unit, 0) + (i // HALF) * F).to(tl.int64)  # F rows apart
    scale = row_scales(scale_ptr, row, unit_ok)
    low = (split * (D // BLOCK_K) // SPLITS) * BLOCK_K
    high = ((split + 1) * (D // BLOCK_K) // SPLITS) * BLOCK_K
    first_w = first_weights(w_ptr, row, unit_ok, low, D, BLOCK_K)
    wait(PDL)
    squares = early_squares(squares_ptr, PARTS, PARTS_TILE, B, TOKENS)
    acc = product_after(first_w, xw_ptr, w_ptr, row, unit_ok, low, high, D, D, B, TOKENS, BLOCK_K, STAGES)
    if SPLITS > 1:
        if not last_to_arrive(acc, part_ptr, count_ptr, tile, split, SPLITS, 2 * HALF, TOKENS):
            return
        acc = sum_of_parts(part_ptr, count_ptr, tile, SPLITS, 2 * HALF, TOKENS)
    acc = scaled_rows(acc, scale, scale_ptr)
    acc = acc * norm_factor(squares, squares_ptr, D, eps, PARTS, PARTS_TILE, B, TOKENS)
    gate, up = halves_of(acc, HALF, TOKENS)
    b = tl.arange(0, TOKENS)
    unit = tile * HALF + tl.arange(0, HALF)
    at = act_ptr + (b * F)[None, :] + unit[:, None]
    act = gate * tl.sigmoid(gate) * up
    tl.store(at, as_pointed(act, act_ptr), mask=(unit < F)[:, None] & (b < B)[None, :])


@jit
def early_stream(at: tl.tensor, ok: tl.tensor, TOKENS: tl.constexpr) -> tl.tensor:
    """A tile of the residual stream of up to ``HELD`` tokens, in its own dtype until the product is there; for more
    nothing, since the product takes the registers.
    """
    return tl.load(at, mask=ok, other=0.0) if TOKENS <= HELD else tl.zeros((1, 1), tl.float32)


@jit
def stream_then(early: tl.tensor, at: tl.tensor, ok: tl.tensor, TOKENS: tl.constexpr) -> tl.tensor:
    """The tile in float32, loaded where ``early_stream`` did not."""
    x = early if TOKENS <= HELD else tl.load(at, mask=ok, other=0.0)
    return x.to(tl.float32)


@jit
def project_residual(
    first_ptr: tl.tensor,
    second_ptr: tl.tensor,
    squares_ptr: tl.tensor,
    first_w_ptr: tl.tensor,
    second_w_ptr: tl.tensor,
    first_scale_ptr: tl.tensor,
    second_scale_ptr: tl.tensor,
    norm_weight_ptr: tl.tensor,
    x_ptr: tl.tensor,
    xw_ptr: tl.tensor,
    out_squares_ptr: tl.tensor,
    part_ptr: tl.tensor,
    count_ptr: tl.tensor,
    first_w_width: tl.tensor,
    second_w_width: tl.tensor,
    eps: tl.tensor,
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
    """Adds an output projection to the residual stream, and prepares the next norm.

    x += W1 first, scaled to finish a norm over ``first`` where NORMED. Where K2 is not 0, W2 second is added or
    subtracted too.
    """
    split = tl.program_id(0) % SPLITS
    tile = tl.program_id(0) // SPLITS
    row = tile * ROWS + tl.arange(0, ROWS)
    row_ok = row < D
    of_tile = tl.arange(0, ROWS)
    first_w_ptr += (tile * ROWS).to(tl.int64) * first_w_width
    second_w_ptr += (tile * ROWS).to(tl.int64) * second_w_width
    scale = row_scales(first_scale_ptr, row, row_ok)
    BLOCKS: tl.constexpr = (K1 + K2) // BLOCK_K
    low = (split * BLOCKS // SPLITS) * BLOCK_K
    high = ((split + 1) * BLOCKS // SPLITS) * BLOCK_K
    b = tl.arange(0, TOKENS)
    ok = row_ok[:, None] & (b < B)[None, :]
    at = (b * D)[None, :] + row[:, None]
    # no kernel writes x between the last such product and this one, so it may be loaded before the wait too
    early = early_stream(x_ptr + at, ok, TOKENS)
    weight = tl.load(norm_weight_ptr + row, mask=row_ok, other=0.0).to(tl.float32)
    if K2 == 0:
        first_w = first_weights(first_w_ptr, of_tile, row_ok, low, first_w_width, BLOCK_K)
        wait(PDL)
        if NORMED:
            squares = early_squares(squares_ptr, PARTS, PARTS_TILE, B, TOKENS)
        acc = product_after(
            first_w, first_ptr, first_w_ptr, of_tile, row_ok, low, high, K1, first_w_width, B, TOKENS, BLOCK_K, STAGES
        )
    else:
        second_scale = row_scales(second_scale_ptr, row, row_ok)
        wait(PDL)
        acc = tl.zeros((ROWS, TOKENS), tl.float32)
        acc = product_of(
            acc, second_ptr, second_w_ptr, of_tile, row_ok, tl.maximum(low - K1, 0), tl.maximum(high - K1, 0), K2,
            second_w_width, B, TOKENS, BLOCK_K, STAGES,
        )  # fmt: skip
        if SUBTRACT:
            acc = -acc
        if first_scale_ptr is not None:  # all sums are multiplied by the first weight's scales in the end
            acc = acc * tl.where(row_ok, second_scale / scale, 0.0)[:, None]
        acc = product_of(
            acc, first_ptr, first_w_ptr, of_tile, row_ok, tl.minimum(low, K1), tl.minimum(high, K1), K1,
            first_w_width, B, TOKENS, BLOCK_K, STAGES,
        )  # fmt: skip
    if SPLITS > 1:
        if not last_to_arrive(acc, part_ptr, count_ptr, tile, split, SPLITS, ROWS, TOKENS):
            return
        acc = sum_of_parts(part_ptr, count_ptr, tile, SPLITS, ROWS, TOKENS)
    acc = scaled_rows(acc, scale, first_scale_ptr)
    if NORMED:
        acc = acc * norm_factor(squares, squares_ptr, K1, eps, PARTS, PARTS_TILE, B, TOKENS)
    x = stream_then(early, x_ptr + at, ok, TOKENS)
    kind = x_ptr.dtype.element_ty
    x = (x + acc).to(kind)
    wide = x.to(tl.float32)
    tl.store(x_ptr + at, x, mask=ok)
    tl.store(xw_ptr + at, as_pointed(wide * weight[:, None], xw_ptr), mask=ok)
    tl.store(out_squares_ptr + tile * B + b, tl.sum(wide * wide, 0), mask=b < B)
