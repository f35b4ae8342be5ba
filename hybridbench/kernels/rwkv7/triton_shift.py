"""triton_shift: RWKV-7's token shift with all its mixes as one kernel forward and one backward.

How these kernels are made is told in ``dense.triton_rows``. A forward reads x and writes the L mixes. A backward reads
x and the gradients of the mixes, each where autograd left it, and writes x's:

    d_x_t = sum_l g_l,t (1 - share_l) + sum_l g_l,t+1 share_l       the second sum within a sequence only
    d_share_l = sum_t g_l,t (x_t-1 - x_t)
    d_front = sum_l g_l,0 share_l

Each program of the backward walks from the end of a stretch of rows to its start, so that what a row leaves for the one
before it stays in registers. Its sums for the shares are added up in a fixed order: they are equal from run to run.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import custom_op

from hybridbench.kernels.dense.triton_rows import rows_of, walkers_of
from hybridbench.kernels.triton_jit import jit

MOST = 6
"""The most mixes of one shift."""

COLUMNS = 1024
"""Columns per program: 8 elements for each of 128 threads, one load of 16 bytes of bfloat16."""

ROWS = 4
"""Rows per program of the forward, of which the token before is in the same program for all but the first."""

PROGRAMS = 3
"""Programs per SM of the backward, as many as its registers allow to be resident at once."""


@jit
def _share(share_ptr: tl.tensor, d: tl.tensor, D: tl.tensor, MIX: tl.constexpr, MIXES: tl.constexpr) -> tl.tensor:
    """The shares of a mix; zeros of one that there is not."""
    share = tl.zeros(d.shape, tl.float32)
    if MIX < MIXES:
        share = tl.load(share_ptr + MIX * D + d, mask=d < D, other=0.0).to(tl.float32)
    return share


@jit
def _store_mix(
    mixed_ptr: tl.tensor,
    share_ptr: tl.tensor,
    x: tl.tensor,
    difference: tl.tensor,
    at: tl.tensor,
    live: tl.tensor,
    d: tl.tensor,
    D: tl.tensor,
    MIX: tl.constexpr,
    MIXES: tl.constexpr,
) -> None:
    if MIX < MIXES:
        mixed = x + difference * _share(share_ptr, d, D, MIX, MIXES)[None, :]
        tl.store(mixed_ptr + at, mixed.to(mixed_ptr.dtype.element_ty), mask=live)


@jit
def _shift_forward(
    x_ptr: tl.tensor,
    front_ptr: tl.tensor,
    share_ptr: tl.tensor,
    mixed_0_ptr: tl.tensor,
    mixed_1_ptr: tl.tensor,
    mixed_2_ptr: tl.tensor,
    mixed_3_ptr: tl.tensor,
    mixed_4_ptr: tl.tensor,
    mixed_5_ptr: tl.tensor,
    x_stride: tl.tensor,
    rows: tl.tensor,
    T: tl.tensor,
    D: tl.tensor,
    FRONT: tl.constexpr,
    MIXES: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    d = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    t = (row % T)[:, None]
    live = (row < rows)[:, None] & (d < D)[None, :]
    place = x_ptr + row.to(tl.int64)[:, None] * x_stride + d[None, :]
    x = tl.load(place, mask=live, other=0.0).to(tl.float32)
    before = tl.load(place - x_stride, mask=live & (t > 0), other=0.0).to(tl.float32)
    if FRONT:
        front = front_ptr + (row // T).to(tl.int64)[:, None] * D + d[None, :]
        before += tl.load(front, mask=live & (t == 0), other=0.0).to(tl.float32)
    difference = before - x
    at = row.to(tl.int64)[:, None] * D + d[None, :]
    _store_mix(mixed_0_ptr, share_ptr, x, difference, at, live, d, D, 0, MIXES)
    _store_mix(mixed_1_ptr, share_ptr, x, difference, at, live, d, D, 1, MIXES)
    _store_mix(mixed_2_ptr, share_ptr, x, difference, at, live, d, D, 2, MIXES)
    _store_mix(mixed_3_ptr, share_ptr, x, difference, at, live, d, D, 3, MIXES)
    _store_mix(mixed_4_ptr, share_ptr, x, difference, at, live, d, D, 4, MIXES)
    _store_mix(mixed_5_ptr, share_ptr, x, difference, at, live, d, D, 5, MIXES)


@jit
def _add_mix(
    d_mixed_ptr: tl.tensor,
    at: tl.tensor,
    live: tl.tensor,
    share: tl.tensor,
    difference: tl.tensor,
    whole: tl.tensor,
    shared: tl.tensor,
    d_share: tl.tensor,
    MIX: tl.constexpr,
    MIXES: tl.constexpr,
) -> tl.tensor:
    """With a mix's gradient added: the sums of all of them as they are and times their shares, and its share's own."""
    if MIX < MIXES:
        gradient = tl.load(d_mixed_ptr + at, mask=live, other=0.0).to(tl.float32)
        whole, shared, d_share = whole + gradient, shared + gradient * share, d_share + gradient * difference
    return whole, shared, d_share


@jit
def _store_sum(
    d_share_ptr: tl.tensor, d_share: tl.tensor, d: tl.tensor, D: tl.tensor, MIX: tl.constexpr, MIXES: tl.constexpr
) -> None:
    if MIX < MIXES:
        tl.store(d_share_ptr + MIX * D + d, d_share, mask=d < D)


@jit
def _shift_backward(
    d_mixed_0_ptr: tl.tensor,
    d_mixed_1_ptr: tl.tensor,
    d_mixed_2_ptr: tl.tensor,
    d_mixed_3_ptr: tl.tensor,
    d_mixed_4_ptr: tl.tensor,
    d_mixed_5_ptr: tl.tensor,
    x_ptr: tl.tensor,
    front_ptr: tl.tensor,
    share_ptr: tl.tensor,
    d_x_ptr: tl.tensor,
    d_front_ptr: tl.tensor,
    d_share_ptr: tl.tensor,
    x_stride: tl.tensor,
    rows: tl.tensor,
    T: tl.tensor,
    D: tl.tensor,
    FRONT: tl.constexpr,
    MIXES: tl.constexpr,
    BLOCK: tl.constexpr,
    STAGES: tl.constexpr,
) -> None:
    d = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    live = d < D
    stretch = tl.cdiv(rows, tl.num_programs(0))
    begin = tl.program_id(0) * stretch
    end = tl.minimum(begin + stretch, rows)
    share_0 = _share(share_ptr, d, D, 0, MIXES)
    share_1 = _share(share_ptr, d, D, 1, MIXES)
    share_2 = _share(share_ptr, d, D, 2, MIXES)
    share_3 = _share(share_ptr, d, D, 3, MIXES)
    share_4 = _share(share_ptr, d, D, 4, MIXES)
    share_5 = _share(share_ptr, d, D, 5, MIXES)
    nothing = tl.zeros((BLOCK,), tl.float32)
    sum_0, sum_1, sum_2, sum_3, sum_4, sum_5 = nothing, nothing, nothing, nothing, nothing, nothing
    # what the row behind the stretch leaves for its last one
    at = tl.cast(end, tl.int64) * D + d
    goes_on = live & (end < rows) & (end % T != 0)
    later = nothing
    _, later, _ = _add_mix(d_mixed_0_ptr, at, goes_on, share_0, nothing, nothing, later, nothing, 0, MIXES)
    _, later, _ = _add_mix(d_mixed_1_ptr, at, goes_on, share_1, nothing, nothing, later, nothing, 1, MIXES)
    _, later, _ = _add_mix(d_mixed_2_ptr, at, goes_on, share_2, nothing, nothing, later, nothing, 2, MIXES)
    _, later, _ = _add_mix(d_mixed_3_ptr, at, goes_on, share_3, nothing, nothing, later, nothing, 3, MIXES)
    _, later, _ = _add_mix(d_mixed_4_ptr, at, goes_on, share_4, nothing, nothing, later, nothing, 4, MIXES)
    _, later, _ = _add_mix(d_mixed_5_ptr, at, goes_on, share_5, nothing, nothing, later, nothing, 5, MIXES)
    x = tl.load(x_ptr + tl.cast(end - 1, tl.int64) * x_stride + d, mask=live, other=0.0).to(tl.float32)
    for step in tl.range(0, end - begin, num_stages=STAGES):  # none where no row is left
        row = end - 1 - step
        starts = row % T == 0
        at = tl.cast(row, tl.int64) * D + d
        above_ptr = x_ptr + (tl.cast(row, tl.int64) - 1) * x_stride + d
        above = tl.load(above_ptr, mask=live & (row > 0), other=0.0).to(tl.float32)
        before = tl.where(starts, 0.0, above)
        if FRONT:
            front = front_ptr + tl.cast(row // T, tl.int64) * D + d
            before += tl.load(front, mask=live & starts, other=0.0).to(tl.float32)
        difference = before - x
        whole, shared = nothing, nothing
        whole, shared, sum_0 = _add_mix(d_mixed_0_ptr, at, live, share_0, difference, whole, shared, sum_0, 0, MIXES)
        whole, shared, sum_1 = _add_mix(d_mixed_1_ptr, at, live, share_1, difference, whole, shared, sum_1, 1, MIXES)
        whole, shared, sum_2 = _add_mix(d_mixed_2_ptr, at, live, share_2, difference, whole, shared, sum_2, 2, MIXES)
        whole, shared, sum_3 = _add_mix(d_mixed_3_ptr, at, live, share_3, difference, whole, shared, sum_3, 3, MIXES)
        whole, shared, sum_4 = _add_mix(d_mixed_4_ptr, at, live, share_4, difference, whole, shared, sum_4, 4, MIXES)
        whole, shared, sum_5 = _add_mix(d_mixed_5_ptr, at, live, share_5, difference, whole, shared, sum_5, 5, MIXES)
        tl.store(d_x_ptr + at, (whole - shared + later).to(d_x_ptr.dtype.element_ty), mask=live)
        if FRONT:
            first = d_front_ptr + tl.cast(row // T, tl.int64) * D + d
            tl.store(first, shared.to(d_front_ptr.dtype.element_ty), mask=live & starts)
        later = tl.where(starts, 0.0, shared)
        x = above
    sums = d_share_ptr + tl.cast(tl.program_id(0), tl.int64) * MIXES * D
    _store_sum(sums, sum_0, d, D, 0, MIXES)
    _store_sum(sums, sum_1, d, D, 1, MIXES)
    _store_sum(sums, sum_2, d, D, 2, MIXES)
    _store_sum(sums, sum_3, d, D, 3, MIXES)
    _store_sum(sums, sum_4, d, D, 4, MIXES)
    _store_sum(sums, sum_5, d, D, 5, MIXES)


def _filled(tensors: list[Tensor]) -> list[Tensor]:
    """As many tensors as a kernel has arguments; those behind the last one stand for nothing."""
    return tensors + tensors[:1] * (MOST - len(tensors))


def _run_shift(x: Tensor, share: Tensor, front: Tensor | None) -> list[Tensor]:
    rows, (T, D) = rows_of(x), x.shape[-2:]
    mixed = [torch.empty(x.shape, dtype=x.dtype, device=x.device) for _ in range(share.shape[0])]
    assert len(mixed) <= MOST, "a shift has at most as many mixes as its kernels have arguments"
    block = min(COLUMNS, triton.next_power_of_2(D))
    _shift_forward[(triton.cdiv(rows.shape[0], ROWS), triton.cdiv(D, block))](
        rows,
        rows if front is None else front.contiguous(),
        share.contiguous(),
        *_filled(mixed),
        rows.stride(0),
        rows.shape[0],
        T,
        D,
        FRONT=front is not None,
        MIXES=len(mixed),
        ROWS=ROWS,
        BLOCK=block,
        num_warps=4,
    )
    return mixed


def _run_shift_backward(
    d_mixed: list[Tensor], x: Tensor, share: Tensor, front: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    rows, (T, D) = rows_of(x), x.shape[-2:]
    d_x = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    d_front = x.new_empty(0) if front is None else torch.empty(front.shape, dtype=front.dtype, device=x.device)
    block = min(COLUMNS, triton.next_power_of_2(D))
    blocks = triton.cdiv(D, block)
    walkers = max(1, walkers_of(x, rows.shape[0] * blocks, PROGRAMS) // blocks)
    partial = torch.empty(walkers, len(d_mixed), D, dtype=torch.float32, device=x.device)
    _shift_backward[(walkers, blocks)](
        *_filled([gradient.contiguous() for gradient in d_mixed]),
        rows,
        rows if front is None else front.contiguous(),
        share.contiguous(),
        d_x,
        d_front,
        partial,
        rows.stride(0),
        rows.shape[0],
        T,
        D,
        FRONT=front is not None,
        MIXES=len(d_mixed),
        BLOCK=block,
        STAGES=3 if x.element_size() == 2 else 2,
        num_warps=4,
    )
    return d_x, partial.sum(0).to(share.dtype), d_front


def _keep_shift(ctx: Any, inputs: tuple[Any, ...], **_: Any) -> None:
    x, share, front = inputs
    ctx.continues = front is not None
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(x, share, *([front] if ctx.continues else []))


def _undo_shift(ctx: Any, d_mixed: list[Tensor | None]) -> tuple[Any, ...]:
    x, share, *front = ctx.saved_tensors
    used = [mix for mix, gradient in enumerate(d_mixed) if gradient is not None]
    whole = len(used) == len(d_mixed)
    gradients = [gradient for gradient in d_mixed if gradient is not None]
    d_x, d_share, d_front = _shift_backward_op(
        gradients, x, share if whole else share[used], front[0] if front else None
    )
    if not whole:
        d_share = torch.zeros_like(share).index_copy_(0, torch.tensor(used, device=share.device), d_share)
    return d_x, d_share, d_front if front else None


_shift_op = custom_op(
    "hybridbench::rwkv7_shift_forward",
    _run_shift,
    mutates_args=(),
    schema="(Tensor x, Tensor share, Tensor? front) -> Tensor[]",
)
_shift_backward_op = custom_op(
    "hybridbench::rwkv7_shift_backward",
    _run_shift_backward,
    mutates_args=(),
    schema="(Tensor[] d_mixed, Tensor x, Tensor share, Tensor? front) -> (Tensor, Tensor, Tensor)",
)
_shift_op.register_fake(lambda x, share, _front: [x.new_empty(x.shape) for _ in range(share.shape[0])])
_shift_backward_op.register_fake(
    lambda _d_mixed, x, share, front: (
        x.new_empty(x.shape),
        share.new_empty(share.shape),
        x.new_empty(0) if front is None else front.new_empty(front.shape),
    )
)
_shift_op.register_autograd(_undo_shift, setup_context=_keep_shift)


def rwkv7_shift(x_BTD: Tensor, share_LD: Tensor, *, front_BD: Tensor | None = None) -> tuple[Tensor, ...]:
    """``rwkv7_shift`` of the reference."""
    mixed: list[Tensor] = _shift_op(x_BTD, share_LD, front_BD)
    return tuple(mixed)
