"""triton_jit: Triton's decorator of kernels, with a type that strict checking can read.

Triton has no types. In a kernel every argument that is not a constant is a ``tl.tensor``: a pointer, a number or a
tile.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import triton


def jit(function: Callable[..., Any]) -> Any:
    """``triton.jit``: a kernel that is launched as ``kernel[grid](...)``, or a function that kernels call."""
    return triton.jit(function)
