"""triton_state: the update of Mamba-2's state in a decode step, a few rows of one head per program.

A step reads and writes every state once, and the states of all layers are larger than the L2 cache. So the state's
lines leave the cache first: on an H200 at 64 sequences that took 11% off (533 to 475 us for 13 layers of 64 MB; an
in-place product of the same bytes takes 440).

Importing this module needs triton.
"""

from __future__ import annotations

import triton.language as tl

from hybridbench.kernels.triton_jit import jit
from hybridbench.kernels.triton_launch import wait
from hybridbench.kernels.triton_narrow import as_pointed


@jit
def update_state_rows(
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
    kept_ptr: tl.tensor,
    eps: tl.tensor,
    B: tl.constexpr,
    I: tl.constexpr,  # noqa: E741
    H: tl.constexpr,
    G: tl.constexpr,
    P: tl.constexpr,
    N: tl.constexpr,
    P_TILE: tl.constexpr,
    N_TILE: tl.constexpr,
    SLICE: tl.constexpr,
    STAGES: tl.constexpr,
    NORM: tl.constexpr,
    PDL: tl.constexpr,
) -> None:
    """``triton_mixers.update_state`` of a part of a head: where states are large or sequences many, and wherever such
    programs fill the SMs evenly.

    A program updates SLICE rows of a head, which divide P, and leaves their sum of squares in ``squares``
    (H x P / SLICE, B). With NORM ``head`` it goes over all slices of its head, whose output is kept in ``kept`` (B, I)
    in float32 until its root mean square is known.
    """
    SLICES: tl.constexpr = P // SLICE
    PARTS: tl.constexpr = 1 if NORM == "head" else SLICES
    C: tl.constexpr = I + 2 * G * N
    part = tl.program_id(0) % PARTS
    h = (tl.program_id(0) // PARTS) % H
    b = tl.program_id(0) // (PARTS * H)
    p = part * SLICE + tl.arange(0, SLICE)
    n = tl.arange(0, N_TILE)
    n_ok = n < N
    of_slice = state_ptr + ((b * H + h).to(tl.int64) * P + p[:, None]) * N + n[None, :]
    if NORM != "head":
        state = tl.load(
            of_slice, mask=n_ok[None, :], other=0.0, eviction_policy="evict_first"
        )  # no other kernel writes it: no need to wait
    decay_rate = -tl.exp(tl.load(A_log_ptr + h))
    skip = tl.load(D_ptr + h)
    bias = tl.load(dt_bias_ptr + h)
    wait(PDL)
    mixed_ptr += b * C
    group = I + (h // (H // G)) * N
    b_in = tl.load(mixed_ptr + group + n, mask=n_ok, other=0.0).to(tl.float32)
    c_out = tl.load(mixed_ptr + group + G * N + n, mask=n_ok, other=0.0).to(tl.float32)
    raw = tl.load(dt_ptr + b * H + h) + bias
    at = h * P + p
    if NORM != "head":
        x = tl.load(mixed_ptr + at).to(tl.float32)
        z = tl.load(z_ptr + b * I + at).to(tl.float32)
    dt = tl.where(raw > 20.0, raw, tl.log(1.0 + tl.exp(tl.minimum(raw, 20.0))))
    decay = tl.exp(dt * decay_rate)
    if NORM != "head":
        new = state.to(tl.float32) * decay + (dt * x)[:, None] * b_in[None, :]
        tl.store(of_slice, new.to(state_ptr.dtype.element_ty), mask=n_ok[None, :], cache_modifier=".cs")
        y = (tl.sum(new * c_out[None, :], 1) + skip * x) * z * tl.sigmoid(z)
        if NORM == "row":
            tl.store(squares_ptr + (h * SLICES + part) * B + b, tl.sum(y * y, 0))
            y = y * tl.load(norm_weight_ptr + at).to(tl.float32)
        tl.store(y_ptr + b * I + at, as_pointed(y, y_ptr))
    else:
        squares = tl.zeros((SLICE,), tl.float32)
        for first in tl.range(0, P, SLICE, num_stages=STAGES):
            state = tl.load(of_slice + first * N, mask=n_ok[None, :], other=0.0, eviction_policy="evict_first")
            x = tl.load(mixed_ptr + at + first).to(tl.float32)
            z = tl.load(z_ptr + b * I + at + first).to(tl.float32)
            new = state.to(tl.float32) * decay + (dt * x)[:, None] * b_in[None, :]
            tl.store(of_slice + first * N, new.to(state_ptr.dtype.element_ty), mask=n_ok[None, :], cache_modifier=".cs")
            y = (tl.sum(new * c_out[None, :], 1) + skip * x) * z * tl.sigmoid(z)
            squares += y * y
            tl.store(kept_ptr + b * I + at + first, y)
        tl.debug_barrier()  # what other threads have kept is read below
        whole = tl.arange(0, P_TILE)
        y = tl.load(kept_ptr + b * I + h * P + whole, mask=whole < P, other=0.0)
        y = y * tl.rsqrt(tl.sum(squares, 0) / P + eps)
        tl.store(y_ptr + b * I + h * P + whole, as_pointed(y, y_ptr), mask=whole < P)
