"""mamba3: the public Triton kernels of Mamba-3 at rank 1 (SISO) behind this package's signatures.

Written against mamba_ssm 2.3.2. Its own module decodes by a kernel in CuTe; here its Triton step is used. Scan and step
tune themselves at the first sizes that they get: 27 variants of each large kernel, which take minutes to compile.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from hybridbench.kernels.backend import Implementation, imported, needs_cuda
from hybridbench.kernels.scan.reference.mamba3 import A_FLOOR
from hybridbench.kernels.scan.third_party import NO_MAMBA_SSM
from hybridbench.problem import Problem


def _steps(dt: Tensor, rate: Tensor, dt_bias_H: Tensor) -> tuple[Tensor, Tensor]:
    """Steps and log decays in float32, from what is projected."""
    steps = F.softplus(dt.float() + dt_bias_H)
    return steps, -F.softplus(rate.float()).clamp(min=A_FLOOR) * steps


def load_mamba3_scan() -> Callable[..., Any]:
    """``mamba3_scan`` by mamba_ssm's chunked Triton kernels, with their gradients.

    As ``mamba3_siso_combined`` calls them, they round the accumulated angles to bfloat16, at every position and in the
    final state. What the last position leaves may get gradients. Where it gets none, they stay None instead of
    autograd's default zeros, since zeros would cost a kernel of atomic additions in bfloat16.
    """
    theirs: Any = imported("mamba_ssm.ops.triton.mamba3.mamba3_siso_combined", NO_MAMBA_SSM)._Mamba3Function

    class Scan(theirs):  # type: ignore[misc]
        @staticmethod
        def forward(ctx: Any, *inputs: Any) -> Any:
            ctx.set_materialize_grads(False)
            return theirs.forward(ctx, *inputs)

    def mamba3_scan(
        x_BTHP: Tensor,
        dt_BTH: Tensor,
        rate_BTH: Tensor,
        trap_BTH: Tensor,
        B_BTGN: Tensor,
        C_BTGN: Tensor,
        angle_BTR: Tensor,
        z_BTHP: Tensor,
        dt_bias_H: Tensor,
        B_bias_HN: Tensor,
        C_bias_HN: Tensor,
        D_H: Tensor,
        *,
        chunk_size: int,
        initial: tuple[Tensor, Tensor, Tensor, Tensor] | None = None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        steps_BTH, log_decay_BTH = _steps(dt_BTH, rate_BTH, dt_bias_H)
        y_BTHP, angle_BHR, state_BHPN, k_BHN, last_x_BHP = Scan.apply(
            C_BTGN,
            B_BTGN,
            x_BTHP,
            log_decay_BTH.transpose(1, 2),
            steps_BTH.transpose(1, 2),
            trap_BTH.transpose(1, 2),
            C_bias_HN,
            B_bias_HN,
            angle_BTR[:, :, None].expand(-1, -1, x_BTHP.shape[2], -1),
            D_H,
            z_BTHP,
            *(initial or (None,) * 4),
            None,  # all sequences are equally long
            chunk_size,
            True,  # also returns what the last position leaves
        )
        return y_BTHP, angle_BHR.float(), state_BHPN, k_BHN, last_x_BHP

    return mamba3_scan


def load_mamba3_step() -> Callable[..., Any]:
    """``mamba3_step`` by mamba_ssm's Triton step, whose new state, in float32 elsewhere, is copied back."""
    step: Callable[..., Any] = imported("mamba_ssm.ops.triton.mamba3.mamba3_siso_step", NO_MAMBA_SSM).mamba3_siso_step

    def mamba3_step(
        angle_BHR: Tensor,
        state_BHPN: Tensor,
        last_k_BHN: Tensor,
        last_x_BHP: Tensor,
        x_BHP: Tensor,
        dt_BH: Tensor,
        rate_BH: Tensor,
        trap_BH: Tensor,
        B_BGN: Tensor,
        C_BGN: Tensor,
        angle_BR: Tensor,
        z_BHP: Tensor,
        dt_bias_H: Tensor,
        B_bias_HN: Tensor,
        C_bias_HN: Tensor,
        D_H: Tensor,
    ) -> Tensor:
        kept = angle_BHR, state_BHPN, last_k_BHN, last_x_BHP
        steps_BH, log_decay_BH = _steps(dt_BH, rate_BH, dt_bias_H)
        y_BHP: Tensor
        y_BHP, left = step(
            C_BGN,
            B_BGN,
            x_BHP,
            log_decay_BH,
            steps_BH,
            trap_BH,
            C_bias_HN,
            B_bias_HN,
            angle_BR[:, None].expand(-1, x_BHP.shape[1], -1),
            D_H,
            z_BHP,
            Input_States=kept,
        )
        for old, new in zip(kept, left, strict=True):
            old.copy_(new)
        return y_BHP

    return mamba3_step


def unsupported_mamba3(problem: Problem) -> str | None:
    """Why a problem is unsupported: tiles hold whole heads, states and chunks, and products are always bfloat16."""
    if reason := needs_cuda(problem):
        return reason
    if problem.dtype != "bfloat16":
        return f"it rounds its inputs to bfloat16, and these are {problem.dtype}: use bfloat16 or the reference"
    tiles = {"head_dim": problem.head_dim, "d_state": problem.d_state, "chunk_size": problem.chunk_size}
    for name, size in tiles.items():
        if size & (size - 1) or (size < 16 and name != "chunk_size"):
            return f"its tiles are powers of two from 16 on, and {name} is {size}"
    if problem.n_angles % 2 or 2 * problem.n_angles > problem.d_state:
        return f"it turns an even number of pairs of the {problem.d_state} states, not {problem.n_angles}"
    return None


mamba3_scan = Implementation(load_mamba3_scan, unsupported_mamba3)
mamba3_step = Implementation(load_mamba3_step, unsupported_mamba3)
