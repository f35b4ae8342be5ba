"""sdpa: PyTorch's scaled_dot_product_attention, one kernel at a time.

PyTorch chooses among its SDPA kernels by itself, and falls back to another without saying so. Here each kernel is a
backend of its own, and the only one that PyTorch may use. Which widths and dtypes pass PyTorch's own checks differs
between releases, so on a CUDA device the smallest such problem is run once to find out.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from hybridbench.errors import ran_out_of_memory
from hybridbench.kernels.attention.masks import visible
from hybridbench.kernels.backend import Implementation, accepts_anything
from hybridbench.kernels.kept import kept
from hybridbench.problem import Problem

MASK_LENGTH = 8192
"""The longest sequence for which a T x T mask is built: 64 MiB as booleans, 128 MiB as bf16 biases."""


def load_sdpa(kernel: SDPBackend) -> Callable[..., Any]:
    """``attention`` by exactly one of PyTorch's SDPA kernels.

    The flash, cuDNN and math kernels support grouped heads (``enable_gqa``). The memory-efficient kernel does not, so
    keys and values are copied to all heads first, which counts as part of its cost. A window is an explicit T x T mask,
    for the kernels that support one (math, memory-efficient) and up to ``MASK_LENGTH`` positions.
    """

    def attention(
        q_BTHP: Tensor, k_BTKP: Tensor, v_BTKV: Tensor, *, window: int | None = None, sinks: int = 0
    ) -> Tensor:
        q, k, v = q_BTHP.transpose(1, 2), k_BTKP.transpose(1, 2), v_BTKV.transpose(1, 2)
        grouped = int(q.shape[1]) != int(k.shape[1])  # ints also while torch.jit traces
        if grouped and kernel == SDPBackend.EFFICIENT_ATTENTION:
            k, v = (x.repeat_interleave(int(q.shape[1]) // int(k.shape[1]), 1) for x in (k, v))
            grouped = False
        mask = None if window is None else _window_mask(q.shape[2], window, sinks, q.device)
        with sdpa_kernel(kernel):
            out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None, enable_gqa=grouped)
        return out.transpose(1, 2)

    return attention


_masks: dict[tuple[int, int, int, torch.device], Tensor] = kept()


def _window_mask(T: int, window: int, sinks: int, device: torch.device) -> Tensor:
    """The boolean (T, T) mask, kept from call to call so that building it is not timed."""
    key = (T, window, sinks, device)
    if key not in _masks:
        t = torch.arange(T, device=device)
        _masks[key] = visible(window, sinks)(None, None, t[:, None], t)
    return _masks[key]


_SDPA_NAMES = {
    SDPBackend.MATH: "math",
    SDPBackend.FLASH_ATTENTION: "flash",
    SDPBackend.EFFICIENT_ATTENTION: "memory-efficient",
    SDPBackend.CUDNN_ATTENTION: "cuDNN",
}


def unsupported_sdpa(kernel: SDPBackend) -> Callable[[Problem], str | None]:
    """What says why one SDPA kernel does not support a problem: by torch 2.13's rules on a CPU, by trial on CUDA."""
    name = _SDPA_NAMES[kernel]
    takes_mask = kernel in (SDPBackend.MATH, SDPBackend.EFFICIENT_ATTENTION)

    def unsupported(problem: Problem) -> str | None:
        if problem.window is not None:
            if not takes_mask:
                alone = " by itself (sdpa-blocks gives it one in blocks)" if problem.device == "cpu" else ""
                return f"PyTorch's {name} kernel has no window{alone}, and a window of {problem.window} was asked for"
            if problem.length > MASK_LENGTH:
                return (
                    f"a window goes in as a T x T mask, which is built up to {MASK_LENGTH} positions, "
                    f"and {problem.length} were asked for"
                )
        if problem.device == "cpu":
            if kernel in (SDPBackend.EFFICIENT_ATTENTION, SDPBackend.CUDNN_ATTENTION):
                return f"PyTorch has its {name} kernel for CUDA only"
            if kernel == SDPBackend.FLASH_ATTENTION and problem.head_dim != problem.value_dim:
                return (
                    f"PyTorch's CPU flash kernel needs values as wide as keys (sdpa-blocks pads them), "
                    f"and they are {problem.value_dim} and {problem.head_dim}"
                )
            return None
        if kernel == SDPBackend.CUDNN_ATTENTION and problem.length == 1:
            return "PyTorch's cuDNN kernel has not been checked on sequences of one token"
        if kernel in (SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION) and problem.dtype.endswith(("32", "64")):
            return f"PyTorch's {name} kernel takes bfloat16 and float16 only, and the dtype is {problem.dtype}"
        return _trial(kernel, problem.any_size()) if torch.cuda.is_available() else None

    return unsupported


@functools.cache
def _trial(kernel: SDPBackend, problem: Problem) -> str | None:
    """Runs the smallest such problem on the CUDA device; None, or a reason made of PyTorch's warnings."""
    dtype = getattr(torch, problem.dtype)

    def some(heads: int, width: int) -> Tensor:
        return torch.zeros(1, 128, heads, width, dtype=dtype, device="cuda", requires_grad=problem.training)

    q, k = some(problem.n_heads, problem.head_dim), some(problem.kv_heads, problem.head_dim)
    v = some(problem.kv_heads, problem.value_dim)
    with warnings.catch_warnings(record=True) as said, torch.enable_grad():
        warnings.simplefilter("always")
        try:
            out = load_sdpa(kernel)(q, k, v, window=problem.window, sinks=problem.sinks)
            if problem.training:
                out.sum().backward()
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            if ran_out_of_memory(error):  # that is of the moment, and what is returned is kept
                raise
            reasons = [str(warning.message).split(" (Triggered")[0] for warning in said] or [str(error)]
            return f"PyTorch's {_SDPA_NAMES[kernel]} kernel does not support this problem: {' '.join(reasons)}"
    return None


def load_sdpa_mask() -> Callable[..., Any]:
    """``attention_decode`` by PyTorch's SDPA with a boolean mask made from the lengths on the device.

    The H/K heads that share a KV head are passed as that many query positions, so the cache is read in place and
    grouped heads cost nothing. PyTorch chooses among its kernels that support a mask. All S slots are read whatever the
    lengths, and unused slots must hold finite numbers.
    """

    def attention_decode(q_BHP: Tensor, k_cache_BSKP: Tensor, v_cache_BSKV: Tensor, length_B: Tensor) -> Tensor:
        S, K = k_cache_BSKP.shape[1:3]
        live_BS = torch.arange(S, device=q_BHP.device) < length_B[:, None]
        out_BKRV = F.scaled_dot_product_attention(
            torch.unflatten(q_BHP, 1, (K, -1)),
            k_cache_BSKP.transpose(1, 2),
            v_cache_BSKV.transpose(1, 2),
            attn_mask=live_BS[:, None, None],
        )
        return out_BKRV.flatten(1, 2)

    return attention_decode


def _only(kernel: SDPBackend) -> Implementation:
    return Implementation(lambda: load_sdpa(kernel), unsupported_sdpa(kernel))


cudnn, flash = _only(SDPBackend.CUDNN_ATTENTION), _only(SDPBackend.FLASH_ATTENTION)
efficient, of_products = _only(SDPBackend.EFFICIENT_ATTENTION), _only(SDPBackend.MATH)
attention_decode = Implementation(load_sdpa_mask, accepts_anything)
