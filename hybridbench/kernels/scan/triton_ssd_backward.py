"""triton_ssd_backward: the gradients of Mamba-2's scan in one pass over the sequence.

First comes the gradient of the state after every block, from the last block to the first. The blocks are then
independent: one kernel each for x (with dt), B and C, in which a program sums over the heads that share B and C. The
forward and its formulas are in ``triton_ssd``. Where states go in pieces, so do all kernels but the last: gradients of
x add up, and those of dt and A are partial sums like those of a head's slices.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from hybridbench.arch.blocks.ssd_kernels import BLOCK_TOKENS, heads_together
from hybridbench.kernels.scan.triton_ssd import WARPS, columns_of, slice_of, steps_of, tiles_of
from hybridbench.kernels.triton_jit import jit
from hybridbench.kernels.tuning import KernelCall, launch_in_order

REVERSE_STAGES, GRADIENT_STAGES = 3, 2
"""Tiles in flight into shared memory."""


@jit
def scan_reverse_kernel(
    d_y_tiles: tl.tensor,
    c_tiles: tl.tensor,
    states_tiles: tl.tensor,
    d_states_tiles: tl.tensor,
    run_ptr: tl.tensor,
    d_final_ptr: tl.tensor,
    d_end_ptr: tl.tensor,
    H: tl.tensor,
    blocks: tl.tensor,
    P: tl.constexpr,
    N: tl.constexpr,
    SHARE: tl.constexpr,
    HAS_FINAL: tl.constexpr,
    BLOCK: tl.constexpr,
    SLICE: tl.constexpr,
    STAGES: tl.constexpr,
) -> None:
    """The gradient of the state after every block, from the end, and the gradient of the decay over the block."""
    batch, head, part = tl.program_id(1) // H, tl.program_id(1) % H, tl.program_id(0) * SLICE
    small = tl.program_id(1).to(tl.int64) * blocks * BLOCK
    ends = d_end_ptr + (tl.program_id(0).to(tl.int64) * tl.num_programs(1) + tl.program_id(1)) * blocks
    i = tl.arange(0, BLOCK)
    if HAS_FINAL:
        p, n = part + tl.arange(0, SLICE), tl.arange(0, N)
        d_state = tl.load(d_final_ptr + tl.program_id(1).to(tl.int64) * (P * N) + (p[:, None] * N + n[None, :]))
    else:
        d_state = tl.zeros((SLICE, N), tl.float32)
    for step in tl.range(0, blocks, num_stages=STAGES):
        block = blocks - 1 - step
        first = block * BLOCK
        row = ((batch * blocks + block) * H + head) * P + part
        d_y = d_y_tiles.load([batch, first, head * P + part]).reshape(BLOCK, SLICE)
        c = c_tiles.load([batch, first, head // SHARE * N]).reshape(BLOCK, N)
        state = states_tiles.load([row, 0])
        run = tl.load(run_ptr + small + first + i)
        end = tl.load(run_ptr + small + first + BLOCK - 1)
        d_states_tiles.store([row, 0], d_state.to(d_y.dtype))
        d_state *= tl.exp2(end)
        tl.store(ends + block, tl.sum(d_state * state))
        weighted = (d_y.to(tl.float32) * tl.exp2(run)[:, None]).to(d_y.dtype)
        d_state = tl.dot(tl.trans(weighted), c, d_state)


@jit
def scan_d_x_kernel(
    d_y_tiles: tl.tensor,
    x_tiles: tl.tensor,
    b_tiles: tl.tensor,
    c_tiles: tl.tensor,
    d_states_tiles: tl.tensor,
    d_x_tiles: tl.tensor,
    d_scores_tiles: tl.tensor,
    dt_ptr: tl.tensor,
    run_ptr: tl.tensor,
    D_ptr: tl.tensor,
    d_run_ptr: tl.tensor,
    d_dt_ptr: tl.tensor,
    d_end_ptr: tl.tensor,
    d_D_ptr: tl.tensor,
    B: tl.tensor,
    H: tl.tensor,
    blocks: tl.tensor,
    P: tl.constexpr,
    N: tl.constexpr,
    SHARE: tl.constexpr,
    HEADS: tl.constexpr,
    ADD: tl.constexpr,
    BLOCK: tl.constexpr,
    SLICE: tl.constexpr,
    STAGES: tl.constexpr,
) -> None:
    """For one block and some heads that share B and C: the gradients of x and of C B, and dt times its gradient except
    the part through the state before the block. With ADD that of x is added to the one that is there, which holds D's
    part, and D has its gradient already.
    """
    SLICES: tl.constexpr = P // SLICE
    block, batch, heads = tl.program_id(0), tl.program_id(1), tl.program_id(2) * HEADS
    first, group = block * BLOCK, heads // SHARE
    i = tl.arange(0, BLOCK)
    b = b_tiles.load([batch, first, group * N]).reshape(BLOCK, N)
    # Rows are j and columns i, so that the factor of d_y stays in registers.
    scores = tl.dot(b, tl.trans(c_tiles.load([batch, first, group * N]).reshape(BLOCK, N)))
    d_scores = tl.zeros((BLOCK, BLOCK), tl.float32)
    for step in tl.range(0, HEADS * SLICES, num_stages=STAGES):
        head, part = heads + step // SLICES, step % SLICES * SLICE
        x = x_tiles.load([batch, first, head * P + part]).reshape(BLOCK, SLICE)
        d_y = d_y_tiles.load([batch, first, head * P + part]).reshape(BLOCK, SLICE)
        d_state = d_states_tiles.load([((batch * blocks + block) * H + head) * P + part, 0])
        small = (batch.to(tl.int64) * H + head) * blocks * BLOCK + first
        dt, run, end = tl.load(dt_ptr + small + i), tl.load(run_ptr + small + i), tl.load(run_ptr + small + BLOCK - 1)
        D = tl.load(D_ptr + head).to(tl.float32)
        slot = tl.cast(step % SLICES, tl.int64) * B * H * blocks

        decay = tl.exp2(tl.minimum(run[None, :] - run[:, None], 0.0)) * dt[:, None]
        decay = tl.where(i[None, :] >= i[:, None], decay, 0.0)
        mixed = scores * decay
        d_decayed = tl.dot(x, tl.trans(d_y))
        d_scores += d_decayed * decay
        pairs = d_decayed * mixed
        at = slot * BLOCK + small + i
        d_x = tl.dot(b, tl.trans(d_state)) * (tl.exp2(end - run) * dt)[:, None]
        into = tl.sum(x.to(tl.float32) * d_x, 1)
        others = tl.where(i[None, :] == i[:, None], 0.0, pairs)  # a token's effect on itself does not decay
        d_later = tl.sum(others, 1) + into
        d_step = tl.sum(pairs, 1) + into
        tl.store(d_run_ptr + at, tl.sum(others, 0) - d_later)
        tl.store(d_dt_ptr + at, d_step)
        tl.store(d_end_ptr + slot + small // BLOCK, tl.sum(into))
        if not ADD:
            tl.store(
                d_D_ptr + ((block * B + batch) * H + head) * SLICES + step % SLICES, tl.sum(x.to(tl.float32) * d_y)
            )
            d_x += D * d_y.to(tl.float32)
        d_x = tl.dot(mixed.to(x.dtype), d_y, d_x)
        if ADD:
            d_x_tiles.atomic_add([batch, first, head * P + part], d_x.to(x.dtype).reshape(1, BLOCK, SLICE))
        else:
            d_x_tiles.store([batch, first, head * P + part], d_x.to(x.dtype).reshape(1, BLOCK, SLICE))
    row = (batch * blocks + block) * tl.num_programs(2) + tl.program_id(2)
    d_scores_tiles.store([row * BLOCK, 0], d_scores.to(b.dtype))


@jit
def scan_d_b_kernel(
    x_tiles: tl.tensor,
    c_tiles: tl.tensor,
    d_states_tiles: tl.tensor,
    d_scores_tiles: tl.tensor,
    d_b_tiles: tl.tensor,
    dt_ptr: tl.tensor,
    run_ptr: tl.tensor,
    B: tl.tensor,
    H: tl.tensor,
    blocks: tl.tensor,
    P: tl.constexpr,
    N: tl.constexpr,
    SHARE: tl.constexpr,
    HEADS: tl.constexpr,
    BLOCK: tl.constexpr,
    SLICE: tl.constexpr,
    STAGES: tl.constexpr,
) -> None:
    """For one block and some heads: their share of the gradient of B."""
    SLICES: tl.constexpr = P // SLICE
    block, batch, heads = tl.program_id(0), tl.program_id(1), tl.program_id(2) * HEADS
    first, group = block * BLOCK, heads // SHARE
    i = tl.arange(0, BLOCK)
    d_b = tl.zeros((BLOCK, N), tl.float32)
    for step in tl.range(0, HEADS * SLICES, num_stages=STAGES):
        head, part = heads + step // SLICES, step % SLICES * SLICE
        x = x_tiles.load([batch, first, head * P + part]).reshape(BLOCK, SLICE)
        d_state = d_states_tiles.load([((batch * blocks + block) * H + head) * P + part, 0])
        small = (batch.to(tl.int64) * H + head) * blocks * BLOCK + first
        dt, run, end = tl.load(dt_ptr + small + i), tl.load(run_ptr + small + i), tl.load(run_ptr + small + BLOCK - 1)
        weighted = (x.to(tl.float32) * (tl.exp2(end - run) * dt)[:, None]).to(x.dtype)
        d_b = tl.dot(weighted, d_state, d_b)
    row = (batch * blocks + block) * tl.num_programs(2) + tl.program_id(2)
    c = c_tiles.load([batch, first, group * N]).reshape(BLOCK, N)
    d_b = tl.dot(d_scores_tiles.load([row * BLOCK, 0]), c, d_b)
    d_b_tiles.store([heads % SHARE // HEADS * B + batch, first, group * N], d_b.reshape(1, BLOCK, N))


@jit
def scan_d_c_kernel(
    d_y_tiles: tl.tensor,
    b_tiles: tl.tensor,
    c_tiles: tl.tensor,
    states_tiles: tl.tensor,
    d_scores_tiles: tl.tensor,
    d_c_tiles: tl.tensor,
    run_ptr: tl.tensor,
    d_run_ptr: tl.tensor,
    B: tl.tensor,
    H: tl.tensor,
    blocks: tl.tensor,
    P: tl.constexpr,
    N: tl.constexpr,
    SHARE: tl.constexpr,
    HEADS: tl.constexpr,
    BLOCK: tl.constexpr,
    SLICE: tl.constexpr,
    STAGES: tl.constexpr,
) -> None:
    """For one block and some heads: their share of the gradient of C, and the part of the running sums' gradient that
    comes through the state before the block.
    """
    SLICES: tl.constexpr = P // SLICE
    block, batch, heads = tl.program_id(0), tl.program_id(1), tl.program_id(2) * HEADS
    first, group = block * BLOCK, heads // SHARE
    i = tl.arange(0, BLOCK)
    c = c_tiles.load([batch, first, group * N]).reshape(BLOCK, N)
    d_c = tl.zeros((BLOCK, N), tl.float32)
    for step in tl.range(0, HEADS * SLICES, num_stages=STAGES):
        head, part = heads + step // SLICES, step % SLICES * SLICE
        d_y = d_y_tiles.load([batch, first, head * P + part]).reshape(BLOCK, SLICE)
        state = states_tiles.load([((batch * blocks + block) * H + head) * P + part, 0])
        small = (batch.to(tl.int64) * H + head) * blocks * BLOCK + first
        run = tl.load(run_ptr + small + i)
        weighted = d_y.to(tl.float32) * tl.exp2(run)[:, None]
        d_run = tl.sum(weighted * tl.dot(c, tl.trans(state)), 1)
        tl.store(d_run_ptr + tl.cast(step % SLICES, tl.int64) * B * H * blocks * BLOCK + small + i, d_run)
        d_c = tl.dot(weighted.to(d_y.dtype), state, d_c)
    row = (batch * blocks + block) * tl.num_programs(2) + tl.program_id(2)
    b = b_tiles.load([batch, first, group * N]).reshape(BLOCK, N)
    d_c = tl.dot(tl.trans(d_scores_tiles.load([row * BLOCK, 0])), b, d_c)
    d_c_tiles.store([heads % SHARE // HEADS * B + batch, first, group * N], d_c.reshape(1, BLOCK, N))


@jit
def scan_finish_kernel(
    raw_ptr: tl.tensor,
    A_ptr: tl.tensor,
    bias_ptr: tl.tensor,
    dt_ptr: tl.tensor,
    d_run_ptr: tl.tensor,
    d_dt_ptr: tl.tensor,
    d_end_ptr: tl.tensor,
    out_ptr: tl.tensor,
    d_A_ptr: tl.tensor,
    d_bias_ptr: tl.tensor,
    T: tl.tensor,
    H: tl.tensor,
    raw_batch: tl.tensor,
    raw_token: tl.tensor,
    out_batch: tl.tensor,
    out_token: tl.tensor,
    SLICES: tl.constexpr,
    BLOCK: tl.constexpr,
    H_TILE: tl.constexpr,
) -> None:
    """Gradients of the projection's dt (through running sums and softplus), and of A and its bias as a partial sum a
    program.
    """
    batch, blocks = tl.program_id(1).to(tl.int64), tl.num_programs(0)
    t = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    h = tl.arange(0, H_TILE)
    heads = h < H
    live = (t < T)[:, None] & heads[None, :]
    A = tl.load(A_ptr + h, mask=heads, other=0.0).to(tl.float32)
    bias = tl.load(bias_ptr + h, mask=heads, other=0.0).to(tl.float32)
    raw = tl.load(raw_ptr + batch * raw_batch + t[:, None].to(tl.int64) * raw_token + h[None, :], mask=live, other=0.0)
    one_end = (batch * H + h) * blocks + tl.program_id(0)
    at = (batch * H + h[None, :]) * (blocks * BLOCK) + t[:, None]
    ends = tl.num_programs(1).to(tl.int64) * H * blocks
    d_end = tl.zeros((H_TILE,), tl.float32)
    d_run, d_dt = tl.zeros((BLOCK, H_TILE), tl.float32), tl.zeros((BLOCK, H_TILE), tl.float32)
    for part in tl.static_range(2 * SLICES):  # of the block itself, and of the states around it
        d_end += tl.load(d_end_ptr + part * ends + one_end, mask=heads, other=0.0)
        d_run += tl.load(d_run_ptr + part * ends * BLOCK + at, mask=live, other=0.0)
    for part in tl.static_range(SLICES):
        d_dt += tl.load(d_dt_ptr + part * ends * BLOCK + at, mask=live, other=0.0)
    dt = tl.load(dt_ptr + at, mask=live, other=0.0)
    d_a = tl.cumsum(d_run, 0, reverse=True) + d_end[None, :]
    d_dt = tl.where(dt > 0, d_dt / tl.maximum(dt, 1e-37), 0.0)
    d_raw = tl.where(live, (d_dt + d_a * A[None, :]) * tl.sigmoid(raw.to(tl.float32) + bias[None, :]), 0.0)
    out = out_ptr + batch * out_batch + t[:, None].to(tl.int64) * out_token + h[None, :]
    tl.store(out, d_raw.to(out_ptr.dtype.element_ty), mask=live)
    program = (batch * blocks + tl.program_id(0)) * H
    tl.store(d_A_ptr + program + h, tl.sum(d_a * dt, 0), mask=heads)
    tl.store(d_bias_ptr + program + h, tl.sum(d_raw, 0), mask=heads)


def _state_tiles(states: Tensor, width: int) -> TensorDescriptor:
    N = states.shape[-1]
    return TensorDescriptor(states, [states.numel() // N, N], [N, 1], [width, N])


def scan_backward(
    d_y_BTHP: Tensor,
    d_final_BHPN: Tensor | None,
    x_BTHP: Tensor,
    dt_BTH: Tensor,
    A_H: Tensor,
    b_BTGN: Tensor,
    c_BTGN: Tensor,
    D_H: Tensor,
    dt_bias_H: Tensor,
    states: Tensor,
    *,
    d_x: Tensor,
    d_dt: Tensor,
    d_b: Tensor,
    d_c: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of ``scan_forward``. Those of x, dt, b and c are written into the given tensors.

    Args:
        states: those that ``scan_forward`` kept.

    Returns:
        The gradients of A, D and the bias, (H,) in float32.
    """
    B, T, H, P = x_BTHP.shape
    G, N = b_BTGN.shape[2], states.shape[-1]
    width, heads = slice_of(P), heads_together(H // G, B * G * triton.cdiv(T, BLOCK_TOKENS))
    slices, shares, blocks = P // width, H // G // heads, triton.cdiv(T, BLOCK_TOKENS)
    parts = slices * len(states)
    new: dict[str, Any] = {"dtype": torch.float32, "device": x_BTHP.device}
    sums = torch.empty(2, shares, *b_BTGN.shape, **new)
    d_run = torch.empty(2, parts, B, H, blocks * BLOCK_TOKENS, **new)
    d_end = torch.empty(2, parts, B, H, blocks, **new)
    d_dt_parts = torch.empty(parts, B, H, blocks * BLOCK_TOKENS, **new)
    d_D = torch.empty(blocks * B, H, slices, **new)
    d_states = torch.empty_like(states[0])
    d_scores = x_BTHP.new_empty(B * blocks * G * shares * BLOCK_TOKENS, BLOCK_TOKENS)
    dt, run = steps_of(dt_BTH, A_H, dt_bias_H)
    d_y, x, into, behind = (*(tiles_of(t, width) for t in (d_y_BTHP, x_BTHP, d_x)), _state_tiles(d_states, width))
    square = TensorDescriptor(d_scores, list(d_scores.shape), [BLOCK_TOKENS, 1], [BLOCK_TOKENS, BLOCK_TOKENS])
    d_A, d_bias = torch.empty(2, B * blocks, H, **new)
    sizes: dict[str, Any] = {"P": P, "N": N, "SHARE": H // G, "BLOCK": BLOCK_TOKENS, "SLICE": width}
    reverse = {**sizes, "HAS_FINAL": d_final_BHPN is not None, "STAGES": REVERSE_STAGES, "num_warps": WARPS}
    grid, gradient = (blocks, B, H // heads), {**sizes, "HEADS": heads, "STAGES": GRADIENT_STAGES, "num_warps": WARPS}
    launches = list[KernelCall]()
    for piece, columns in enumerate(columns_of(b_BTGN.shape[-1])):
        b, c, d_b_sums, d_c_sums = (
            tiles_of(t[..., columns], N) for t in (b_BTGN, c_BTGN, sums[0].flatten(0, 1), sums[1].flatten(0, 1))
        )
        around, own = _state_tiles(states[piece], width), slice(piece * slices, (piece + 1) * slices)
        final = run if d_final_BHPN is None else d_final_BHPN[..., columns].float().contiguous()
        of_states = d_y, c, around, behind, run, final, d_end[1, own]
        of_x = d_y, x, b, c, behind, into, square, dt, run, D_H, d_run[0, own], d_dt_parts[own], d_end[0, own], d_D
        of_b = x, c, behind, square, d_b_sums, dt, run
        of_c = d_y, b, c, around, square, d_c_sums, run, d_run[1, own]
        launches += (
            KernelCall(scan_reverse_kernel, (slices, B * H), (*of_states, H, blocks), reverse),
            KernelCall(scan_d_x_kernel, grid, (*of_x, B, H, blocks), {**gradient, "ADD": piece > 0}),
            KernelCall(scan_d_b_kernel, grid, (*of_b, B, H, blocks), gradient),
            KernelCall(scan_d_c_kernel, grid, (*of_c, B, H, blocks), gradient),
        )
    finish = dt_BTH, A_H, dt_bias_H, dt, d_run, d_dt_parts, d_end, d_dt, d_A, d_bias
    strides = T, H, dt_BTH.stride(0), dt_BTH.stride(1), d_dt.stride(0), d_dt.stride(1)
    tiles = {"SLICES": parts, "BLOCK": BLOCK_TOKENS, "H_TILE": triton.next_power_of_2(H), "num_warps": 4}
    launches.append(KernelCall(scan_finish_kernel, (blocks, B), (*finish, *strides), tiles))
    like = "scan_backward", x_BTHP.device, x_BTHP.dtype, x_BTHP.shape, b_BTGN.shape, d_final_BHPN is None
    launch_in_order(launches, like)
    for gradient_BTGN, of_shares in ((d_b, sums[0]), (d_c, sums[1])):
        gradient_BTGN.copy_(of_shares[0] if shares == 1 else of_shares.sum(0))
    return d_A.sum(0), d_D.sum((0, 2)), d_bias.sum(0)
