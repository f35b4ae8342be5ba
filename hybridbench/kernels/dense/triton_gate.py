"""triton_gate: ``y * silu(z)``, with an RMSNorm or without, as one kernel forward and one backward.

Mamba-2's fused core (``scan.mamba2_fused``) calls both without autograd. How these kernels are made is told in
``triton_rows``.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import custom_op

from hybridbench.kernels.dense.triton_rows import (
    COLUMNS,
    add_pairs,
    rows_of,
    stages_of,
    stride_unit,
    walkers_of,
    warps_of,
)
from hybridbench.kernels.triton_jit import jit

PROGRAMS = 2
"""Programs per SM of a backward that sums a weight's gradient. Each loops over rows and writes one partial sum; as many
run as their registers allow to be resident at once."""

REGISTERS = 128
"""Registers per thread of the backward. By default it takes 180, so that an SM holds only one program."""


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
        squares, along = tl.reduce((gated * gated, d_unit * gated), 0, add_pairs)
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
    y_rows, z_rows = rows_of(y), rows_of(z)
    out = torch.empty(y.shape, dtype=y.dtype, device=y.device)
    block = triton.next_power_of_2(width)
    if weight is None:
        block = min(block, COLUMNS)
    unit = stride_unit(y_rows.stride(0), z_rows.stride(0))
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
        num_warps=warps_of(block),
    )
    return out


def gate_backward(
    d_out: Tensor, y: Tensor, z: Tensor, weight: Tensor | None, eps: float, d_z: Tensor
) -> tuple[Tensor, Tensor | None]:
    """Writes z's gradient into ``d_z``, which may be a view into wider rows; returns those of y and of the weight."""
    width = y.shape[-1]
    d_rows, y_rows, z_rows = rows_of(d_out), rows_of(y), rows_of(z)
    d_z_rows = d_z.view(-1, width) if d_z.is_contiguous() else d_z.flatten(0, -2)
    assert d_z_rows.data_ptr() == d_z.data_ptr(), "the gradient must be written where it was asked for"
    d_y = torch.empty(y.shape, dtype=y.dtype, device=y.device)
    rows = y_rows.shape[0]
    block = triton.next_power_of_2(width)
    strides = [x.stride(0) for x in (d_rows, y_rows, z_rows, d_z_rows)]
    unit = stride_unit(*strides)
    strides = [stride // unit for stride in strides]
    if weight is None:  # columns are independent, and so are rows
        block = min(block, COLUMNS)
        _gate_backward[(rows, triton.cdiv(width, block))](
            d_rows, y_rows, z_rows, d_y, d_z, *strides, width, BLOCK=block, UNIT=unit, num_warps=warps_of(block)
        )
        return d_y, None
    walkers = walkers_of(y, rows, PROGRAMS)
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
        STAGES=stages_of(y_rows, block),
        num_warps=warps_of(block),
        maxnreg=REGISTERS,
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
