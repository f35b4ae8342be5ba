"""triton_head_norms: two branches' outputs, each normed per head, side by side; one kernel forward, one backward.

How these kernels are made is told in ``triton_rows``.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import custom_op

from hybridbench.kernels.dense.triton_rows import groups_of, rows_of
from hybridbench.kernels.triton_jit import jit

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
    places = torch.split(rows_of(out), list(widths), 1)
    for x, H, place in zip((first, second), (first_heads, second_heads), places, strict=True):
        rows = rows_of(x)
        groups, P = rows.shape[0] * H, x.shape[-1] // H
        tile = _tile(P)
        _head_norm_forward[(triton.cdiv(groups, tile["GROUPS"]),)](
            rows, place, rows.stride(0), place.stride(0), groups, H, P, eps, **tile, num_warps=4
        )
    return out


def _run_head_norms_backward(
    d_out: Tensor, first: Tensor, second: Tensor, first_heads: int, second_heads: int, eps: float
) -> tuple[Tensor, Tensor]:
    places = torch.split(rows_of(d_out), [first.shape[-1], second.shape[-1]], 1)
    made = [torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in (first, second)]
    for x, H, place, d_x in zip((first, second), (first_heads, second_heads), places, made, strict=True):
        rows = rows_of(x)
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
