"""triton_elementwise: what stands between a model's products, each as one kernel forward and one backward.

Activations, norms, gates and rotations do very little arithmetic, so the memory that they read and write limits them.
Every kernel here reads its inputs once and writes its results once, also where PyTorch would copy first. Projections
are read in place, packed side by side in one row, and their gradients are written packed, so that nothing is
concatenated. Backward kernels recompute what is cheap (silu, the norm's scale), so that only inputs are saved.

    operation       reads                          writes
    swiglu          gate | up                      silu(gate) up
    add_rms_norm    branch, residual               their sum, its norm
    rotary          q | k | rest                   q and k turned, rest
    gate            y, z                           y silu(z), normed or not
    head_norms      two branches                   both normed per head, side by side

Each kernel is a PyTorch custom operator with a registered backward, which torch.compile does not trace into. Importing
this module needs triton. Its tests run on a CPU in triton's interpreter.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import custom_op

from hybridbench.kernels.triton_jit import jit

NORM_PROGRAMS, GATE_PROGRAMS = 4, 2
"""Programs per SM of a backward that sums a weight's gradient. Each loops over rows and writes one partial sum; as many
run as their registers allow to be resident at once."""

AHEAD = 3
"""Stages of such a loop: while one row is processed, the next two are loaded into shared memory, so that the memory is
busy during the two sums over a row and the store at its end."""

STAGED_BYTES = 128 * 1024
"""Bytes of shared memory for rows in flight. Rows of 8,192 float32 of three tensors use one stage less to fit."""

GATE_REGISTERS = 128
"""Registers per thread of the gate's backward. By default it takes 180, so that an SM holds only one program."""

COLUMNS = 2048
"""Columns per program where columns are independent: 16 elements a thread, two loads of 16 bytes of bfloat16."""


def _rows(x: Tensor) -> Tensor:
    """``x`` (..., C) as (rows, C) with contiguous rows, a view wherever it can be one."""
    x = x if x.stride(-1) == 1 else x.contiguous()
    return x.reshape(-1, x.shape[-1])


def _warps(block: int) -> int:
    """Warps for a row of ``block`` elements held in registers: 16 elements a thread."""
    return min(16, max(1, block // 512))


def _stages(x: Tensor, block: int) -> int:
    """Stages of a loop over rows of ``block`` elements of three tensors like ``x``."""
    return min(AHEAD, 1 + STAGED_BYTES // (3 * block * x.element_size()))


def _walkers(x: Tensor, rows: int, per_sm: int) -> int:
    """The number of programs that share ``rows``."""
    if not x.is_cuda:
        return min(rows, 4)
    return min(rows, per_sm * torch.cuda.get_device_properties(x.device).multi_processor_count)


def _unit(*strides: int) -> int:
    """The unit in which strides are passed: Triton only knows of an argument whether 16 divides it, but rows of, say,
    4,888 columns start on 16 bytes too.
    """
    return 8 if all(stride % 8 == 0 for stride in strides) else 1


@jit
def _add_pairs(a: tl.tensor, b: tl.tensor, c: tl.tensor, d: tl.tensor) -> tl.tensor:
    return a + c, b + d


@jit
def groups_of(program: tl.tensor, H: tl.tensor, GROUPS: tl.constexpr) -> tl.tensor:
    """The first of a program's GROUPS groups, and the row and head of each; a row has H groups.

    There may be 2^31 groups, but H programs cover exactly GROUPS whole rows, and the remainder is small.
    """
    n = program % H * GROUPS + tl.arange(0, GROUPS)
    return tl.cast(program, tl.int64) * GROUPS, tl.cast(program // H, tl.int64) * GROUPS + n // H, n % H


# swiglu ---------------------------------------------------------------------------------------------------------------


@jit
def _swiglu_forward(
    packed_ptr: tl.tensor, out_ptr: tl.tensor, packed_stride: tl.tensor, F: tl.tensor, BLOCK: tl.constexpr
) -> None:
    row = tl.program_id(0).to(tl.int64)
    f = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    live = f < F
    at = packed_ptr + row * packed_stride + f
    gate = tl.load(at, mask=live, other=0.0).to(tl.float32)
    up = tl.load(at + F, mask=live, other=0.0).to(tl.float32)
    tl.store(out_ptr + row * F + f, (gate * tl.sigmoid(gate) * up).to(out_ptr.dtype.element_ty), mask=live)


@jit
def _swiglu_backward(
    packed_ptr: tl.tensor,
    d_out_ptr: tl.tensor,
    d_packed_ptr: tl.tensor,
    packed_stride: tl.tensor,
    d_out_stride: tl.tensor,
    F: tl.tensor,
    BLOCK: tl.constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64)
    f = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    live = f < F
    at = packed_ptr + row * packed_stride + f
    gate = tl.load(at, mask=live, other=0.0).to(tl.float32)
    up = tl.load(at + F, mask=live, other=0.0).to(tl.float32)
    d_out = tl.load(d_out_ptr + row * d_out_stride + f, mask=live, other=0.0).to(tl.float32)
    share = tl.sigmoid(gate)
    d_gate = d_out * up * share * (1 + gate * (1 - share))
    d_up = d_out * gate * share
    d_at = d_packed_ptr + row * 2 * F + f
    tl.store(d_at, d_gate.to(d_packed_ptr.dtype.element_ty), mask=live)
    tl.store(d_at + F, d_up.to(d_packed_ptr.dtype.element_ty), mask=live)


def _run_swiglu(packed: Tensor) -> Tensor:
    rows = _rows(packed)
    F = packed.shape[-1] // 2
    out = packed.new_empty(*packed.shape[:-1], F)
    block = min(COLUMNS, triton.next_power_of_2(F))
    _swiglu_forward[(rows.shape[0], triton.cdiv(F, block))](rows, out, rows.stride(0), F, BLOCK=block, num_warps=4)
    return out


def _run_swiglu_backward(packed: Tensor, d_out: Tensor) -> Tensor:
    rows, d_rows = _rows(packed), _rows(d_out)
    F = packed.shape[-1] // 2
    d_packed = torch.empty(packed.shape, dtype=packed.dtype, device=packed.device)
    block = min(COLUMNS, triton.next_power_of_2(F))
    _swiglu_backward[(rows.shape[0], triton.cdiv(F, block))](
        rows, d_rows, d_packed, rows.stride(0), d_rows.stride(0), F, BLOCK=block, num_warps=4
    )
    return d_packed


_swiglu_op = custom_op("hybridbench::swiglu_forward", _run_swiglu, mutates_args=(), schema="(Tensor packed) -> Tensor")
_swiglu_backward_op = custom_op(
    "hybridbench::swiglu_backward", _run_swiglu_backward, mutates_args=(), schema="(Tensor packed, Tensor d) -> Tensor"
)
_swiglu_op.register_fake(lambda packed: packed.new_empty(*packed.shape[:-1], packed.shape[-1] // 2))
_swiglu_backward_op.register_fake(lambda packed, _d: packed.new_empty(packed.shape))
_swiglu_op.register_autograd(
    lambda ctx, d_out: _swiglu_backward_op(ctx.saved_tensors[0], d_out),
    setup_context=lambda ctx, inputs, **_: ctx.save_for_backward(inputs[0]),
)


def swiglu(packed: Tensor) -> Tensor:
    """``swiglu`` of the reference."""
    out: Tensor = _swiglu_op(packed)
    return out


# add_rms_norm ---------------------------------------------------------------------------------------------------------


@jit
def _add_rms_norm_forward(
    x_ptr: tl.tensor,
    residual_ptr: tl.tensor,
    weight_ptr: tl.tensor,
    normed_ptr: tl.tensor,
    sum_ptr: tl.tensor,
    x_stride: tl.tensor,
    residual_stride: tl.tensor,
    D: tl.tensor,
    eps: tl.tensor,
    ADD: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64)
    d = tl.arange(0, BLOCK)
    live = d < D
    h = tl.load(x_ptr + row * x_stride + d, mask=live, other=0.0).to(tl.float32)
    weight = tl.load(weight_ptr + d, mask=live, other=0.0).to(tl.float32)
    if ADD:
        h += tl.load(residual_ptr + row * residual_stride + d, mask=live, other=0.0).to(tl.float32)
        rounded = h.to(sum_ptr.dtype.element_ty)
        tl.store(sum_ptr + row * D + d, rounded, mask=live)
        h = rounded.to(tl.float32)  # the backward finds only the rounded sum
    scale = tl.rsqrt(tl.sum(h * h, 0) / D + eps)
    tl.store(normed_ptr + row * D + d, (h * scale * weight).to(normed_ptr.dtype.element_ty), mask=live)


@jit
def _add_rms_norm_backward(
    d_normed_ptr: tl.tensor,
    d_sum_ptr: tl.tensor,
    h_ptr: tl.tensor,
    weight_ptr: tl.tensor,
    d_h_ptr: tl.tensor,
    d_weight_ptr: tl.tensor,
    d_normed_stride: tl.tensor,
    d_sum_stride: tl.tensor,
    h_stride: tl.tensor,
    rows: tl.tensor,
    D: tl.tensor,
    eps: tl.tensor,
    ADD: tl.constexpr,
    BLOCK: tl.constexpr,
    STAGES: tl.constexpr,
) -> None:
    d = tl.arange(0, BLOCK)
    live = d < D
    weight = tl.load(weight_ptr + d, mask=live, other=0.0).to(tl.float32)
    d_weight = tl.zeros((BLOCK,), tl.float32)
    for row in tl.range(tl.program_id(0), rows, tl.num_programs(0), num_stages=STAGES):
        row = tl.cast(row, tl.int64)
        h = tl.load(h_ptr + row * h_stride + d, mask=live, other=0.0).to(tl.float32)
        d_normed = tl.load(d_normed_ptr + row * d_normed_stride + d, mask=live, other=0.0).to(tl.float32)
        if ADD:  # loaded before the sums are needed
            d_sum = tl.load(d_sum_ptr + row * d_sum_stride + d, mask=live, other=0.0)
        d_unit = d_normed * weight
        squares, along = tl.reduce((h * h, d_unit * h), 0, _add_pairs)
        scale = tl.rsqrt(squares / D + eps)
        d_weight += d_normed * (h * scale)
        d_h = scale * (d_unit - h * (along * scale * scale / D))
        if ADD:
            d_h += d_sum.to(tl.float32)
        tl.store(d_h_ptr + row * D + d, d_h.to(d_h_ptr.dtype.element_ty), mask=live)
    tl.store(d_weight_ptr + tl.program_id(0) * D + d, d_weight, mask=live)


def _run_add_rms_norm(x: Tensor, residual: Tensor | None, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    D = x.shape[-1]
    rows = _rows(x)
    normed = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    added = x.new_empty(0) if residual is None else torch.empty(x.shape, dtype=x.dtype, device=x.device)
    old = rows if residual is None else _rows(residual)
    block = triton.next_power_of_2(D)
    _add_rms_norm_forward[(rows.shape[0],)](
        rows,
        old,
        weight,
        normed,
        added,
        rows.stride(0),
        old.stride(0),
        D,
        eps,
        ADD=residual is not None,
        BLOCK=block,
        num_warps=_warps(block),
    )
    return normed, added


def _run_add_rms_norm_backward(
    d_normed: Tensor, d_sum: Tensor | None, h: Tensor, weight: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    D = h.shape[-1]
    rows, d_rows = _rows(h), _rows(d_normed)
    d_more = d_rows if d_sum is None else _rows(d_sum)
    d_h = torch.empty(h.shape, dtype=h.dtype, device=h.device)
    walkers = _walkers(h, rows.shape[0], NORM_PROGRAMS)
    partial = torch.empty(walkers, D, dtype=torch.float32, device=h.device)
    block = triton.next_power_of_2(D)
    _add_rms_norm_backward[(walkers,)](
        d_rows,
        d_more,
        rows,
        weight,
        d_h,
        partial,
        d_rows.stride(0),
        d_more.stride(0),
        rows.stride(0),
        rows.shape[0],
        D,
        eps,
        ADD=d_sum is not None,
        BLOCK=block,
        STAGES=_stages(rows, block),
        num_warps=_warps(block),
    )
    return d_h, partial.sum(0).to(weight.dtype)


def _fake_add_rms_norm(x: Tensor, residual: Tensor | None, *_: Any) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), x.new_empty(0 if residual is None else x.shape)


def _keep_add_rms_norm(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, residual, weight, ctx.eps = inputs
    ctx.added = residual is not None
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(output[1] if ctx.added else x, weight)


def _undo_add_rms_norm(ctx: Any, d_normed: Tensor | None, d_sum: Tensor | None) -> tuple[Any, ...]:
    h, weight = ctx.saved_tensors
    if d_normed is None:  # only the sum was used
        return d_sum, d_sum if ctx.added else None, None, None
    d_h, d_weight = _add_rms_norm_backward_op(d_normed, d_sum if ctx.added else None, h, weight, ctx.eps)
    return d_h, d_h if ctx.added else None, d_weight, None


_add_rms_norm_op = custom_op(
    "hybridbench::add_rms_norm_forward",
    _run_add_rms_norm,
    mutates_args=(),
    schema="(Tensor x, Tensor? residual, Tensor weight, float eps) -> (Tensor, Tensor)",
)
_add_rms_norm_backward_op = custom_op(
    "hybridbench::add_rms_norm_backward",
    _run_add_rms_norm_backward,
    mutates_args=(),
    schema="(Tensor d_normed, Tensor? d_sum, Tensor h, Tensor weight, float eps) -> (Tensor, Tensor)",
)
_add_rms_norm_op.register_fake(_fake_add_rms_norm)
_add_rms_norm_backward_op.register_fake(
    lambda _d_normed, _d_sum, h, weight, _eps: (h.new_empty(h.shape), weight.new_empty(weight.shape))
)
_add_rms_norm_op.register_autograd(_undo_add_rms_norm, setup_context=_keep_add_rms_norm)


def add_rms_norm(x: Tensor, residual: Tensor | None, weight: Tensor, *, eps: float) -> tuple[Tensor, Tensor]:
    """``add_rms_norm`` of the reference."""
    normed, added = _add_rms_norm_op(x, residual, weight, eps)
    return normed, x if residual is None else added


# rotary ---------------------------------------------------------------------------------------------------------------


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


# gate -----------------------------------------------------------------------------------------------------------------


@jit
def _gate_forward(
    y_ptr: tl.tensor,
    z_ptr: tl.tensor,
    weight_ptr: tl.tensor,
    out_ptr: tl.tensor,
    y_stride: tl.tensor,
    z_stride: tl.tensor,
    width: tl.tensor,
    eps: tl.tensor,
    NORM: tl.constexpr,
    BLOCK: tl.constexpr,
    UNIT: tl.constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64)
    i = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    live = i < width
    y = tl.load(y_ptr + row * y_stride * UNIT + i, mask=live, other=0.0).to(tl.float32)
    z = tl.load(z_ptr + row * z_stride * UNIT + i, mask=live, other=0.0).to(tl.float32)
    out = y * z * tl.sigmoid(z)
    if NORM:
        weight = tl.load(weight_ptr + i, mask=live, other=0.0).to(tl.float32)
        out *= tl.rsqrt(tl.sum(out * out, 0) / width + eps) * weight
    tl.store(out_ptr + row * width + i, out.to(out_ptr.dtype.element_ty), mask=live)


@jit
def _gate_backward(
    d_out_ptr: tl.tensor,
    y_ptr: tl.tensor,
    z_ptr: tl.tensor,
    d_y_ptr: tl.tensor,
    d_z_ptr: tl.tensor,
    d_out_stride: tl.tensor,
    y_stride: tl.tensor,
    z_stride: tl.tensor,
    d_z_stride: tl.tensor,
    width: tl.tensor,
    BLOCK: tl.constexpr,
    UNIT: tl.constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64)
    i = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    live = i < width
    y = tl.load(y_ptr + row * y_stride * UNIT + i, mask=live, other=0.0).to(tl.float32)
    z = tl.load(z_ptr + row * z_stride * UNIT + i, mask=live, other=0.0).to(tl.float32)
    d_out = tl.load(d_out_ptr + row * d_out_stride * UNIT + i, mask=live, other=0.0).to(tl.float32)
    share = tl.sigmoid(z)
    tl.store(d_y_ptr + row * width + i, (d_out * z * share).to(d_y_ptr.dtype.element_ty), mask=live)
    d_z = d_out * y * share * (1 + z * (1 - share))
    tl.store(d_z_ptr + row * d_z_stride * UNIT + i, d_z.to(d_z_ptr.dtype.element_ty), mask=live)


@jit
def _gate_norm_backward(
    d_out_ptr: tl.tensor,
    y_ptr: tl.tensor,
    z_ptr: tl.tensor,
    weight_ptr: tl.tensor,
    d_y_ptr: tl.tensor,
    d_z_ptr: tl.tensor,
    d_weight_ptr: tl.tensor,
    d_out_stride: tl.tensor,
    y_stride: tl.tensor,
    z_stride: tl.tensor,
    d_z_stride: tl.tensor,
    rows: tl.tensor,
    width: tl.tensor,
    eps: tl.tensor,
    BLOCK: tl.constexpr,
    UNIT: tl.constexpr,
    STAGES: tl.constexpr,
) -> None:
    i = tl.arange(0, BLOCK)
    live = i < width
    d_weight = tl.zeros((BLOCK,), tl.float32)
    for row in tl.range(tl.program_id(0), rows, tl.num_programs(0), num_stages=STAGES):
        row = tl.cast(row, tl.int64)
        y = tl.load(y_ptr + row * y_stride * UNIT + i, mask=live, other=0.0).to(tl.float32)
        z = tl.load(z_ptr + row * z_stride * UNIT + i, mask=live, other=0.0).to(tl.float32)
        d_out = tl.load(d_out_ptr + row * d_out_stride * UNIT + i, mask=live, other=0.0).to(tl.float32)
        share = tl.sigmoid(z)
        gated = y * z * share
        d_unit = d_out * tl.load(weight_ptr + i, mask=live, other=0.0).to(tl.float32)  # loaded again to save registers
        squares, along = tl.reduce((gated * gated, d_unit * gated), 0, _add_pairs)
        scale = tl.rsqrt(squares / width + eps)
        d_weight += d_out * (gated * scale)
        d_gated = scale * (d_unit - gated * (along * scale * scale / width))
        tl.store(d_y_ptr + row * width + i, (d_gated * z * share).to(d_y_ptr.dtype.element_ty), mask=live)
        d_z = d_gated * y * share * (1 + z * (1 - share))
        tl.store(d_z_ptr + row * d_z_stride * UNIT + i, d_z.to(d_z_ptr.dtype.element_ty), mask=live)
    tl.store(d_weight_ptr + tl.program_id(0) * width + i, d_weight, mask=live)


def gate_forward(y: Tensor, z: Tensor, weight: Tensor | None, eps: float) -> Tensor:
    """``gate`` of the reference without a backward; rows of ``y`` and ``z`` may be views into wider ones."""
    width = y.shape[-1]
    y_rows, z_rows = _rows(y), _rows(z)
    out = torch.empty(y.shape, dtype=y.dtype, device=y.device)
    block = triton.next_power_of_2(width)
    if weight is None:
        block = min(block, COLUMNS)
    unit = _unit(y_rows.stride(0), z_rows.stride(0))
    _gate_forward[(y_rows.shape[0], triton.cdiv(width, block))](
        y_rows,
        z_rows,
        y_rows if weight is None else weight,
        out,
        y_rows.stride(0) // unit,
        z_rows.stride(0) // unit,
        width,
        eps,
        NORM=weight is not None,
        BLOCK=block,
        UNIT=unit,
        num_warps=_warps(block),
    )
    return out


def gate_backward(
    d_out: Tensor, y: Tensor, z: Tensor, weight: Tensor | None, eps: float, d_z: Tensor
) -> tuple[Tensor, Tensor | None]:
    """Writes z's gradient into ``d_z``, which may be a view into wider rows; returns those of y and of the weight."""
    width = y.shape[-1]
    d_rows, y_rows, z_rows = _rows(d_out), _rows(y), _rows(z)
    d_z_rows = d_z.view(-1, width) if d_z.is_contiguous() else d_z.flatten(0, -2)
    assert d_z_rows.data_ptr() == d_z.data_ptr(), "the gradient must be written where it was asked for"
    d_y = torch.empty(y.shape, dtype=y.dtype, device=y.device)
    rows = y_rows.shape[0]
    block = triton.next_power_of_2(width)
    strides = [x.stride(0) for x in (d_rows, y_rows, z_rows, d_z_rows)]
    unit = _unit(*strides)
    strides = [stride // unit for stride in strides]
    if weight is None:  # columns are independent, and so are rows
        block = min(block, COLUMNS)
        _gate_backward[(rows, triton.cdiv(width, block))](
            d_rows, y_rows, z_rows, d_y, d_z, *strides, width, BLOCK=block, UNIT=unit, num_warps=_warps(block)
        )
        return d_y, None
    walkers = _walkers(y, rows, GATE_PROGRAMS)
    partial = torch.empty(walkers, width, dtype=torch.float32, device=y.device)
    _gate_norm_backward[(walkers,)](
        d_rows,
        y_rows,
        z_rows,
        weight,
        d_y,
        d_z,
        partial,
        *strides,
        rows,
        width,
        eps,
        BLOCK=block,
        UNIT=unit,
        STAGES=_stages(y_rows, block),
        num_warps=_warps(block),
        maxnreg=GATE_REGISTERS,
    )
    return d_y, partial.sum(0).to(weight.dtype)


def _run_gate_backward(
    d_out: Tensor, y: Tensor, z: Tensor, weight: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    d_z = torch.empty(z.shape, dtype=z.dtype, device=z.device)
    d_y, d_weight = gate_backward(d_out, y, z, weight, eps, d_z)
    return d_y, d_z, d_y.new_empty(0) if d_weight is None else d_weight


def _keep_gate(ctx: Any, inputs: tuple[Any, ...], **_: Any) -> None:
    y, z, weight, ctx.eps = inputs
    ctx.normed = weight is not None
    ctx.save_for_backward(y, z, *([weight] if ctx.normed else []))


def _undo_gate(ctx: Any, d_out: Tensor) -> tuple[Any, ...]:
    y, z, *weight = ctx.saved_tensors
    d_y, d_z, d_weight = _gate_backward_op(d_out, y, z, weight[0] if weight else None, ctx.eps)
    return d_y, d_z, d_weight if weight else None, None


_gate_op = custom_op(
    "hybridbench::gate_forward",
    gate_forward,
    mutates_args=(),
    schema="(Tensor y, Tensor z, Tensor? weight, float eps) -> Tensor",
)
_gate_backward_op = custom_op(
    "hybridbench::gate_backward",
    _run_gate_backward,
    mutates_args=(),
    schema="(Tensor d_out, Tensor y, Tensor z, Tensor? weight, float eps) -> (Tensor, Tensor, Tensor)",
)
_gate_op.register_fake(lambda y, *_: y.new_empty(y.shape))
_gate_backward_op.register_fake(
    lambda _d_out, y, z, weight, _eps: (
        y.new_empty(y.shape),
        z.new_empty(z.shape),
        y.new_empty(0) if weight is None else weight.new_empty(weight.shape),
    )
)
_gate_op.register_autograd(_undo_gate, setup_context=_keep_gate)


def gate(y: Tensor, z: Tensor, weight: Tensor | None, *, eps: float) -> Tensor:
    """``gate`` of the reference."""
    out: Tensor = _gate_op(y, z, weight, eps)
    return out


# head_norms -----------------------------------------------------------------------------------------------------------

GROUP_ELEMENTS = 2048
"""Elements per program of the per-head norm: several heads at once."""


@jit
def _head_norm_forward(
    x_ptr: tl.tensor,
    out_ptr: tl.tensor,
    x_stride: tl.tensor,
    out_stride: tl.tensor,
    groups: tl.tensor,
    H: tl.tensor,
    P: tl.tensor,
    eps: tl.tensor,
    GROUPS: tl.constexpr,
    P_TILE: tl.constexpr,
) -> None:
    first, row, head = groups_of(tl.program_id(0), H, GROUPS)
    g = tl.arange(0, GROUPS)
    p = tl.arange(0, P_TILE)[None, :]
    live = (g < groups - first)[:, None] & (p < P)
    x = tl.load(x_ptr + (row * x_stride + head * P)[:, None] + p, mask=live, other=0.0).to(tl.float32)
    out = x * tl.rsqrt(tl.sum(x * x, 1) / P + eps)[:, None]
    tl.store(out_ptr + (row * out_stride + head * P)[:, None] + p, out.to(out_ptr.dtype.element_ty), mask=live)


@jit
def _head_norm_backward(
    d_out_ptr: tl.tensor,
    x_ptr: tl.tensor,
    d_x_ptr: tl.tensor,
    d_out_stride: tl.tensor,
    x_stride: tl.tensor,
    groups: tl.tensor,
    H: tl.tensor,
    P: tl.tensor,
    eps: tl.tensor,
    GROUPS: tl.constexpr,
    P_TILE: tl.constexpr,
) -> None:
    first, row, head = groups_of(tl.program_id(0), H, GROUPS)
    g = tl.arange(0, GROUPS)
    p = tl.arange(0, P_TILE)[None, :]
    live = (g < groups - first)[:, None] & (p < P)
    x = tl.load(x_ptr + (row * x_stride + head * P)[:, None] + p, mask=live, other=0.0).to(tl.float32)
    d_out = tl.load(d_out_ptr + (row * d_out_stride + head * P)[:, None] + p, mask=live, other=0.0).to(tl.float32)
    scale = tl.rsqrt(tl.sum(x * x, 1) / P + eps)[:, None]
    unit = x * scale
    d_x = scale * (d_out - unit * (tl.sum(d_out * unit, 1) / P)[:, None])
    tl.store(d_x_ptr + (first + g)[:, None] * P + p, d_x.to(d_x_ptr.dtype.element_ty), mask=live)


def _tile(P: int) -> dict[str, int]:
    p_tile = triton.next_power_of_2(P)
    return {"GROUPS": max(1, GROUP_ELEMENTS // p_tile), "P_TILE": p_tile}


def _run_head_norms(first: Tensor, second: Tensor, first_heads: int, second_heads: int, eps: float) -> Tensor:
    widths = (first.shape[-1], second.shape[-1])
    out = torch.empty(*first.shape[:-1], sum(widths), dtype=first.dtype, device=first.device)
    places = torch.split(_rows(out), list(widths), 1)
    for x, H, place in zip((first, second), (first_heads, second_heads), places, strict=True):
        rows = _rows(x)
        groups, P = rows.shape[0] * H, x.shape[-1] // H
        tile = _tile(P)
        _head_norm_forward[(triton.cdiv(groups, tile["GROUPS"]),)](
            rows, place, rows.stride(0), place.stride(0), groups, H, P, eps, **tile, num_warps=4
        )
    return out


def _run_head_norms_backward(
    d_out: Tensor, first: Tensor, second: Tensor, first_heads: int, second_heads: int, eps: float
) -> tuple[Tensor, Tensor]:
    places = torch.split(_rows(d_out), [first.shape[-1], second.shape[-1]], 1)
    made = [torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in (first, second)]
    for x, H, place, d_x in zip((first, second), (first_heads, second_heads), places, made, strict=True):
        rows = _rows(x)
        groups, P = rows.shape[0] * H, x.shape[-1] // H
        tile = _tile(P)
        _head_norm_backward[(triton.cdiv(groups, tile["GROUPS"]),)](
            place, rows, d_x, place.stride(0), rows.stride(0), groups, H, P, eps, **tile, num_warps=4
        )
    return made[0], made[1]


def _keep_head_norms(ctx: Any, inputs: tuple[Any, ...], **_: Any) -> None:
    ctx.save_for_backward(*inputs[:2])
    ctx.settings = inputs[2:]


def _undo_head_norms(ctx: Any, d_out: Tensor) -> tuple[Any, ...]:
    return (*_head_norms_backward_op(d_out, *ctx.saved_tensors, *ctx.settings), None, None, None)


_HEAD_NORMS = "Tensor first, Tensor second, int first_heads, int second_heads, float eps"
_head_norms_op = custom_op(
    "hybridbench::head_norms_forward", _run_head_norms, mutates_args=(), schema=f"({_HEAD_NORMS}) -> Tensor"
)
_head_norms_backward_op = custom_op(
    "hybridbench::head_norms_backward",
    _run_head_norms_backward,
    mutates_args=(),
    schema=f"(Tensor d_out, {_HEAD_NORMS}) -> (Tensor, Tensor)",
)
_head_norms_op.register_fake(
    lambda first, second, *_: first.new_empty(*first.shape[:-1], first.shape[-1] + second.shape[-1])
)
_head_norms_backward_op.register_fake(
    lambda _d_out, first, second, *_: (first.new_empty(first.shape), second.new_empty(second.shape))
)
_head_norms_op.register_autograd(_undo_head_norms, setup_context=_keep_head_norms)


def head_norms(first: Tensor, second: Tensor, *, heads: tuple[int, int], eps: float) -> Tensor:
    """``head_norms`` of the reference."""
    out: Tensor = _head_norms_op(first, second, *heads, eps)
    return out
