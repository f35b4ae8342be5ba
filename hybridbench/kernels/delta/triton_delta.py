"""triton_delta: this package's Triton kernels for the mixers of the delta rule: one step in place, and norm and gate.

    gated_delta_step, kda_step    one position of the recurrence; a program holds some value channels of a head's state
    norm_gate                     an RMSNorm per head times silu(z) or sigmoid(z)

A step reads and writes each state once, in the dtype it is stored in, and reads queries, keys and values in place. Each
program computes softplus, sigmoid and the lengths of q and k itself. Each kernel is a PyTorch custom operator, which
torch.compile does not trace into. Importing this module needs triton.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import custom_op

from hybridbench.kernels.delta.reference import UNIT_EPS
from hybridbench.kernels.dense.triton_rows import groups_of, heads_in_rows, walkers_of
from hybridbench.kernels.triton_jit import jit

VALUES = 32
"""Value channels per program of a step: 64-byte rows of a 16-bit state, and enough programs at batch 4."""

GROUP_ELEMENTS = 2048
"""Elements per program of the norm: several heads at once, or one that is wider."""

GATE_PROGRAMS = 4
"""Programs per SM of the norm's backward; each writes one partial sum of the weight's gradient."""


@jit
def _delta_step(
    state_ptr: tl.tensor,
    q_ptr: tl.tensor,
    k_ptr: tl.tensor,
    v_ptr: tl.tensor,
    dt_ptr: tl.tensor,
    beta_ptr: tl.tensor,
    A_log_ptr: tl.tensor,
    dt_bias_ptr: tl.tensor,
    out_ptr: tl.tensor,
    state_b: tl.tensor,
    q_b: tl.tensor,
    q_h: tl.tensor,
    k_b: tl.tensor,
    k_h: tl.tensor,
    v_b: tl.tensor,
    v_h: tl.tensor,
    dt_b: tl.tensor,
    dt_h: tl.tensor,
    beta_b: tl.tensor,
    scale: tl.tensor,
    unit_eps: tl.tensor,
    H: tl.constexpr,
    SHARED: tl.constexpr,
    P: tl.constexpr,
    V: tl.constexpr,
    PER_CHANNEL: tl.constexpr,
    P_TILE: tl.constexpr,
    V_TILE: tl.constexpr,
) -> None:
    b, h = (tl.program_id(0) // H).to(tl.int64), tl.program_id(0) % H
    p, v = tl.arange(0, P_TILE), tl.program_id(1) * V_TILE + tl.arange(0, V_TILE)
    key, value = p < P, v < V
    tile = state_ptr + b * state_b + h * P * V + p[:, None] * V + v[None, :]
    state = tl.load(tile, mask=key[:, None] & value[None, :], other=0.0).to(tl.float32)
    q = tl.load(q_ptr + b * q_b + h // SHARED * q_h + p, mask=key, other=0.0).to(tl.float32)
    k = tl.load(k_ptr + b * k_b + h // SHARED * k_h + p, mask=key, other=0.0).to(tl.float32)
    q *= scale * tl.rsqrt(tl.sum(q * q, 0) + unit_eps)
    k *= tl.rsqrt(tl.sum(k * k, 0) + unit_eps)
    new = tl.load(v_ptr + b * v_b + h * v_h + v, mask=value, other=0.0).to(tl.float32)
    rate = -tl.exp(tl.load(A_log_ptr + h).to(tl.float32))
    beta = tl.sigmoid(tl.load(beta_ptr + b * beta_b + h).to(tl.float32))
    if PER_CHANNEL:
        dt = tl.load(dt_ptr + b * dt_b + h * dt_h + p, mask=key, other=0.0).to(tl.float32)
        dt += tl.load(dt_bias_ptr + h * P + p, mask=key, other=0.0).to(tl.float32)
        dt = tl.where(dt > 20, dt, tl.log(1 + tl.exp(tl.minimum(dt, 20.0))))
        state *= tl.exp(rate * dt)[:, None]
    else:
        dt = tl.load(dt_ptr + b * dt_b + h * dt_h).to(tl.float32) + tl.load(dt_bias_ptr + h).to(tl.float32)
        dt = tl.where(dt > 20, dt, tl.log(1 + tl.exp(tl.minimum(dt, 20.0))))
        state *= tl.exp(rate * dt)
    update = beta * (new - tl.sum(state * k[:, None], 0))
    state += k[:, None] * update[None, :]
    tl.store(tile, state.to(state_ptr.dtype.element_ty), mask=key[:, None] & value[None, :])
    out = tl.sum(state * q[:, None], 0)
    tl.store(out_ptr + (b * H + h) * V + v, out.to(out_ptr.dtype.element_ty), mask=value)


def _run_step(
    state: Tensor, q: Tensor, k: Tensor, v: Tensor, dt: Tensor, beta: Tensor, A_log: Tensor, dt_bias: Tensor
) -> Tensor:
    B, H, P, V = state.shape
    per_channel = dt.dim() == 3
    assert state[0].is_contiguous(), "a state's heads lie one after the other"
    q, k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, k, v))
    dt, beta = (x if x.stride(-1) == 1 else x.contiguous() for x in (dt, beta))
    out = torch.empty(B, H, V, dtype=v.dtype, device=v.device)
    _delta_step[(B * H, triton.cdiv(V, VALUES))](
        state,
        q,
        k,
        v,
        dt,
        beta,
        A_log,
        dt_bias,
        out,
        state.stride(0),
        q.stride(0),
        q.stride(1),
        k.stride(0),
        k.stride(1),
        v.stride(0),
        v.stride(1),
        dt.stride(0),
        dt.stride(1),
        beta.stride(0),
        1 / math.sqrt(P),
        UNIT_EPS,
        H=H,
        SHARED=H // q.shape[1],
        P=P,
        V=V,
        PER_CHANNEL=per_channel,
        P_TILE=triton.next_power_of_2(P),
        V_TILE=VALUES,
        num_warps=4,
    )
    return out


_step_op = custom_op(
    "hybridbench::delta_step",
    _run_step,
    mutates_args=("state",),
    schema="(Tensor(a!) state, Tensor q, Tensor k, Tensor v, Tensor dt, Tensor beta, Tensor A_log, Tensor dt_bias)"
    " -> Tensor",
)
_step_op.register_fake(lambda _state, _q, _k, v, *_: v.new_empty(v.shape))


def gated_delta_step(
    state_BHPV: Tensor,
    q_BGP: Tensor,
    k_BGP: Tensor,
    v_BHV: Tensor,
    dt_BH: Tensor,
    beta_BH: Tensor,
    A_log_H: Tensor,
    dt_bias_H: Tensor,
) -> Tensor:
    """``gated_delta_step`` of the reference."""
    out: Tensor = _step_op(state_BHPV, q_BGP, k_BGP, v_BHV, dt_BH, beta_BH, A_log_H, dt_bias_H)
    return out


def kda_step(
    state_BHPV: Tensor,
    q_BHP: Tensor,
    k_BHP: Tensor,
    v_BHV: Tensor,
    dt_BHP: Tensor,
    beta_BH: Tensor,
    A_log_H: Tensor,
    dt_bias_HP: Tensor,
) -> Tensor:
    """``kda_step`` of the reference."""
    out: Tensor = _step_op(state_BHPV, q_BHP, k_BHP, v_BHV, dt_BHP, beta_BH, A_log_H, dt_bias_HP)
    return out


# norm_gate ------------------------------------------------------------------------------------------------------------


@jit
def _norm_gate_forward(
    y_ptr: tl.tensor,
    z_ptr: tl.tensor,
    weight_ptr: tl.tensor,
    out_ptr: tl.tensor,
    y_stride: tl.tensor,
    z_stride: tl.tensor,
    groups: tl.tensor,
    H: tl.tensor,
    V: tl.tensor,
    eps: tl.tensor,
    SILU: tl.constexpr,
    GROUPS: tl.constexpr,
    V_TILE: tl.constexpr,
) -> None:
    first, row, head = groups_of(tl.program_id(0), H, GROUPS)
    g = tl.arange(0, GROUPS)
    v = tl.arange(0, V_TILE)[None, :]
    live = (g < groups - first)[:, None] & (v < V)
    y = tl.load(y_ptr + (row * y_stride + head * V)[:, None] + v, mask=live, other=0.0).to(tl.float32)
    z = tl.load(z_ptr + (row * z_stride + head * V)[:, None] + v, mask=live, other=0.0).to(tl.float32)
    weight = tl.load(weight_ptr + v, mask=v < V, other=0.0).to(tl.float32)
    out = y * tl.rsqrt(tl.sum(y * y, 1) / V + eps)[:, None] * weight * tl.sigmoid(z)
    if SILU:
        out *= z
    tl.store(out_ptr + (first + g)[:, None] * V + v, out.to(out_ptr.dtype.element_ty), mask=live)


@jit
def _norm_gate_backward(
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
    groups: tl.tensor,
    H: tl.tensor,
    V: tl.tensor,
    eps: tl.tensor,
    SILU: tl.constexpr,
    GROUPS: tl.constexpr,
    V_TILE: tl.constexpr,
) -> None:
    v = tl.arange(0, V_TILE)[None, :]
    weight = tl.load(weight_ptr + v, mask=v < V, other=0.0).to(tl.float32)
    d_weight = tl.zeros((GROUPS, V_TILE), tl.float32)
    g = tl.arange(0, GROUPS)
    for tile in range(tl.program_id(0), tl.cdiv(groups, GROUPS), tl.num_programs(0)):
        first, row, head = groups_of(tile, H, GROUPS)
        live = (g < groups - first)[:, None] & (v < V)
        d_out = tl.load(d_out_ptr + (row * d_out_stride + head * V)[:, None] + v, mask=live, other=0.0).to(tl.float32)
        y = tl.load(y_ptr + (row * y_stride + head * V)[:, None] + v, mask=live, other=0.0).to(tl.float32)
        z = tl.load(z_ptr + (row * z_stride + head * V)[:, None] + v, mask=live, other=0.0).to(tl.float32)
        share = tl.sigmoid(z)
        if SILU:
            gate, d_gate = z * share, share * (1 + z * (1 - share))
        else:
            gate, d_gate = share, share * (1 - share)
        scale = tl.rsqrt(tl.sum(y * y, 1) / V + eps)[:, None]
        unit = y * scale
        d_unit = d_out * gate * weight
        d_y = scale * (d_unit - unit * (tl.sum(d_unit * unit, 1) / V)[:, None])
        d_weight += d_out * gate * unit
        at = (first + g)[:, None] * V + v
        tl.store(d_y_ptr + at, d_y.to(d_y_ptr.dtype.element_ty), mask=live)
        tl.store(d_z_ptr + at, (d_out * unit * weight * d_gate).to(d_z_ptr.dtype.element_ty), mask=live)
    tl.store(d_weight_ptr + tl.program_id(0) * V + v, tl.sum(d_weight, 0)[None, :], mask=v < V)


def _tile(V: int) -> dict[str, int]:
    """Heads of a program and their width, and its warps: 16 elements a thread."""
    v_tile = triton.next_power_of_2(V)
    return {"GROUPS": max(1, GROUP_ELEMENTS // v_tile), "V_TILE": v_tile, "num_warps": min(16, max(4, v_tile // 512))}


def _run_norm_gate(y: Tensor, z: Tensor, weight: Tensor, eps: float, silu: bool) -> Tensor:
    H, V = y.shape[-2:]
    (y_rows, y_stride), (z_rows, z_stride) = heads_in_rows(y), heads_in_rows(z)
    out = torch.empty(y.shape, dtype=y.dtype, device=y.device)
    groups, tile = y_rows.shape[0] * H, _tile(V)
    _norm_gate_forward[(triton.cdiv(groups, tile["GROUPS"]),)](
        y_rows, z_rows, weight, out, y_stride, z_stride, groups, H, V, eps, SILU=silu, **tile
    )
    return out


def _run_norm_gate_backward(
    d_out: Tensor, y: Tensor, z: Tensor, weight: Tensor, eps: float, silu: bool
) -> tuple[Tensor, Tensor, Tensor]:
    H, V = y.shape[-2:]
    rows, strides = zip(*(heads_in_rows(x) for x in (d_out, y, z)), strict=True)
    d_y, d_z = (torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in (y, z))
    groups, tile = rows[0].shape[0] * H, _tile(V)
    walkers = walkers_of(y, triton.cdiv(groups, tile["GROUPS"]), GATE_PROGRAMS)
    partial = torch.empty(walkers, V, dtype=torch.float32, device=y.device)
    _norm_gate_backward[(walkers,)](*rows, weight, d_y, d_z, partial, *strides, groups, H, V, eps, SILU=silu, **tile)
    return d_y, d_z, partial.sum(0).to(weight.dtype)


def _keep_norm_gate(ctx: Any, inputs: tuple[Any, ...], **_: Any) -> None:
    ctx.save_for_backward(*inputs[:3])
    ctx.settings = inputs[3:]


def _undo_norm_gate(ctx: Any, d_out: Tensor) -> tuple[Any, ...]:
    return (*_norm_gate_backward_op(d_out, *ctx.saved_tensors, *ctx.settings), None, None)


_NORM_GATE = "Tensor y, Tensor z, Tensor weight, float eps, bool silu"
_norm_gate_op = custom_op(
    "hybridbench::norm_gate_forward", _run_norm_gate, mutates_args=(), schema=f"({_NORM_GATE}) -> Tensor"
)
_norm_gate_backward_op = custom_op(
    "hybridbench::norm_gate_backward",
    _run_norm_gate_backward,
    mutates_args=(),
    schema=f"(Tensor d_out, {_NORM_GATE}) -> (Tensor, Tensor, Tensor)",
)
_norm_gate_op.register_fake(lambda y, *_: y.new_empty(y.shape))
_norm_gate_backward_op.register_fake(
    lambda _d_out, y, z, weight, *_: (y.new_empty(y.shape), z.new_empty(z.shape), weight.new_empty(weight.shape))
)
_norm_gate_op.register_autograd(_undo_norm_gate, setup_context=_keep_norm_gate)


def norm_gate(y: Tensor, z: Tensor, weight_V: Tensor, *, eps: float, activation: str) -> Tensor:
    """``norm_gate`` of the reference."""
    out: Tensor = _norm_gate_op(y, z, weight_V, eps, activation == "silu")
    return out
