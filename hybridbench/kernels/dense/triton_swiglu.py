"""triton_swiglu: ``silu(gate) * up`` as one kernel forward and one backward.

It reads the gate's and the other columns in place, side by side in one row, and writes their gradients the same way, so
that nothing is concatenated. How these kernels are made is told in ``triton_rows``.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import custom_op

from hybridbench.kernels.dense.triton_rows import COLUMNS, rows_of
from hybridbench.kernels.triton_jit import jit


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
    rows = rows_of(packed)
    F = packed.shape[-1] // 2
    out = packed.new_empty(*packed.shape[:-1], F)
    block = min(COLUMNS, triton.next_power_of_2(F))
    _swiglu_forward[(rows.shape[0], triton.cdiv(F, block))](rows, out, rows.stride(0), F, BLOCK=block, num_warps=4)
    return out


def _run_swiglu_backward(packed: Tensor, d_out: Tensor) -> Tensor:
    rows, d_rows = rows_of(packed), rows_of(d_out)
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
