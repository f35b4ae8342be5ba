"""triton_product: how the kernels of a decode step multiply weights by a few tokens, and add the parts of a product.

Weights may be codes of 8 bits, which are converted to the dtype of what they multiply in registers, with a scale for
each row (``model.quantised``). A kernel's ``scale_ptr`` is None for plain weights.

Importing this module needs triton.
"""

from __future__ import annotations

import triton.language as tl

from hybridbench.kernels.triton_jit import jit
from hybridbench.kernels.triton_narrow import as_factor
from hybridbench.sizes import FEW_TOKENS

FEW = tl.constexpr(FEW_TOKENS)
"""Up to as many tokens in a tile, a kernel holds in registers what its end needs while it multiplies: first weights,
sums of squares, the residual. Above, sums of products take that room, and the rest is loaded when they are done."""


@jit
def first_weights(
    w_ptr: tl.tensor, row: tl.tensor, row_ok: tl.tensor, k_first: tl.tensor, w_width: tl.tensor, BLOCK_K: tl.constexpr
) -> tl.tensor:
    """The first block of columns of some rows. Weights never change, so they may be loaded before the wait.

    Weights may have more than 2^31 elements. A program's rows are counted from its first one, at which ``w_ptr`` points
    already, or are 64 bits wide.
    """
    k = k_first + tl.arange(0, BLOCK_K)
    return tl.load(w_ptr + row[:, None] * w_width + k[None, :], mask=row_ok[:, None], other=0.0)


@jit
def row_scales(scale_ptr: tl.tensor, row: tl.tensor, row_ok: tl.tensor) -> tl.tensor:
    """The scales of some rows of a quantised weight. They never change, so they may be loaded before the wait."""
    if scale_ptr is None:
        scale = tl.zeros((1,), tl.float32)
    else:
        scale = tl.load(scale_ptr + row, mask=row_ok, other=0.0).to(tl.float32)
    return scale


@jit
def scaled_rows(acc: tl.tensor, scale: tl.tensor, scale_ptr: tl.tensor) -> tl.tensor:
    """A product with a quantised weight times the ``row_scales`` of its rows."""
    if scale_ptr is not None:
        acc = acc * scale[:, None]
    return acc


@jit
def product_of(
    acc: tl.tensor,
    x_ptr: tl.tensor,
    w_ptr: tl.tensor,
    row: tl.tensor,
    row_ok: tl.tensor,
    k_first: tl.tensor,
    k_last: tl.tensor,
    x_width: tl.tensor,
    w_width: tl.tensor,
    B: tl.constexpr,
    TOKENS: tl.constexpr,
    BLOCK_K: tl.constexpr,
    STAGES: tl.constexpr,
) -> tl.tensor:
    """``acc`` (rows, TOKENS) plus rows ``row`` of w times x transposed, over columns [k_first, k_last)."""
    k = tl.arange(0, BLOCK_K)
    b = tl.arange(0, TOKENS)
    for start in tl.range(k_first, k_last, BLOCK_K, num_stages=STAGES):
        w = tl.load(w_ptr + row[:, None] * w_width + (start + k)[None, :], mask=row_ok[:, None], other=0.0)
        x = tl.load(x_ptr + (start + k)[:, None] + b[None, :] * x_width, mask=(b < B)[None, :], other=0.0)
        acc = tl.dot(as_factor(w, x), x, acc, input_precision="ieee")
    return acc


@jit
def product_after(
    first_w: tl.tensor,
    x_ptr: tl.tensor,
    w_ptr: tl.tensor,
    row: tl.tensor,
    row_ok: tl.tensor,
    k_first: tl.tensor,
    k_last: tl.tensor,
    x_width: tl.tensor,
    w_width: tl.tensor,
    B: tl.constexpr,
    TOKENS: tl.constexpr,
    BLOCK_K: tl.constexpr,
    STAGES: tl.constexpr,
) -> tl.tensor:
    """Rows of w times x transposed over [k_first, k_last), of which ``first_w`` is the first block of columns.

    That block is multiplied last: it stays in registers while the loop's loads are in flight. With more than ``FEW``
    tokens there is no room for it, and it is loaded in the loop like the others.
    """
    acc = tl.zeros((first_w.shape[0], TOKENS), tl.float32)
    if TOKENS > FEW:
        acc = product_of(acc, x_ptr, w_ptr, row, row_ok, k_first, k_last, x_width, w_width, B, TOKENS, BLOCK_K, STAGES)
    else:
        b = tl.arange(0, TOKENS)
        k = k_first + tl.arange(0, BLOCK_K)
        x = tl.load(x_ptr + k[:, None] + b[None, :] * x_width, mask=(b < B)[None, :], other=0.0)
        acc = product_of(
            acc, x_ptr, w_ptr, row, row_ok, k_first + BLOCK_K, k_last, x_width, w_width, B, TOKENS, BLOCK_K, STAGES
        )
        acc = tl.dot(as_factor(first_w, x), x, acc, input_precision="ieee")
    return acc


@jit
def last_to_arrive(
    acc: tl.tensor,
    part_ptr: tl.tensor,
    count_ptr: tl.tensor,
    tile: tl.tensor,
    split: tl.tensor,
    SPLITS: tl.constexpr,
    ROWS: tl.constexpr,
    TOKENS: tl.constexpr,
) -> tl.tensor:
    """Stores ``acc`` beside the other parts of its tile; returns 1 in the last program of the tile, else 0."""
    at = tl.arange(0, ROWS)[:, None] * TOKENS + tl.arange(0, TOKENS)[None, :]
    tl.store(part_ptr + (tile * SPLITS + split) * ROWS * TOKENS + at, acc)
    tl.debug_barrier()
    arrived = tl.atomic_add(count_ptr + tile, 1, sem="acq_rel", scope="gpu")
    return arrived == SPLITS - 1


@jit
def sum_of_parts(
    part_ptr: tl.tensor,
    count_ptr: tl.tensor,
    tile: tl.tensor,
    SPLITS: tl.constexpr,
    ROWS: tl.constexpr,
    TOKENS: tl.constexpr,
) -> tl.tensor:
    """The sum of the parts of a tile, in order; resets the count for the next step."""
    at = tl.arange(0, ROWS)[:, None] * TOKENS + tl.arange(0, TOKENS)[None, :]
    acc = tl.zeros((ROWS, TOKENS), tl.float32)
    if TOKENS > 64:  # all parts at once would not fit into registers, and of 256 tokens not even two
        for split in tl.range(SPLITS, loop_unroll_factor=1 if TOKENS > 128 else 2):
            acc += tl.load(part_ptr + (tile * SPLITS + split) * ROWS * TOKENS + at, cache_modifier=".cg")
    else:
        for split in tl.static_range(SPLITS):
            acc += tl.load(part_ptr + (tile * SPLITS + split) * ROWS * TOKENS + at, cache_modifier=".cg")
    tl.store(count_ptr + tile, 0)
    return acc


@jit
def load_squares(
    squares_ptr: tl.tensor, PARTS: tl.constexpr, PARTS_TILE: tl.constexpr, B: tl.constexpr, TOKENS: tl.constexpr
) -> tl.tensor:
    """The sums of squares (PARTS, B) that the producers of a row left, as a tile."""
    part = tl.arange(0, PARTS_TILE)
    b = tl.arange(0, TOKENS)
    return tl.load(
        squares_ptr + part[:, None] * B + b[None, :], mask=(part < PARTS)[:, None] & (b < B)[None, :], other=0.0
    )


@jit
def early_squares(
    squares_ptr: tl.tensor, PARTS: tl.constexpr, PARTS_TILE: tl.constexpr, B: tl.constexpr, TOKENS: tl.constexpr
) -> tl.tensor:
    """``load_squares`` for up to ``FEW`` tokens; for more nothing, and ``norm_factor`` loads them."""
    if TOKENS <= FEW:
        early = load_squares(squares_ptr, PARTS, PARTS_TILE, B, TOKENS)
    else:
        early = tl.zeros((1, TOKENS), tl.float32)
    return early


@jit
def norm_factor(
    early: tl.tensor,
    squares_ptr: tl.tensor,
    width: tl.tensor,
    eps: tl.tensor,
    PARTS: tl.constexpr,
    PARTS_TILE: tl.constexpr,
    B: tl.constexpr,
    TOKENS: tl.constexpr,
) -> tl.tensor:
    """1 over the root mean square of each token's row of ``width`` columns, (1, TOKENS).

    Args:
        early: of ``early_squares``.
    """
    if TOKENS <= FEW:
        total = tl.sum(early, 0)
    else:
        SOME: tl.constexpr = 2048 // TOKENS  # 16 registers of each of 128 threads
        AT_ONCE: tl.constexpr = SOME if PARTS_TILE > SOME else PARTS_TILE
        b = tl.arange(0, TOKENS)
        total = tl.zeros((TOKENS,), tl.float32)
        for first in range(0, PARTS_TILE, AT_ONCE):
            part = first + tl.arange(0, AT_ONCE)
            ok = (part < PARTS)[:, None] & (b < B)[None, :]
            total += tl.sum(tl.load(squares_ptr + part[:, None] * B + b[None, :], mask=ok, other=0.0), 0)
    return tl.rsqrt(total / width + eps)[None, :]


@jit
def halves_of(acc: tl.tensor, HALF: tl.constexpr, TOKENS: tl.constexpr) -> tl.tensor:
    """The upper and the lower half of the rows."""
    return tl.split(tl.permute(tl.reshape(acc, (2, HALF, TOKENS)), (1, 2, 0)))
