"""The hardware convention counts what kernels execute: whole tiles, the chunked scan, recomputation."""

from __future__ import annotations

import numpy as np
import pytest

from hybridbench.arch.block import Block, Convention
from hybridbench.arch.blocks.attention import Attention
from hybridbench.arch.blocks.mamba2 import Mamba2
from hybridbench.arch.blocks.parallel import Parallel
from hybridbench.arch.blocks.ssd_kernels import BMM, BMM_BACKWARD, KERNELS, SCAN, STATE, OnePass

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


@pytest.mark.parametrize("chunks", [1, 4])
@pytest.mark.parametrize(("chunk", "groups"), [(256, 1), (128, 4), (64, 2), (32, 1)])
def test_the_scan_is_the_chunked_one(chunk: int, groups: int, chunks: int) -> None:
    spec, tokens = Mamba2(128, 256, 32, 64, n_groups=groups, chunk_size=chunk), chunks * chunk
    scores, diagonal, product, passing = chunk_terms(chunk, 8, 32, 64, groups)
    skip = 2 * 256 * tokens
    kernels = spec.scan_kernels(tiles={})
    forward = sum(kernels.flops(tokens, training=False).values()) + kernels.elementwise(tokens, training=False)
    assert forward == chunks * (scores + diagonal + 2 * product + passing) + skip
    # Section 3a, backward: rows 1 and 3 again; then 2 of row 1's size, 3 of row 2's, 4 of row 3's.
    backward = chunks * ((1 + 2) * scores + 3 * diagonal + (1 + 4) * product + 2 * passing) + 2 * skip
    train = sum(kernels.flops(tokens, training=True).values()) + kernels.elementwise(tokens, training=True)
    assert train == forward + backward
    assert 2.4 < backward / forward <= 3


def one_pass_products(heads: int, width: int, state: int, groups: int, blocks: int, sequences: int) -> tuple[int, int]:
    """Multiply-adds of ``kernels.triton_ssd``, dot by dot as its programs loop, forward and backward."""
    if state > 128:  # wide states go in pieces, of which each does all of it
        every = [one_pass_products(heads, width, 128, groups, blocks, sequences) for _ in range(state // 128)]
        return sum(one[0] for one in every), sum(one[1] for one in every)
    piece = next(size for size in (64, 32) if width % size == 0)
    shared = heads // groups
    together = shared  # heads of a program of a gradient: halved until there are 256 programs
    while together % 2 == 0 and sequences * groups * blocks * (shared // together) < 256:
        together //= 2
    forward = backward = 0
    for _ in range(blocks):
        for _ in range(heads * width // piece):
            forward += 64 * 64 * state + 64 * state * piece + 64 * 64 * piece + piece * 64 * state
            backward += piece * 64 * state  # the state's gradient, from the end
            backward += 64 * 64 * piece + 64 * state * piece + 64 * 64 * piece  # x dy, B dstate, scores dy
            backward += 64 * piece * state  # x dstate
            backward += 64 * state * piece + 64 * piece * state  # C state, dy state
        for _ in range(heads // together):
            backward += 64 * 64 * state + 64 * 64 * state + 64 * 64 * state  # scores, and their gradient to B and to C
    return forward, backward


@pytest.mark.parametrize("sequences", [1, 8])
@pytest.mark.parametrize("blocks", [1, 3, 40])
@pytest.mark.parametrize(("width", "state", "groups"), [(128, 128, 1), (96, 64, 4), (32, 16, 2)])
def test_the_scan_in_one_pass_does_what_its_programs_do(
    width: int, state: int, groups: int, blocks: int, sequences: int
) -> None:
    spec, tokens = Mamba2(128, 8 * width, width, state, n_groups=groups), blocks * 64 - 5
    forward, backward = one_pass_products(8, width, state, groups, blocks, sequences)
    kernels = spec.scan_kernels(sequences)
    assert sum(kernels.flops(tokens, training=False).values()) == 2 * forward
    assert sum(kernels.flops(tokens, training=True).values()) == 2 * (forward + backward)
    found, trained = spec.prefill_flops(tokens, HARDWARE), spec.train_flops(tokens, HARDWARE)
    lone = spec.scan_kernels()
    assert found.scan == sum(lone.flops(tokens, False).values()) + lone.elementwise(tokens, False)
    assert found.conv == spec.prefill_flops(tokens).conv
    assert (trained.matmul, trained.conv) == (3 * found.matmul, 3 * found.conv)


@pytest.mark.parametrize("sequences", [1, 8])
def test_wide_states_take_a_pass_for_each_piece(sequences: int) -> None:
    spec, blocks = Mamba2(128, 8 * 192, 192, 256), 3
    forward, backward = one_pass_products(8, 192, 256, 1, blocks, sequences)
    for training, products in ((False, forward), (True, forward + backward)):
        assert spec.executed_scan(blocks * 64, training=training, sequences=sequences, one_pass=True) == 2 * products
    kernels = OnePass(8, 1, 192, 256, sequences)
    apart = OnePass(8, 1, 192, 128, sequences)
    channels = blocks * 64 * 8 * 192
    for training in (False, True):
        skip = (2 + 2 * 2 * training) * channels  # D, and its gradients
        sums = (1 + training) * channels
        both = 2 * (apart.elementwise(blocks * 64, training) - skip)
        assert kernels.elementwise(blocks * 64, training) == both + skip + sums


@pytest.mark.parametrize(("width", "state"), [(48, 64), (128, 256), (128, 96), (16, 16)])
def test_where_one_pass_has_no_tiles_the_scan_is_the_chunked_one(width: int, state: int) -> None:
    spec = Mamba2(128, 4 * width, width, state)
    assert spec.scan_kernels() == spec.scan_kernels(tiles={})


def programs(kernel: str, spec: Mamba2, length: int, tile: tuple[int, int, int]) -> int:
    """Multiply-adds of one kernel on one chunk of one head or group, program by program and dot by dot, as it loops.

    What each does is read from mamba_ssm's source: which programs return at once, and from where to where they loop.
    """
    m, n, k = tile
    chunk, head, state = spec.chunk_size, spec.head_dim, spec.d_state
    whole_head, whole_state = (next(size for size in (16, 32, 64, 128, 256) if size >= x) for x in (head, state))
    grid = {
        "_bmm_chunk_fwd_kernel": (chunk, chunk),
        **dict.fromkeys(("_chunk_state_fwd_kernel", "_chunk_scan_bwd_dstates_kernel"), (head, state)),
        **dict.fromkeys(("_chunk_scan_fwd_kernel", "_chunk_scan_chunk_state_bwd_dx_kernel"), (chunk, head)),
        **dict.fromkeys(("_chunk_state_bwd_db_kernel", "_chunk_scan_bwd_dc_kernel"), (chunk, state)),
        "_bmm_chunk_bwd_kernel": (chunk, state),
        "_chunk_scan_bwd_dcb_kernel": (chunk, chunk),
        "_chunk_scan_bwd_ddAcs_stable_kernel": (chunk, 1),
    }[kernel]
    total = 0
    for pid_m in range(-(-grid[0] // m)):
        for pid_n in range(-(-grid[1] // n)):
            if kernel == "_bmm_chunk_fwd_kernel":
                depths = [k for _ in range(0, state, k)]
            elif kernel in ("_chunk_state_fwd_kernel", "_chunk_scan_bwd_dstates_kernel", "_bmm_chunk_bwd_kernel"):
                depths = [k for _ in range(0, length, k)]
            elif kernel == "_chunk_scan_fwd_kernel":
                first = [whole_state] if whole_state <= 128 else [k for _ in range(0, state, k)]
                depths = first + [k for _ in range(0, min((pid_m + 1) * m, length), k)]
            elif kernel == "_chunk_scan_chunk_state_bwd_dx_kernel":
                first = [whole_state] if whole_state <= 128 else [k for _ in range(0, state, k)]
                depths = first + [k for _ in range(pid_m * m, length, k)]
            elif kernel == "_chunk_scan_bwd_dcb_kernel":
                depths = [] if pid_n * n >= (pid_m + 1) * m else [whole_head]
            elif kernel == "_chunk_scan_bwd_ddAcs_stable_kernel":
                depths = [whole_head for _ in range(0, (pid_m + 1) * m, n)]
            else:
                depths = [whole_head]
            total += sum(m * n * depth for depth in depths)
    return total


@pytest.mark.parametrize("tile", [(128, 256, 64), (32, 64, 32), (64, 32, 32), (128, 64, 64)])
@pytest.mark.parametrize(
    "spec",
    [
        Mamba2(128, 256, 32, 48, n_groups=2, chunk_size=64),
        Mamba2(1536, 3072, 96, 128),
        Mamba2(3072, 6144, 192, 256),
    ],
    ids=["small", "350m", "3b"],
)
def test_each_scan_kernel_does_what_its_programs_do(spec: Mamba2, tile: tuple[int, int, int]) -> None:
    tokens = 2 * spec.chunk_size + 37
    kernels = spec.scan_kernels(tiles=dict.fromkeys(KERNELS, tile))
    found = kernels.flops(tokens, training=True)
    assert set(found) == set(KERNELS)
    for kernel in KERNELS:
        launches = 2 if kernel in (BMM, STATE, BMM_BACKWARD) else 1
        times = spec.n_groups if kernel in (BMM, BMM_BACKWARD) else spec.n_heads
        chunks = [spec.chunk_size, spec.chunk_size, 37]
        assert found[kernel] == 2 * launches * times * sum(programs(kernel, spec, length, tile) for length in chunks)
    forward = kernels.flops(tokens, training=False)
    assert forward == {BMM: found[BMM] // 2, STATE: found[STATE] // 2, SCAN: found[SCAN]}


def test_rows_of_the_input_projection_start_on_16_bytes() -> None:
    """model/mixer.py pads them so over a sequence on a GPU; kernels take whole tiles of 256 columns."""
    odd, even = Mamba2(2048, 2304, 128, 128), Mamba2(2048, 4096, 128, 128)
    assert (odd.in_columns(), even.in_columns()) == (4888, 8480)
    for spec, columns in ((odd, 20 * 256 - 4882), (even, 34 * 256 - 8480)):
        assert spec.prefill_flops(10, HARDWARE).matmul - spec.prefill_flops(10).matmul == 10 * 2 * 2048 * columns
    assert odd.decode_flops(10, HARDWARE) == odd.decode_flops(10)


def test_sinks_run_on_flexattention_whose_backward_has_seven_products() -> None:
    with_sinks, without = (Attention(64, 4, 2, 16, 32, window=100, sinks=sinks) for sinks in (8, 0))
    assert without.backward_width == 3 * 16 + 2 * 32
    assert with_sinks.backward_width == 4 * 16 + 3 * 32


def test_the_scan_lies_between_half_and_full_chunks() -> None:
    """formulas.md: SSD(Q) = 2 Q (N G + P H) + 4 N P H + 2 N P H / Q per token, 2 Q -> Q + 1 when only causal."""
    spec = Mamba2(2048, 4096, 128, 128, chunk_size=256)
    inner, state, q, tokens = 4096, 128, 256, 8192
    rest = 4 * state * inner + 2 * state * inner / q + 2 * inner
    kernels = spec.scan_kernels(tiles={})
    scan = (sum(kernels.flops(tokens, training=False).values()) + kernels.elementwise(tokens, training=False)) / tokens
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
