"""core: the kernels that run all of Mamba-2 between its two projections as one operation, and where they can run.

It can run by mamba_ssm's own fused function, or by either variant of ``mamba2_fused``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from hybridbench.arch.blocks.ssd_kernels import LEAST_SLICE, MOST_PIECES, MOST_STATES, fits_in_pieces, fits_one_pass
from hybridbench.kernels.backend import Implementation, imported, own_kernel, refuse_gradients
from hybridbench.kernels.scan.third_party import NO_CAUSAL_CONV1D, NO_MAMBA_SSM, unsupported_conv1d, unsupported_ssd
from hybridbench.problem import Problem


def load_mamba2_core() -> Callable[..., Any]:
    """``mamba2_core`` by mamba_ssm's own fused function, which recomputes the convolution in its backward."""
    split_scan: Callable[..., Any] = imported(
        "mamba_ssm.ops.triton.ssd_combined", NO_MAMBA_SSM
    ).mamba_split_conv1d_scan_combined
    imported("causal_conv1d", NO_CAUSAL_CONV1D)

    def mamba2_core(
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
    ) -> tuple[Tensor, Tensor]:
        tensors = (packed_BTE, conv_weight_CW, conv_bias_C, A_H, D_H, dt_bias_H, norm_weight_I)
        if initial_state_BHPN is not None:
            refuse_gradients("mamba2_core", *tensors, initial_state_BHPN)
        H = A_H.shape[0]
        used = H * head_dim + conv_weight_CW.shape[0] + H
        out_BTI, state_BHPN = split_scan(
            packed_BTE[..., :used],
            conv_weight_CW,
            conv_bias_C,
            dt_bias_H,
            A_H,
            D_H,
            chunk_size,
            initial_states=initial_state_BHPN,
            return_final_states=True,
            activation="silu",
            rmsnorm_weight=norm_weight_I,
            rmsnorm_eps=eps,
            headdim=head_dim,
            ngroups=n_groups,
            norm_before_gate=False,
        )
        return out_BTI, state_BHPN

    return mamba2_core


def load_mamba2_fused() -> Callable[..., Any]:
    """``mamba2_core`` of ``mamba2_fused``: the third-party kernels with this package's gate between them."""
    imported("mamba_ssm.ops.triton.ssd_combined", NO_MAMBA_SSM)
    imported("causal_conv1d", NO_CAUSAL_CONV1D)
    return own_kernel("scan.mamba2_fused", "mamba2_core")()


def load_one_pass() -> Callable[..., Any]:
    """``mamba2_core`` of ``mamba2_fused`` with this package's scan, which takes wide states in pieces."""
    load_mamba2_fused()
    return own_kernel("scan.mamba2_fused", "one_pass")()


BULK_COPIES = 9
"""The major compute capability from which GPUs can copy whole tiles into shared memory: Hopper's."""

SHARED_BYTES = 150_072
"""The most shared memory that a program of the one-pass scan takes, with ``LONE_STAGES`` and 128 states; bytes."""


def unsupported_one_pass(problem: Problem) -> str | None:
    """Why a problem is unsupported: a program holds slices of heads with whole states."""
    if reason := unsupported_mamba2_fused(problem):
        return reason
    if not fits_one_pass(problem.head_dim, problem.d_state):
        return (
            f"its tiles are for heads of a multiple of {LEAST_SLICE} channels and a power of two of "
            f"16 to {MOST_STATES} states: head_dim is {problem.head_dim} and d_state {problem.d_state}"
        )
    return _lacks_bulk_copies()


def unsupported_in_pieces(problem: Problem) -> str | None:
    """Why a problem is unsupported in pieces, each of which is one pass."""
    if reason := unsupported_mamba2_fused(problem):
        return reason
    if not fits_in_pieces(problem.head_dim, problem.d_state, problem.n_groups):
        return (
            f"it is for heads of a multiple of {LEAST_SLICE} channels and {MOST_PIECES * MOST_STATES} states in one "
            f"group: head_dim is {problem.head_dim}, d_state {problem.d_state} and n_groups {problem.n_groups}"
        )
    return _lacks_bulk_copies()


def memory_of_pieces(problem: Problem) -> str | None:
    """Why mamba_ssm's scan of wide states trains by default, though it is slower."""
    if not problem.training:
        return None
    return "for gradients it keeps the states before every block of 64 tokens: name it where memory allows"


def _lacks_bulk_copies() -> str | None:
    """Why this GPU cannot run the scan in one pass; None where it can, or there is none."""
    if not torch.cuda.is_available():
        return None
    here = torch.cuda.get_device_properties(0)
    if here.major < BULK_COPIES:
        return f"its bulk copies need compute capability {BULK_COPIES}.0, and this GPU's is {here.major}.{here.minor}"
    room = here.shared_memory_per_multiprocessor
    return f"it needs {SHARED_BYTES} bytes of shared memory, and an SM here has {room}" if room < SHARED_BYTES else None


def unsupported_mamba2_fused(problem: Problem) -> str | None:
    """Why a problem is unsupported: by the scan or by the convolution."""
    return unsupported_ssd(problem) or unsupported_conv1d(problem)


def unsupported_mamba2_core(problem: Problem) -> str | None:
    """Why a problem is unsupported: mamba_ssm norms each group by itself, so with several groups the model differs."""
    if reason := unsupported_mamba2_fused(problem):
        return reason
    if problem.n_groups > 1:
        return f"it norms each of the {problem.n_groups} groups by itself, and the gated norm here is over all channels"
    return None


one_pass = Implementation(load_one_pass, unsupported_one_pass)
in_pieces = Implementation(load_one_pass, unsupported_in_pieces, memory_of_pieces)
fused = Implementation(load_mamba2_fused, unsupported_mamba2_fused)
third_party = Implementation(load_mamba2_core, unsupported_mamba2_core)
