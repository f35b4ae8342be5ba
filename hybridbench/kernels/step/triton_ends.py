"""triton_ends: the first and the last kernels of a decode step, between tokens and the residual stream.

Importing this module needs triton.
"""

from __future__ import annotations

import triton.language as tl

from hybridbench.kernels.step.triton_product import (
    early_squares,
    first_weights,
    norm_factor,
    product_after,
    row_scales,
    scaled_rows,
)
from hybridbench.kernels.triton_jit import jit
from hybridbench.kernels.triton_launch import wait
from hybridbench.kernels.triton_narrow import as_pointed


@jit
def begin(
    token_ptr: tl.tensor,
    position_ptr: tl.tensor,
    embedding_ptr: tl.tensor,
    scale_ptr: tl.tensor,
    norm_weight_ptr: tl.tensor,
    x_ptr: tl.tensor,
    xw_ptr: tl.tensor,
    squares_ptr: tl.tensor,
    frequency_ptr: tl.tensor,
    turn_ptr: tl.tensor,
    ring_ptr: tl.tensor,
    slot_ptr: tl.tensor,
    length_ptr: tl.tensor,
    D: tl.constexpr,
    D_TILE: tl.constexpr,
    B: tl.constexpr,
    TURNS: tl.constexpr,
    PAIRS: tl.constexpr,
    PAIRS_TILE: tl.constexpr,
    RINGS: tl.constexpr,
    PDL: tl.constexpr,
) -> None:
    """One program per sequence: embeds its token, and computes what every layer needs to know of its position.

    ``turn`` (TURNS, B, 2, PAIRS) gets cosines and sines for each kind of rotary embedding; ``slot`` and ``length``
    (RINGS, B) the cache slot to write and the slots then in use, for each pair of (sinks, ring) in ``ring``.
    """
    b = tl.program_id(0)
    wait(PDL)
    position = tl.load(position_ptr + b)
    d = tl.arange(0, D_TILE)
    token = tl.load(token_ptr + b).to(tl.int64)
    x = tl.load(embedding_ptr + token * D + d, mask=d < D, other=0.0)
    if scale_ptr is not None:
        x = (x.to(tl.float32) * tl.load(scale_ptr + token).to(tl.float32)).to(x_ptr.dtype.element_ty)
    weight = tl.load(norm_weight_ptr + d, mask=d < D, other=0.0)
    wide = x.to(tl.float32)
    tl.store(x_ptr + b * D + d, x, mask=d < D)
    tl.store(xw_ptr + b * D + d, as_pointed(wide * weight.to(tl.float32), xw_ptr), mask=d < D)
    tl.store(squares_ptr + b, tl.sum(wide * wide, 0))
    p = tl.arange(0, PAIRS_TILE)
    for kind in tl.static_range(TURNS):
        angle = position.to(tl.float32) * tl.load(frequency_ptr + kind * PAIRS + p, mask=p < PAIRS, other=0.0)
        at = turn_ptr + (kind * B + b) * 2 * PAIRS + p
        tl.store(at, tl.cos(angle), mask=p < PAIRS)
        tl.store(at + PAIRS, tl.sin(angle), mask=p < PAIRS)
    for kind in tl.static_range(RINGS):
        sinks = tl.load(ring_ptr + 2 * kind)
        ring = tl.load(ring_ptr + 2 * kind + 1)
        behind = sinks + (position - sinks) % tl.maximum(ring, 1)
        slot = tl.where((ring == 0) | (position < sinks), position, behind)
        length = tl.where(ring == 0, position + 1, tl.minimum(position + 1, sinks + ring))
        tl.store(slot_ptr + kind * B + b, slot)
        tl.store(length_ptr + kind * B + b, length.to(tl.int32))


@jit
def project_head(
    xw_ptr: tl.tensor,
    squares_ptr: tl.tensor,
    w_ptr: tl.tensor,
    scale_ptr: tl.tensor,
    logits_ptr: tl.tensor,
    best_ptr: tl.tensor,
    best_at_ptr: tl.tensor,
    eps: tl.tensor,
    tiles: tl.tensor,
    D: tl.constexpr,
    VOCABULARY: tl.constexpr,
    PARTS: tl.constexpr,
    PARTS_TILE: tl.constexpr,
    B: tl.constexpr,
    TOKENS: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_K: tl.constexpr,
    STAGES: tl.constexpr,
    PDL: tl.constexpr,
) -> None:
    """The final norm and the head: logits (B, VOCABULARY), and the largest one of each tile with its index."""
    tile = tl.program_id(0)
    row = tile * ROWS + tl.arange(0, ROWS)
    row_ok = row < VOCABULARY
    of_tile = tl.arange(0, ROWS)
    w_ptr += (tile * ROWS).to(tl.int64) * D
    scale = row_scales(scale_ptr, row, row_ok)
    first_w = first_weights(w_ptr, of_tile, row_ok, 0, D, BLOCK_K)
    wait(PDL)
    squares = early_squares(squares_ptr, PARTS, PARTS_TILE, B, TOKENS)
    acc = product_after(first_w, xw_ptr, w_ptr, of_tile, row_ok, 0, D, D, D, B, TOKENS, BLOCK_K, STAGES)
    acc = scaled_rows(acc, scale, scale_ptr)
    acc = acc * norm_factor(squares, squares_ptr, D, eps, PARTS, PARTS_TILE, B, TOKENS)
    b = tl.arange(0, TOKENS)
    logits = acc.to(logits_ptr.dtype.element_ty)
    at = logits_ptr + (b * VOCABULARY)[None, :] + row[:, None]
    tl.store(at, logits, mask=row_ok[:, None] & (b < B)[None, :])
    rounded = tl.where(row_ok[:, None], logits.to(tl.float32), float("-inf"))
    best = tl.max(rounded, 0)
    best_at = tl.min(tl.where(rounded == best[None, :], row[:, None], VOCABULARY), 0)
    tl.store(best_ptr + b * tiles + tile, best, mask=b < B)
    tl.store(best_at_ptr + b * tiles + tile, best_at, mask=b < B)


@jit
def finish(
    best_ptr: tl.tensor,
    best_at_ptr: tl.tensor,
    token_ptr: tl.tensor,
    position_ptr: tl.tensor,
    tiles: tl.tensor,
    advance: tl.tensor,
    VOCABULARY: tl.constexpr,
    TILES_TILE: tl.constexpr,
    PDL: tl.constexpr,
) -> None:
    """One program per sequence: writes the token of the largest logit (the first of equals) and the next position."""
    b = tl.program_id(0)
    wait(PDL)
    i = tl.arange(0, TILES_TILE)
    best = tl.load(best_ptr + b * tiles + i, mask=i < tiles, other=float("-inf"))
    best_at = tl.load(best_at_ptr + b * tiles + i, mask=i < tiles, other=VOCABULARY)
    token = tl.min(tl.where(best == tl.max(best, 0), best_at, VOCABULARY), 0)
    tl.store(token_ptr + b, token.to(tl.int64))
    tl.store(position_ptr + b, tl.load(position_ptr + b) + advance)
