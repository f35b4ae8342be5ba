"""triton_delta_rule: the state's update of the mixers of the delta rule in a decode step, with norm and gate.

A program has some value channels of a head. Both sums over the key channels read the old state: of the new one, ``decay
S + k update^T``, the output is ``(decay S)^T q + (k q) update``. So neither waits for the other.

Importing this module needs triton.
"""

from __future__ import annotations

import triton.language as tl

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
def _step_of(
    packed_ptr: tl.tensor,
    decay_ptr: tl.tensor,
    h: tl.tensor,
    H: tl.constexpr,
    G: tl.constexpr,
    P: tl.constexpr,
    V: tl.constexpr,
    RANK: tl.constexpr,
    P_TILE: tl.constexpr,
) -> tl.tensor:
    """The step dt of each key channel of a head before bias and softplus, and where its beta is."""
    p = tl.arange(0, P_TILE)
    after = packed_ptr + (2 * G * P + H * V)
    if RANK == 0:
        dt = tl.zeros((P_TILE,), tl.float32) + tl.load(after + H * V + h).to(tl.float32)
        after += H * V + H
    else:
        dt = tl.load(decay_ptr + h * P + p, mask=p < P, other=0.0).to(tl.float32)
        after += 2 * RANK
    return dt, after + h


@jit
def _gate_of(
    packed_ptr: tl.tensor,
    gate_ptr: tl.tensor,
    h: tl.tensor,
    v: tl.tensor,
    H: tl.constexpr,
    G: tl.constexpr,
    P: tl.constexpr,
    V: tl.constexpr,
    RANK: tl.constexpr,
) -> tl.tensor:
    """The gate of some value channels."""
    if RANK == 0:
        z = tl.load(packed_ptr + (2 * G * P + H * V) + h * V + v, mask=v < V, other=0.0).to(tl.float32)
        gate = z * tl.sigmoid(z)
    else:
        gate = tl.sigmoid(tl.load(gate_ptr + h * V + v, mask=v < V, other=0.0).to(tl.float32))
    return gate


@jit
def update_delta(
    packed_ptr: tl.tensor,
    state_ptr: tl.tensor,
    decay_ptr: tl.tensor,
    gate_ptr: tl.tensor,
    A_log_ptr: tl.tensor,
    dt_bias_ptr: tl.tensor,
    norm_weight_ptr: tl.tensor,
    y_ptr: tl.tensor,
    raw_ptr: tl.tensor,
    count_ptr: tl.tensor,
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
    SECOND_WIDTH: tl.constexpr,
    PIECE: tl.constexpr,
    P_TILE: tl.constexpr,
    V_TILE: tl.constexpr,
    HEAD_NORM: tl.constexpr,
    PDL: tl.constexpr,
) -> None:
    """One program per sequence, head and PIECE value channels: the delta rule on the state (B, H, P, V) in place, norm
    and gate.

    A packed row is q and k of G heads, v of H heads, then by RANK: where it is 0, a gate of every value channel, dt and
    beta of every head (gated delta net); else RANK columns for the gate, as many for the decay, and beta (KDA). KDA's
    second products are rows of ``gate`` and ``decay``, SECOND_WIDTH from one to the next. With HEAD_NORM the output is
    divided by its own root mean square.

    A head's norm is over all of its channels, so the last of its programs to arrive finishes it: the others have left
    their output in ``raw`` (B, H, V), float32, and are counted in ``count`` (B, H).
    """
    PIECES: tl.constexpr = (V + PIECE - 1) // PIECE
    piece = tl.program_id(0) % PIECES
    h = tl.program_id(0) // PIECES % H
    b = (tl.program_id(0) // (PIECES * H)).to(tl.int64)
    head = b * H + h
    p = tl.arange(0, P_TILE)
    v = piece * PIECE + tl.arange(0, PIECE)
    at = state_ptr + head * (P * V) + p[:, None] * V + v[None, :]
    ok = (p < P)[:, None] & (v < V)[None, :]
    # no other kernel writes the state: no need to wait. It is read once: no cache need keep it
    state = tl.load(at, mask=ok, other=0.0, eviction_policy="evict_first")
    rate = -tl.exp(tl.load(A_log_ptr + h))
    bias = tl.load(dt_bias_ptr + h * P + p, mask=p < P, other=0.0) if RANK > 0 else tl.load(dt_bias_ptr + h)
    wait(PDL)
    packed_ptr += b * WIDTH
    decay_ptr += b * SECOND_WIDTH
    gate_ptr += b * SECOND_WIDTH
    group = h // (H // G)
    q = tl.load(packed_ptr + group * P + p, mask=p < P, other=0.0).to(tl.float32)
    k = tl.load(packed_ptr + (G + group) * P + p, mask=p < P, other=0.0).to(tl.float32)
    new = tl.load(packed_ptr + 2 * G * P + h * V + v, mask=v < V, other=0.0).to(tl.float32)
    dt, beta_ptr = _step_of(packed_ptr, decay_ptr, h, H, G, P, V, RANK, P_TILE)
    beta = tl.sigmoid(tl.load(beta_ptr).to(tl.float32))
    q = unit_length(q, unit_eps) * scale
    k = unit_length(k, unit_eps)
    decayed = state.to(tl.float32) * tl.exp(rate * softplus(dt + bias))[:, None]
    update = beta * (new - tl.sum(decayed * k[:, None], 0))
    y = tl.sum(decayed * q[:, None], 0) + tl.sum(q * k, 0) * update
    decayed += k[:, None] * update[None, :]
    tl.store(at, decayed.to(state_ptr.dtype.element_ty), mask=ok, cache_modifier=".cs")
    tl.store(raw_ptr + head * V + v, y, mask=v < V)
    tl.debug_barrier()
    arrived = tl.atomic_add(count_ptr + head, 1, sem="acq_rel", scope="gpu")
    if arrived == PIECES - 1:
        whole = tl.arange(0, V_TILE)
        out = tl.load(raw_ptr + head * V + whole, mask=whole < V, other=0.0, cache_modifier=".cg")
        tl.store(count_ptr + head, 0)
        gate = _gate_of(packed_ptr, gate_ptr, h, whole, H, G, P, V, RANK)
        weight = tl.load(norm_weight_ptr + whole, mask=whole < V, other=0.0).to(tl.float32)
        out = out * tl.rsqrt(tl.sum(out * out, 0) / V + eps) * weight * gate
        if HEAD_NORM:
            out *= tl.rsqrt(tl.sum(out * out, 0) / V + head_eps)
        tl.store(y_ptr + head * V + whole, as_pointed(out, y_ptr), mask=whole < V)
