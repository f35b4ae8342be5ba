"""triton_mamba3: the state's update of Mamba-3 in a decode step: norms of B and C, turns, trapezoidal rule, skip, gate.

A program has the state of one head, and computes one half of its channels after the other, so that its registers hold
only the half in float32, and two programs fit on an SM.

Importing this module needs triton.
"""

from __future__ import annotations

import triton.language as tl

from hybridbench.kernels.step.triton_delta_rule import softplus
from hybridbench.kernels.triton_jit import jit
from hybridbench.kernels.triton_launch import wait
from hybridbench.kernels.triton_narrow import as_pointed


@jit
def sine_and_cosine(angle: tl.tensor) -> tl.tensor:
    """Of angles in [0, 2 pi), within 3e-7: Taylor's series of half the angle's distance from pi, at most pi / 2.

    The functions of the GPU's library carry a path for angles of any size, which takes registers.
    """
    half = (angle - 3.141592653589793) / 2
    square = half * half
    sine = 1.0 - square * (1 / 156)
    sine = 1.0 - square * (1 / 110) * sine
    sine = 1.0 - square * (1 / 72) * sine
    sine = 1.0 - square * (1 / 42) * sine
    sine = 1.0 - square * (1 / 20) * sine
    sine = half * (1.0 - square * (1 / 6) * sine)
    cosine = 1.0 - square * (1 / 182)
    cosine = 1.0 - square * (1 / 132) * cosine
    cosine = 1.0 - square * (1 / 90) * cosine
    cosine = 1.0 - square * (1 / 56) * cosine
    cosine = 1.0 - square * (1 / 30) * cosine
    cosine = 1.0 - square * (1 / 12) * cosine
    cosine = 1.0 - square * (1 / 2) * cosine
    return -2 * sine * cosine, 2 * sine * sine - 1


@jit
def _turned(
    packed_ptr: tl.tensor,
    weight_ptr: tl.tensor,
    bias_ptr: tl.tensor,
    cos: tl.tensor,
    sin: tl.tensor,
    eps: tl.tensor,
    N: tl.constexpr,
    N_TILE: tl.constexpr,
) -> tl.tensor:
    """A group's B or C after its RMSNorm, plus a head's bias, each pair of neighbours turned by its angle."""
    n = tl.arange(0, N_TILE)
    x = tl.load(packed_ptr + n, mask=n < N, other=0.0).to(tl.float32)
    x = x * tl.rsqrt(tl.sum(x * x, 0) / N + eps) * tl.load(weight_ptr + n, mask=n < N, other=0.0).to(tl.float32)
    x += tl.load(bias_ptr + n, mask=n < N, other=0.0).to(tl.float32)
    first, second = tl.split(tl.reshape(x, (N_TILE // 2, 2)))
    return tl.reshape(tl.join(first * cos - second * sin, second * cos + first * sin), (N_TILE,))


@jit
def _channels(
    packed_ptr: tl.tensor,
    state: tl.tensor,
    state_ptr: tl.tensor,
    last_x: tl.tensor,
    last_x_ptr: tl.tensor,
    last_k: tl.tensor,
    k: tl.tensor,
    q: tl.tensor,
    now: tl.tensor,
    before: tl.tensor,
    decay: tl.tensor,
    skip: tl.tensor,
    h: tl.tensor,
    p: tl.tensor,
    n: tl.tensor,
    H: tl.constexpr,
    P: tl.constexpr,
    N: tl.constexpr,
) -> tl.tensor:
    """Stores the new state and the x of some channels of a head, and returns their gated output."""
    z = tl.load(packed_ptr + h * P + p, mask=p < P, other=0.0).to(tl.float32)
    x = tl.load(packed_ptr + (H + h) * P + p, mask=p < P, other=0.0).to(tl.float32)
    state = state.to(tl.float32) + (before * last_x)[:, None] * last_k[None, :]
    state = state * decay + (now * x)[:, None] * k[None, :]
    new = state.to(state_ptr.dtype.element_ty)
    tl.store(state_ptr, new, mask=(p < P)[:, None] & (n < N)[None, :], cache_modifier=".cs")
    tl.store(last_x_ptr, x.to(last_x_ptr.dtype.element_ty), mask=p < P)
    return (tl.sum(state * q[None, :], 1) + skip * x) * z * tl.sigmoid(z)


@jit
def update_mamba3(
    packed_ptr: tl.tensor,
    angle_ptr: tl.tensor,
    state_ptr: tl.tensor,
    last_k_ptr: tl.tensor,
    last_x_ptr: tl.tensor,
    B_norm_ptr: tl.tensor,
    C_norm_ptr: tl.tensor,
    dt_bias_ptr: tl.tensor,
    B_bias_ptr: tl.tensor,
    C_bias_ptr: tl.tensor,
    D_ptr: tl.tensor,
    y_ptr: tl.tensor,
    eps: tl.tensor,
    head_eps: tl.tensor,
    rate_floor: tl.tensor,
    H: tl.constexpr,
    G: tl.constexpr,
    P: tl.constexpr,
    N: tl.constexpr,
    TURNS: tl.constexpr,
    WIDTH: tl.constexpr,
    HALF: tl.constexpr,
    N_TILE: tl.constexpr,
    HEAD_NORM: tl.constexpr,
    PDL: tl.constexpr,
) -> None:
    """One program per sequence and head: angles (B, H, TURNS), state (B, H, P, N), the last k (B, H, N) and x (B, H, P)
    in place.

    A packed row is z and x of H heads, B and C of G groups, dt, rate of decay and share of H heads, and TURNS angles.
    With HEAD_NORM the output is divided by its own root mean square.
    """
    TWO_PI: tl.constexpr = 6.283185307179586
    h = tl.program_id(0) % H
    b = tl.program_id(0) // H
    head = b.to(tl.int64) * H + h
    p = tl.arange(0, HALF)
    n = tl.arange(0, N_TILE)
    columns = (n < N)[None, :]
    pair = tl.arange(0, N_TILE // 2)
    turns = pair < TURNS
    state_ptr += head * (P * N) + p[:, None] * N + n[None, :]
    angle_ptr += head * TURNS + pair
    last_k_ptr += head * N + n
    last_x_ptr += head * P + p
    # no other kernel writes these: no need to wait. The state is read once: no cache need keep it
    state = tl.load(state_ptr, mask=(p < P)[:, None] & columns, other=0.0, eviction_policy="evict_first")
    other_ok = (p + HALF < P)[:, None] & columns
    other_state = tl.load(state_ptr + HALF * N, mask=other_ok, other=0.0, eviction_policy="evict_first")
    angle = tl.load(angle_ptr, mask=turns, other=0.0).to(tl.float32)
    last_k = tl.load(last_k_ptr, mask=n < N, other=0.0).to(tl.float32)
    last_x = tl.load(last_x_ptr, mask=p < P, other=0.0).to(tl.float32)
    other_last_x = tl.load(last_x_ptr + HALF, mask=p + HALF < P, other=0.0).to(tl.float32)
    dt_bias = tl.load(dt_bias_ptr + h)
    skip = tl.load(D_ptr + h)
    tl.debug_barrier()  # every thread has loaded what others overwrite
    wait(PDL)
    packed_ptr += b.to(tl.int64) * WIDTH
    heads = packed_ptr + (2 * H * P + 2 * G * N)
    dt = softplus(tl.load(heads + h).to(tl.float32) + dt_bias)
    decay = tl.exp(-tl.maximum(softplus(tl.load(heads + H + h).to(tl.float32)), rate_floor) * dt)
    share = tl.sigmoid(tl.load(heads + 2 * H + h).to(tl.float32))
    turn = tl.load(heads + 3 * H + pair, mask=turns, other=0.0).to(tl.float32)
    angle += (TWO_PI / 2) * (2 * tl.sigmoid(2 * turn) - 1) * dt  # of tanh
    angle -= TWO_PI * tl.floor(angle / TWO_PI)
    sin, cos = sine_and_cosine(angle)
    cos = tl.where(turns, cos, 1.0)
    sin = tl.where(turns, sin, 0.0)
    groups = packed_ptr + 2 * H * P + h // (H // G) * N
    k = _turned(groups, B_norm_ptr, B_bias_ptr + h * N, cos, sin, eps, N, N_TILE)
    q = _turned(groups + G * N, C_norm_ptr, C_bias_ptr + h * N, cos, sin, eps, N, N_TILE)
    tl.store(angle_ptr, angle.to(angle_ptr.dtype.element_ty), mask=turns)
    tl.store(last_k_ptr, k.to(last_k_ptr.dtype.element_ty), mask=n < N)
    now = share * dt
    before = (1 - share) * dt
    y = _channels(
        packed_ptr, state, state_ptr, last_x, last_x_ptr, last_k, k, q, now, before, decay, skip, h, p, n, H, P, N
    )
    state_ptr += HALF * N
    last_x_ptr += HALF
    other_y = _channels(
        packed_ptr, other_state, state_ptr, other_last_x, last_x_ptr, last_k, k, q, now, before, decay, skip,
        h, p + HALF, n, H, P, N,
    )  # fmt: skip
    if HEAD_NORM:
        scale = tl.rsqrt((tl.sum(y * y, 0) + tl.sum(other_y * other_y, 0)) / P + head_eps)
        y = y * scale
        other_y = other_y * scale
    at = y_ptr + head * P + p
    tl.store(at, as_pointed(y, y_ptr), mask=p < P)
    tl.store(at + HALF, as_pointed(other_y, y_ptr), mask=p + HALF < P)
