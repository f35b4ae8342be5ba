"""triton_mixers: the kernels of attention and of Mamba-2 in a decode step, up to their output.

``attention.triton_decode`` follows ``project_qkv``. Importing this module needs triton.
"""

from __future__ import annotations

import triton.language as tl

from hybridbench.kernels.step.triton_conv import convolve_words, early_words
from hybridbench.kernels.step.triton_product import (
    FEW,
    early_squares,
    first_weights,
    halves_of,
    last_to_arrive,
    norm_factor,
    product_after,
    row_scales,
    scaled_rows,
    sum_of_parts,
)
from hybridbench.kernels.triton_jit import jit
from hybridbench.kernels.triton_launch import let_next, wait, wait_alone
from hybridbench.kernels.triton_narrow import as_pointed

LARGEST = tl.constexpr(448.0)
"""The largest number of E4M3."""


@jit
def code_factor(
    scale_ptr: tl.tensor, head: tl.tensor, K: tl.constexpr, B: tl.constexpr, TOKENS: tl.constexpr
) -> tl.tensor:
    """1 over the scales (B, K) of a head of a cache that holds codes, (1, TOKENS)."""
    b = tl.arange(0, TOKENS)
    if scale_ptr is None:
        factor = tl.full((TOKENS,), 1.0, tl.float32)
    else:
        factor = 1 / tl.load(scale_ptr + b * K + head, mask=b < B, other=1.0)
    return factor[None, :]


@jit
def as_stored(x: tl.tensor, factor: tl.tensor, cache_ptr: tl.tensor, scale_ptr: tl.tensor) -> tl.tensor:
    """Keys or values in the dtype of their cache; as codes they saturate."""
    if scale_ptr is not None:
        x = tl.minimum(tl.maximum(x * factor, -LARGEST), LARGEST)
    return x.to(cache_ptr.dtype.element_ty)


@jit
def project_qkv(
    xw_ptr: tl.tensor,
    squares_ptr: tl.tensor,
    w_ptr: tl.tensor,
    scale_ptr: tl.tensor,
    q_ptr: tl.tensor,
    k_ptr: tl.tensor,
    v_ptr: tl.tensor,
    k_scale_ptr: tl.tensor,
    v_scale_ptr: tl.tensor,
    turn_ptr: tl.tensor,
    slot_ptr: tl.tensor,
    part_ptr: tl.tensor,
    count_ptr: tl.tensor,
    k_stride_b: tl.tensor,
    v_stride_b: tl.tensor,
    eps: tl.tensor,
    D: tl.constexpr,
    H: tl.constexpr,
    K: tl.constexpr,
    P: tl.constexpr,
    V: tl.constexpr,
    TURN_PAIRS: tl.constexpr,
    PARTS: tl.constexpr,
    PARTS_TILE: tl.constexpr,
    B: tl.constexpr,
    TOKENS: tl.constexpr,
    HALF: tl.constexpr,
    SPLITS: tl.constexpr,
    BLOCK_K: tl.constexpr,
    STAGES: tl.constexpr,
    ROTATES: tl.constexpr,
    LATE: tl.constexpr,
    PDL: tl.constexpr,
) -> None:
    """The norm, the fused projection, rotary, and the stores of the new key and value into their slot.

    A tile is ``HALF`` rows of the lower half of one head and their partners in its upper half. The weight's rows are H
    query heads and K key heads of width P, and K value heads of width V. Where the cache holds codes, the scales of
    keys and of values are (B, K). With LATE the attention's programs start when the product is done.
    """
    split = tl.program_id(0) % SPLITS
    tile = tl.program_id(0) // SPLITS
    P_CHUNKS: tl.constexpr = (P // 2 + HALF - 1) // HALF
    V_CHUNKS: tl.constexpr = (V // 2 + HALF - 1) // HALF
    QK_TILES: tl.constexpr = (H + K) * P_CHUNKS
    in_qk = tile < QK_TILES
    head = tl.where(in_qk, tile // P_CHUNKS, (tile - QK_TILES) // V_CHUNKS)
    chunk = tl.where(in_qk, tile % P_CHUNKS, (tile - QK_TILES) % V_CHUNKS)
    width = tl.where(in_qk, P, V)
    first = tl.where(in_qk, head * P, (H + K) * P + head * V)
    i = tl.arange(0, 2 * HALF)
    pair = chunk * HALF + i % HALF
    pair_ok = pair < width // 2
    row = tl.where(pair_ok, pair + (i // HALF) * (width // 2), 0)
    w_ptr += first.to(tl.int64) * D
    scale = row_scales(scale_ptr, first + row, pair_ok)
    low = (split * (D // BLOCK_K) // SPLITS) * BLOCK_K
    high = ((split + 1) * (D // BLOCK_K) // SPLITS) * BLOCK_K
    first_w = first_weights(w_ptr, row, pair_ok, low, D, BLOCK_K)
    wait_alone(PDL)
    if not LATE:
        let_next(PDL)
    squares = early_squares(squares_ptr, PARTS, PARTS_TILE, B, TOKENS)
    b = tl.arange(0, TOKENS)
    slot = tl.load(slot_ptr + b, mask=b < B, other=0)
    pair = chunk * HALF + tl.arange(0, HALF)
    ok = (pair < width // 2)[:, None] & (b < B)[None, :]
    turn_ok = ok & in_qk
    turn = turn_ptr + pair[:, None] + (b * (2 * TURN_PAIRS))[None, :]
    if ROTATES and TOKENS <= FEW:
        cos = tl.load(turn, mask=turn_ok, other=1.0)
        sin = tl.load(turn + TURN_PAIRS, mask=turn_ok, other=0.0)
    acc = product_after(first_w, xw_ptr, w_ptr, row, pair_ok, low, high, D, D, B, TOKENS, BLOCK_K, STAGES)
    if LATE:
        let_next(PDL)
    if SPLITS > 1:
        if not last_to_arrive(acc, part_ptr, count_ptr, tile, split, SPLITS, 2 * HALF, TOKENS):
            return
        acc = sum_of_parts(part_ptr, count_ptr, tile, SPLITS, 2 * HALF, TOKENS)
    acc = scaled_rows(acc, scale, scale_ptr)
    acc = acc * norm_factor(squares, squares_ptr, D, eps, PARTS, PARTS_TILE, B, TOKENS)
    lower, upper = halves_of(acc, HALF, TOKENS)
    if ROTATES and TOKENS > FEW:
        cos = tl.load(turn, mask=turn_ok, other=1.0)
        sin = tl.load(turn + TURN_PAIRS, mask=turn_ok, other=0.0)
    if ROTATES and in_qk:
        # the reference implementation rounds the projection before it turns it
        lower = lower.to(q_ptr.dtype.element_ty).to(tl.float32)
        upper = upper.to(q_ptr.dtype.element_ty).to(tl.float32)
        turned = lower * cos - upper * sin
        upper = upper * cos + lower * sin
        lower = turned
    kind = q_ptr.dtype.element_ty
    if tile < H * P_CHUNKS:
        q_at = q_ptr + (b * (H * P))[None, :] + head * P + pair[:, None]
        tl.store(q_at, lower.to(kind), mask=ok)
        tl.store(q_at + P // 2, upper.to(kind), mask=ok)
    else:
        if in_qk:
            k_at = k_ptr + (b.to(tl.int64) * k_stride_b + slot * (K * P))[None, :] + (head - H) * P + pair[:, None]
            factor = code_factor(k_scale_ptr, head - H, K, B, TOKENS)
            tl.store(k_at, as_stored(lower, factor, k_ptr, k_scale_ptr), mask=ok)
            tl.store(k_at + P // 2, as_stored(upper, factor, k_ptr, k_scale_ptr), mask=ok)
        else:
            v_at = v_ptr + (b.to(tl.int64) * v_stride_b + slot * (K * V))[None, :] + head * V + pair[:, None]
            factor = code_factor(v_scale_ptr, head, K, B, TOKENS)
            tl.store(v_at, as_stored(lower, factor, v_ptr, v_scale_ptr), mask=ok)
            tl.store(v_at + V // 2, as_stored(upper, factor, v_ptr, v_scale_ptr), mask=ok)


@jit
def project_mamba2(
    xw_ptr: tl.tensor,
    squares_ptr: tl.tensor,
    w_ptr: tl.tensor,
    scale_ptr: tl.tensor,
    z_ptr: tl.tensor,
    mixed_ptr: tl.tensor,
    dt_ptr: tl.tensor,
    conv_ptr: tl.tensor,
    conv_weight_ptr: tl.tensor,
    conv_bias_ptr: tl.tensor,
    part_ptr: tl.tensor,
    count_ptr: tl.tensor,
    eps: tl.tensor,
    D: tl.constexpr,
    I: tl.constexpr,  # noqa: E741
    C: tl.constexpr,
    H: tl.constexpr,
    TAPS: tl.constexpr,
    COLUMNS: tl.constexpr,
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
    """The norm, in_proj, and for the C channels of x, B and C the causal conv with its state (B, C, COLUMNS), newest
    last.

    The weight's rows are I of the gate z, C of the conv and H of dt. z and the conv's output have the activations'
    dtype; dt is float32, before bias and softplus.
    """
    split = tl.program_id(0) % SPLITS
    tile = tl.program_id(0) // SPLITS
    row = tile * ROWS + tl.arange(0, ROWS)
    row_ok = row < I + C + H
    of_tile = tl.arange(0, ROWS)
    w_ptr += (tile * ROWS).to(tl.int64) * D
    scale = row_scales(scale_ptr, row, row_ok)
    low = (split * (D // BLOCK_K) // SPLITS) * BLOCK_K
    high = ((split + 1) * (D // BLOCK_K) // SPLITS) * BLOCK_K
    first_w = first_weights(w_ptr, of_tile, row_ok, low, D, BLOCK_K)
    # no other program reads or writes this channel's state, so it may be loaded before the wait too
    b = tl.arange(0, TOKENS)
    live = (b < B)[None, :]
    channel = row - I
    in_conv = (channel >= 0) & (channel < C)
    in_state = live & in_conv[:, None]
    state = conv_ptr + (b * (C * COLUMNS))[None, :] + (channel * COLUMNS)[:, None]
    IN_WORDS: tl.constexpr = COLUMNS == 4 and conv_ptr.dtype.element_ty.primitive_bitwidth == 16
    if IN_WORDS:
        words = early_words(conv_ptr, channel, C, B, TOKENS, SPLITS)
    else:
        past = (
            tl.zeros((ROWS, TOKENS), tl.float32)
            + tl.load(conv_bias_ptr + channel, mask=in_conv, other=0.0).to(tl.float32)[:, None]
        )
        for tap in tl.static_range(TAPS - 1):
            old = tl.load(state + COLUMNS - (TAPS - 1) + tap, mask=in_state, other=0.0).to(tl.float32)
            past += (
                old * tl.load(conv_weight_ptr + channel * TAPS + tap, mask=in_conv, other=0.0).to(tl.float32)[:, None]
            )
        newest = tl.load(conv_weight_ptr + channel * TAPS + TAPS - 1, mask=in_conv, other=0.0).to(tl.float32)
    wait(PDL)
    squares = early_squares(squares_ptr, PARTS, PARTS_TILE, B, TOKENS)
    acc = product_after(first_w, xw_ptr, w_ptr, of_tile, row_ok, low, high, D, D, B, TOKENS, BLOCK_K, STAGES)
    if SPLITS > 1:
        if not last_to_arrive(acc, part_ptr, count_ptr, tile, split, SPLITS, ROWS, TOKENS):
            return
        acc = sum_of_parts(part_ptr, count_ptr, tile, SPLITS, ROWS, TOKENS)
    acc = scaled_rows(acc, scale, scale_ptr)
    acc = acc * norm_factor(squares, squares_ptr, D, eps, PARTS, PARTS_TILE, B, TOKENS)
    kind = z_ptr.dtype.element_ty
    new = acc.to(kind)
    if tile * ROWS < I:
        tl.store(z_ptr + (b * I)[None, :] + row[:, None], new, mask=live & (row < I)[:, None])
    if (tile + 1) * ROWS > I + C:
        ok = live & ((row >= I + C) & row_ok)[:, None]
        tl.store(dt_ptr + (b * H)[None, :] + (row - I - C)[:, None], acc, mask=ok)
    if ((tile + 1) * ROWS > I) & (tile * ROWS < I + C):
        if IN_WORDS:
            convolve_words(
                new, words, mixed_ptr, conv_ptr, conv_weight_ptr, conv_bias_ptr, channel, 0,
                C, TAPS, True, C, B, TOKENS, SPLITS > 1,
            )  # fmt: skip
        else:
            out = past + new.to(tl.float32) * newest[:, None]
            tl.store(mixed_ptr + (b * C)[None, :] + channel[:, None], (out * tl.sigmoid(out)).to(kind), mask=in_state)
            for column in tl.static_range(COLUMNS - 1):
                moved = tl.load(state + column + 1, mask=in_state, other=0.0)
                tl.debug_barrier()
                tl.store(state + column, moved, mask=in_state)
            tl.debug_barrier()
            tl.store(state + COLUMNS - 1, new, mask=in_state)


@jit
def update_state(
    mixed_ptr: tl.tensor,
    dt_ptr: tl.tensor,
    z_ptr: tl.tensor,
    state_ptr: tl.tensor,
    A_log_ptr: tl.tensor,
    D_ptr: tl.tensor,
    dt_bias_ptr: tl.tensor,
    norm_weight_ptr: tl.tensor,
    y_ptr: tl.tensor,
    squares_ptr: tl.tensor,
    eps: tl.tensor,
    B: tl.constexpr,
    I: tl.constexpr,  # noqa: E741
    H: tl.constexpr,
    G: tl.constexpr,
    P: tl.constexpr,
    N: tl.constexpr,
    P_TILE: tl.constexpr,
    N_TILE: tl.constexpr,
    NORM: tl.constexpr,
    PDL: tl.constexpr,
) -> None:
    """One program per sequence and head: dt, the state (B, H, P, N) in place, its output, skip and gate.

    With NORM ``row`` the output is multiplied by the norm's weight and its sum of squares goes to ``squares`` (H, B),
    so that the next product can finish the norm. With ``head`` it is divided by its own root mean square. With ``none``
    it is not changed.
    """
    h = tl.program_id(0) % H
    b = tl.program_id(0) // H
    p = tl.arange(0, P_TILE)
    n = tl.arange(0, N_TILE)
    p_ok = p < P
    ok = p_ok[:, None] & (n < N)[None, :]
    at = state_ptr + ((b * H + h).to(tl.int64) * P + p[:, None]) * N + n[None, :]
    state = tl.load(at, mask=ok, other=0.0).to(tl.float32)  # no other kernel writes it: no need to wait
    decay_rate = -tl.exp(tl.load(A_log_ptr + h))
    skip = tl.load(D_ptr + h)
    bias = tl.load(dt_bias_ptr + h)
    wait(PDL)
    C: tl.constexpr = I + 2 * G * N
    x = tl.load(mixed_ptr + b * C + h * P + p, mask=p_ok, other=0.0).to(tl.float32)
    group = I + (h // (H // G)) * N
    b_in = tl.load(mixed_ptr + b * C + group + n, mask=n < N, other=0.0).to(tl.float32)
    c_out = tl.load(mixed_ptr + b * C + group + G * N + n, mask=n < N, other=0.0).to(tl.float32)
    z = tl.load(z_ptr + b * I + h * P + p, mask=p_ok, other=0.0).to(tl.float32)
    raw = tl.load(dt_ptr + b * H + h) + bias
    dt = tl.where(raw > 20.0, raw, tl.log(1.0 + tl.exp(tl.minimum(raw, 20.0))))
    state = state * tl.exp(dt * decay_rate) + (dt * x)[:, None] * b_in[None, :]
    tl.store(at, state.to(state_ptr.dtype.element_ty), mask=ok)
    y = tl.sum(state * c_out[None, :], 1) + skip * x
    y = y * z * tl.sigmoid(z)
    if NORM == "row":
        tl.store(squares_ptr + h * B + b, tl.sum(y * y, 0))
        y = y * tl.load(norm_weight_ptr + h * P + p, mask=p_ok, other=0.0).to(tl.float32)
    if NORM == "head":
        y = y * tl.rsqrt(tl.sum(y * y, 0) / P + eps)
    tl.store(y_ptr + b * I + h * P + p, as_pointed(y, y_ptr), mask=p_ok)
