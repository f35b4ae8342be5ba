"""triton_rwkv7: the kernels of RWKV-7 in a decode step, up to its output.

Importing this module needs triton.
"""

from __future__ import annotations

import triton.language as tl

from hybridbench.kernels.step.triton_product import (
    last_to_arrive,
    product_after,
    row_scales,
    scaled_rows,
    sum_of_parts,
)
from hybridbench.kernels.triton_jit import jit
from hybridbench.kernels.triton_launch import wait
from hybridbench.kernels.triton_narrow import as_pointed


@jit
def _vector(ptr: tl.tensor, i: tl.tensor, ok: tl.tensor) -> tl.tensor:
    """Elements ``i`` in float32."""
    return tl.load(ptr + i, mask=ok, other=0.0).to(tl.float32)


@jit
def _move_on(at: tl.tensor, new: tl.tensor, ok: tl.tensor, COLUMNS: tl.constexpr) -> None:
    """Moves columns on by one, the last of which is the new one."""
    for place in tl.static_range(COLUMNS - 1):
        moved = tl.load(at + place + 1, mask=ok, other=0.0)
        tl.debug_barrier()
        tl.store(at + place, moved, mask=ok)
    tl.debug_barrier()
    tl.store(at + COLUMNS - 1, new.to(at.dtype.element_ty), mask=ok)


@jit
def mix_rwkv7(
    xw_ptr: tl.tensor,
    squares_ptr: tl.tensor,
    last_ptr: tl.tensor,
    share_ptr: tl.tensor,
    mixed_ptr: tl.tensor,
    eps: tl.tensor,
    D: tl.constexpr,
    COLUMNS: tl.constexpr,
    MIXES: tl.constexpr,
    PARTS: tl.constexpr,
    PARTS_TILE: tl.constexpr,
    B: tl.constexpr,
    BLOCK: tl.constexpr,
    PDL: tl.constexpr,
) -> None:
    """One program per sequence and BLOCK columns: the norm and the token shift, which all tiles of rows would repeat.

    MIXES of the token with the one before go to ``mixed`` (MIXES, B, D), and the normed input to ``last``, where the
    next token reads it.
    """
    BLOCKS: tl.constexpr = (D + BLOCK - 1) // BLOCK
    b = (tl.program_id(0) // BLOCKS).to(tl.int64)
    k = tl.program_id(0) % BLOCKS * BLOCK + tl.arange(0, BLOCK)
    ok = k < D
    last = _vector(last_ptr + (b * D + k) * COLUMNS + COLUMNS - 1, 0, ok)
    wait(PDL)
    part = tl.arange(0, PARTS_TILE)
    squares = tl.load(squares_ptr + part * B + b, mask=part < PARTS, other=0.0)
    x = _vector(xw_ptr + b * D, k, ok) * tl.rsqrt(tl.sum(squares, 0) / D + eps)
    x = x.to(last_ptr.dtype.element_ty).to(tl.float32)
    for mix in tl.static_range(MIXES):
        share = _vector(share_ptr + mix * D, k, ok)
        tl.store(mixed_ptr + (mix * B + b) * D + k, as_pointed(x + (last - x) * share, mixed_ptr), mask=ok)
    _move_on(last_ptr + (b * D + k) * COLUMNS, x, ok, COLUMNS)


@jit
def project_rwkv7(
    mixed_ptr: tl.tensor,
    w_ptr: tl.tensor,
    decay_ptr: tl.tensor,
    rate_ptr: tl.tensor,
    value_ptr: tl.tensor,
    gate_ptr: tl.tensor,
    scale_ptr: tl.tensor,
    out_ptr: tl.tensor,
    part_ptr: tl.tensor,
    count_ptr: tl.tensor,
    D: tl.constexpr,
    I: tl.constexpr,  # noqa: E741
    DECAY: tl.constexpr,
    RATE: tl.constexpr,
    VALUE: tl.constexpr,
    GATE: tl.constexpr,
    WIDTH: tl.constexpr,
    B: tl.constexpr,
    TOKENS: tl.constexpr,
    ROWS: tl.constexpr,
    SPLITS: tl.constexpr,
    BLOCK_K: tl.constexpr,
    STAGES: tl.constexpr,
    PDL: tl.constexpr,
) -> None:
    """r, k and v, and the first products of decay, rate, value residual and gate.

    Each product reads a mix of its own, which ``mix_rwkv7`` left: of r, k, v, decay, rate and gate; the value residual
    reads that of v. The packed output row is r, k and v of I channels, then DECAY columns after tanh, RATE, VALUE and
    GATE after a sigmoid. Scales of quantised weights are those of all its rows.
    """
    split = tl.program_id(0) % SPLITS
    tile = tl.program_id(0) // SPLITS
    WIDE: tl.constexpr = (I + ROWS - 1) // ROWS
    TO_DECAY: tl.constexpr = 3 * WIDE + (DECAY + ROWS - 1) // ROWS
    TO_RATE: tl.constexpr = TO_DECAY + (RATE + ROWS - 1) // ROWS
    TO_VALUE: tl.constexpr = TO_RATE + (VALUE + ROWS - 1) // ROWS
    # the segment's rows, its first tile, its place in the packed row, its input
    rows = I
    begin = tile // WIDE * WIDE
    place = tile // WIDE * I
    mix = tile // WIDE
    if tile >= 3 * WIDE:
        w_ptr = decay_ptr
        rows = DECAY
        begin = 3 * WIDE
        place = 3 * I
        mix = 3
    if tile >= TO_DECAY:
        w_ptr = rate_ptr
        rows = RATE
        begin = TO_DECAY
        place = 3 * I + DECAY
        mix = 4
    if tile >= TO_RATE:
        w_ptr = value_ptr
        rows = VALUE
        begin = TO_RATE
        place = 3 * I + DECAY + RATE
        mix = 2
    if tile >= TO_VALUE:
        w_ptr = gate_ptr
        rows = GATE
        begin = TO_VALUE
        place = 3 * I + DECAY + RATE + VALUE
        mix = 5
    of_tile = tl.arange(0, ROWS)
    row = (tile - begin) * ROWS + of_tile
    row_ok = row < rows
    # r, k and v are one matrix, of which each has I rows
    within = tl.where(tile < 3 * WIDE, place, 0) + (tile - begin) * ROWS
    w_ptr += within.to(tl.int64) * D
    row_scale = row_scales(scale_ptr, place + row, row_ok)
    low = (split * (D // BLOCK_K) // SPLITS) * BLOCK_K
    high = ((split + 1) * (D // BLOCK_K) // SPLITS) * BLOCK_K
    k = tl.arange(0, BLOCK_K)
    # weights never change: no need to wait
    first_w = tl.load(w_ptr + of_tile[:, None] * D + (low + k)[None, :], mask=row_ok[:, None], other=0.0)
    wait(PDL)
    mixed_ptr += mix * (B * D)
    acc = product_after(first_w, mixed_ptr, w_ptr, of_tile, row_ok, low, high, D, D, B, TOKENS, BLOCK_K, STAGES)
    if SPLITS > 1:
        if not last_to_arrive(acc, part_ptr, count_ptr, tile, split, SPLITS, ROWS, TOKENS):
            return
        acc = sum_of_parts(part_ptr, count_ptr, tile, SPLITS, ROWS, TOKENS)
    acc = scaled_rows(acc, row_scale, scale_ptr)
    if mix == 3:
        acc = 2 * tl.sigmoid(2 * acc) - 1  # tanh
    if mix == 5:
        acc = tl.sigmoid(acc)
    b = tl.arange(0, TOKENS)
    out = out_ptr + (b * WIDTH)[None, :] + (place + row)[:, None]
    tl.store(out, acc.to(out_ptr.dtype.element_ty), mask=row_ok[:, None] & (b < B)[None, :])


@jit
def update_rwkv7(
    packed_ptr: tl.tensor,
    first_value_ptr: tl.tensor,
    state_ptr: tl.tensor,
    second_ptr: tl.tensor,
    decay_ptr: tl.tensor,
    rate_ptr: tl.tensor,
    value_ptr: tl.tensor,
    removal_ptr: tl.tensor,
    added_ptr: tl.tensor,
    bonus_ptr: tl.tensor,
    norm_weight_ptr: tl.tensor,
    norm_bias_ptr: tl.tensor,
    y_ptr: tl.tensor,
    eps: tl.tensor,
    head_eps: tl.tensor,
    slowest: tl.tensor,
    H: tl.constexpr,
    P: tl.constexpr,
    VALUE: tl.constexpr,
    WIDTH: tl.constexpr,
    FIRST_WIDTH: tl.constexpr,
    SECOND_WIDTH: tl.constexpr,
    P_TILE: tl.constexpr,
    HEAD_NORM: tl.constexpr,
    PDL: tl.constexpr,
) -> None:
    """One program per sequence and head: the rule on the state (B, H, P, P) in place, norm, bonus and gate.

    A packed row is as ``project_rwkv7`` leaves it; a row of ``second`` (B, SECOND_WIDTH) holds the second products of
    decay, rate, value residual and gate. With VALUE the value is mixed with the first layer's at ``first_value``. With
    HEAD_NORM the output is divided by its own root mean square.

    Both sums over the key channels read the old state, so that neither waits for the other: the new one is ``decay S -
    taken held^T + k v^T``.
    """
    h = tl.program_id(0) % H
    b = (tl.program_id(0) // H).to(tl.int64)
    p = tl.arange(0, P_TILE)
    p_ok = p < P
    i = h * P + p
    at = state_ptr + (b * H + h) * (P * P) + p[:, None] * P + p[None, :]
    ok = p_ok[:, None] & p_ok[None, :]
    # no other kernel writes the state: no need to wait. It is read once: no cache need keep it
    state = tl.load(at, mask=ok, other=0.0, eviction_policy="evict_first")
    wait(PDL)
    packed = packed_ptr + b * WIDTH
    second = second_ptr + b * SECOND_WIDTH
    r = _vector(packed, i, p_ok)
    k = _vector(packed + H * P, i, p_ok)
    v = _vector(packed + 2 * H * P, i, p_ok)
    decay = tl.exp(slowest * tl.sigmoid(_vector(second, i, p_ok) + _vector(decay_ptr, i, p_ok)))
    rate = tl.sigmoid(_vector(second + H * P, i, p_ok) + _vector(rate_ptr, i, p_ok))
    if VALUE:
        share = tl.sigmoid(_vector(second + 2 * H * P, i, p_ok) + _vector(value_ptr, i, p_ok))
        v += (_vector(first_value_ptr + b * FIRST_WIDTH, i, p_ok) - v) * share
    gate = _vector(second + 3 * H * P, i, p_ok)
    removal = k * _vector(removal_ptr, i, p_ok)
    removal = removal / tl.maximum(tl.sqrt(tl.sum(removal * removal, 0)), 1e-12)
    taken = removal * rate
    k = k * (1 + (rate - 1) * _vector(added_ptr, i, p_ok))
    held = tl.sum(state.to(tl.float32) * removal[:, None], 0)
    y = tl.sum(state.to(tl.float32) * (decay * r)[:, None], 0)
    y += tl.sum(k * r, 0) * v - tl.sum(taken * r, 0) * held
    new = state.to(tl.float32) * decay[:, None] - taken[:, None] * held[None, :] + k[:, None] * v[None, :]
    tl.store(at, new.to(state_ptr.dtype.element_ty), mask=ok, cache_modifier=".cs")
    y = tl.where(p_ok, y - tl.sum(y, 0) / P, 0.0)
    y = y * tl.rsqrt(tl.sum(y * y, 0) / P + eps)
    y = y * _vector(norm_weight_ptr, i, p_ok) + _vector(norm_bias_ptr, i, p_ok)
    y = (y + tl.sum(r * k * _vector(bonus_ptr, i, p_ok), 0) * v) * gate
    if HEAD_NORM:
        y = y * tl.rsqrt(tl.sum(y * y, 0) / P + head_eps)
    tl.store(y_ptr + b * (H * P) + i, as_pointed(y, y_ptr), mask=p_ok)
