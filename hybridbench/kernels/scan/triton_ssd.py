"""triton_ssd: Mamba-2's scan in one pass over the sequence.

One program holds one head's state, or a slice of its channels, and loops over the tokens in blocks. With a = dt A, c_i
the sum of a over a block up to i, and e the block's end, a block of h = exp(a) h + dt B x, y = C h + D x is

    y_i = exp(c_i) C_i S + sum_{j <= i} exp(c_i - c_j) (C_i B_j) dt_j x_j + D x_i
    S'  = exp(c_e) S + sum_j exp(c_e - c_j) dt_j x_j B_j

with S the state before it and S' after it (the matrix form of Dao and Gu, arXiv 2405.21060, section 6). mamba_ssm does
this in five kernels, which pass the states of all chunks and all products C B through memory. Here only the states
before every block are written, for the backward (``triton_ssd_backward``). It is fast where batch x heads x slices is
some hundreds.

y and S are linear in the columns of B and C that belong to states. Wide states go in pieces, one launch after the
other, each of which adds its outputs to those before.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from hybridbench.arch.blocks.ssd_kernels import BLOCK_TOKENS, SLICE, state_pieces
from hybridbench.kernels.attention.triton_decode import multiprocessors
from hybridbench.kernels.triton_jit import jit

LOG2_E = tl.constexpr(1.4426950408889634)
FORWARD_STAGES, LONE_STAGES = 2, 3
"""Tiles in flight into shared memory. Two forward programs of two stages fit on an SM; where there are fewer programs
than SMs, each uses ``LONE_STAGES``."""
WARPS = 4
"""Warps of a program."""


@jit
def _softplus(raw: tl.tensor) -> tl.tensor:
    grown = tl.exp2(tl.minimum(raw, 20.0) * LOG2_E)
    return tl.where(raw > 20.0, raw, tl.where(raw < -10.0, grown, tl.log2(1.0 + grown) / LOG2_E))


@jit
def scan_steps_kernel(
    raw_ptr: tl.tensor,
    A_ptr: tl.tensor,
    bias_ptr: tl.tensor,
    dt_ptr: tl.tensor,
    run_ptr: tl.tensor,
    T: tl.tensor,
    H: tl.tensor,
    padded: tl.tensor,
    raw_batch: tl.tensor,
    raw_token: tl.tensor,
    BLOCK: tl.constexpr,
    H_TILE: tl.constexpr,
) -> None:
    """Writes dt by head, 0 beyond the sequence, and the running sums of dt A within each block in units of log 2."""
    batch = tl.program_id(1).to(tl.int64)
    t = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    h = tl.arange(0, H_TILE)
    heads = h < H
    live = (t < T)[:, None] & heads[None, :]
    a = tl.load(A_ptr + h, mask=heads, other=0.0).to(tl.float32) * LOG2_E
    bias = tl.load(bias_ptr + h, mask=heads, other=0.0).to(tl.float32)
    raw = tl.load(raw_ptr + batch * raw_batch + t[:, None].to(tl.int64) * raw_token + h[None, :], mask=live, other=0.0)
    dt = tl.where(live, _softplus(raw.to(tl.float32) + bias[None, :]), 0.0)
    out = (batch * H + h[None, :]) * padded + t[:, None]
    tl.store(dt_ptr + out, dt, mask=heads[None, :])
    tl.store(run_ptr + out, tl.cumsum(dt * a[None, :], 0), mask=heads[None, :])


@jit
def _decays(run: tl.tensor, BLOCK: tl.constexpr) -> tl.tensor:
    """exp(c_i - c_j) where j <= i and 0 elsewhere."""
    i = tl.arange(0, BLOCK)
    return tl.where(i[:, None] >= i[None, :], tl.exp2(tl.minimum(run[:, None] - run[None, :], 0.0)), 0.0)


@jit
def scan_forward_kernel(
    x_tiles: tl.tensor,
    b_tiles: tl.tensor,
    c_tiles: tl.tensor,
    y_tiles: tl.tensor,
    states_ptr: tl.tensor,
    dt_ptr: tl.tensor,
    run_ptr: tl.tensor,
    D_ptr: tl.tensor,
    initial_ptr: tl.tensor,
    final_ptr: tl.tensor,
    H: tl.tensor,
    blocks: tl.tensor,
    P: tl.constexpr,
    N: tl.constexpr,
    SHARE: tl.constexpr,
    HAS_INITIAL: tl.constexpr,
    KEEP: tl.constexpr,
    ADD: tl.constexpr,
    BLOCK: tl.constexpr,
    SLICE: tl.constexpr,
    STAGES: tl.constexpr,
) -> None:
    """The outputs and the final state of one head's slice, and with KEEP the state before every block. With ADD the
    outputs are added to those that are there, which hold D x.
    """
    batch, head, part = tl.program_id(1) // H, tl.program_id(1) % H, tl.program_id(0) * SLICE
    i = tl.arange(0, BLOCK)
    of_state = (part + tl.arange(0, SLICE))[:, None] * N + tl.arange(0, N)[None, :]
    small = tl.program_id(1).to(tl.int64) * blocks * BLOCK + i
    D = tl.load(D_ptr + head).to(tl.float32)
    if HAS_INITIAL:
        state = tl.load(initial_ptr + tl.program_id(1).to(tl.int64) * (P * N) + of_state)
    else:
        state = tl.zeros((SLICE, N), tl.float32)
    for block in tl.range(0, blocks, num_stages=STAGES):
        first = block * BLOCK
        x = x_tiles.load([batch, first, head * P + part]).reshape(BLOCK, SLICE)
        b = b_tiles.load([batch, first, head // SHARE * N]).reshape(BLOCK, N)
        c = c_tiles.load([batch, first, head // SHARE * N]).reshape(BLOCK, N)
        dt, run = tl.load(dt_ptr + small + first), tl.load(run_ptr + small + first)
        end = tl.load(run_ptr + tl.program_id(1).to(tl.int64) * blocks * BLOCK + first + BLOCK - 1)
        rounded = state.to(x.dtype)
        if KEEP:
            # A bulk copy would need another tile of shared memory, so that only one program would fit.
            before = tl.cast((batch * blocks + block) * H + head, tl.int64) * (P * N)
            tl.store(states_ptr + before + of_state, rounded)
        mixed = tl.dot(c, tl.trans(b)) * _decays(run, BLOCK) * dt[None, :]
        y = tl.dot(c, tl.trans(rounded)) * tl.exp2(run)[:, None]
        if ADD:
            y = tl.dot(mixed.to(x.dtype), x, y)
            y_tiles.atomic_add([batch, first, head * P + part], y.to(x.dtype).reshape(1, BLOCK, SLICE))
        else:
            y = tl.dot(mixed.to(x.dtype), x, y + D * x.to(tl.float32))
            y_tiles.store([batch, first, head * P + part], y.to(x.dtype).reshape(1, BLOCK, SLICE))
        weighted = (x.to(tl.float32) * (tl.exp2(end - run) * dt)[:, None]).to(x.dtype)
        state = tl.dot(tl.trans(weighted), b, state * tl.exp2(end))
    tl.store(final_ptr + tl.program_id(1).to(tl.int64) * (P * N) + of_state, state)


def tiles_of(x: Tensor, width: int) -> TensorDescriptor:
    """Tiles of one block and ``width`` channels of x (B, T, heads, channels), perhaps a view into wider rows."""
    return TensorDescriptor(x, [*x.shape[:2], x.shape[2] * x.shape[3]], [*x.stride()[:2], 1], [1, BLOCK_TOKENS, width])


def slice_of(P: int) -> int:
    """Channels of a head that a program holds at a time."""
    return math.gcd(P, SLICE)


def _stages(x: Tensor, programs: int) -> int:
    """Stages of the forward."""
    return LONE_STAGES if programs <= multiprocessors(x.device) else FORWARD_STAGES


def states_shape(B: int, T: int, H: int, P: int, N: int, keep: bool) -> tuple[int, ...]:
    """The shape of the states before every block, of each piece of their columns; a single one, never written, where
    they are not kept.
    """
    pieces = state_pieces(N)
    return (pieces, *((B, triton.cdiv(T, BLOCK_TOKENS), H) if keep else (1, 1, 1)), P, N // pieces)


def columns_of(N: int) -> list[slice]:
    """The columns of each piece of N states."""
    width = N // state_pieces(N)
    return [slice(start, start + width) for start in range(0, N, width)]


def steps_of(dt_BTH: Tensor, A_H: Tensor, dt_bias_H: Tensor) -> Tensor:
    """The steps dt and their running sums within blocks, (2, B, H, T rounded up to blocks), float32."""
    B, T, H = dt_BTH.shape
    blocks = triton.cdiv(T, BLOCK_TOKENS)
    made = torch.empty(2, B, H, blocks * BLOCK_TOKENS, dtype=torch.float32, device=dt_BTH.device)
    scan_steps_kernel[(blocks, B)](
        dt_BTH,
        A_H,
        dt_bias_H,
        made[0],
        made[1],
        T,
        H,
        blocks * BLOCK_TOKENS,
        dt_BTH.stride(0),
        dt_BTH.stride(1),
        BLOCK=BLOCK_TOKENS,
        H_TILE=triton.next_power_of_2(H),
        num_warps=4,
    )
    return made


def scan_forward(
    x_BTHP: Tensor,
    dt_BTH: Tensor,
    A_H: Tensor,
    b_BTGN: Tensor,
    c_BTGN: Tensor,
    D_H: Tensor,
    dt_bias_H: Tensor,
    *,
    keep: bool,
    initial_BHPN: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """``ssd`` of the reference.

    Args:
        x_BTHP: with contiguous heads, as b and c have contiguous groups, one where states go in pieces. Tokens may be
            views into wider rows of a multiple of 16 bytes.
        dt_BTH: before bias and softplus.
        keep: whether the state before every block of ``BLOCK_TOKENS`` tokens is returned.
        initial_BHPN: the initial state, which gets no gradient; None for zeros.

    Returns:
        y (B, T, H, P) in x's dtype, the final state (B, H, P, N) in float32, and the states (``states_shape``) in x's
        dtype.
    """
    B, T, H, P = x_BTHP.shape
    G, N = b_BTGN.shape[2:]
    width = slice_of(P)
    blocks = triton.cdiv(T, BLOCK_TOKENS)
    y = torch.empty(B, T, H, P, dtype=x_BTHP.dtype, device=x_BTHP.device)
    states = x_BTHP.new_empty(states_shape(B, T, H, P, N, keep))
    final = torch.empty(len(states), B, H, P, states.shape[-1], dtype=torch.float32, device=x_BTHP.device)
    dt, run = steps_of(dt_BTH, A_H, dt_bias_H)
    for piece, columns in enumerate(columns_of(N)):
        scan_forward_kernel[(P // width, B * H)](
            tiles_of(x_BTHP, width),
            tiles_of(b_BTGN[..., columns], states.shape[-1]),
            tiles_of(c_BTGN[..., columns], states.shape[-1]),
            tiles_of(y, width),
            states[piece],
            dt,
            run,
            D_H,
            final[piece] if initial_BHPN is None else initial_BHPN[..., columns].float().contiguous(),
            final[piece],
            H,
            blocks,
            P=P,
            N=states.shape[-1],
            SHARE=H // G,
            HAS_INITIAL=initial_BHPN is not None,
            KEEP=keep,
            ADD=piece > 0,
            BLOCK=BLOCK_TOKENS,
            SLICE=width,
            STAGES=_stages(x_BTHP, B * H * P // width),
            num_warps=WARPS,
        )
    return y, final[0] if len(final) == 1 else torch.cat(list(final), -1), states
