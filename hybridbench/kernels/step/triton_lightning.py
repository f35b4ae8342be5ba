"""triton_lightning: the state's update of lightning attention in a decode step, with what its norm needs, and the gate.

Importing this module needs triton.
"""

from __future__ import annotations

import triton.language as tl

from hybridbench.kernels.triton_jit import jit
from hybridbench.kernels.triton_launch import wait
from hybridbench.kernels.triton_narrow import as_pointed


@jit
def update_lightning(
    packed_ptr: tl.tensor,
    state_ptr: tl.tensor,
    log_decay_ptr: tl.tensor,
    norm_weight_ptr: tl.tensor,
    y_ptr: tl.tensor,
    squares_ptr: tl.tensor,
    B: tl.constexpr,
    H: tl.constexpr,
    P: tl.constexpr,
    WIDTH: tl.constexpr,
    P_TILE: tl.constexpr,
    VALUES: tl.constexpr,
    CHUNKS: tl.constexpr,
    PDL: tl.constexpr,
) -> None:
    """One program per sequence, head and VALUES of its value channels: the state (B, H, P, P) in place.

    A packed row is q, k and v after silu, and the gate, each of H heads of P channels. The output is multiplied by the
    norm's weight and the sigmoid of the gate; sums of its squares before that go to ``squares`` (H CHUNKS, B), so that
    the next product can finish the norm, which is over the channels of all heads.
    """
    chunk = tl.program_id(0) % CHUNKS
    h = tl.program_id(0) // CHUNKS % H
    b = tl.program_id(0) // (CHUNKS * H)
    p = tl.arange(0, P_TILE)
    v = chunk * VALUES + tl.arange(0, VALUES)
    ok = (p < P)[:, None] & (v < P)[None, :]
    at = state_ptr + (b.to(tl.int64) * H + h) * (P * P) + p[:, None] * P + v[None, :]
    # no other kernel writes it: no need to wait
    state = tl.load(at, mask=ok, other=0.0, eviction_policy="evict_first").to(tl.float32)
    decay = tl.exp(tl.load(log_decay_ptr + h))
    weight = tl.load(norm_weight_ptr + h * P + v, mask=v < P, other=0.0).to(tl.float32)
    wait(PDL)
    packed_ptr += b.to(tl.int64) * WIDTH + h * P
    q = tl.load(packed_ptr + p, mask=p < P, other=0.0).to(tl.float32)
    k = tl.load(packed_ptr + H * P + p, mask=p < P, other=0.0).to(tl.float32)
    new = tl.load(packed_ptr + 2 * H * P + v, mask=v < P, other=0.0).to(tl.float32)
    gate = tl.load(packed_ptr + 3 * H * P + v, mask=v < P, other=0.0).to(tl.float32)
    state = state * decay + k[:, None] * new[None, :]
    tl.store(at, state.to(state_ptr.dtype.element_ty), mask=ok, cache_modifier=".cs")
    y = tl.sum(state * q[:, None], 0)
    tl.store(squares_ptr + (h * CHUNKS + chunk) * B + b, tl.sum(y * y, 0))
    y = y * weight * tl.sigmoid(gate)
    tl.store(y_ptr + (b.to(tl.int64) * H + h) * P + v, as_pointed(y, y_ptr), mask=v < P)
