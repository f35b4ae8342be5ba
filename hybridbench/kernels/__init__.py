"""kernels: interchangeable implementations of a few operations, each with a reference implementation in plain PyTorch.

What each is called with is in its row of ``operations``, with the letters of all shapes; what it means is in the
``reference`` of its family's folder. What runs is chosen by ``resolver`` and checked by ``verify`` before it is timed;
what kernels keep per shape is freed by ``release``. No third-party package is imported until one of its kernels is
resolved.
"""

from __future__ import annotations

from hybridbench.kernels.backend import Backend
from hybridbench.kernels.kept import release
from hybridbench.kernels.loading import backends, reference_of
from hybridbench.kernels.resolver import Resolution, available, choose, resolve
from hybridbench.kernels.verify import Check, verify
from hybridbench.problem import Problem

__all__ = [
    "Backend",
    "Check",
    "Problem",
    "Resolution",
    "available",
    "backends",
    "choose",
    "reference_of",
    "release",
    "resolve",
    "verify",
]
