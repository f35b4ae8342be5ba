"""triton_rotary: queries and keys turned by the angles of their positions, as one kernel in either direction.

It reads q, k and the rest in place, side by side in one row, and writes the gradient the same way, so that nothing is
concatenated. How these kernels are made is told in ``triton_rows``.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import custom_op

from hybridbench.kernels.triton_jit import jit


@jit
def _place(
    q_ptr: tl.tensor, k_ptr: tl.tensor, rest_ptr: tl.tensor,
    b: tl.tensor, t: tl.tensor, slot: tl.tensor,
    q_b: tl.tensor, q_t: tl.tensor, q_h: tl.tensor,
    k_b: tl.tensor, k_t: tl.tensor, k_h: tl.tensor,
    rest_b: tl.tensor, rest_t: tl.tensor,
    H: tl.constexpr, K: tl.constexpr, P: tl.constexpr,
) -> tl.tensor:  # fmt: skip
    """Where each slot of P columns of a row begins: a head of q, a head of k or a part of the rest."""
    t, slot = t.to(tl.int64), slot.to(tl.int64)  # heads may be whole sequences apart
    of_q = q_ptr + b * q_b + (t * q_t + slot * q_h)
    of_k = k_ptr + b * k_b + (t * k_t + (slot - H) * k_h)
    of_rest = rest_ptr + b * rest_b + (t * rest_t + (slot - H - K) * P)
    return tl.where(slot < H, of_q, tl.where(slot < H + K, of_k, of_rest))


@jit
def _rotary(
    q_ptr: tl.tensor,
    k_ptr: tl.tensor,
    rest_ptr: tl.tensor,
    q_out_ptr: tl.tensor,
    k_out_ptr: tl.tensor,
    rest_out_ptr: tl.tensor,
    cos_ptr: tl.tensor,
    sin_ptr: tl.tensor,
    q_b: tl.tensor,
    q_t: tl.tensor,
    q_h: tl.tensor,
    k_b: tl.tensor,
    k_t: tl.tensor,
    k_h: tl.tensor,
    rest_b: tl.tensor,
    rest_t: tl.tensor,
    q_out_b: tl.tensor,
    q_out_t: tl.tensor,
    q_out_h: tl.tensor,
    k_out_b: tl.tensor,
    k_out_t: tl.tensor,
    k_out_h: tl.tensor,
    rest_out_b: tl.tensor,
    rest_out_t: tl.tensor,
    T: tl.tensor,
    INVERSE: tl.constexpr,
    H: tl.constexpr,
    K: tl.constexpr,
    R: tl.constexpr,
    P: tl.constexpr,
    HALF: tl.constexpr,
    SLOTS: tl.constexpr,
) -> None:
    """Copies (token, slot) rows of P columns, and turns pairs (i, i + P/2) of those of q and k."""
    HALF_P: tl.constexpr = P // 2
    PER_TOKEN: tl.constexpr = H + K + (R + P - 1) // P
    # PER_TOKEN programs take SLOTS whole tokens: a sequence may have 2^31 slots
    n = tl.program_id(0) % PER_TOKEN * SLOTS + tl.arange(0, SLOTS)
    b, slot = tl.program_id(1).to(tl.int64), (n % PER_TOKEN)[:, None]
    t = (tl.program_id(0) // PER_TOKEN * SLOTS + n // PER_TOKEN)[:, None]
    i = tl.arange(0, HALF)[None, :]
    turns = slot < H + K
    past = (slot - H - K) * P + i
    inside = (t < T) & (i < HALF_P)
    low_live, high_live = inside & (turns | (past < R)), inside & (turns | (past + HALF_P < R))
    at = _place(q_ptr, k_ptr, rest_ptr, b, t, slot, q_b, q_t, q_h, k_b, k_t, k_h, rest_b, rest_t, H, K, P) + i
    low = tl.load(at, mask=low_live, other=0.0)
    high = tl.load(at + HALF_P, mask=high_live, other=0.0)
    cos = tl.load(cos_ptr + t * HALF_P + i, mask=inside & turns, other=1.0)
    sin = tl.load(sin_ptr + t * HALF_P + i, mask=inside & turns, other=0.0)
    if INVERSE:
        sin = -sin
    kind = q_out_ptr.dtype.element_ty
    x, y = low.to(tl.float32), high.to(tl.float32)
    low = tl.where(turns, (x * cos - y * sin).to(kind), low)  # what does not turn is copied unchanged, NaNs too
    high = tl.where(turns, (y * cos + x * sin).to(kind), high)
    out = _place(
        q_out_ptr, k_out_ptr, rest_out_ptr, b, t, slot,
        q_out_b, q_out_t, q_out_h, k_out_b, k_out_t, k_out_h, rest_out_b, rest_out_t, H, K, P,
    ) + i  # fmt: skip
    tl.store(out, low, mask=low_live)
    tl.store(out + HALF_P, high, mask=high_live)


ROTARY_ELEMENTS = 2048
"""Pairs per program of the rotation: 8 a thread."""


def _launch_rotary(
    given: tuple[Tensor, Tensor, Tensor], made: tuple[Tensor, Tensor, Tensor], cos: Tensor, sin: Tensor, inverse: bool
) -> None:
    """Rotates q (B, T, H, P), k (B, T, K, P) and rest (B, T, R) of ``given``, with contiguous rows, into ``made``."""
    B, T, H, P = given[0].shape
    K, R = given[1].shape[2], given[2].shape[2]
    half = triton.next_power_of_2(P // 2)
    per_program = max(1, ROTARY_ELEMENTS // half)
    per_token = H + K + triton.cdiv(R, P)
    _rotary[(triton.cdiv(T * per_token, per_program), B)](
        *given,
        *made,
        cos,
        sin,
        *(stride for q, k, rest in (given, made) for x in (q, k, rest) for stride in x.stride()[:-1]),
        T,
        INVERSE=inverse,
        H=H,
        K=K,
        R=R,
        P=P,
        HALF=half,
        SLOTS=per_program,
        num_warps=8,
    )


def _parts(packed: Tensor, n_heads: int, n_kv_heads: int, head_dim: int) -> tuple[Tensor, Tensor, Tensor]:
    """Views of q, k and the rest in rows that hold them side by side."""
    q_width, k_width = n_heads * head_dim, n_kv_heads * head_dim
    q = torch.unflatten(packed[..., :q_width], -1, (n_heads, head_dim))
    k = torch.unflatten(packed[..., q_width : q_width + k_width], -1, (n_kv_heads, head_dim))
    return q, k, packed[..., q_width + k_width :]


def _fake_rotary(
    packed: Tensor, _cos: Tensor, _sin: Tensor, n_heads: int, n_kv_heads: int, head_dim: int
) -> tuple[Tensor, Tensor, Tensor]:
    B, T, width = packed.shape
    rest = width - (n_heads + n_kv_heads) * head_dim
    return (
        packed.new_empty(B, T, n_heads, head_dim),
        packed.new_empty(B, T, n_kv_heads, head_dim),
        packed.new_empty(B, T, rest),
    )


def _run_rotary(
    packed: Tensor, cos: Tensor, sin: Tensor, n_heads: int, n_kv_heads: int, head_dim: int
) -> tuple[Tensor, Tensor, Tensor]:
    packed = packed if packed.stride(-1) == 1 else packed.contiguous()
    made = _fake_rotary(packed, cos, sin, n_heads, n_kv_heads, head_dim)
    _launch_rotary(_parts(packed, n_heads, n_kv_heads, head_dim), made, cos, sin, inverse=False)
    return made


def _run_rotary_backward(d_q: Tensor, d_k: Tensor, d_rest: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    B, T, H, P = d_q.shape
    K, R = d_k.shape[2], d_rest.shape[2]
    d_packed = torch.empty(B, T, (H + K) * P + R, dtype=d_q.dtype, device=d_q.device)
    d_q, d_k, d_rest = (d if d.stride(-1) == 1 else d.contiguous() for d in (d_q, d_k, d_rest))
    _launch_rotary((d_q, d_k, d_rest), _parts(d_packed, H, K, P), cos, sin, inverse=True)
    return d_packed


_rotary_op = custom_op(
    "hybridbench::rotary_forward",
    _run_rotary,
    mutates_args=(),
    schema="(Tensor packed, Tensor cos, Tensor sin, int n_heads, int n_kv_heads, int head_dim)"
    " -> (Tensor, Tensor, Tensor)",
)
_rotary_backward_op = custom_op(
    "hybridbench::rotary_backward",
    _run_rotary_backward,
    mutates_args=(),
    schema="(Tensor d_q, Tensor d_k, Tensor d_rest, Tensor cos, Tensor sin) -> Tensor",
)
_rotary_op.register_fake(_fake_rotary)
_rotary_backward_op.register_fake(
    lambda d_q, d_k, d_rest, *_: d_q.new_empty(
        *d_q.shape[:2], (d_q.shape[2] + d_k.shape[2]) * d_q.shape[3] + d_rest.shape[2]
    )
)
_rotary_op.register_autograd(
    lambda ctx, d_q, d_k, d_rest: (_rotary_backward_op(d_q, d_k, d_rest, *ctx.saved_tensors), *(None,) * 5),
    setup_context=lambda ctx, inputs, **_: ctx.save_for_backward(*inputs[1:3]),
)


def rotary(
    packed_BTC: Tensor, cos_TR: Tensor, sin_TR: Tensor, *, n_heads: int, n_kv_heads: int, head_dim: int
) -> tuple[Tensor, Tensor, Tensor]:
    """``rotary`` of the reference; the results are new contiguous tensors."""
    q_BTHP, k_BTKP, rest_BTC = _rotary_op(packed_BTC, cos_TR, sin_TR, n_heads, n_kv_heads, head_dim)
    return q_BTHP, k_BTKP, rest_BTC
