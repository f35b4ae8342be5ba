"""split_kv: this package's Triton kernel for a decode step of attention, and where it can run."""

from __future__ import annotations

from hybridbench.kernels.backend import Implementation, needs_cuda, own_kernel
from hybridbench.problem import Problem


def unsupported_triton_decode(problem: Problem) -> str | None:
    """Why a problem is unsupported: it needs a CUDA device and bfloat16, float16 or float32. Any width is supported."""
    if reason := needs_cuda(problem):
        return reason
    return "Triton's products have no float64" if problem.dtype == "float64" else None


attention_decode = Implementation(own_kernel("attention.triton_decode", "attention_decode"), unsupported_triton_decode)
