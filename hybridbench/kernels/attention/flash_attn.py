"""flash_attn: flash-attn 2 and flash-attn 4 behind this package's signatures, and where they can run."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hybridbench.errors import Unsupported
from hybridbench.kernels.backend import Implementation, imported, needs_cuda, on_hopper
from hybridbench.problem import Problem

NO_FLASH_ATTN = "flash_attn is not importable: it is a compiled CUDA extension"


def load_flash_attn() -> Callable[..., Any]:
    """``attention`` by flash-attn 2.

    The kernel needs one width for queries, keys and values. Where they differ, the narrower side is padded with zeros.
    The result is the same, since the softmax scale stays that of the true head_dim. The copy and the wider product are
    extra work that model FLOPs do not count.
    """
    flash: Callable[..., Any] = imported("flash_attn", NO_FLASH_ATTN).flash_attn_func

    def attention(
        q_BTHP: Tensor, k_BTKP: Tensor, v_BTKV: Tensor, *, window: int | None = None, sinks: int = 0
    ) -> Tensor:
        if window is not None and sinks:
            raise Unsupported(f"flash-attn has windows but no sinks, and {sinks} were asked for; use flex.")
        P, V = q_BTHP.shape[-1], v_BTKV.shape[-1]
        q, k, v = q_BTHP, k_BTKP, v_BTKV
        if P < V:
            q, k = F.pad(q, (0, V - P)), F.pad(k, (0, V - P))
        elif V < P:
            v = F.pad(v, (0, P - V))
        seen = (-1, -1) if window is None else (window - 1, 0)
        out: Tensor = flash(q, k, v, softmax_scale=1 / math.sqrt(P), causal=True, window_size=seen)
        return out[..., :V]

    return attention


def load_flash_decode() -> Callable[..., Any]:
    """``attention_decode`` by flash-attn's kvcache kernel, which reads the lengths on the device."""
    flash: Callable[..., Any] = imported("flash_attn", NO_FLASH_ATTN).flash_attn_with_kvcache

    def attention_decode(q_BHP: Tensor, k_cache_BSKP: Tensor, v_cache_BSKV: Tensor, length_B: Tensor) -> Tensor:
        out_B1HV: Tensor = flash(q_BHP[:, None], k_cache_BSKP, v_cache_BSKV, cache_seqlens=length_B)
        return out_B1HV[:, 0]

    return attention_decode


def unsupported_flash_attn(problem: Problem) -> str | None:
    """Why a problem is unsupported: flash-attn cannot run it, or a build without some head widths gets it wrong.

    Builds of flash-attn 2.8.3 without the 32, 192 or float16 classes return wrong numbers there instead of an error
    (72-wide heads were 105% off on an H200 without their class), so only classes that were found right are used.
    """
    if reason := needs_cuda(problem):
        return reason
    if problem.dtype != "bfloat16":
        return f"only its bfloat16 kernels are known to be right in partial builds, and the dtype is {problem.dtype}"
    width = max(problem.head_dim, problem.value_dim)
    if not (32 < width <= 128 or 192 < width <= 256):
        return f"only widths 33 to 128 and 193 to 256 are known to be right in partial builds, and the width is {width}"
    if problem.window is not None and problem.sinks:
        return f"it has windows but no sinks, and {problem.sinks} sinks were asked for"
    return None


def unsupported_flash_decode(problem: Problem) -> str | None:
    """Why a problem is unsupported: keys must be as wide as values, in multiples of 8; padding would copy the cache."""
    if problem.head_dim != problem.value_dim:
        return (
            f"its cache kernel wants values as wide as keys, they are {problem.value_dim} and {problem.head_dim}, "
            "and padding the whole cache at every step would copy it"
        )
    if problem.head_dim % 8:
        return f"it would copy the whole cache to pad {problem.head_dim}-wide heads to a multiple of 8"
    return unsupported_flash_attn(problem)


NO_FLASH_ATTN_4 = "its flash_attn.cute cannot be imported: it is the package flash-attn-4 and needs nvidia-cutlass-dsl"


def load_flash_attn_4() -> Callable[..., Any]:
    """``attention`` by flash-attn 4, whose kernels for Hopper and Blackwell are written in CUTLASS's Python DSL.

    flash-attn 2.8.3 has an early ``flash_attn.cute`` of its own, so the distribution is checked too.
    """
    module = imported("hybridbench.kernels.attention.flash_attn_4", NO_FLASH_ATTN_4, distribution="flash-attn-4")
    function: Callable[..., Any] = module.attention
    return function


def unsupported_flash_attn_4(problem: Problem) -> str | None:
    """Why a problem is unsupported: 4.0.0b36 asserts against it, or the GPU is not Hopper, the only one tried."""
    if reason := needs_cuda(problem):
        return reason
    if problem.dtype not in ("bfloat16", "float16"):
        return f"it takes bfloat16 and float16 only, and the dtype is {problem.dtype}"
    widths = problem.head_dim, problem.value_dim
    if any(width % 8 for width in widths) or not 8 <= min(widths) <= max(widths) <= 256:
        return f"it takes heads of multiples of 8 from 8 to 256 channels, and they are {widths[0]} and {widths[1]}"
    if widths[0] != widths[1] > 128:
        return f"unequal heads of more than 128 channels were not tried, and they are {widths[0]} and {widths[1]}"
    if problem.window is not None and problem.sinks:
        return f"it has windows but no sinks, and {problem.sinks} sinks were asked for"
    if problem.training and widths[0] != widths[1] and problem.n_heads != problem.kv_heads:
        return f"its backward of grouped heads wants values as wide as keys, and they are {widths[1]} and {widths[0]}"
    if not torch.cuda.is_available() or on_hopper():
        return None
    major, minor = torch.cuda.get_device_capability()
    return f"it is used on Hopper only so far, and this GPU's compute capability is {major}.{minor}"


attention = Implementation(load_flash_attn, unsupported_flash_attn)
attention_decode = Implementation(load_flash_decode, unsupported_flash_decode)
attention_4 = Implementation(load_flash_attn_4, unsupported_flash_attn_4)
