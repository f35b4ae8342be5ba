"""split_kv: this package's Triton kernel for a decode step of attention, and where it can run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hybridbench.kernels.backend import imported, needs_cuda
from hybridbench.problem import Problem


def load_triton_decode() -> Callable[..., Any]:
    """``attention_decode`` by the split-KV kernel of ``triton_decode``."""
    module = imported("hybridbench.kernels.attention.triton_decode", "triton is not importable")
    decode: Callable[..., Any] = module.attention_decode
    return decode


def refuses_triton_decode(problem: Problem) -> str | None:
    """Any widths, bfloat16, float16 or float32, on a CUDA device."""
    if reason := needs_cuda(problem):
        return reason
    return "Triton's products have no float64" if problem.dtype == "float64" else None
