"""triton_low_rank: second products of low rank inside the update of a state, for a few sequences at once.

Importing this module needs triton.
"""

from __future__ import annotations

import triton.language as tl

from hybridbench.kernels.triton_jit import jit


@jit
def low_rank_rows(
    w_ptr: tl.tensor, row: tl.tensor, ok: tl.tensor, RANK: tl.constexpr, RANK_TILE: tl.constexpr
) -> tl.tensor:
    """Some rows of a weight (rows, RANK). It never changes, so it may be loaded before the wait."""
    r = tl.arange(0, RANK_TILE)
    at = w_ptr + row[:, None].to(tl.int64) * RANK + r[None, :]
    return tl.load(at, mask=ok[:, None] & (r < RANK)[None, :], other=0.0)


@jit
def second_product(
    w: tl.tensor,
    x_ptr: tl.tensor,
    first: tl.tensor,
    B: tl.constexpr,
    WIDTH: tl.constexpr,
    RANK: tl.constexpr,
    RANK_TILE: tl.constexpr,
    SEQUENCES: tl.constexpr,
    BESIDE: tl.constexpr,
) -> tl.tensor:
    """The rows times RANK columns of SEQUENCES packed rows from ``first`` on, (rows, BESIDE)."""
    r = tl.arange(0, RANK_TILE)
    s = tl.arange(0, BESIDE)
    live = (s < SEQUENCES) & (first + s < B)
    at = x_ptr + (first + s)[None, :].to(tl.int64) * WIDTH + r[:, None]
    x = tl.load(at, mask=(r < RANK)[:, None] & live[None, :], other=0.0)
    return tl.dot(w, x, input_precision="ieee")


@jit
def of_sequence(products: tl.tensor, s: tl.tensor, BESIDE: tl.constexpr) -> tl.tensor:
    """One column of ``second_product``."""
    return tl.sum(tl.where(tl.arange(0, BESIDE)[None, :] == s, products, 0.0), 1)
