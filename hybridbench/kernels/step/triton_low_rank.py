"""triton_low_rank: second products of low rank, in a launch of their own or inside the update of a state.

Importing this module needs triton.
"""

from __future__ import annotations

import triton.language as tl

from hybridbench.kernels.triton_jit import jit
from hybridbench.kernels.triton_launch import wait


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
def _rows_of_one(
    x_ptr: tl.tensor,
    w_ptr: tl.tensor,
    out_ptr: tl.tensor,
    tile: tl.tensor,
    tokens: tl.tensor,
    B: tl.constexpr,
    I: tl.constexpr,  # noqa: E741
    RANK: tl.constexpr,
    RANK_TILE: tl.constexpr,
    X_WIDTH: tl.constexpr,
    WIDTH: tl.constexpr,
    TOKENS: tl.constexpr,
    ROWS: tl.constexpr,
    PDL: tl.constexpr,
) -> None:
    """Stores some rows of one of the products for some sequences."""
    row = tile * ROWS + tl.arange(0, ROWS)
    b = tokens * TOKENS + tl.arange(0, TOKENS)
    w = low_rank_rows(w_ptr, row, row < I, RANK, RANK_TILE)
    wait(PDL)
    product = second_product(w, x_ptr, tokens * TOKENS, B, X_WIDTH, RANK, RANK_TILE, TOKENS, TOKENS)
    at = out_ptr + b[None, :].to(tl.int64) * WIDTH + row[:, None]
    tl.store(at, product.to(out_ptr.dtype.element_ty), mask=(row < I)[:, None] & (b < B)[None, :])


@jit
def multiply_low_ranks(
    x_ptr: tl.tensor,
    first_w_ptr: tl.tensor,
    second_w_ptr: tl.tensor,
    third_w_ptr: tl.tensor,
    fourth_w_ptr: tl.tensor,
    out_ptr: tl.tensor,
    B: tl.constexpr,
    I: tl.constexpr,  # noqa: E741
    FIRST: tl.constexpr,
    SECOND: tl.constexpr,
    THIRD: tl.constexpr,
    FOURTH: tl.constexpr,
    FIRST_TILE: tl.constexpr,
    SECOND_TILE: tl.constexpr,
    THIRD_TILE: tl.constexpr,
    FOURTH_TILE: tl.constexpr,
    X_WIDTH: tl.constexpr,
    WIDTH: tl.constexpr,
    TOKENS: tl.constexpr,
    ROWS: tl.constexpr,
    PDL: tl.constexpr,
) -> None:
    """Up to four second products in one launch, one program per ROWS rows of a product and TOKENS sequences.

    A row of x (B, X_WIDTH) is FIRST, SECOND, THIRD and FOURTH columns, of which each is multiplied with a weight (I,
    columns) of its own; a row of ``out`` (B, WIDTH) is I outputs of each. A product of no columns is left out.
    """
    groups: tl.constexpr = (B + TOKENS - 1) // TOKENS
    tiles: tl.constexpr = (I + ROWS - 1) // ROWS
    tokens = tl.program_id(0) % groups
    tile = tl.program_id(0) // groups
    which = tile // tiles
    tile = tile % tiles
    if which == 0:
        if FIRST > 0:
            _rows_of_one(
                x_ptr, first_w_ptr, out_ptr, tile, tokens, B, I, FIRST, FIRST_TILE, X_WIDTH, WIDTH, TOKENS, ROWS, PDL
            )
    elif which == 1:
        if SECOND > 0:
            x_ptr += FIRST
            _rows_of_one(
                x_ptr, second_w_ptr, out_ptr + I, tile, tokens, B, I, SECOND, SECOND_TILE, X_WIDTH, WIDTH, TOKENS, ROWS,
                PDL,
            )  # fmt: skip
    elif which == 2:
        if THIRD > 0:
            x_ptr += FIRST + SECOND
            _rows_of_one(
                x_ptr, third_w_ptr, out_ptr + 2 * I, tile, tokens, B, I, THIRD, THIRD_TILE, X_WIDTH, WIDTH, TOKENS,
                ROWS, PDL,
            )  # fmt: skip
    else:
        if FOURTH > 0:
            x_ptr += FIRST + SECOND + THIRD
            _rows_of_one(
                x_ptr, fourth_w_ptr, out_ptr + 3 * I, tile, tokens, B, I, FOURTH, FOURTH_TILE, X_WIDTH, WIDTH, TOKENS,
                ROWS, PDL,
            )  # fmt: skip
