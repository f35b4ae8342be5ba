"""elementwise: this package's Triton kernels for what stands between a model's products, and where they can run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hybridbench.kernels.backend import imported, needs_cuda
from hybridbench.problem import Problem


def load(op: str) -> Callable[..., Any]:
    """The kernel of ``op``."""
    kernel: Callable[..., Any] = getattr(
        imported("hybridbench.kernels.dense.triton_elementwise", "triton is not importable"), op
    )
    return kernel


def refuses(problem: Problem) -> str | None:
    """Any width, bfloat16, float16 or float32, on a CUDA device."""
    if reason := needs_cuda(problem):
        return reason
    return "its kernels compute in float32" if problem.dtype == "float64" else None
