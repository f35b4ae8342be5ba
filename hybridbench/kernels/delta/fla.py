"""fla: flash-linear-attention's kernels of the gated delta rule and of Kimi delta attention, behind our signatures.

Written against fla-core 0.6.0, the part of flash-linear-attention that holds its operations; it is imported only when
one of them is asked for. Its chunk kernels tune themselves the first time a process meets a number of heads.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.torch_version import TorchVersion

from hybridbench.kernels.backend import Implementation, imported, needs_cuda, needs_cuda_and_float32, on_hopper
from hybridbench.problem import Problem

NO_FLA = "fla is not importable: its kernels are those of flash-linear-attention, in the package fla-core"
WIDEST_KEY = 256
"""Key channels of a head that the chunk kernels hold."""
CHUNKS = {"gated_delta": (16, 32, 64), "kda": (32, 64)}
"""Operation to the chunk sizes its kernel takes."""

WRONG_ON_HOPPER = "3.4.0", "3.7.1"
"""Triton releases, from the first to before the second, that miscompile a scalar gate's backward for Hopper: there fla
raises (its chunk_bwd_dqkwg, its issue 640) unless tilelang is installed."""

IN_KERNEL = {
    "use_qk_l2norm_in_kernel": True,
    "use_gate_in_kernel": True,
    "use_beta_sigmoid_in_kernel": True,
    "output_final_state": True,
}
"""Lengths of q and k, softplus and sigmoid belong to the kernels, and the state comes back."""


def _wide(state_BHPV: Tensor | None) -> Tensor | None:
    """A state as the chunk kernels take it: in float32, whatever a cache keeps it in."""
    return None if state_BHPV is None else state_BHPV.float()


def load_gated_delta() -> Callable[..., Any]:
    """``gated_delta`` by fla's chunk kernels. The states between chunks are in the activations' dtype, the last one in
    float32.
    """
    chunked: Callable[..., Any] = imported("fla.ops.gated_delta_rule", NO_FLA).chunk_gated_delta_rule

    def gated_delta(
        q_BTGP: Tensor,
        k_BTGP: Tensor,
        v_BTHV: Tensor,
        dt_BTH: Tensor,
        beta_BTH: Tensor,
        A_log_H: Tensor,
        dt_bias_H: Tensor,
        *,
        chunk_size: int,
        initial_state_BHPV: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        o_BTHV, state_BHPV = chunked(
            q_BTGP,
            k_BTGP,
            v_BTHV,
            dt_BTH,
            beta_BTH,
            initial_state=_wide(initial_state_BHPV),
            A_log=A_log_H,
            dt_bias=dt_bias_H,
            chunk_size=chunk_size,
            **IN_KERNEL,
        )
        return o_BTHV, state_BHPV

    return gated_delta


def load_gated_delta_as_kda() -> Callable[..., Any]:
    """``gated_delta`` by the kernels of KDA, of which it is the case of one decay for all channels of a head.

    It moves ``head_dim`` decays a head and position where one would do, and is right where Triton miscompiles the
    other's backward (``WRONG_ON_HOPPER``).
    """
    kda = load_kda()

    def gated_delta(
        q_BTGP: Tensor,
        k_BTGP: Tensor,
        v_BTHV: Tensor,
        dt_BTH: Tensor,
        beta_BTH: Tensor,
        A_log_H: Tensor,
        dt_bias_H: Tensor,
        *,
        chunk_size: int,
        initial_state_BHPV: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        P = q_BTGP.shape[-1]
        dt_BTHP, dt_bias_HP = (x.unsqueeze(-1).expand(*x.shape, P) for x in (dt_BTH, dt_bias_H))
        o_BTHV, state_BHPV = kda(
            q_BTGP,
            k_BTGP,
            v_BTHV,
            dt_BTHP,
            beta_BTH,
            A_log_H,
            dt_bias_HP,
            chunk_size=chunk_size,
            initial_state_BHPV=initial_state_BHPV,
        )
        return o_BTHV, state_BHPV

    return gated_delta


def load_gated_delta_step() -> Callable[..., Any]:
    """``gated_delta_step`` by fla's recurrent kernel over one position, whose new state is copied over the old one."""
    recurrent: Callable[..., Any] = imported("fla.ops.gated_delta_rule", NO_FLA).fused_recurrent_gated_delta_rule

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
        q, k, v, dt, beta = (x.unsqueeze(1) for x in (q_BGP, k_BGP, v_BHV, dt_BH, beta_BH))
        o_B1HV, new_BHPV = recurrent(
            q, k, v, dt, beta=beta, initial_state=state_BHPV, A_log=A_log_H, dt_bias=dt_bias_H, **IN_KERNEL
        )
        state_BHPV.copy_(new_BHPV)
        o_BHV: Tensor = o_B1HV.squeeze(1)
        return o_BHV

    return gated_delta_step


def load_kda() -> Callable[..., Any]:
    """``kda`` by fla's chunk kernels."""
    chunked: Callable[..., Any] = imported("fla.ops.kda", NO_FLA).chunk_kda

    def kda(
        q_BTHP: Tensor,
        k_BTHP: Tensor,
        v_BTHV: Tensor,
        dt_BTHP: Tensor,
        beta_BTH: Tensor,
        A_log_H: Tensor,
        dt_bias_HP: Tensor,
        *,
        chunk_size: int,
        initial_state_BHPV: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        o_BTHV, state_BHPV = chunked(
            q_BTHP,
            k_BTHP,
            v_BTHV,
            dt_BTHP,
            beta_BTH,
            initial_state=_wide(initial_state_BHPV),
            A_log=A_log_H,
            dt_bias=dt_bias_HP.flatten(),
            chunk_size=chunk_size,
            **IN_KERNEL,
        )
        return o_BTHV, state_BHPV

    return kda


def load_kda_step() -> Callable[..., Any]:
    """``kda_step`` by fla's recurrent kernel over one position, whose new state is copied over the old one."""
    recurrent: Callable[..., Any] = imported("fla.ops.kda", NO_FLA).fused_recurrent_kda

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
        q, k, v, dt, beta = (x.unsqueeze(1) for x in (q_BHP, k_BHP, v_BHV, dt_BHP, beta_BH))
        o_B1HV, new_BHPV = recurrent(
            q, k, v, dt, beta, A_log_H, dt_bias_HP.flatten(), initial_state=state_BHPV, **IN_KERNEL
        )
        state_BHPV.copy_(new_BHPV)
        o_BHV: Tensor = o_B1HV.squeeze(1)
        return o_BHV

    return kda_step


def refuses_chunked(op: str) -> Callable[[Problem], str | None]:
    """What says why chunk kernels do not support a problem. They solve triangular systems in tf32, not in float32."""

    def refuses(problem: Problem) -> str | None:
        if reason := needs_cuda(problem):
            return reason
        if problem.dtype not in ("bfloat16", "float16"):
            return f"its products round to tf32, which is not {problem.dtype}: use bfloat16 or the reference"
        if problem.head_dim > WIDEST_KEY:
            return f"it holds at most {WIDEST_KEY} key channels a head, and head_dim is {problem.head_dim}"
        if problem.chunk_size not in (0, *CHUNKS[op]):
            sizes = " or ".join(str(size) for size in CHUNKS[op])
            return f"its chunks are {sizes} positions long, and chunk_size is {problem.chunk_size}"
        return None

    return refuses


def refuses_gated_delta(problem: Problem) -> str | None:
    """Why a problem is unsupported: by the chunk kernels, or in training where Triton miscompiles their backward."""
    return refuses_chunked("gated_delta")(problem) or (_miscompiled() if problem.training else None)


def _miscompiled() -> str | None:
    if not on_hopper() or importlib.util.find_spec("tilelang"):
        return None
    version = TorchVersion(importlib.metadata.version("triton"))
    first, mended = WRONG_ON_HOPPER
    if version < first or version >= mended:
        return None
    return f"its backward is wrong on Hopper with triton {version}: triton {mended} or tilelang mends it"


gated_delta = Implementation(load_gated_delta, refuses_gated_delta)
gated_delta_as_kda = Implementation(load_gated_delta_as_kda, refuses_chunked("kda"))
gated_delta_step = Implementation(load_gated_delta_step, needs_cuda_and_float32)
kda = Implementation(load_kda, refuses_chunked("kda"))
kda_step = Implementation(load_kda_step, needs_cuda_and_float32)
