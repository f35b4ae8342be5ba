"""mamba2_fused: all of Mamba-2 between its two projections as one operation with one packed gradient.

The third-party kernels do the work: causal_conv1d's convolution and mamba_ssm's chunked scan, forward and backward.
This module connects them. The projection's row z | x | B | C | dt is read in place, and every gradient is written to
its place in one row of the same shape, so nothing is split, copied or concatenated. Gate and norm are one kernel each
way. Unlike mamba_ssm's own fused function it keeps the convolution's output, which costs 2 bytes a channel and saves a
convolution, and it accepts rows that were padded to a width that suits matrix products.

``one_pass`` uses this package's scan (``triton_ssd``) instead of mamba_ssm's. It keeps the state before every block of
64 tokens for its backward. From an initial state both have a forward only, which is an operator of its own.

Written against mamba_ssm 2.3.2 and causal_conv1d 1.7.0. Importing this module needs both, and triton.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from causal_conv1d.cpp_functions import causal_conv1d_bwd_function, causal_conv1d_fwd_function
from mamba_ssm.ops.triton.ssd_combined import _mamba_chunk_scan_combined_bwd, _mamba_chunk_scan_combined_fwd
from torch import Tensor
from torch.library import custom_op

from hybridbench.kernels.again import Recomputation, recomputed
from hybridbench.kernels.backend import refuse_gradients
from hybridbench.kernels.dense.triton_gate import gate_backward, gate_forward
from hybridbench.kernels.scan.triton_ssd import scan_forward, states_shape
from hybridbench.kernels.scan.triton_ssd_backward import scan_backward


def _aligned(x_BTC: Tensor) -> Tensor:
    """Channels-last rows with strides in multiples of 8 elements, as causal_conv1d needs them."""
    return x_BTC if x_BTC.stride(0) % 8 == 0 and x_BTC.stride(1) % 8 == 0 else x_BTC.contiguous()


def _split(packed_BTE: Tensor, inner: int, channels: int, H: int) -> tuple[Tensor, Tensor, Tensor]:
    """z, the convolution's input and dt, all views."""
    z, conv_in, dt = torch.split(packed_BTE[..., : inner + channels + H], [inner, channels, H], dim=-1)
    return z, conv_in, dt


def _by_head(mixed_BTC: Tensor, inner: int, H: int, G: int) -> tuple[Tensor, Tensor, Tensor]:
    """x, B and C by head or group, all views."""
    states = (mixed_BTC.shape[-1] - inner) // 2
    x, b, c = torch.split(mixed_BTC, [inner, states, states], dim=-1)
    return torch.unflatten(x, -1, (H, -1)), torch.unflatten(b, -1, (G, -1)), torch.unflatten(c, -1, (G, -1))


def _convolved(conv_in_BTC: Tensor, weight_CW: Tensor, bias_C: Tensor) -> Tensor:
    """The convolution and its activation, (B, T, C)."""
    out: Tensor = causal_conv1d_fwd_function(
        _aligned(conv_in_BTC).transpose(1, 2), weight_CW, bias_C, None, None, None, True
    )
    return out.transpose(1, 2)


def _run(
    packed: Tensor,
    conv_weight: Tensor,
    conv_bias: Tensor,
    A: Tensor,
    D: Tensor,
    dt_bias: Tensor,
    norm_weight: Tensor | None,
    head_dim: int,
    n_groups: int,
    chunk_size: int,
    eps: float,
    one_pass: bool,
    keep: bool,
    initial: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The output and the final state; for the backward the outputs of convolution and scan, and the scan's states."""
    H = A.shape[0]
    inner = H * head_dim
    z, conv_in, dt = _split(packed, inner, conv_weight.shape[0], H)
    mixed = _convolved(conv_in, conv_weight, conv_bias)
    x, b, c = _by_head(mixed, inner, H, n_groups)
    if one_pass:
        y, state, states = scan_forward(x, dt, A, b, c, D, dt_bias, keep=keep, initial_BHPN=initial)
    else:
        y, *_, state = _mamba_chunk_scan_combined_fwd(
            x, dt, A, b, c, chunk_size, D=D, dt_bias=dt_bias, initial_states=initial, dt_softplus=True
        )
        states = packed.new_empty(0)
    y = y.flatten(2)
    return gate_forward(y, z, norm_weight, eps), state, mixed, y, states


def _run_on(
    packed: Tensor,
    conv_weight: Tensor,
    conv_bias: Tensor,
    A: Tensor,
    D: Tensor,
    dt_bias: Tensor,
    norm_weight: Tensor | None,
    head_dim: int,
    n_groups: int,
    chunk_size: int,
    eps: float,
    one_pass: bool,
    initial: Tensor,
) -> tuple[Tensor, Tensor]:
    """The output and the final state from an initial one; nothing is kept for a backward."""
    parameters = (conv_weight, conv_bias, A, D, dt_bias, norm_weight)
    made = _run(packed, *parameters, head_dim, n_groups, chunk_size, eps, one_pass, keep=False, initial=initial)
    return made[0], made[1]


def _run_backward(
    d_out: Tensor,
    d_state: Tensor | None,
    mixed: Tensor,
    y: Tensor,
    states: Tensor,
    packed: Tensor,
    conv_weight: Tensor,
    conv_bias: Tensor,
    A: Tensor,
    D: Tensor,
    dt_bias: Tensor,
    norm_weight: Tensor | None,
    head_dim: int,
    n_groups: int,
    chunk_size: int,
    eps: float,
    one_pass: bool,
    _kept: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The gradients of all inputs that have one, in order; an empty tensor for a missing norm."""
    H, channels = A.shape[0], conv_weight.shape[0]
    inner = H * head_dim
    z, conv_in, dt = _split(packed, inner, channels, H)
    d_packed = torch.empty(packed.shape, dtype=packed.dtype, device=packed.device)
    if packed.shape[-1] > inner + channels + H:
        d_packed[..., inner + channels + H :].zero_()  # padding is multiplied by zeros, which would keep a NaN
    d_z, d_conv, d_dt = _split(d_packed, inner, channels, H)
    d_y, d_norm = gate_backward(d_out, y, z, norm_weight, eps, d_z)

    x_BTHP, b_BTGN, c_BTGN = _by_head(mixed, inner, H, n_groups)
    d_mixed = torch.empty(mixed.shape, dtype=mixed.dtype, device=mixed.device)
    d_x, d_b, d_c = _by_head(d_mixed, inner, H, n_groups)
    d_y_BTHP, y_BTHP = (torch.unflatten(t, -1, (H, head_dim)) for t in (d_y, y))
    if one_pass:
        into = {"d_x": d_x, "d_dt": d_dt, "d_b": d_b, "d_c": d_c}
        d_A, d_D, d_dt_bias = scan_backward(
            d_y_BTHP, d_state, x_BTHP, dt, A, b_BTGN, c_BTGN, D, dt_bias, states, **into
        )
    else:
        into = {"dx": d_x, "ddt": d_dt, "dB": d_b, "dC": d_c}
        options = {"D": D, "dt_bias": dt_bias, "dfinal_states": d_state, "dt_softplus": True, **into}
        _, _, d_A, _, _, d_D, _, d_dt_bias, _ = _mamba_chunk_scan_combined_bwd(
            d_y_BTHP, x_BTHP, dt, A, b_BTGN, c_BTGN, y_BTHP, chunk_size, **options
        )
    aligned = _aligned(d_conv)
    d_conv_in, d_conv_weight, d_conv_bias, *_ = causal_conv1d_bwd_function(
        _aligned(conv_in).transpose(1, 2),
        conv_weight,
        conv_bias,
        d_mixed.transpose(1, 2),
        None,
        None,
        None,
        aligned.transpose(1, 2),
        False,
        True,
    )
    if aligned is not d_conv:
        d_conv.copy_(d_conv_in.transpose(1, 2))
    return d_packed, d_conv_weight, d_conv_bias, d_A, d_D, d_dt_bias, A.new_empty(0) if d_norm is None else d_norm


_FORWARD_INPUTS = (
    "Tensor packed, Tensor conv_weight, Tensor conv_bias, Tensor A, Tensor D, Tensor dt_bias, Tensor? norm_weight, "
    "int head_dim, int n_groups, int chunk_size, float eps, bool one_pass"
)
_INPUTS = f"{_FORWARD_INPUTS}, bool keep"


def _fake(packed: Tensor, conv_weight: Tensor, _conv_bias: Tensor, A: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    head_dim, n_groups = rest[3:5]
    one_pass, keep = rest[-2:]
    B, T = packed.shape[:2]
    H, channels = A.shape[0], conv_weight.shape[0]
    inner = H * head_dim
    d_state = (channels - inner) // (2 * n_groups)
    return (
        packed.new_empty(B, T, inner),
        packed.new_empty(B, H, head_dim, d_state, dtype=torch.float32),
        packed.new_empty(B, T, channels),
        packed.new_empty(B, T, inner),
        packed.new_empty(states_shape(B, T, H, head_dim, d_state, keep) if one_pass else 0),
    )


def _fake_backward(*given_and_kept: Any) -> tuple[Tensor, ...]:
    *given, norm_weight = given_and_kept[5:12]  # behind d_out, d_state, mixed, y and states
    d_norm = given[3].new_empty(0) if norm_weight is None else norm_weight.new_empty(norm_weight.shape)
    return (*(t.new_empty(t.shape) for t in given), d_norm)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    _, _, mixed, y, states = output
    *tensors, norm_weight = inputs[:7]
    ctx.settings, ctx.normed = inputs[7:], norm_weight is not None
    ctx.mark_non_differentiable(mixed, y, states)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(mixed, y, states, *tensors, *([norm_weight] if ctx.normed else []))


def _undo(ctx: Any, d_out: Tensor | None, d_state: Tensor | None, *_: Any) -> tuple[Any, ...]:
    saved = list(ctx.saved_tensors) + ([] if ctx.normed else [None])
    if d_out is None:  # only the final state was used
        d_out = torch.zeros_like(saved[1])
    gradients = list(_backward_op(d_out, d_state, *saved, *ctx.settings))
    if not ctx.normed:
        gradients[-1] = None
    return (*gradients, *[None] * len(ctx.settings))


_op = custom_op(
    "hybridbench::mamba2_core_forward",
    _run,
    mutates_args=(),
    schema=f"({_INPUTS}) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
)
_continued_op = custom_op(
    "hybridbench::mamba2_core_continued",
    _run_on,
    mutates_args=(),
    schema=f"({_FORWARD_INPUTS}, Tensor initial) -> (Tensor, Tensor)",
)
_backward_op = custom_op(
    "hybridbench::mamba2_core_backward",
    _run_backward,
    mutates_args=(),
    schema=f"(Tensor d_out, Tensor? d_state, Tensor mixed, Tensor y, Tensor states, {_INPUTS})"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
)
_op.register_fake(_fake)
_continued_op.register_fake(lambda *given: _fake(*given[:-1], False)[:2])
_backward_op.register_fake(_fake_backward)
_op.register_autograd(_undo, setup_context=_keep)


def _core(one_pass: bool) -> Callable[..., Any]:
    """``mamba2_core`` of the reference with either scan. Its ``with_recomputations`` also says how to recompute the
    convolution's output and its own from what it keeps.
    """

    def run(
        packed_BTE: Tensor,
        conv_weight_CW: Tensor,
        conv_bias_C: Tensor,
        A_H: Tensor,
        D_H: Tensor,
        dt_bias_H: Tensor,
        norm_weight_I: Tensor | None,
        *,
        head_dim: int,
        n_groups: int,
        chunk_size: int,
        eps: float,
        initial_state_BHPN: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        tensors = (packed_BTE, conv_weight_CW, conv_bias_C, A_H, D_H, dt_bias_H, norm_weight_I)
        made: tuple[Tensor, ...]
        if initial_state_BHPN is not None:
            refuse_gradients("mamba2_core", *tensors, initial_state_BHPN)
            made = _continued_op(*tensors, head_dim, n_groups, chunk_size, eps, one_pass, initial_state_BHPN)
            return made
        keep = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)
        made = _op(*tensors, head_dim, n_groups, chunk_size, eps, one_pass, keep)
        return made

    def mamba2_core(*tensors: Any, **settings: Any) -> tuple[Tensor, Tensor]:
        out_BTI, state_BHPN, *_ = run(*tensors, **settings)
        return out_BTI, state_BHPN

    def with_recomputations(*tensors: Any, **settings: Any) -> tuple[Tensor, Tensor, list[Recomputation]]:
        if settings.get("initial_state_BHPN") is not None:  # nothing is kept for a backward
            return *mamba2_core(*tensors, **settings), []
        packed_BTE, conv_weight_CW, conv_bias_C, A_H, *_, norm_weight_I = tensors
        H, channels = A_H.shape[0], conv_weight_CW.shape[0]
        inner = H * settings["head_dim"]
        out, state, mixed, y, _ = run(*tensors, **settings)

        def convolved(packed: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
            return _convolved(_split(packed, inner, channels, H)[1], weight, bias)

        def gated(y: Tensor, packed: Tensor, norm_weight: Tensor | None) -> Tensor:
            return gate_forward(y, _split(packed, inner, channels, H)[0], norm_weight, settings["eps"])

        recomputations = [
            (mixed, convolved, (packed_BTE, conv_weight_CW, conv_bias_C)),
            (out, gated, (y, packed_BTE, norm_weight_I)),
        ]
        return out, state, recomputations

    return recomputed(mamba2_core, with_recomputations)


mamba2_core = _core(one_pass=False)
one_pass = _core(one_pass=True)
