"""triton_add_rms_norm: a sum with the residual stream and its RMSNorm as one kernel forward and one backward.

How these kernels are made is told in ``triton_rows``.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import custom_op

from hybridbench.kernels.dense.triton_rows import add_pairs, rows_of, stages_of, walkers_of, warps_of
from hybridbench.kernels.triton_jit import jit

PROGRAMS = 4
"""Programs per SM of a backward that sums a weight's gradient. Each loops over rows and writes one partial sum; as many
run as their registers allow to be resident at once."""


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
        squares, along = tl.reduce((h * h, d_unit * h), 0, add_pairs)
        scale = tl.rsqrt(squares / D + eps)
        d_weight += d_normed * (h * scale)
        d_h = scale * (d_unit - h * (along * scale * scale / D))
        if ADD:
            d_h += d_sum.to(tl.float32)
        tl.store(d_h_ptr + row * D + d, d_h.to(d_h_ptr.dtype.element_ty), mask=live)
    tl.store(d_weight_ptr + tl.program_id(0) * D + d, d_weight, mask=live)


def _run_add_rms_norm(x: Tensor, residual: Tensor | None, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    D = x.shape[-1]
    rows = rows_of(x)
    normed = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    added = x.new_empty(0) if residual is None else torch.empty(x.shape, dtype=x.dtype, device=x.device)
    old = rows if residual is None else rows_of(residual)
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
        num_warps=warps_of(block),
    )
    return normed, added


def _run_add_rms_norm_backward(
    d_normed: Tensor, d_sum: Tensor | None, h: Tensor, weight: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    D = h.shape[-1]
    rows, d_rows = rows_of(h), rows_of(d_normed)
    d_more = d_rows if d_sum is None else rows_of(d_sum)
    d_h = torch.empty(h.shape, dtype=h.dtype, device=h.device)
    walkers = walkers_of(h, rows.shape[0], PROGRAMS)
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
        STAGES=stages_of(rows, block),
        num_warps=warps_of(block),
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
