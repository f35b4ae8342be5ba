"""triton_head_norm: the norm by heads that a parallel block wants of a branch, where the branch's state is updated by
programs of less than a head, or its own norm spans more than one.

Importing this module needs triton.
"""

from __future__ import annotations

import triton.language as tl

from hybridbench.kernels.triton_jit import jit
from hybridbench.kernels.triton_launch import wait
from hybridbench.kernels.triton_narrow import as_pointed


@jit
def norm_heads(
    y_ptr: tl.tensor,
    squares_ptr: tl.tensor,
    eps: tl.tensor,
    head_eps: tl.tensor,
    B: tl.constexpr,
    H: tl.constexpr,
    P: tl.constexpr,
    P_TILE: tl.constexpr,
    NORMED: tl.constexpr,
    PARTS: tl.constexpr,
    PARTS_TILE: tl.constexpr,
    PDL: tl.constexpr,
) -> None:
    """One program per sequence and head: y (B, H, P) in place, each head divided by its own root mean square.

    Where NORMED, y is first divided by the root mean square of its row, from the ``squares`` (PARTS, B) of its writers.
    """
    h = tl.program_id(0) % H
    b = tl.program_id(0) // H
    p = tl.arange(0, P_TILE)
    wait(PDL)
    at = y_ptr + (b.to(tl.int64) * H + h) * P + p
    y = tl.load(at, mask=p < P, other=0.0).to(tl.float32)
    if NORMED:
        part = tl.arange(0, PARTS_TILE)
        squares = tl.load(squares_ptr + part * B + b, mask=part < PARTS, other=0.0)
        y = y * tl.rsqrt(tl.sum(squares, 0) / (H * P) + eps)
    y = y * tl.rsqrt(tl.sum(y * y, 0) / P + head_eps)
    tl.store(at, as_pointed(y, y_ptr), mask=p < P)
