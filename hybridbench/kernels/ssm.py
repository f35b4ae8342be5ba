"""ssm: the published CUDA and Triton kernels of Mamba-2 behind this package's signatures.

Written against mamba_ssm 2.3.2 and causal_conv1d 1.7.0. Both are imported only when one of their kernels is asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from hybridbench.kernels.problem import Problem, imported, needs_cuda

NO_MAMBA_SSM = (
    "mamba_ssm is not importable: it needs its CUDA extension even for its Triton kernels, because the package imports "
    "selective_scan_cuda at the top"
)
NO_CAUSAL_CONV1D = "causal_conv1d is not importable: it is a compiled CUDA extension"


def load_ssd() -> Callable[..., Any]:
    """``ssd`` by mamba_ssm's chunked Triton scan. Both results are differentiable.

    The state that travels between chunks is kept in the dtype of C by that kernel; the final state is float32.
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

    A, dt, D and dt_bias are handed over as views expanded to (H, P, N) with stride 0, as ``Mamba2.step`` does: the
    kernel recognises the zero strides and computes one decay per head instead of one per state element.
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


def refuses_ssd(problem: Problem) -> str | None:
    """mamba_ssm multiplies float32 as tf32 (Triton's default), three decimal digits, so float32 is refused."""
    if reason := needs_cuda(problem):
        return reason
    if problem.dtype not in ("bfloat16", "float16"):
        return f"its products round to tf32, which is not {problem.dtype}: use bfloat16 or the reference"
    return None


def refuses_ssd_step(problem: Problem) -> str | None:
    """The step is elementwise and exact in float32."""
    if reason := needs_cuda(problem):
        return reason
    return "the kernel computes in float32" if problem.dtype == "float64" else None


def load_conv1d() -> Callable[..., Any]:
    """``conv1d`` by causal_conv1d's channels-last kernel, which reads (B, T, C) where it lies.

    It needs the strides of B and T to be multiples of 8 elements; a view that breaks this is copied first, as
    mamba_ssm does before the same call.
    """
    convolve: Callable[..., Any] = imported("causal_conv1d", NO_CAUSAL_CONV1D).causal_conv1d_fn

    def conv1d(x_BTC: Tensor, weight_CW: Tensor, bias_C: Tensor) -> Tensor:
        if x_BTC.stride(0) % 8 or x_BTC.stride(1) % 8 or x_BTC.stride(2) != 1:
            x_BTC = x_BTC.contiguous()
        y_BCT: Tensor = convolve(x_BTC.transpose(1, 2), weight_CW, bias_C, activation="silu")
        return y_BCT.transpose(1, 2)

    return conv1d


def load_conv1d_step() -> Callable[..., Any]:
    """``conv1d_step`` by causal_conv1d's update kernel; with W columns of state it shifts in place as asked."""
    update: Callable[..., Any] = imported("causal_conv1d", NO_CAUSAL_CONV1D).causal_conv1d_update

    def conv1d_step(state_BCW: Tensor, x_BC: Tensor, weight_CW: Tensor, bias_C: Tensor) -> Tensor:
        y_BC: Tensor = update(x_BC, state_BCW, weight_CW, bias_C, activation="silu")
        return y_BC

    return conv1d_step


def refuses_conv1d(problem: Problem) -> str | None:
    """causal_conv1d has kernels for 2 to 4 taps in float32, float16 and bfloat16."""
    if reason := needs_cuda(problem):
        return reason
    if problem.d_conv and not 2 <= problem.d_conv <= 4:
        return f"it has kernels for 2 to 4 taps, and d_conv is {problem.d_conv}"
    return "it has no float64 kernels" if problem.dtype == "float64" else None
