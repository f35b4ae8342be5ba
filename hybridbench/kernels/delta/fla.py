"""fla: flash-linear-attention's kernels of gated delta rule, KDA and RWKV-7 behind this package's signatures.

Written against fla-core 0.6.0, the part of flash-linear-attention that holds its operations; it is imported only when
one of them is asked for. Its chunk kernels tune themselves the first time a process meets a number of heads.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import math
from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor
from torch.torch_version import TorchVersion

from hybridbench.kernels.backend import Implementation, imported, needs_cuda, needs_cuda_and_float32, on_hopper
from hybridbench.problem import Problem

NO_FLA = "fla is not importable: its kernels are those of flash-linear-attention, in the package fla-core"
WIDEST_KEY = 256
"""Key channels of a head that the chunk kernels hold."""
CHUNKS = {"gated_delta": (16, 32, 64), "kda": (32, 64), "rwkv7": (16, 32, 64)}
"""Operation to the chunk sizes its kernel takes."""

WRONG_ON_HOPPER = "3.4.0", "3.7.1"
"""Triton releases, from the first to before the second, that miscompile a scalar gate's backward for Hopper: there fla
raises (its chunk_bwd_dqkwg, its issue 640) unless tilelang is installed."""

RWKV7_RATE = math.exp(-0.5)
RWKV7_BOUND = -0.61
"""Below every logarithm of RWKV-7's decay, which is above -exp(-0.5) = -0.6065, its rounding to 16 bit included. With
it ``gate_bound_is_safe`` (dplr's ``chunk.py``) lets the kernels factor decays about a chunk's middle and take tensor
cores at chunks of 64: (64 / 2 + 1) x 0.61 / ln 2 is 29, and the exponents of float32 allow 124."""

IN_KERNEL = {
    "use_qk_l2norm_in_kernel": True,
    "use_gate_in_kernel": True,
    "use_beta_sigmoid_in_kernel": True,
    "output_final_state": True,
}
"""The kernels normalise q and k, apply softplus and sigmoid, and return the final state."""


def wide_state(state_BHPV: Tensor | None) -> Tensor | None:
    """A state as the chunk kernels take it: in float32, whatever a cache keeps it in."""
    return None if state_BHPV is None else state_BHPV.float()


def one_position(recurrent: Callable[..., Any], state: Tensor, inputs: Iterable[Tensor], **settings: Any) -> Tensor:
    """The output (B, H, V) of a recurrent kernel over one position, whose new state is copied over the old one.

    Args:
        inputs: the kernel's first arguments, (B, ...) without a dimension of positions.
        settings: its other arguments, by name.
    """
    o_B1HV, new_state = recurrent(*(x.unsqueeze(1) for x in inputs), initial_state=state, **settings)
    state.copy_(new_state)
    o_BHV: Tensor = o_B1HV.squeeze(1)
    return o_BHV


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
            initial_state=wide_state(initial_state_BHPV),
            A_log=A_log_H,
            dt_bias=dt_bias_H,
            chunk_size=chunk_size,
            **IN_KERNEL,
        )
        return o_BTHV, state_BHPV

    return gated_delta


def load_gated_delta_as_kda() -> Callable[..., Any]:
    """``gated_delta`` by the kernels of KDA, of which it is the case of one decay for all channels of a head.

    It reads ``head_dim`` equal decays for each head and position, and is right where Triton miscompiles the
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
        gates = {"beta": beta_BH.unsqueeze(1), "A_log": A_log_H, "dt_bias": dt_bias_H}
        return one_position(recurrent, state_BHPV, (q_BGP, k_BGP, v_BHV, dt_BH), **gates, **IN_KERNEL)

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
            initial_state=wide_state(initial_state_BHPV),
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
        gates = {"A_log": A_log_H, "dt_bias": dt_bias_HP.flatten()}
        return one_position(recurrent, state_BHPV, (q_BHP, k_BHP, v_BHV, dt_BHP, beta_BH), **gates, **IN_KERNEL)

    return kda_step


def _rwkv7_log_decay(w: Tensor) -> Tensor:
    """A tensor in the activations' dtype, as fla's own layer passes it."""
    return -RWKV7_RATE * w.sigmoid()


def load_rwkv7() -> Callable[..., Any]:
    """``rwkv7`` by fla's chunk kernels of diagonal plus low rank, whose low rank is -kk and kk a. With a Triton before
    3.4 they take chunks of 16 whatever they are asked.
    """
    chunked: Callable[..., Any] = imported("fla.ops.rwkv7", NO_FLA).chunk_rwkv7

    def rwkv7(
        r_BTHP: Tensor,
        w_BTHP: Tensor,
        k_BTHP: Tensor,
        v_BTHV: Tensor,
        kk_BTHP: Tensor,
        a_BTHP: Tensor,
        *,
        chunk_size: int,
        initial_state_BHPV: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        o_BTHV, state_BHPV = chunked(
            r_BTHP,
            _rwkv7_log_decay(w_BTHP),
            k_BTHP,
            v_BTHV,
            -kk_BTHP,
            kk_BTHP * a_BTHP,
            scale=1.0,
            initial_state=wide_state(initial_state_BHPV),
            output_final_state=True,
            chunk_size=chunk_size,
            lower_bound=RWKV7_BOUND,
        )
        return o_BTHV, state_BHPV

    return rwkv7


def load_rwkv7_step() -> Callable[..., Any]:
    """``rwkv7_step`` by fla's recurrent kernel over one position, whose new state is copied over the old one."""
    recurrent: Callable[..., Any] = imported("fla.ops.rwkv7", NO_FLA).fused_mul_recurrent_rwkv7

    def rwkv7_step(
        state_BHPV: Tensor, r_BHP: Tensor, w_BHP: Tensor, k_BHP: Tensor, v_BHV: Tensor, kk_BHP: Tensor, a_BHP: Tensor
    ) -> Tensor:
        inputs = (r_BHP, _rwkv7_log_decay(w_BHP), k_BHP, v_BHV, kk_BHP, a_BHP)
        return one_position(recurrent, state_BHPV, inputs, scale=1.0, output_final_state=True)

    return rwkv7_step


def load_rwkv7_output() -> Callable[..., Any]:
    """``rwkv7_output`` by fla's norm of groups, then by its bonus and gate in one kernel."""
    norm: Callable[..., Any] = imported("fla.modules.norm.layernorm", NO_FLA).group_norm
    corrected: Callable[..., Any] = imported("fla.ops.rwkv7.gate_output_correction", NO_FLA).gate_output_correction

    def rwkv7_output(
        y: Tensor,
        r: Tensor,
        k: Tensor,
        v: Tensor,
        gate: Tensor,
        weight_HV: Tensor,
        bias_HV: Tensor,
        bonus_HP: Tensor,
        *,
        eps: float,
    ) -> Tensor:
        y_BTHV, r, k, v, gate = (x.unsqueeze(0) if y.dim() == 3 else x for x in (y, r, k, v, gate))
        normed = norm(y_BTHV.flatten(-2), weight_HV.flatten(), bias_HV.flatten(), eps=eps, num_groups=y.shape[-2])
        out: Tensor = corrected(normed, r, k, bonus_HP, v, gate.flatten(-2))
        return out.view(y.shape)

    return rwkv7_output


def unsupported_16_bit_products(problem: Problem) -> str | None:
    """Why the chunk kernels do not support a device or dtype: on a GPU they take products of float32 in tf32."""
    if reason := needs_cuda(problem):
        return reason
    if problem.dtype not in ("bfloat16", "float16"):
        return f"its products round to tf32, which is not {problem.dtype}: use bfloat16 or the reference"
    return None


def unsupported_chunk_size(problem: Problem, sizes: tuple[int, ...]) -> str | None:
    """Why kernels with chunks of certain ``sizes`` do not support a problem's chunks; a problem with 0 takes any."""
    if problem.chunk_size in (0, *sizes):
        return None
    known = " or ".join(str(size) for size in sizes)
    return f"its chunks are {known} positions long, and chunk_size is {problem.chunk_size}"


def unsupported_chunked(op: str) -> Callable[[Problem], str | None]:
    """A function that says why chunk kernels do not support a problem.

    They solve triangular systems in tf32, not in float32.
    """

    def unsupported(problem: Problem) -> str | None:
        if reason := unsupported_16_bit_products(problem):
            return reason
        if problem.head_dim > WIDEST_KEY:
            return f"it holds at most {WIDEST_KEY} key channels a head, and head_dim is {problem.head_dim}"
        return unsupported_chunk_size(problem, CHUNKS[op])

    return unsupported


def unsupported_gated_delta(problem: Problem) -> str | None:
    """Why a problem is unsupported: by the chunk kernels, or in training where Triton miscompiles their backward."""
    return unsupported_chunked("gated_delta")(problem) or (_miscompiled() if problem.training else None)


def _miscompiled() -> str | None:
    if not on_hopper() or importlib.util.find_spec("tilelang"):
        return None
    version = TorchVersion(importlib.metadata.version("triton"))
    first, mended = WRONG_ON_HOPPER
    if version < first or version >= mended:
        return None
    return f"its backward is wrong on Hopper with triton {version}: triton {mended} or tilelang mends it"


gated_delta = Implementation(load_gated_delta, unsupported_gated_delta)
gated_delta_as_kda = Implementation(load_gated_delta_as_kda, unsupported_chunked("kda"))
gated_delta_step = Implementation(load_gated_delta_step, needs_cuda_and_float32)
kda = Implementation(load_kda, unsupported_chunked("kda"))
kda_step = Implementation(load_kda_step, needs_cuda_and_float32)
rwkv7 = Implementation(load_rwkv7, unsupported_chunked("rwkv7"))
rwkv7_step = Implementation(load_rwkv7_step, needs_cuda_and_float32)
rwkv7_output = Implementation(load_rwkv7_output, needs_cuda_and_float32)
