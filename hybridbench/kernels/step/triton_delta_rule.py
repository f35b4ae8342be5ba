"""triton_delta_rule: the state's update of the mixers of the delta rule in a decode step, with norm and gate.

A program has the state of one head, since the norm is over the head's value channels. It computes one half of these
after the other, so that its registers hold only the half in float32, and two programs fit on an SM.

Importing this module needs triton.
"""

from __future__ import annotations

import triton.language as tl

from hybridbench.kernels.step.triton_low_rank import low_rank_rows, of_sequence, second_product
from hybridbench.kernels.triton_jit import jit
from hybridbench.kernels.triton_launch import wait
from hybridbench.kernels.triton_narrow import as_pointed


@jit
def softplus(x: tl.tensor) -> tl.tensor:
    """``log(1 + exp(x))``, which is x where it is large."""
    return tl.where(x > 20.0, x, tl.log(1.0 + tl.exp(tl.minimum(x, 20.0))))


@jit
def unit_length(x: tl.tensor, eps: tl.tensor) -> tl.tensor:
    """A vector divided by its length."""
    return x * tl.rsqrt(tl.sum(x * x, 0) + eps)


@jit
def _keys(
    packed_ptr: tl.tensor,
    decays: tl.tensor,
    s: tl.tensor,
    rate: tl.tensor,
    bias: tl.tensor,
    h: tl.tensor,
    scale: tl.tensor,
    unit_eps: tl.tensor,
    H: tl.constexpr,
    G: tl.constexpr,
    P: tl.constexpr,
    V: tl.constexpr,
    RANK: tl.constexpr,
    P_TILE: tl.constexpr,
    BESIDE: tl.constexpr,
) -> tl.tensor:
    """The query and the key of a head, the decay of each key channel, and beta before its sigmoid."""
    p = tl.arange(0, P_TILE)
    group = h // (H // G)
    q = tl.load(packed_ptr + group * P + p, mask=p < P, other=0.0).to(tl.float32)
    k = tl.load(packed_ptr + (G + group) * P + p, mask=p < P, other=0.0).to(tl.float32)
    gates = packed_ptr + (2 * G * P + H * V)
    if RANK > 0:
        dt = of_sequence(decays, s, BESIDE)
        beta = tl.load(gates + 2 * RANK + h).to(tl.float32)
    else:
        dt = tl.zeros((P_TILE,), tl.float32) + tl.load(gates + H * V + h).to(tl.float32)
        beta = tl.load(gates + H * V + H + h).to(tl.float32)
    decay = tl.exp(rate * softplus(dt + bias))
    return unit_length(q, unit_eps) * scale, unit_length(k, unit_eps), decay, beta


@jit
def _values(
    packed_ptr: tl.tensor,
    state: tl.tensor,
    gates: tl.tensor,
    s: tl.tensor,
    q: tl.tensor,
    k: tl.tensor,
    decay: tl.tensor,
    beta: tl.tensor,
    h: tl.tensor,
    v: tl.tensor,
    H: tl.constexpr,
    G: tl.constexpr,
    P: tl.constexpr,
    V: tl.constexpr,
    RANK: tl.constexpr,
    BESIDE: tl.constexpr,
) -> tl.tensor:
    """The new state of some value channels, their output before norm and gate, and the gate."""
    if RANK > 0:
        gate = tl.sigmoid(of_sequence(gates, s, BESIDE))
    else:
        z = tl.load(packed_ptr + (2 * G * P + H * V) + h * V + v, mask=v < V, other=0.0).to(tl.float32)
        gate = z * tl.sigmoid(z)
    new = tl.load(packed_ptr + 2 * G * P + h * V + v, mask=v < V, other=0.0).to(tl.float32)
    state = state.to(tl.float32) * decay[:, None]
    update = tl.sigmoid(beta) * (new - tl.sum(state * k[:, None], 0))
    state += k[:, None] * update[None, :]
    return state, tl.sum(state * q[:, None], 0), gate


@jit
def _one_sequence(
    packed_ptr: tl.tensor,
    state_ptr: tl.tensor,
    state: tl.tensor,
    other_state: tl.tensor,
    decays: tl.tensor,
    gates: tl.tensor,
    other_gates: tl.tensor,
    rate: tl.tensor,
    bias: tl.tensor,
    norm_weight_ptr: tl.tensor,
    y_ptr: tl.tensor,
    h: tl.tensor,
    b: tl.tensor,
    s: tl.tensor,
    scale: tl.tensor,
    unit_eps: tl.tensor,
    eps: tl.tensor,
    head_eps: tl.tensor,
    H: tl.constexpr,
    G: tl.constexpr,
    P: tl.constexpr,
    V: tl.constexpr,
    WIDTH: tl.constexpr,
    RANK: tl.constexpr,
    P_TILE: tl.constexpr,
    HALF: tl.constexpr,
    BESIDE: tl.constexpr,
    HEAD_NORM: tl.constexpr,
) -> None:
    """Stores the new state of a head and its output, from both halves of the state."""
    p = tl.arange(0, P_TILE)
    v = tl.arange(0, HALF)
    packed_ptr += b.to(tl.int64) * WIDTH
    kind = state_ptr.dtype.element_ty
    state_ptr += (b.to(tl.int64) * H + h) * (P * V) + p[:, None] * V + v[None, :]
    q, k, decay, beta = _keys(packed_ptr, decays, s, rate, bias, h, scale, unit_eps, H, G, P, V, RANK, P_TILE, BESIDE)
    state, y, gate = _values(packed_ptr, state, gates, s, q, k, decay, beta, h, v, H, G, P, V, RANK, BESIDE)
    tl.store(state_ptr, state.to(kind), mask=(p < P)[:, None] & (v < V)[None, :])
    state, other_y, other_gate = _values(
        packed_ptr, other_state, other_gates, s, q, k, decay, beta, h, v + HALF, H, G, P, V, RANK, BESIDE
    )
    tl.store(state_ptr + HALF, state.to(kind), mask=(p < P)[:, None] & (v + HALF < V)[None, :])
    scaling = tl.rsqrt((tl.sum(y * y, 0) + tl.sum(other_y * other_y, 0)) / V + eps)
    weight = tl.load(norm_weight_ptr + v, mask=v < V, other=0.0).to(tl.float32)
    other_weight = tl.load(norm_weight_ptr + HALF + v, mask=v + HALF < V, other=0.0).to(tl.float32)
    y = y * scaling * weight * gate
    other_y = other_y * scaling * other_weight * other_gate
    if HEAD_NORM:
        scaling = tl.rsqrt((tl.sum(y * y, 0) + tl.sum(other_y * other_y, 0)) / V + head_eps)
        y = y * scaling
        other_y = other_y * scaling
    at = y_ptr + (b.to(tl.int64) * H + h) * V + v
    tl.store(at, as_pointed(y, y_ptr), mask=v < V)
    tl.store(at + HALF, as_pointed(other_y, y_ptr), mask=v + HALF < V)


@jit
def update_delta(
    packed_ptr: tl.tensor,
    state_ptr: tl.tensor,
    decay_w_ptr: tl.tensor,
    gate_w_ptr: tl.tensor,
    A_log_ptr: tl.tensor,
    dt_bias_ptr: tl.tensor,
    norm_weight_ptr: tl.tensor,
    y_ptr: tl.tensor,
    scale: tl.tensor,
    unit_eps: tl.tensor,
    eps: tl.tensor,
    head_eps: tl.tensor,
    B: tl.constexpr,
    H: tl.constexpr,
    G: tl.constexpr,
    P: tl.constexpr,
    V: tl.constexpr,
    WIDTH: tl.constexpr,
    RANK: tl.constexpr,
    SEQUENCES: tl.constexpr,
    P_TILE: tl.constexpr,
    HALF: tl.constexpr,
    RANK_TILE: tl.constexpr,
    BESIDE: tl.constexpr,
    HEAD_NORM: tl.constexpr,
    PDL: tl.constexpr,
) -> None:
    """One program per head and SEQUENCES sequences: the delta rule on the state (B, H, P, V) in place, norm and gate.

    A packed row is q and k of G heads, v of H heads, then by RANK: where it is 0, a gate of every value channel, dt and
    beta of every head (gated delta net); else RANK columns that the gate's and the decay's second products read, whose
    weights are (H V, RANK) and (H P, RANK), and beta (KDA). With HEAD_NORM the output is divided by its own root mean
    square.
    """
    groups: tl.constexpr = (B + SEQUENCES - 1) // SEQUENCES
    h = tl.program_id(0) // groups
    first = tl.program_id(0) % groups * SEQUENCES
    p = tl.arange(0, P_TILE)
    v = tl.arange(0, HALF)
    ok = (p < P)[:, None] & (v < V)[None, :]
    other_ok = (p < P)[:, None] & (v + HALF < V)[None, :]
    # weights never change and no other kernel writes the state: all this may be loaded before the wait
    at = state_ptr + (first.to(tl.int64) * H + h) * (P * V) + p[:, None] * V + v[None, :]
    state = tl.load(at, mask=ok, other=0.0)
    other_state = tl.load(at + HALF, mask=other_ok, other=0.0)
    rate = -tl.exp(tl.load(A_log_ptr + h))
    if RANK > 0:
        bias = tl.load(dt_bias_ptr + h * P + p, mask=p < P, other=0.0)
        decay_w = low_rank_rows(decay_w_ptr, h * P + p, p < P, RANK, RANK_TILE)
        gate_w = low_rank_rows(gate_w_ptr, h * V + v, v < V, RANK, RANK_TILE)
        other_gate_w = low_rank_rows(gate_w_ptr, h * V + v + HALF, v + HALF < V, RANK, RANK_TILE)
    else:
        bias = tl.load(dt_bias_ptr + h)
    wait(PDL)
    if RANK > 0:
        ranks = packed_ptr + (2 * G * P + H * V)
        decays = second_product(decay_w, ranks + RANK, first, B, WIDTH, RANK, RANK_TILE, SEQUENCES, BESIDE)
        gates = second_product(gate_w, ranks, first, B, WIDTH, RANK, RANK_TILE, SEQUENCES, BESIDE)
        other_gates = second_product(other_gate_w, ranks, first, B, WIDTH, RANK, RANK_TILE, SEQUENCES, BESIDE)
    else:
        decays = bias
        gates = bias
        other_gates = bias
    _one_sequence(
        packed_ptr, state_ptr, state, other_state, decays, gates, other_gates, rate, bias, norm_weight_ptr, y_ptr,
        h, first, 0, scale, unit_eps, eps, head_eps, H, G, P, V, WIDTH, RANK, P_TILE, HALF, BESIDE, HEAD_NORM,
    )  # fmt: skip
    if SEQUENCES > 1:
        for i in range(1, tl.minimum(SEQUENCES, B - first)):
            b = first + i
            at = state_ptr + (b.to(tl.int64) * H + h) * (P * V) + p[:, None] * V + v[None, :]
            state = tl.load(at, mask=ok, other=0.0)
            other_state = tl.load(at + HALF, mask=other_ok, other=0.0)
            _one_sequence(
                packed_ptr, state_ptr, state, other_state, decays, gates, other_gates, rate, bias,
                norm_weight_ptr, y_ptr, h, b, i, scale, unit_eps, eps, head_eps,
                H, G, P, V, WIDTH, RANK, P_TILE, HALF, BESIDE, HEAD_NORM,
            )  # fmt: skip
