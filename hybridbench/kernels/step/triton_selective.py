"""triton_selective: the state's update of Mamba-1 in a decode step, with dt's second product, skip and gate.

Importing this module needs triton.
"""

from __future__ import annotations

import triton.language as tl

from hybridbench.kernels.step.triton_delta_rule import softplus
from hybridbench.kernels.step.triton_low_rank import low_rank_rows, second_product
from hybridbench.kernels.triton_jit import jit
from hybridbench.kernels.triton_launch import wait
from hybridbench.kernels.triton_narrow import as_pointed


@jit
def update_selective(
    packed_ptr: tl.tensor,
    ranked_ptr: tl.tensor,
    state_ptr: tl.tensor,
    dt_weight_ptr: tl.tensor,
    dt_bias_ptr: tl.tensor,
    A_log_ptr: tl.tensor,
    D_ptr: tl.tensor,
    y_ptr: tl.tensor,
    B: tl.constexpr,
    I: tl.constexpr,  # noqa: E741
    N: tl.constexpr,
    RANK: tl.constexpr,
    WIDTH: tl.constexpr,
    RANKED_WIDTH: tl.constexpr,
    CHANNELS: tl.constexpr,
    SEQUENCES: tl.constexpr,
    BESIDE: tl.constexpr,
    N_TILE: tl.constexpr,
    RANK_TILE: tl.constexpr,
    PDL: tl.constexpr,
) -> None:
    """One program per CHANNELS channels and SEQUENCES sequences at once: the state (B, I, N) in place.

    A packed row is x after conv and silu, and the gate z, of I channels; a row of ``ranked`` is RANK columns that dt's
    second product reads, B and C.
    """
    groups: tl.constexpr = (B + SEQUENCES - 1) // SEQUENCES
    tile = tl.program_id(0) // groups
    first = tl.program_id(0) % groups * SEQUENCES
    i = tile * CHANNELS + tl.arange(0, CHANNELS)
    i_ok = i < I
    n = tl.arange(0, N_TILE)
    n_ok = n < N
    b = (first + tl.arange(0, SEQUENCES)).to(tl.int64)
    b_ok = b < B
    # weights never change and no other kernel writes the state: no need to wait. It is read once: no cache need keep it
    at = state_ptr + b[:, None, None] * (I * N) + (i[:, None].to(tl.int64) * N + n[None, :])[None, :, :]
    ok = b_ok[:, None, None] & (i_ok[:, None] & n_ok[None, :])[None, :, :]
    state = tl.load(at, mask=ok, other=0.0, eviction_policy="evict_first")
    dt_weight = low_rank_rows(dt_weight_ptr, i, i_ok, RANK, RANK_TILE)
    dt_bias = tl.load(dt_bias_ptr + i, mask=i_ok, other=0.0).to(tl.float32)
    of_channel = A_log_ptr + i[:, None].to(tl.int64) * N + n[None, :]
    rate = -tl.exp(tl.load(of_channel, mask=i_ok[:, None] & n_ok[None, :], other=0.0))
    skip = tl.load(D_ptr + i, mask=i_ok, other=0.0)
    wait(PDL)
    steps = second_product(dt_weight, ranked_ptr, first, B, RANKED_WIDTH, RANK, RANK_TILE, SEQUENCES, BESIDE)
    if SEQUENCES == BESIDE:
        steps = tl.trans(steps)
    else:
        column = tl.arange(0, SEQUENCES)[:, None, None] == tl.arange(0, BESIDE)[None, None, :]
        steps = tl.sum(tl.where(column, steps[None, :, :], 0.0), 2)
    packed = packed_ptr + b[:, None] * WIDTH + i[None, :]
    live = b_ok[:, None] & i_ok[None, :]
    x = tl.load(packed, mask=live, other=0.0).to(tl.float32)
    z = tl.load(packed + I, mask=live, other=0.0).to(tl.float32)
    ranked = ranked_ptr + b[:, None] * RANKED_WIDTH + RANK + n[None, :]
    b_in = tl.load(ranked, mask=b_ok[:, None] & n_ok[None, :], other=0.0).to(tl.float32)
    c_out = tl.load(ranked + N, mask=b_ok[:, None] & n_ok[None, :], other=0.0).to(tl.float32)
    dt = softplus(steps + dt_bias[None, :])
    new = state.to(tl.float32) * tl.exp(dt[:, :, None] * rate[None, :, :]) + (dt * x)[:, :, None] * b_in[:, None, :]
    tl.store(at, new.to(state_ptr.dtype.element_ty), mask=ok, cache_modifier=".cs")
    y = (tl.sum(new * c_out[:, None, :], 2) + skip[None, :] * x) * z * tl.sigmoid(z)
    tl.store(y_ptr + b[:, None] * I + i[None, :], as_pointed(y, y_ptr), mask=live)
