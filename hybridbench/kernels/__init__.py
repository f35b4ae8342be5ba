"""kernels: interchangeable implementations of a few operations, each with a reference implementation in plain PyTorch.

An operation's arguments, with the letters of all shapes, are in its row of ``operations``; its meaning is the
``reference`` in its family's folder. ``resolver`` chooses what runs, ``verify`` checks it before it is timed, and
``release`` frees what kernels keep per shape. No third-party package is imported until one of its kernels is resolved.
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
