"""own: this package's Triton kernels for the mixers of the delta rule, and where they can run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hybridbench.kernels.backend import imported


def load_triton(op: str) -> Callable[..., Any]:
    """This package's kernel of ``op``, a step in place or ``norm_gate``."""
    kernel: Callable[..., Any] = getattr(
        imported("hybridbench.kernels.delta.triton_delta", "triton is not importable"), op
    )
    return kernel
