"""triton_keys: RWKV-7's removal key, added key and rate as one kernel forward and one backward.

How these kernels are made is told in ``dense.triton_rows``. A forward reads the key and the rate before its sigmoid and
writes three tensors. A backward reads both again with three gradients and writes two, and sums for the parameters in a
fixed order: they are equal from run to run. With ``u = k removal``, ``n = max(|u|, eps)`` and ``a = sigmoid(rate)``:

    kk = u / n              d_u = (d_kk - kk (kk . d_kk)) / n       without the product where |u| < eps
    key = k (1 + (a - 1) added)
    d_k = d_u removal + d_key (1 + (a - 1) added)
    d_rate = (d_a + d_key k added) a (1 - a)
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import custom_op

from hybridbench.kernels.dense.triton_rows import groups_of, heads_in_rows, walkers_of
from hybridbench.kernels.rwkv7.reference import LENGTH_EPS
from hybridbench.kernels.triton_jit import jit

GROUP_ELEMENTS = 2048
"""Elements per program of the forward: several heads at once, or one that is wider."""

COLUMNS = 1024
"""Columns per program of the backward, whole heads: 8 elements for each of 128 threads."""

PROGRAMS = 4
"""Programs per SM of the backward; each writes one partial sum of the parameters' gradients."""


@jit
def _keys_forward(
    k_ptr: tl.tensor,
    rate_ptr: tl.tensor,
    removal_ptr: tl.tensor,
    added_ptr: tl.tensor,
    kk_ptr: tl.tensor,
    key_ptr: tl.tensor,
    a_ptr: tl.tensor,
    k_stride: tl.tensor,
    rate_stride: tl.tensor,
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
    column = (head * P)[:, None] + p
    k = tl.load(k_ptr + (row * k_stride)[:, None] + column, mask=live, other=0.0).to(tl.float32)
    rate = tl.load(rate_ptr + (row * rate_stride)[:, None] + column, mask=live, other=0.0).to(tl.float32)
    removed = k * tl.load(removal_ptr + column, mask=live, other=0.0).to(tl.float32)
    added = tl.load(added_ptr + column, mask=live, other=0.0).to(tl.float32)
    length = tl.maximum(tl.sqrt(tl.sum(removed * removed, 1)), eps)
    a = tl.sigmoid(rate)
    at = (first + g)[:, None] * P + p
    tl.store(kk_ptr + at, (removed / length[:, None]).to(kk_ptr.dtype.element_ty), mask=live)
    tl.store(key_ptr + at, (k * (1 + (a - 1) * added)).to(key_ptr.dtype.element_ty), mask=live)
    tl.store(a_ptr + at, a.to(a_ptr.dtype.element_ty), mask=live)


@jit
def _keys_backward(
    d_kk_ptr: tl.tensor,
    d_key_ptr: tl.tensor,
    d_a_ptr: tl.tensor,
    k_ptr: tl.tensor,
    rate_ptr: tl.tensor,
    removal_ptr: tl.tensor,
    added_ptr: tl.tensor,
    d_k_ptr: tl.tensor,
    d_rate_ptr: tl.tensor,
    d_removal_ptr: tl.tensor,
    d_added_ptr: tl.tensor,
    d_kk_stride: tl.tensor,
    d_key_stride: tl.tensor,
    d_a_stride: tl.tensor,
    k_stride: tl.tensor,
    rate_stride: tl.tensor,
    rows: tl.tensor,
    H: tl.tensor,
    P: tl.tensor,
    eps: tl.tensor,
    HEADS: tl.constexpr,
    P_TILE: tl.constexpr,
    STAGES: tl.constexpr,
) -> None:
    head = tl.program_id(1) * HEADS + tl.arange(0, HEADS)[:, None]
    p = tl.arange(0, P_TILE)[None, :]
    live = (head < H) & (p < P)
    column = head * P + p
    removal = tl.load(removal_ptr + column, mask=live, other=0.0).to(tl.float32)
    added = tl.load(added_ptr + column, mask=live, other=0.0).to(tl.float32)
    d_removal = tl.zeros((HEADS, P_TILE), tl.float32)
    d_added = tl.zeros((HEADS, P_TILE), tl.float32)
    for row in tl.range(tl.program_id(0), rows, tl.num_programs(0), num_stages=STAGES):
        row = tl.cast(row, tl.int64)
        k = tl.load(k_ptr + row * k_stride + column, mask=live, other=0.0).to(tl.float32)
        rate = tl.load(rate_ptr + row * rate_stride + column, mask=live, other=0.0).to(tl.float32)
        d_kk = tl.load(d_kk_ptr + row * d_kk_stride + column, mask=live, other=0.0).to(tl.float32)
        d_key = tl.load(d_key_ptr + row * d_key_stride + column, mask=live, other=0.0).to(tl.float32)
        d_a = tl.load(d_a_ptr + row * d_a_stride + column, mask=live, other=0.0).to(tl.float32)
        removed = k * removal
        length = tl.sqrt(tl.sum(removed * removed, 1))
        scale = 1 / tl.maximum(length, eps)
        turned = tl.where(length < eps, 0.0, tl.sum(removed * d_kk, 1) * scale * scale)
        d_removed = scale[:, None] * (d_kk - removed * turned[:, None])
        a = tl.sigmoid(rate)
        of_factor = d_key * k
        d_removal += d_removed * k
        d_added += of_factor * (a - 1)
        d_k = d_removed * removal + d_key * (1 + (a - 1) * added)
        at = row * H * P + column
        tl.store(d_k_ptr + at, d_k.to(d_k_ptr.dtype.element_ty), mask=live)
        d_rate = (d_a + of_factor * added) * a * (1 - a)
        tl.store(d_rate_ptr + at, d_rate.to(d_rate_ptr.dtype.element_ty), mask=live)
    sums = tl.cast(tl.program_id(0), tl.int64) * H * P + column
    tl.store(d_removal_ptr + sums, d_removal, mask=live)
    tl.store(d_added_ptr + sums, d_added, mask=live)


def _run_keys(k: Tensor, rate: Tensor, removal: Tensor, added: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    H, P = k.shape[-2:]
    (k_rows, k_stride), (rate_rows, rate_stride) = heads_in_rows(k), heads_in_rows(rate)
    kk, key, a = (torch.empty(k.shape, dtype=k.dtype, device=k.device) for _ in range(3))
    p_tile = triton.next_power_of_2(P)
    tile = {"GROUPS": max(1, GROUP_ELEMENTS // p_tile), "P_TILE": p_tile}
    groups = k_rows.shape[0] * H
    _keys_forward[(triton.cdiv(groups, tile["GROUPS"]),)](
        k_rows,
        rate_rows,
        removal.contiguous(),
        added.contiguous(),
        kk,
        key,
        a,
        k_stride,
        rate_stride,
        groups,
        H,
        P,
        LENGTH_EPS,
        **tile,
        num_warps=4,
    )
    return kk, key, a


def _run_keys_backward(
    d_kk: Tensor, d_key: Tensor, d_a: Tensor, k: Tensor, rate: Tensor, removal: Tensor, added: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    H, P = k.shape[-2:]
    rows, strides = zip(*(heads_in_rows(x) for x in (d_kk, d_key, d_a, k, rate)), strict=True)
    d_k, d_rate = (torch.empty(k.shape, dtype=k.dtype, device=k.device) for _ in range(2))
    p_tile = triton.next_power_of_2(P)
    heads = min(max(1, COLUMNS // p_tile), triton.next_power_of_2(H))
    blocks = triton.cdiv(H, heads)
    walkers = max(1, walkers_of(k, rows[0].shape[0] * blocks, PROGRAMS) // blocks)
    partial = [torch.empty(walkers, H, P, dtype=torch.float32, device=k.device) for _ in range(2)]
    _keys_backward[(walkers, blocks)](
        *rows,
        removal.contiguous(),
        added.contiguous(),
        d_k,
        d_rate,
        *partial,
        *strides,
        rows[0].shape[0],
        H,
        P,
        LENGTH_EPS,
        HEADS=heads,
        P_TILE=p_tile,
        STAGES=3 if k.element_size() == 2 else 2,
        num_warps=4,
    )
    d_removal, d_added = (sums.sum(0).to(x.dtype) for sums, x in zip(partial, (removal, added), strict=True))
    return d_k, d_rate, d_removal, d_added


def _keep_keys(ctx: Any, inputs: tuple[Any, ...], **_: Any) -> None:
    ctx.save_for_backward(*inputs)


def _undo_keys(ctx: Any, d_kk: Tensor, d_key: Tensor, d_a: Tensor) -> tuple[Any, ...]:
    made: tuple[Any, ...] = _keys_backward_op(d_kk, d_key, d_a, *ctx.saved_tensors)
    return made


_KEYS = "Tensor k, Tensor rate, Tensor removal, Tensor added"
_keys_op = custom_op(
    "hybridbench::rwkv7_keys_forward",
    _run_keys,
    mutates_args=(),
    schema=f"({_KEYS}) -> (Tensor, Tensor, Tensor)",
)
_keys_backward_op = custom_op(
    "hybridbench::rwkv7_keys_backward",
    _run_keys_backward,
    mutates_args=(),
    schema=f"(Tensor d_kk, Tensor d_key, Tensor d_a, {_KEYS}) -> (Tensor, Tensor, Tensor, Tensor)",
)
_keys_op.register_fake(lambda k, *_: tuple(k.new_empty(k.shape) for _ in range(3)))
_keys_backward_op.register_fake(
    lambda _d_kk, _d_key, _d_a, k, rate, removal, added: tuple(x.new_empty(x.shape) for x in (k, rate, removal, added))
)
_keys_op.register_autograd(_undo_keys, setup_context=_keep_keys)


def rwkv7_keys(k: Tensor, rate: Tensor, removal_HP: Tensor, added_HP: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """``rwkv7_keys`` of the reference."""
    kk, key, a = _keys_op(k, rate, removal_HP, added_HP)
    return kk, key, a
