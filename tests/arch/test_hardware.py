"""The hardware convention counts what kernels execute: whole tiles, the chunked scan, recomputation."""

from __future__ import annotations

import numpy as np
import pytest

from hybridbench.arch.attention import Attention
from hybridbench.arch.block import Block, Convention
from hybridbench.arch.mamba2 import Mamba2
from hybridbench.arch.parallel import Parallel

HARDWARE = Convention.HARDWARE
MASKS = {
    "full": (None, 0),
    "window-1": (1, 0),
    "window-128": (128, 0),
    "window-129": (129, 0),
    "window-130": (130, 0),
    "window-200-sinks-1": (200, 1),
    "window-512-sinks-64": (512, 64),
    "window-300-sinks-129": (300, 129),
}


@pytest.mark.parametrize(("window", "sinks"), MASKS.values(), ids=MASKS.keys())
@pytest.mark.parametrize("tokens", [1, 127, 128, 129, 500, 768, 1100])
def test_attention_runs_every_tile_with_a_visible_pair(window: int | None, sinks: int, tokens: int) -> None:
    spec = Attention(64, 4, 2, 16, 32, window=window, sinks=sinks)
    rows = -(-tokens // 128)
    query, key = np.arange(rows * 128)[:, None], np.arange(rows * 128)[None, :]
    mask = key <= query
    if window is not None:
        mask &= (query - key < window) | (key < sinks)
    tiles = mask.reshape(rows, 128, rows, 128).any(axis=(1, 3)).sum()
    flops = spec.prefill_flops(tokens, HARDWARE).attention
    assert flops == 2 * 4 * (16 + 32) * 128 * 128 * tiles
    assert flops >= spec.prefill_flops(tokens).attention


def test_attention_decodes_over_whole_tiles() -> None:
    spec = Attention(64, 4, 2, 16, 32)
    tiles = [spec.decode_flops(n, HARDWARE).attention / (2 * 4 * (16 + 32) * 128) for n in (0, 127, 128, 255, 256)]
    assert tiles == [1, 1, 2, 2, 3]


def test_flash_attention_trains_for_three_and_a_half_forwards() -> None:
    """formulas.md section 1: two products forward, five backward."""
    spec = Attention(64, 4, 2, 16, 16)
    forward, train = spec.prefill_flops(777, HARDWARE), spec.train_flops(777, HARDWARE)
    assert 2 * train.attention == 7 * forward.attention
    assert train.matmul == 3 * forward.matmul


def test_wide_values_train_by_their_own_width() -> None:
    """Of the five backward products three have head_dim columns (scores, dQ, dK) and two v_head_dim (dV, dP)."""
    spec = Attention(64, 4, 2, 16, 48)
    products = 2 * 4 * 128 * 128
    assert spec.prefill_flops(128, HARDWARE).attention == products * (16 + 48)
    assert spec.train_flops(128, HARDWARE).attention == products * (16 + 48 + 3 * 16 + 2 * 48)


def chunk_terms(chunk: int, heads: int, width: int, state: int, groups: int) -> tuple[int, int, int, int]:
    """formulas.md section 3a per chunk: rows 1, 2 (tiles of 64 on or below the diagonal), 3 = 5, and 4."""
    tiles = sum(64 * 64 for row in range(0, chunk, 64) for column in range(0, chunk, 64) if column <= row)
    return (
        2 * chunk * chunk * state * groups,
        2 * min(tiles, chunk * chunk) * width * heads,
        2 * chunk * state * width * heads,
        2 * state * width * heads,
    )


@pytest.mark.parametrize("tokens", [1, 255, 256, 257, 1024])
@pytest.mark.parametrize(("chunk", "groups"), [(256, 1), (128, 4), (64, 2), (32, 1)])
def test_the_scan_is_the_chunked_one(chunk: int, groups: int, tokens: int) -> None:
    spec = Mamba2(128, 256, 32, 48, n_groups=groups, chunk_size=chunk)
    scores, diagonal, product, passing = chunk_terms(chunk, 8, 32, 48, groups)
    chunks = -(-tokens // chunk)
    skip = 2 * 256 * tokens
    forward = spec.prefill_flops(tokens, HARDWARE)
    assert forward.scan == chunks * (scores + diagonal + 2 * product + passing) + skip
    assert forward.matmul == spec.prefill_flops(tokens).matmul
    assert forward.conv == spec.prefill_flops(tokens).conv
    # Section 3a, backward: rows 1 and 3 again; then 2 of row 1's size, 3 of row 2's, 4 of row 3's.
    backward = chunks * ((1 + 2) * scores + 3 * diagonal + (1 + 4) * product + 2 * passing) + 2 * skip
    train = spec.train_flops(tokens, HARDWARE)
    assert train.scan == forward.scan + backward
    assert 2.4 < backward / forward.scan <= 3
    assert (train.matmul, train.conv) == (3 * forward.matmul, 3 * forward.conv)


def test_the_scan_lies_between_half_and_full_chunks() -> None:
    """formulas.md: SSD(Q) = 2 Q (N G + P H) + 4 N P H + 2 N P H / Q per token, 2 Q -> Q + 1 when only causal."""
    spec = Mamba2(2048, 4096, 128, 128, chunk_size=256)
    inner, state, q, tokens = 4096, 128, 256, 8192
    rest = 4 * state * inner + 2 * state * inner / q + 2 * inner
    scan = spec.prefill_flops(tokens, HARDWARE).scan / tokens
    assert (q + 1) * (state + inner) + rest < scan < 2 * q * (state + inner) + rest


def test_decode_has_no_chunks() -> None:
    spec = Mamba2(128, 256, 32, 48)
    assert spec.decode_flops(5, HARDWARE) == spec.decode_flops(5)


@pytest.mark.parametrize("tokens", [1, 100, 300])
def test_hardware_never_does_less_attention(block: Block, tokens: int) -> None:
    assert block.prefill_flops(tokens, HARDWARE).attention >= block.prefill_flops(tokens).attention
    assert block.train_flops(tokens, HARDWARE).attention >= block.train_flops(tokens).attention
    assert block.train_flops(tokens, HARDWARE).total >= 3 * block.prefill_flops(tokens, HARDWARE).matmul


@pytest.mark.parametrize("convention", Convention)
def test_a_parallel_block_runs_both_cores(convention: Convention) -> None:
    attention = Attention(96, 6, 2, 8, 16)
    mamba = Mamba2(96, 96, 16, 24, gated_norm=False)
    both = Parallel(mamba, attention)
    assert both.train_flops(300, convention) == mamba.train_flops(300, convention) + attention.train_flops(
        300, convention
    )
    assert both.prefill_flops(300, convention) == mamba.prefill_flops(300, convention) + attention.prefill_flops(
        300, convention
    )
