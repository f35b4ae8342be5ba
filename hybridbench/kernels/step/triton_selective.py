"""triton_selective: the state's update of Mamba-1 in a decode step, with dt's second product, skip and gate.

Importing this module needs triton.
"""

from __future__ import annotations

import triton.language as tl

from hybridbench.kernels.step.triton_delta_rule import softplus
from hybridbench.kernels.step.triton_low_rank import low_rank_rows, of_sequence, second_product
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
    """One program per CHANNELS channels and SEQUENCES sequences: the state (B, I, N) in place.

    A packed row is x after conv and silu, and the gate z, of I channels; a row of ``ranked`` is RANK columns that dt's
    second product reads, B and C.
    """
    groups: tl.constexpr = (B + SEQUENCES - 1) // SEQUENCES
    tile = tl.program_id(0) // groups
    first = tl.program_id(0) % groups * SEQUENCES
    i = tile * CHANNELS + tl.arange(0, CHANNELS)
    i_ok = i < I
    n = tl.arange(0, N_TILE)
    ok = i_ok[:, None] & (n < N)[None, :]
    dt_weight = low_rank_rows(dt_weight_ptr, i, i_ok, RANK, RANK_TILE)
    dt_bias = tl.load(dt_bias_ptr + i, mask=i_ok, other=0.0).to(tl.float32)
    rate = -tl.exp(tl.load(A_log_ptr + i[:, None].to(tl.int64) * N + n[None, :], mask=ok, other=0.0))
    skip = tl.load(D_ptr + i, mask=i_ok, other=0.0)
    wait(PDL)
    steps = second_product(dt_weight, ranked_ptr, first, B, RANKED_WIDTH, RANK, RANK_TILE, SEQUENCES, BESIDE)
    for j in range(tl.minimum(SEQUENCES, B - first)):
        b = (first + j).to(tl.int64)
        at = state_ptr + b * (I * N) + i[:, None].to(tl.int64) * N + n[None, :]
        state = tl.load(at, mask=ok, other=0.0).to(tl.float32)
        x = tl.load(packed_ptr + b * WIDTH + i, mask=i_ok, other=0.0).to(tl.float32)
        z = tl.load(packed_ptr + b * WIDTH + I + i, mask=i_ok, other=0.0).to(tl.float32)
        ranked = ranked_ptr + b * RANKED_WIDTH
        b_in = tl.load(ranked + RANK + n, mask=n < N, other=0.0).to(tl.float32)
        c_out = tl.load(ranked + RANK + N + n, mask=n < N, other=0.0).to(tl.float32)
        dt = softplus(of_sequence(steps, j, BESIDE) + dt_bias)
        state = state * tl.exp(dt[:, None] * rate) + (dt * x)[:, None] * b_in[None, :]
        tl.store(at, state.to(state_ptr.dtype.element_ty), mask=ok)
        y = (tl.sum(state * c_out[None, :], 1) + skip * x) * z * tl.sigmoid(z)
        tl.store(y_ptr + b * I + i, as_pointed(y, y_ptr), mask=i_ok)
