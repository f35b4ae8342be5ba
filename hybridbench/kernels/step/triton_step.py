"""triton_step: the kernels of one fused decode step: each matrix product, fused with everything around it.

A decode step multiplies a few rows (one per sequence) by every weight once, so the bandwidth is its floor. What keeps a
step from it is the number of kernels: each starts up, finishes, and waits for the one before. Here a block of a
Transformer or of Mamba-2 takes five kernels:

    attention: norm + QKV + rotary + cache write | split-KV attention, combined | O + residual
    Mamba-2:   norm + in_proj + conv update      | state update + gate          | norm + out_proj + residual
    MLP:       norm + gate and up + SwiGLU       | down + residual

A norm costs nothing here. The kernel that writes the residual stream x also writes x times the next norm's weight and
the sum of squares of its part. The next product multiplies by rsqrt(mean) once, at its end, since a norm scales a whole
row. Narrow products split K over programs. The last program of a tile to finish adds the parts, always in the same
order, so that a step gives the same bits every time.

With ``PDL`` (programmatic dependent launch, Hopper and later) a kernel's programs start while the previous kernel still
runs. They load what that kernel does not write (their first weights, states, the residual) before they wait for its
results.

Rows of activations are (B, width). Importing this module needs triton; its tests run on a CPU in triton's interpreter.
The reference implementation of the whole step is ``LanguageModel.decode``.
"""

from __future__ import annotations

import triton.language as tl

from hybridbench.kernels.triton_jit import jit
from hybridbench.kernels.triton_launch import wait


@jit
def _first_weights(
    w_ptr: tl.tensor, row: tl.tensor, row_ok: tl.tensor, k_first: tl.tensor, w_width: tl.tensor, BLOCK_K: tl.constexpr
) -> tl.tensor:
    """The first block of columns of some rows. Weights never change, so they may be loaded before the wait.

    Weights may have more than 2^31 elements. A program's rows are counted from its first one, at which ``w_ptr`` points
    already, or are 64 bits wide.
    """
    k = k_first + tl.arange(0, BLOCK_K)
    return tl.load(w_ptr + row[:, None] * w_width + k[None, :], mask=row_ok[:, None], other=0.0)


@jit
def _product(
    acc: tl.tensor,
    x_ptr: tl.tensor,
    w_ptr: tl.tensor,
    row: tl.tensor,
    row_ok: tl.tensor,
    k_first: tl.tensor,
    k_last: tl.tensor,
    x_width: tl.tensor,
    w_width: tl.tensor,
    B: tl.constexpr,
    TOKENS: tl.constexpr,
    BLOCK_K: tl.constexpr,
    STAGES: tl.constexpr,
) -> tl.tensor:
    """``acc`` (rows, TOKENS) plus rows ``row`` of w times x transposed, over columns [k_first, k_last)."""
    k = tl.arange(0, BLOCK_K)
    b = tl.arange(0, TOKENS)
    for start in tl.range(k_first, k_last, BLOCK_K, num_stages=STAGES):
        w = tl.load(w_ptr + row[:, None] * w_width + (start + k)[None, :], mask=row_ok[:, None], other=0.0)
        x = tl.load(x_ptr + (start + k)[:, None] + b[None, :] * x_width, mask=(b < B)[None, :], other=0.0)
        acc = tl.dot(w, x, acc, input_precision="ieee")
    return acc


@jit
def _product_after(
    first_w: tl.tensor,
    x_ptr: tl.tensor,
    w_ptr: tl.tensor,
    row: tl.tensor,
    row_ok: tl.tensor,
    k_first: tl.tensor,
    k_last: tl.tensor,
    x_width: tl.tensor,
    w_width: tl.tensor,
    B: tl.constexpr,
    TOKENS: tl.constexpr,
    BLOCK_K: tl.constexpr,
    STAGES: tl.constexpr,
) -> tl.tensor:
    """Rows of w times x transposed over [k_first, k_last), of which ``first_w`` is the first block of columns.

    That block is multiplied last: it stays in registers while the loop's loads are in flight.
    """
    b = tl.arange(0, TOKENS)
    k = k_first + tl.arange(0, BLOCK_K)
    x = tl.load(x_ptr + k[:, None] + b[None, :] * x_width, mask=(b < B)[None, :], other=0.0)
    acc = tl.zeros((first_w.shape[0], TOKENS), tl.float32)
    acc = _product(
        acc, x_ptr, w_ptr, row, row_ok, k_first + BLOCK_K, k_last, x_width, w_width, B, TOKENS, BLOCK_K, STAGES
    )
    return tl.dot(first_w, x, acc, input_precision="ieee")


@jit
def _last_to_arrive(
    acc: tl.tensor,
    part_ptr: tl.tensor,
    count_ptr: tl.tensor,
    tile: tl.tensor,
    split: tl.tensor,
    SPLITS: tl.constexpr,
    ROWS: tl.constexpr,
    TOKENS: tl.constexpr,
) -> tl.tensor:
    """Stores ``acc`` beside the other parts of its tile; returns 1 in the last program of the tile, else 0."""
    at = tl.arange(0, ROWS)[:, None] * TOKENS + tl.arange(0, TOKENS)[None, :]
    tl.store(part_ptr + (tile * SPLITS + split) * ROWS * TOKENS + at, acc)
    tl.debug_barrier()
    arrived = tl.atomic_add(count_ptr + tile, 1, sem="acq_rel", scope="gpu")
    return arrived == SPLITS - 1


@jit
def _sum_of_parts(
    part_ptr: tl.tensor,
    count_ptr: tl.tensor,
    tile: tl.tensor,
    SPLITS: tl.constexpr,
    ROWS: tl.constexpr,
    TOKENS: tl.constexpr,
) -> tl.tensor:
    """The sum of the parts of a tile, in order; resets the count for the next step."""
    at = tl.arange(0, ROWS)[:, None] * TOKENS + tl.arange(0, TOKENS)[None, :]
    acc = tl.zeros((ROWS, TOKENS), tl.float32)
    for split in tl.static_range(SPLITS):
        acc += tl.load(part_ptr + (tile * SPLITS + split) * ROWS * TOKENS + at, cache_modifier=".cg")
    tl.store(count_ptr + tile, 0)
    return acc


@jit
def _load_squares(
    squares_ptr: tl.tensor, PARTS: tl.constexpr, PARTS_TILE: tl.constexpr, B: tl.constexpr, TOKENS: tl.constexpr
) -> tl.tensor:
    """The sums of squares (PARTS, B) that the producers of a row left, as a tile."""
    part = tl.arange(0, PARTS_TILE)
    b = tl.arange(0, TOKENS)
    return tl.load(
        squares_ptr + part[:, None] * B + b[None, :], mask=(part < PARTS)[:, None] & (b < B)[None, :], other=0.0
    )


@jit
def _halves(acc: tl.tensor, HALF: tl.constexpr, TOKENS: tl.constexpr) -> tl.tensor:
    """The upper and the lower half of the rows."""
    return tl.split(tl.permute(tl.reshape(acc, (2, HALF, TOKENS)), (1, 2, 0)))


@jit
def begin(
    token_ptr: tl.tensor,
    position_ptr: tl.tensor,
    embedding_ptr: tl.tensor,
    norm_weight_ptr: tl.tensor,
    x_ptr: tl.tensor,
    xw_ptr: tl.tensor,
    squares_ptr: tl.tensor,
    frequency_ptr: tl.tensor,
    turn_ptr: tl.tensor,
    ring_ptr: tl.tensor,
    slot_ptr: tl.tensor,
    length_ptr: tl.tensor,
    D: tl.constexpr,
    D_TILE: tl.constexpr,
    B: tl.constexpr,
    TURNS: tl.constexpr,
    PAIRS: tl.constexpr,
    PAIRS_TILE: tl.constexpr,
    RINGS: tl.constexpr,
    PDL: tl.constexpr,
) -> None:
    """One program per sequence: embeds its token, and computes what every layer needs to know of its position.

    ``turn`` (TURNS, B, 2, PAIRS) gets cosines and sines for each kind of rotary embedding; ``slot`` and ``length``
    (RINGS, B) the cache slot to write and the slots then in use, for each pair of (sinks, ring) in ``ring``.
    """
    b = tl.program_id(0)
    wait(PDL)
    position = tl.load(position_ptr + b)
    d = tl.arange(0, D_TILE)
    x = tl.load(embedding_ptr + tl.load(token_ptr + b).to(tl.int64) * D + d, mask=d < D, other=0.0)
    weight = tl.load(norm_weight_ptr + d, mask=d < D, other=0.0)
    wide = x.to(tl.float32)
    tl.store(x_ptr + b * D + d, x, mask=d < D)
    tl.store(xw_ptr + b * D + d, (wide * weight.to(tl.float32)).to(xw_ptr.dtype.element_ty), mask=d < D)
    tl.store(squares_ptr + b, tl.sum(wide * wide, 0))
    p = tl.arange(0, PAIRS_TILE)
    for kind in tl.static_range(TURNS):
        angle = position.to(tl.float32) * tl.load(frequency_ptr + kind * PAIRS + p, mask=p < PAIRS, other=0.0)
        at = turn_ptr + (kind * B + b) * 2 * PAIRS + p
        tl.store(at, tl.cos(angle), mask=p < PAIRS)
        tl.store(at + PAIRS, tl.sin(angle), mask=p < PAIRS)
    for kind in tl.static_range(RINGS):
        sinks = tl.load(ring_ptr + 2 * kind)
        ring = tl.load(ring_ptr + 2 * kind + 1)
        behind = sinks + (position - sinks) % tl.maximum(ring, 1)
        slot = tl.where((ring == 0) | (position < sinks), position, behind)
        length = tl.where(ring == 0, position + 1, tl.minimum(position + 1, sinks + ring))
        tl.store(slot_ptr + kind * B + b, slot)
        tl.store(length_ptr + kind * B + b, length.to(tl.int32))


@jit
def project_qkv(
    xw_ptr: tl.tensor,
    squares_ptr: tl.tensor,
    w_ptr: tl.tensor,
    q_ptr: tl.tensor,
    k_ptr: tl.tensor,
    v_ptr: tl.tensor,
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
    PDL: tl.constexpr,
) -> None:
    """The norm, the fused projection, rotary, and the stores of the new key and value into their slot.

    A tile is ``HALF`` rows of the lower half of one head and their partners in its upper half. The weight's rows are H
    query heads and K key heads of width P, and K value heads of width V.
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
    low = (split * (D // BLOCK_K) // SPLITS) * BLOCK_K
    high = ((split + 1) * (D // BLOCK_K) // SPLITS) * BLOCK_K
    first_w = _first_weights(w_ptr, row, pair_ok, low, D, BLOCK_K)
    wait(PDL)
    squares = _load_squares(squares_ptr, PARTS, PARTS_TILE, B, TOKENS)
    b = tl.arange(0, TOKENS)
    slot = tl.load(slot_ptr + b, mask=b < B, other=0)
    pair = chunk * HALF + tl.arange(0, HALF)
    ok = (pair < width // 2)[:, None] & (b < B)[None, :]
    turn_ok = ok & in_qk
    turn = turn_ptr + pair[:, None] + (b * (2 * TURN_PAIRS))[None, :]
    if ROTATES:
        cos = tl.load(turn, mask=turn_ok, other=1.0)
        sin = tl.load(turn + TURN_PAIRS, mask=turn_ok, other=0.0)
    acc = _product_after(first_w, xw_ptr, w_ptr, row, pair_ok, low, high, D, D, B, TOKENS, BLOCK_K, STAGES)
    if SPLITS > 1:
        if not _last_to_arrive(acc, part_ptr, count_ptr, tile, split, SPLITS, 2 * HALF, TOKENS):
            return
        acc = _sum_of_parts(part_ptr, count_ptr, tile, SPLITS, 2 * HALF, TOKENS)
    acc = acc * tl.rsqrt(tl.sum(squares, 0) / D + eps)[None, :]
    lower, upper = _halves(acc, HALF, TOKENS)
    if ROTATES and in_qk:
        # the reference implementation rounds the projection before it turns it
        lower = lower.to(q_ptr.dtype.element_ty).to(tl.float32)
        upper = upper.to(q_ptr.dtype.element_ty).to(tl.float32)
        turned = lower * cos - upper * sin
        upper = upper * cos + lower * sin
        lower = turned
    kind = q_ptr.dtype.element_ty
    if tile < H * P_CHUNKS:
        at = q_ptr + (b * (H * P))[None, :] + head * P + pair[:, None]
        tl.store(at, lower.to(kind), mask=ok)
        tl.store(at + P // 2, upper.to(kind), mask=ok)
    else:
        if in_qk:
            at = k_ptr + (b.to(tl.int64) * k_stride_b + slot * (K * P))[None, :] + (head - H) * P + pair[:, None]
            tl.store(at, lower.to(kind), mask=ok)
            tl.store(at + P // 2, upper.to(kind), mask=ok)
        else:
            at = v_ptr + (b.to(tl.int64) * v_stride_b + slot * (K * V))[None, :] + head * V + pair[:, None]
            tl.store(at, lower.to(kind), mask=ok)
            tl.store(at + V // 2, upper.to(kind), mask=ok)


@jit
def project_mamba2(
    xw_ptr: tl.tensor,
    squares_ptr: tl.tensor,
    w_ptr: tl.tensor,
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
    low = (split * (D // BLOCK_K) // SPLITS) * BLOCK_K
    high = ((split + 1) * (D // BLOCK_K) // SPLITS) * BLOCK_K
    first_w = _first_weights(w_ptr, of_tile, row_ok, low, D, BLOCK_K)
    # no other program reads or writes this channel's state, so it may be loaded before the wait too
    b = tl.arange(0, TOKENS)
    live = (b < B)[None, :]
    channel = row - I
    in_conv = (channel >= 0) & (channel < C)
    in_state = live & in_conv[:, None]
    state = conv_ptr + (b * (C * COLUMNS))[None, :] + (channel * COLUMNS)[:, None]
    past = (
        tl.zeros((ROWS, TOKENS), tl.float32)
        + tl.load(conv_bias_ptr + channel, mask=in_conv, other=0.0).to(tl.float32)[:, None]
    )
    for tap in tl.static_range(TAPS - 1):
        old = tl.load(state + COLUMNS - (TAPS - 1) + tap, mask=in_state, other=0.0).to(tl.float32)
        past += old * tl.load(conv_weight_ptr + channel * TAPS + tap, mask=in_conv, other=0.0).to(tl.float32)[:, None]
    newest = tl.load(conv_weight_ptr + channel * TAPS + TAPS - 1, mask=in_conv, other=0.0).to(tl.float32)
    wait(PDL)
    squares = _load_squares(squares_ptr, PARTS, PARTS_TILE, B, TOKENS)
    acc = _product_after(first_w, xw_ptr, w_ptr, of_tile, row_ok, low, high, D, D, B, TOKENS, BLOCK_K, STAGES)
    if SPLITS > 1:
        if not _last_to_arrive(acc, part_ptr, count_ptr, tile, split, SPLITS, ROWS, TOKENS):
            return
        acc = _sum_of_parts(part_ptr, count_ptr, tile, SPLITS, ROWS, TOKENS)
    acc = acc * tl.rsqrt(tl.sum(squares, 0) / D + eps)[None, :]
    kind = z_ptr.dtype.element_ty
    new = acc.to(kind)
    if tile * ROWS < I:
        tl.store(z_ptr + (b * I)[None, :] + row[:, None], new, mask=live & (row < I)[:, None])
    if (tile + 1) * ROWS > I + C:
        ok = live & ((row >= I + C) & row_ok)[:, None]
        tl.store(dt_ptr + (b * H)[None, :] + (row - I - C)[:, None], acc, mask=ok)
    if ((tile + 1) * ROWS > I) & (tile * ROWS < I + C):
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
    tl.store(y_ptr + b * I + h * P + p, y.to(y_ptr.dtype.element_ty), mask=p_ok)


@jit
def project_residual(
    first_ptr: tl.tensor,
    second_ptr: tl.tensor,
    squares_ptr: tl.tensor,
    first_w_ptr: tl.tensor,
    second_w_ptr: tl.tensor,
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
    BLOCKS: tl.constexpr = (K1 + K2) // BLOCK_K
    low = (split * BLOCKS // SPLITS) * BLOCK_K
    high = ((split + 1) * BLOCKS // SPLITS) * BLOCK_K
    b = tl.arange(0, TOKENS)
    ok = row_ok[:, None] & (b < B)[None, :]
    at = (b * D)[None, :] + row[:, None]
    # no kernel writes x between the last such product and this one, so it may be loaded before the wait too
    x = tl.load(x_ptr + at, mask=ok, other=0.0).to(tl.float32)
    weight = tl.load(norm_weight_ptr + row, mask=row_ok, other=0.0).to(tl.float32)
    if K2 == 0:
        first_w = _first_weights(first_w_ptr, of_tile, row_ok, low, first_w_width, BLOCK_K)
        wait(PDL)
        if NORMED:
            squares = _load_squares(squares_ptr, PARTS, PARTS_TILE, B, TOKENS)
        acc = _product_after(
            first_w, first_ptr, first_w_ptr, of_tile, row_ok, low, high, K1, first_w_width, B, TOKENS, BLOCK_K, STAGES
        )
    else:
        wait(PDL)
        acc = tl.zeros((ROWS, TOKENS), tl.float32)
        acc = _product(
            acc, second_ptr, second_w_ptr, of_tile, row_ok, tl.maximum(low - K1, 0), tl.maximum(high - K1, 0), K2,
            second_w_width, B, TOKENS, BLOCK_K, STAGES,
        )  # fmt: skip
        if SUBTRACT:
            acc = -acc
        acc = _product(
            acc, first_ptr, first_w_ptr, of_tile, row_ok, tl.minimum(low, K1), tl.minimum(high, K1), K1,
            first_w_width, B, TOKENS, BLOCK_K, STAGES,
        )  # fmt: skip
    if SPLITS > 1:
        if not _last_to_arrive(acc, part_ptr, count_ptr, tile, split, SPLITS, ROWS, TOKENS):
            return
        acc = _sum_of_parts(part_ptr, count_ptr, tile, SPLITS, ROWS, TOKENS)
    if NORMED:
        acc = acc * tl.rsqrt(tl.sum(squares, 0) / K1 + eps)[None, :]
    kind = x_ptr.dtype.element_ty
    x = (x + acc).to(kind)
    wide = x.to(tl.float32)
    tl.store(x_ptr + at, x, mask=ok)
    tl.store(xw_ptr + at, (wide * weight[:, None]).to(kind), mask=ok)
    tl.store(out_squares_ptr + tile * B + b, tl.sum(wide * wide, 0), mask=b < B)


@jit
def project_swiglu(
    xw_ptr: tl.tensor,
    squares_ptr: tl.tensor,
    w_ptr: tl.tensor,
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
    low = (split * (D // BLOCK_K) // SPLITS) * BLOCK_K
    high = ((split + 1) * (D // BLOCK_K) // SPLITS) * BLOCK_K
    first_w = _first_weights(w_ptr, row, unit_ok, low, D, BLOCK_K)
    wait(PDL)
    squares = _load_squares(squares_ptr, PARTS, PARTS_TILE, B, TOKENS)
    acc = _product_after(first_w, xw_ptr, w_ptr, row, unit_ok, low, high, D, D, B, TOKENS, BLOCK_K, STAGES)
    if SPLITS > 1:
        if not _last_to_arrive(acc, part_ptr, count_ptr, tile, split, SPLITS, 2 * HALF, TOKENS):
            return
        acc = _sum_of_parts(part_ptr, count_ptr, tile, SPLITS, 2 * HALF, TOKENS)
    acc = acc * tl.rsqrt(tl.sum(squares, 0) / D + eps)[None, :]
    gate, up = _halves(acc, HALF, TOKENS)
    b = tl.arange(0, TOKENS)
    unit = tile * HALF + tl.arange(0, HALF)
    at = act_ptr + (b * F)[None, :] + unit[:, None]
    act = gate * tl.sigmoid(gate) * up
    tl.store(at, act.to(act_ptr.dtype.element_ty), mask=(unit < F)[:, None] & (b < B)[None, :])


@jit
def project_head(
    xw_ptr: tl.tensor,
    squares_ptr: tl.tensor,
    w_ptr: tl.tensor,
    logits_ptr: tl.tensor,
    best_ptr: tl.tensor,
    best_at_ptr: tl.tensor,
    eps: tl.tensor,
    tiles: tl.tensor,
    D: tl.constexpr,
    VOCABULARY: tl.constexpr,
    PARTS: tl.constexpr,
    PARTS_TILE: tl.constexpr,
    B: tl.constexpr,
    TOKENS: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_K: tl.constexpr,
    STAGES: tl.constexpr,
    PDL: tl.constexpr,
) -> None:
    """The final norm and the head: logits (B, VOCABULARY), and the largest one of each tile with its index."""
    tile = tl.program_id(0)
    row = tile * ROWS + tl.arange(0, ROWS)
    row_ok = row < VOCABULARY
    of_tile = tl.arange(0, ROWS)
    w_ptr += (tile * ROWS).to(tl.int64) * D
    first_w = _first_weights(w_ptr, of_tile, row_ok, 0, D, BLOCK_K)
    wait(PDL)
    squares = _load_squares(squares_ptr, PARTS, PARTS_TILE, B, TOKENS)
    acc = _product_after(first_w, xw_ptr, w_ptr, of_tile, row_ok, 0, D, D, D, B, TOKENS, BLOCK_K, STAGES)
    acc = acc * tl.rsqrt(tl.sum(squares, 0) / D + eps)[None, :]
    b = tl.arange(0, TOKENS)
    logits = acc.to(logits_ptr.dtype.element_ty)
    at = logits_ptr + (b * VOCABULARY)[None, :] + row[:, None]
    tl.store(at, logits, mask=row_ok[:, None] & (b < B)[None, :])
    rounded = tl.where(row_ok[:, None], logits.to(tl.float32), float("-inf"))
    best = tl.max(rounded, 0)
    best_at = tl.min(tl.where(rounded == best[None, :], row[:, None], VOCABULARY), 0)
    tl.store(best_ptr + b * tiles + tile, best, mask=b < B)
    tl.store(best_at_ptr + b * tiles + tile, best_at, mask=b < B)


@jit
def finish(
    best_ptr: tl.tensor,
    best_at_ptr: tl.tensor,
    token_ptr: tl.tensor,
    position_ptr: tl.tensor,
    tiles: tl.tensor,
    advance: tl.tensor,
    VOCABULARY: tl.constexpr,
    TILES_TILE: tl.constexpr,
    PDL: tl.constexpr,
) -> None:
    """One program per sequence: writes the token of the largest logit (the first of equals) and the next position."""
    b = tl.program_id(0)
    wait(PDL)
    i = tl.arange(0, TILES_TILE)
    best = tl.load(best_ptr + b * tiles + i, mask=i < tiles, other=float("-inf"))
    best_at = tl.load(best_at_ptr + b * tiles + i, mask=i < tiles, other=VOCABULARY)
    token = tl.min(tl.where(best == tl.max(best, 0), best_at, VOCABULARY), 0)
    tl.store(token_ptr + b, token.to(tl.int64))
    tl.store(position_ptr + b, tl.load(position_ptr + b) + advance)
