"""third_party: the CUDA and Triton kernels of mamba_ssm and causal_conv1d behind this package's signatures.

Written against mamba_ssm 2.3.2 and causal_conv1d 1.7.0. Both are imported only when one of their kernels is asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hybridbench.kernels.backend import (
    Implementation,
    imported,
    needs_cuda,
    needs_cuda_and_float32,
    refuse_gradients,
)
from hybridbench.problem import Problem

NO_MAMBA_SSM = (
    "mamba_ssm is not importable: it needs its CUDA extension even for its Triton kernels, because the package imports "
    "selective_scan_cuda at the top"
)

NO_CAUSAL_CONV1D = "causal_conv1d is not importable: it is a compiled CUDA extension"


def load_ssd() -> Callable[..., Any]:
    """``ssd`` by mamba_ssm's chunked Triton scan. Both results are differentiable.

    That kernel keeps the states between chunks in the dtype of C; the final state is float32.
    """
    scan: Callable[..., Any] = imported("mamba_ssm.ops.triton.ssd_combined", NO_MAMBA_SSM).mamba_chunk_scan_combined

    def ssd(
        x_BTHP: Tensor,
        dt_BTH: Tensor,
        A_H: Tensor,
        B_BTGN: Tensor,
        C_BTGN: Tensor,
        D_H: Tensor,
        dt_bias_H: Tensor,
        *,
        chunk_size: int,
        initial_state_BHPN: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        y_BTHP, state_BHPN = scan(
            x_BTHP,
            dt_BTH,
            A_H,
            B_BTGN,
            C_BTGN,
            chunk_size,
            D=D_H,
            dt_bias=dt_bias_H,
            initial_states=initial_state_BHPN,
            dt_softplus=True,
            return_final_states=True,
        )
        return y_BTHP, state_BHPN

    return ssd


def load_ssd_step() -> Callable[..., Any]:
    """``ssd_step`` by mamba_ssm's ``selective_state_update``.

    A, dt, D and dt_bias are passed as views expanded to (H, P, N) with stride 0, as in ``Mamba2.step``: the kernel
    recognises the zero strides and computes one decay per head instead of one per state element.
    """
    update: Callable[..., Any] = imported(
        "mamba_ssm.ops.triton.selective_state_update", NO_MAMBA_SSM
    ).selective_state_update

    def ssd_step(
        state_BHPN: Tensor,
        x_BHP: Tensor,
        dt_BH: Tensor,
        A_H: Tensor,
        B_BGN: Tensor,
        C_BGN: Tensor,
        D_H: Tensor,
        dt_bias_H: Tensor,
    ) -> Tensor:
        P, N = state_BHPN.shape[2:]
        y_BHP: Tensor = update(
            state_BHPN,
            x_BHP,
            dt_BH[:, :, None].expand(-1, -1, P),
            A_H[:, None, None].expand(-1, P, N),
            B_BGN,
            C_BGN,
            D=D_H[:, None].expand(-1, P),
            dt_bias=dt_bias_H[:, None].expand(-1, P),
            dt_softplus=True,
        )
        return y_BHP

    return ssd_step


def unsupported_ssd(problem: Problem) -> str | None:
    """Why a problem is unsupported: mamba_ssm multiplies float32 as tf32 (Triton's default), three decimal digits."""
    if reason := needs_cuda(problem):
        return reason
    if problem.dtype not in ("bfloat16", "float16"):
        return f"its products round to tf32, which is not {problem.dtype}: use bfloat16 or the reference"
    return None


def load_conv1d() -> Callable[..., Any]:
    """``conv1d`` by causal_conv1d's channels-last kernel, which reads (B, T, C) in place.

    The strides of B and T must be multiples of 8 elements; other views are copied first, as mamba_ssm does before the
    same call. Where positions are contiguous, as in Mamba-1, its other kernel runs and keeps that layout.
    """
    convolve: Callable[..., Any] = imported("causal_conv1d", NO_CAUSAL_CONV1D).causal_conv1d_fn

    def conv1d(x_BTC: Tensor, weight_CW: Tensor, bias_C: Tensor | None) -> Tensor:
        if x_BTC.stride(1) == 1 and x_BTC.shape[1] > 1:
            across_BCT: Tensor = convolve(x_BTC.transpose(1, 2), weight_CW, bias_C, activation="silu")
            return across_BCT.transpose(1, 2)
        if x_BTC.stride(0) % 8 or x_BTC.stride(1) % 8 or x_BTC.stride(2) != 1:
            x_BTC = x_BTC.contiguous()
        y_BCT: Tensor = convolve(x_BTC.transpose(1, 2), weight_CW, bias_C, activation="silu")
        return y_BCT.transpose(1, 2)

    return conv1d


def load_conv1d_step() -> Callable[..., Any]:
    """``conv1d_step`` by causal_conv1d's update kernel; with W columns of state it shifts in place as asked."""
    update: Callable[..., Any] = imported("causal_conv1d", NO_CAUSAL_CONV1D).causal_conv1d_update

    def conv1d_step(state_BCW: Tensor, x_BC: Tensor, weight_CW: Tensor, bias_C: Tensor | None) -> Tensor:
        y_BC: Tensor = update(x_BC, state_BCW, weight_CW, bias_C, activation="silu")
        return y_BC

    return conv1d_step


def unsupported_conv1d(problem: Problem) -> str | None:
    """Why a problem is unsupported: there are kernels for 2 to 4 taps in float32, float16 and bfloat16."""
    if reason := needs_cuda(problem):
        return reason
    if problem.d_conv and not 2 <= problem.d_conv <= 4:
        return f"it has kernels for 2 to 4 taps, and d_conv is {problem.d_conv}"
    return "it has no float64 kernels" if problem.dtype == "float64" else None


def load_selective_scan() -> Callable[..., Any]:
    """``selective_scan`` by mamba_ssm's CUDA kernel, which reads (B, I, T) with contiguous positions.

    Tensors in that layout, which ``model.mamba1`` makes, are not copied; others are. The state has no gradient. The
    kernel starts from zeros; ``add_initial_state`` adds what an initial state contributes.
    """
    scan: Callable[..., Any] = imported("mamba_ssm.ops.selective_scan_interface", NO_MAMBA_SSM).selective_scan_fn

    def selective_scan(
        x_BTI: Tensor,
        dt_BTI: Tensor,
        A_IN: Tensor,
        B_BTN: Tensor,
        C_BTN: Tensor,
        D_I: Tensor,
        z_BTI: Tensor,
        dt_bias_I: Tensor,
        *,
        initial_state_BIN: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        inputs = (x_BTI, dt_BTI, A_IN, B_BTN, C_BTN, D_I, z_BTI, dt_bias_I)
        if initial_state_BIN is not None:
            refuse_gradients("selective_scan", *inputs, initial_state_BIN)
        x_BIT, dt_BIT, B_BNT, C_BNT, z_BIT = (v.transpose(1, 2) for v in (x_BTI, dt_BTI, B_BTN, C_BTN, z_BTI))
        y_BIT, state_BIN = scan(
            x_BIT,
            dt_BIT,
            A_IN,
            B_BNT,
            C_BNT,
            D_I,
            z=z_BIT,
            delta_bias=dt_bias_I.float(),
            delta_softplus=True,
            return_last_state=True,
        )
        y_BTI, state_BIN = y_BIT.transpose(1, 2), state_BIN.detach()
        if initial_state_BIN is not None:
            add_initial_state(y_BTI, state_BIN, initial_state_BIN, dt_BTI, A_IN, C_BTN, z_BTI, dt_bias_I)
        return y_BTI, state_BIN

    return selective_scan


DECAYED_ELEMENTS = 1 << 26
"""Elements of decayed initial states held at once (256 MiB in float32), for as many positions as fit."""


def add_initial_state(
    y_BTI: Tensor,
    state_BIN: Tensor,
    initial_BIN: Tensor,
    dt_BTI: Tensor,
    A_IN: Tensor,
    C_BTN: Tensor,
    z_BTI: Tensor,
    dt_bias_I: Tensor,
) -> None:
    """Adds the contribution of an initial state to the results of a selective scan from zeros, in place.

    The recurrence is linear in its state: with e_t the sum of dt up to and including t, ``y_t`` gets
    ``silu(z_t) C_t (exp(A e_t) h_0)`` and the final state ``exp(A e_T) h_0``. It is computed in float32, a range of
    positions at a time, until h_0 has decayed to nothing.
    """
    T = int(y_BTI.shape[1])
    A, kept = A_IN.float(), initial_BIN.float()
    elapsed = torch.zeros_like(kept[..., 0])
    span = max(1, DECAYED_ELEMENTS // kept.numel())
    for t in range(0, T, span):
        part = slice(t, t + span)
        steps_BTI = F.softplus(dt_BTI[:, part].float() + dt_bias_I.float())
        since_BTI = steps_BTI.cumsum(1) + elapsed[:, None]
        elapsed = since_BTI[:, -1]
        left = (since_BTI[..., None] * A).exp_().mul_(kept[:, None])
        added = torch.einsum("btin,btn->bti", left, C_BTN[:, part].float()) * F.silu(z_BTI[:, part].float())
        y_BTI[:, part] = (y_BTI[:, part].float() + added).to(y_BTI.dtype)
        if not bool(left[:, -1].any()):
            return
    state_BIN += left[:, -1]


def load_selective_step() -> Callable[..., Any]:
    """``selective_step`` by mamba_ssm's ``selective_state_update``."""
    update: Callable[..., Any] = imported(
        "mamba_ssm.ops.triton.selective_state_update", NO_MAMBA_SSM
    ).selective_state_update

    def selective_step(
        state_BIN: Tensor,
        x_BI: Tensor,
        dt_BI: Tensor,
        A_IN: Tensor,
        B_BN: Tensor,
        C_BN: Tensor,
        D_I: Tensor,
        z_BI: Tensor,
        dt_bias_I: Tensor,
    ) -> Tensor:
        y_BI: Tensor = update(
            state_BIN, x_BI, dt_BI, A_IN, B_BN, C_BN, D_I, z=z_BI, dt_bias=dt_bias_I, dt_softplus=True
        )
        return y_BI

    return selective_step


STATES = 256
"""Columns of Mamba-1's state that mamba_ssm's scan has kernels for."""


def unsupported_selective_scan(problem: Problem) -> str | None:
    """Why a problem is unsupported. The scan is elementwise, so float32 is exact and supported."""
    if reason := needs_cuda(problem):
        return reason
    if problem.d_state > STATES:
        return f"it has kernels for at most {STATES} states a channel, and d_state is {problem.d_state}"
    return "it has no float64 kernels" if problem.dtype == "float64" else None


ssd, ssd_step = Implementation(load_ssd, unsupported_ssd), Implementation(load_ssd_step, needs_cuda_and_float32)
conv1d, conv1d_step = (
    Implementation(load_conv1d, unsupported_conv1d),
    Implementation(load_conv1d_step, unsupported_conv1d),
)
selective_scan = Implementation(load_selective_scan, unsupported_selective_scan)
selective_step = Implementation(load_selective_step, needs_cuda_and_float32)
