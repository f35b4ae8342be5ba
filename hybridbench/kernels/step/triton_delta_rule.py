"""triton_delta_rule: the state's update of the mixers of the delta rule in a decode step, with norm and gate.

A program has the state of one head, since the norm is over the head's value channels. It computes one half of these
after the other, so that its registers hold only the half in float32, and two programs fit on an SM. Both sums over the
key channels read the old state: of the new one, ``decay S + k update^T``, the output is ``(decay S)^T q + (k q)
update``. So neither waits for the other.

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
    dt: tl.tensor,
    beta_ptr: tl.tensor,
    rate: tl.tensor,
    bias: tl.tensor,
    h: tl.tensor,
    scale: tl.tensor,
    unit_eps: tl.tensor,
    H: tl.constexpr,
    G: tl.constexpr,
    P: tl.constexpr,
    P_TILE: tl.constexpr,
) -> tl.tensor:
    """The query and the key of a head, the decay of each key channel, and beta."""
    p = tl.arange(0, P_TILE)
    group = h // (H // G)
    q = tl.load(packed_ptr + group * P + p, mask=p < P, other=0.0).to(tl.float32)
    k = tl.load(packed_ptr + (G + group) * P + p, mask=p < P, other=0.0).to(tl.float32)
    beta = tl.sigmoid(tl.load(beta_ptr).to(tl.float32))
    decay = tl.exp(rate * softplus(dt + bias))
    return unit_length(q, unit_eps) * scale, unit_length(k, unit_eps), decay, beta


@jit
def _state_of(
    state_ptr: tl.tensor,
    b: tl.tensor,
    h: tl.tensor,
    there: tl.tensor,
    H: tl.constexpr,
    P: tl.constexpr,
    V: tl.constexpr,
    P_TILE: tl.constexpr,
    HALF: tl.constexpr,
) -> tl.tensor:
    """Both halves of a head's state of a sequence, if that is there. They are read once: no cache need keep them."""
    p = tl.arange(0, P_TILE)
    v = tl.arange(0, HALF)
    at = state_ptr + (b.to(tl.int64) * H + h) * (P * V) + p[:, None] * V + v[None, :]
    ok = (p < P)[:, None] & (v < V)[None, :] & there
    other_ok = (p < P)[:, None] & (v + HALF < V)[None, :] & there
    state = tl.load(at, mask=ok, other=0.0, eviction_policy="evict_first")
    return state, tl.load(at + HALF, mask=other_ok, other=0.0, eviction_policy="evict_first")


@jit
def _step_of(
    packed_ptr: tl.tensor,
    decays: tl.tensor,
    s: tl.tensor,
    h: tl.tensor,
    b: tl.tensor,
    H: tl.constexpr,
    G: tl.constexpr,
    P: tl.constexpr,
    V: tl.constexpr,
    RANK: tl.constexpr,
    SECOND_WIDTH: tl.constexpr,
    P_TILE: tl.constexpr,
    BESIDE: tl.constexpr,
) -> tl.tensor:
    """The step dt of each key channel of a head before bias and softplus, and where its beta is."""
    p = tl.arange(0, P_TILE)
    after = packed_ptr + (2 * G * P + H * V)
    if RANK == 0:
        dt = tl.zeros((P_TILE,), tl.float32) + tl.load(after + H * V + h).to(tl.float32)
        after += H * V + H
    else:
        after += 2 * RANK
        if SECOND_WIDTH > 0:
            at = decays + b.to(tl.int64) * SECOND_WIDTH + h * P + p
            dt = tl.load(at, mask=p < P, other=0.0).to(tl.float32)
        else:
            dt = of_sequence(decays, s, BESIDE)
    return dt, after + h


@jit
def _gate_of(
    packed_ptr: tl.tensor,
    gates: tl.tensor,
    s: tl.tensor,
    h: tl.tensor,
    b: tl.tensor,
    v: tl.tensor,
    H: tl.constexpr,
    G: tl.constexpr,
    P: tl.constexpr,
    V: tl.constexpr,
    RANK: tl.constexpr,
    SECOND_WIDTH: tl.constexpr,
    BESIDE: tl.constexpr,
) -> tl.tensor:
    """The gate of some value channels."""
    if RANK == 0:
        z = tl.load(packed_ptr + (2 * G * P + H * V) + h * V + v, mask=v < V, other=0.0).to(tl.float32)
        gate = z * tl.sigmoid(z)
    elif SECOND_WIDTH > 0:
        z = tl.load(gates + b.to(tl.int64) * SECOND_WIDTH + h * V + v, mask=v < V, other=0.0).to(tl.float32)
        gate = tl.sigmoid(z)
    else:
        gate = tl.sigmoid(of_sequence(gates, s, BESIDE))
    return gate


@jit
def _updated(
    at: tl.tensor,
    state: tl.tensor,
    new: tl.tensor,
    q: tl.tensor,
    k: tl.tensor,
    both: tl.tensor,
    decay: tl.tensor,
    beta: tl.tensor,
    ok: tl.tensor,
) -> tl.tensor:
    """Stores the new state of some value channels; their output before norm and gate.

    Both sums over key channels read the old state, so that neither waits for the other: ``both`` is q times k.
    """
    decayed = state.to(tl.float32) * decay[:, None]
    update = beta * (new - tl.sum(decayed * k[:, None], 0))
    y = tl.sum(decayed * q[:, None], 0) + both * update
    decayed += k[:, None] * update[None, :]
    tl.store(at, decayed.to(at.dtype.element_ty), mask=ok, cache_modifier=".cs")
    return y


@jit
def _values(
    packed_ptr: tl.tensor,
    state_ptr: tl.tensor,
    state: tl.tensor,
    gates: tl.tensor,
    s: tl.tensor,
    q: tl.tensor,
    k: tl.tensor,
    both: tl.tensor,
    decay: tl.tensor,
    beta: tl.tensor,
    h: tl.tensor,
    b: tl.tensor,
    v: tl.tensor,
    H: tl.constexpr,
    G: tl.constexpr,
    P: tl.constexpr,
    V: tl.constexpr,
    RANK: tl.constexpr,
    P_TILE: tl.constexpr,
    BESIDE: tl.constexpr,
) -> tl.tensor:
    """Stores the new state of some value channels; their output before norm and gate, and the gate."""
    p = tl.arange(0, P_TILE)
    new = tl.load(packed_ptr + 2 * G * P + h * V + v, mask=v < V, other=0.0).to(tl.float32)
    gate = _gate_of(packed_ptr, gates, s, h, b, v, H, G, P, V, RANK, 0, BESIDE)
    at = state_ptr + (b.to(tl.int64) * H + h) * (P * V) + p[:, None] * V + v[None, :]
    ok = (p < P)[:, None] & (v < V)[None, :]
    return _updated(at, state, new, q, k, both, decay, beta, ok), gate


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
    """Stores the new state of a head and its output."""
    v = tl.arange(0, HALF)
    packed_ptr += b.to(tl.int64) * WIDTH
    dt, beta_ptr = _step_of(packed_ptr, decays, s, h, b, H, G, P, V, RANK, 0, P_TILE, BESIDE)
    q, k, decay, beta = _keys(packed_ptr, dt, beta_ptr, rate, bias, h, scale, unit_eps, H, G, P, P_TILE)
    both = tl.sum(q * k, 0)
    y, gate = _values(
        packed_ptr, state_ptr, state, gates, s, q, k, both, decay, beta, h, b, v,
        H, G, P, V, RANK, P_TILE, BESIDE,
    )  # fmt: skip
    other_y, other_gate = _values(
        packed_ptr, state_ptr, other_state, other_gates, s, q, k, both, decay, beta, h, b, v + HALF,
        H, G, P, V, RANK, P_TILE, BESIDE,
    )  # fmt: skip
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
    # weights never change and no other kernel writes the state: all this may be loaded before the wait
    state, other_state = _state_of(state_ptr, first, h, first < B, H, P, V, P_TILE, HALF)
    rate = -tl.exp(tl.load(A_log_ptr + h))
    bias = tl.load(dt_bias_ptr + h * P + p, mask=p < P, other=0.0) if RANK > 0 else tl.load(dt_bias_ptr + h)
    if RANK > 0:
        decay_w = low_rank_rows(decay_w_ptr, h * P + p, p < P, RANK, RANK_TILE)
        gate_w = low_rank_rows(gate_w_ptr, h * V + v, v < V, RANK, RANK_TILE)
        other_gate_w = low_rank_rows(gate_w_ptr, h * V + v + HALF, v + HALF < V, RANK, RANK_TILE)
    wait(PDL)
    if RANK > 0:
        ranks = packed_ptr + (2 * G * P + H * V)
        decays = second_product(decay_w, ranks + RANK, first, B, WIDTH, RANK, RANK_TILE, SEQUENCES, BESIDE)
        gates = second_product(gate_w, ranks, first, B, WIDTH, RANK, RANK_TILE, SEQUENCES, BESIDE)
        other_gates = second_product(other_gate_w, ranks, first, B, WIDTH, RANK, RANK_TILE, SEQUENCES, BESIDE)
    else:
        decays = decay_w_ptr
        gates = gate_w_ptr
        other_gates = gate_w_ptr
    if SEQUENCES == 1:
        _one_sequence(
            packed_ptr, state_ptr, state, other_state, decays, gates, other_gates, rate, bias, norm_weight_ptr, y_ptr,
            h, first, 0, scale, unit_eps, eps, head_eps,
            H, G, P, V, WIDTH, RANK, P_TILE, HALF, BESIDE, HEAD_NORM,
        )  # fmt: skip
    else:
        count = tl.minimum(SEQUENCES, B - first)
        for i in range(count):
            b = first + i
            # loaded while this one is computed
            following, other_following = _state_of(state_ptr, b + 1, h, i + 1 < count, H, P, V, P_TILE, HALF)
            _one_sequence(
                packed_ptr, state_ptr, state, other_state, decays, gates, other_gates, rate, bias, norm_weight_ptr,
                y_ptr, h, b, i, scale, unit_eps, eps, head_eps,
                H, G, P, V, WIDTH, RANK, P_TILE, HALF, BESIDE, HEAD_NORM,
            )  # fmt: skip
            state = following
            other_state = other_following


@jit
def update_delta_pieces(
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
    """``update_delta`` of many sequences: a program has PIECE value channels of one head of one sequence.

    A head's norm is over all of its channels, so the last of its programs to arrive finishes it: the others have left
    their output in ``raw`` (B, H, V), float32, and are counted in ``count`` (B, H). KDA's second products are there
    already, SECOND_WIDTH to a row.
    """
    PIECES: tl.constexpr = (V + PIECE - 1) // PIECE
    piece = tl.program_id(0) % PIECES
    h = tl.program_id(0) // PIECES % H
    b = tl.program_id(0) // (PIECES * H)
    head = b.to(tl.int64) * H + h
    p = tl.arange(0, P_TILE)
    v = piece * PIECE + tl.arange(0, PIECE)
    at = state_ptr + head * (P * V) + p[:, None] * V + v[None, :]
    ok = (p < P)[:, None] & (v < V)[None, :]
    # no other kernel writes the state: no need to wait
    state = tl.load(at, mask=ok, other=0.0, eviction_policy="evict_first")
    rate = -tl.exp(tl.load(A_log_ptr + h))
    bias = tl.load(dt_bias_ptr + h * P + p, mask=p < P, other=0.0) if RANK > 0 else tl.load(dt_bias_ptr + h)
    wait(PDL)
    packed_ptr += b.to(tl.int64) * WIDTH
    dt, beta_ptr = _step_of(packed_ptr, decay_ptr, 0, h, b, H, G, P, V, RANK, SECOND_WIDTH, P_TILE, 1)
    q, k, decay, beta = _keys(packed_ptr, dt, beta_ptr, rate, bias, h, scale, unit_eps, H, G, P, P_TILE)
    new = tl.load(packed_ptr + 2 * G * P + h * V + v, mask=v < V, other=0.0).to(tl.float32)
    y = _updated(at, state, new, q, k, tl.sum(q * k, 0), decay, beta, ok)
    tl.store(raw_ptr + head * V + v, y, mask=v < V)
    tl.debug_barrier()
    arrived = tl.atomic_add(count_ptr + head, 1, sem="acq_rel", scope="gpu")
    if arrived == PIECES - 1:
        whole = tl.arange(0, V_TILE)
        out = tl.load(raw_ptr + head * V + whole, mask=whole < V, other=0.0, cache_modifier=".cg")
        tl.store(count_ptr + head, 0)
        gate = _gate_of(packed_ptr, gate_ptr, 0, h, b, whole, H, G, P, V, RANK, SECOND_WIDTH, 1)
        weight = tl.load(norm_weight_ptr + whole, mask=whole < V, other=0.0).to(tl.float32)
        out = out * tl.rsqrt(tl.sum(out * out, 0) / V + eps) * weight * gate
        if HEAD_NORM:
            out *= tl.rsqrt(tl.sum(out * out, 0) / V + head_eps)
        tl.store(y_ptr + head * V + whole, as_pointed(out, y_ptr), mask=whole < V)
