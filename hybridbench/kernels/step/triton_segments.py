"""triton_segments: the input projection of any mixer in a decode step, its rows cut into segments of their own ends.

The weight's rows are those of the module in their order, and the output is one packed row a sequence. Some rows in the
middle pass a causal conv with its state, or only silu; all others stay as the product left them. The update of the
state that follows reads each part in its place.

Importing this module needs triton.
"""

from __future__ import annotations

import triton.language as tl

from hybridbench.kernels.step.triton_conv import convolve_words, early_words
from hybridbench.kernels.step.triton_product import (
    first_weights,
    last_to_arrive,
    load_squares,
    product_after,
    row_scales,
    scaled_rows,
    sum_of_parts,
)
from hybridbench.kernels.triton_jit import jit
from hybridbench.kernels.triton_launch import wait


@jit
def of_the_past(
    conv_ptr: tl.tensor,
    conv_weight_ptr: tl.tensor,
    conv_bias_ptr: tl.tensor,
    channel: tl.tensor,
    in_conv: tl.tensor,
    C: tl.constexpr,
    TAPS: tl.constexpr,
    COLUMNS: tl.constexpr,
    BIAS: tl.constexpr,
    B: tl.constexpr,
    TOKENS: tl.constexpr,
) -> tl.tensor:
    """What bias and earlier inputs add to each channel's conv, (rows, TOKENS)."""
    b = tl.arange(0, TOKENS)
    ok = in_conv[:, None] & (b < B)[None, :]
    past = tl.zeros((channel.shape[0], TOKENS), tl.float32)
    if BIAS:
        past += tl.load(conv_bias_ptr + channel, mask=in_conv, other=0.0).to(tl.float32)[:, None]
    state = conv_ptr + (b * (C * COLUMNS))[None, :] + (channel * COLUMNS)[:, None]
    for tap in tl.static_range(TAPS - 1):
        old = tl.load(state + COLUMNS - (TAPS - 1) + tap, mask=ok, other=0.0).to(tl.float32)
        past += old * tl.load(conv_weight_ptr + channel * TAPS + tap, mask=in_conv, other=0.0).to(tl.float32)[:, None]
    return past


@jit
def keep_input(
    conv_ptr: tl.tensor,
    new: tl.tensor,
    channel: tl.tensor,
    ok: tl.tensor,
    C: tl.constexpr,
    COLUMNS: tl.constexpr,
    TOKENS: tl.constexpr,
) -> None:
    """Moves the state of each channel's conv on by one column, the last of which is the new input."""
    state = conv_ptr + (tl.arange(0, TOKENS) * (C * COLUMNS))[None, :] + (channel * COLUMNS)[:, None]
    for column in tl.static_range(COLUMNS - 1):
        moved = tl.load(state + column + 1, mask=ok, other=0.0)
        tl.debug_barrier()
        tl.store(state + column, moved, mask=ok)
    tl.debug_barrier()
    tl.store(state + COLUMNS - 1, new, mask=ok)


@jit
def activate_columns(
    new: tl.tensor,
    past: tl.tensor,
    at: tl.tensor,
    conv_ptr: tl.tensor,
    conv_weight_ptr: tl.tensor,
    conv_bias_ptr: tl.tensor,
    channel: tl.tensor,
    ok: tl.tensor,
    C: tl.constexpr,
    TAPS: tl.constexpr,
    COLUMNS: tl.constexpr,
    BIAS: tl.constexpr,
    B: tl.constexpr,
    TOKENS: tl.constexpr,
    EARLY: tl.constexpr,
) -> None:
    """Stores silu of ``new``, or of its conv where TAPS is not 0, whose state is read and written column by column.

    Args:
        past: of ``of_the_past``, where EARLY.
    """
    active = (channel >= 0) & (channel < C)
    out = new.to(tl.float32)
    if TAPS > 0:
        if not EARLY:
            past = of_the_past(
                conv_ptr, conv_weight_ptr, conv_bias_ptr, channel, active, C, TAPS, COLUMNS, BIAS, B, TOKENS
            )
        newest = tl.load(conv_weight_ptr + channel * TAPS + TAPS - 1, mask=active, other=0.0)
        out = past + out * newest.to(tl.float32)[:, None]
        keep_input(conv_ptr, new, channel, ok, C, COLUMNS, TOKENS)
    tl.store(at, (out * tl.sigmoid(out)).to(new.dtype), mask=ok)


@jit
def project_segments(
    x_ptr: tl.tensor,
    squares_ptr: tl.tensor,
    w_ptr: tl.tensor,
    scale_ptr: tl.tensor,
    out_ptr: tl.tensor,
    conv_ptr: tl.tensor,
    conv_weight_ptr: tl.tensor,
    conv_bias_ptr: tl.tensor,
    part_ptr: tl.tensor,
    count_ptr: tl.tensor,
    eps: tl.tensor,
    K: tl.constexpr,
    X_WIDTH: tl.constexpr,
    R: tl.constexpr,
    WIDTH: tl.constexpr,
    FIRST: tl.constexpr,
    LAST: tl.constexpr,
    TAPS: tl.constexpr,
    COLUMNS: tl.constexpr,
    BIAS: tl.constexpr,
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
    """R rows of w (R, K) times x (B, K of X_WIDTH), finished as a norm where NORMED, into ``out`` (B, R of WIDTH).

    Rows from FIRST up to LAST end in silu: of a causal conv with its state (B, LAST - FIRST, COLUMNS), newest last,
    where TAPS is not 0.
    """
    split = tl.program_id(0) % SPLITS
    tile = tl.program_id(0) // SPLITS
    row = tile * ROWS + tl.arange(0, ROWS)
    row_ok = row < R
    of_tile = tl.arange(0, ROWS)
    w_ptr += (tile * ROWS).to(tl.int64) * K
    scale = row_scales(scale_ptr, row, row_ok)
    low = (split * (K // BLOCK_K) // SPLITS) * BLOCK_K
    high = ((split + 1) * (K // BLOCK_K) // SPLITS) * BLOCK_K
    first_w = first_weights(w_ptr, of_tile, row_ok, low, K, BLOCK_K)
    b = tl.arange(0, TOKENS)
    live = (b < B)[None, :]
    C: tl.constexpr = LAST - FIRST
    channel = row - FIRST
    active = (channel >= 0) & (channel < C)
    # no other program reads or writes a channel's state, so it may be loaded before the wait, if registers hold it
    BITS: tl.constexpr = conv_ptr.dtype.element_ty.primitive_bitwidth
    IN_WORDS: tl.constexpr = (TAPS > 0) & (TOKENS > 16) & (COLUMNS == 4) & (BITS == 16)
    EARLY: tl.constexpr = (TAPS > 0) & (TOKENS <= 16)
    if IN_WORDS:
        words = early_words(conv_ptr, channel, C, B, TOKENS, SPLITS)
    past = channel
    if EARLY:
        past = of_the_past(conv_ptr, conv_weight_ptr, conv_bias_ptr, channel, active, C, TAPS, COLUMNS, BIAS, B, TOKENS)
    wait(PDL)
    if NORMED:
        squares = load_squares(squares_ptr, PARTS, PARTS_TILE, B, TOKENS)
    acc = product_after(first_w, x_ptr, w_ptr, of_tile, row_ok, low, high, X_WIDTH, K, B, TOKENS, BLOCK_K, STAGES)
    if SPLITS > 1:
        if not last_to_arrive(acc, part_ptr, count_ptr, tile, split, SPLITS, ROWS, TOKENS):
            return
        acc = sum_of_parts(part_ptr, count_ptr, tile, SPLITS, ROWS, TOKENS)
    acc = scaled_rows(acc, scale, scale_ptr)
    if NORMED:
        acc = acc * tl.rsqrt(tl.sum(squares, 0) / K + eps)[None, :]
    kind = out_ptr.dtype.element_ty
    new = acc.to(kind)
    at = out_ptr + (b * WIDTH)[None, :] + row[:, None]
    if (tile * ROWS < FIRST) | ((tile + 1) * ROWS > LAST):
        tl.store(at, new, mask=live & (row_ok & (active == 0))[:, None])
    if ((tile + 1) * ROWS > FIRST) & (tile * ROWS < LAST):
        if IN_WORDS:
            convolve_words(
                new, words, out_ptr + FIRST, conv_ptr, conv_weight_ptr, conv_bias_ptr, channel, 0,
                C, TAPS, BIAS, WIDTH, B, TOKENS, SPLITS > 1,
            )  # fmt: skip
        else:
            activate_columns(
                new, past, at, conv_ptr, conv_weight_ptr, conv_bias_ptr, channel, live & active[:, None],
                C, TAPS, COLUMNS, BIAS, B, TOKENS, EARLY,
            )  # fmt: skip
