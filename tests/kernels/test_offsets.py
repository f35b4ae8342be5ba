"""No Triton kernel of this package computes an offset in 32 bits that can be larger, but for what is listed here.

Sizes that may be asked for: sequences of 2^22 tokens and as many in a batch of at most 2^8; rows of 2^18 columns, which
are 2^11 heads or fewer; vocabularies of 2^20; caches, states and weights of any number of elements.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

pytest.importorskip("triton.knobs", reason="triton is not installed, so there is no kernel to test")

PROGRAM = Path(__file__).with_name("offsets_without_gpu.py")

ROW = "within one row, of at most 2^18 columns"
PARTIALS = "one partial row a program, at most 4 on each of 2^8 SMs: 2^10 rows of 2^18"
POSITION = "a position, at most 2^22"
ROW_OF_BATCH = "a row of a batch: 2^22 x 2^8"
LEFT_OVER = "less than the groups of a row times those of a program: 2^11 x 2^11"
COLUMNS_OF_WEIGHT = "a column of a weight, at most 2^18, times at most 2^7 splits"
SEQUENCE = "a sequence of a fused step, at most 2^8"
FEW_TOKENS = "a fused step has at most 2^8 tokens, each of at most 2^18 columns"
WEIGHT_ROW = "a row of a weight, at most 2^20"
SCRATCH = "splits are for narrow products: 2^14 rows x 2^7 splits x 2^8 tokens"
SQUARES = "a sum of squares for each part of a row, at most 2^14, and each of 2^8 tokens"
TILE = "within a tile of a weight: 2^7 rows of 2^18"
STATE = "within the state of one head, or of one sequence: 2^11 heads x 2^7 x 2^8 or fewer"
HEAD_BLOCKS = "heads of blocks of 64 tokens: (2^16 + 2^8) x 2^11"
STATE_ROWS = "a row for every 64 elements of x: 2^31 of them are 256 GiB of x in bfloat16"
SCORE_ROWS = "rows of 64 scores in memory: 2^31 of them are 256 GiB in bfloat16"
SHARES_OF_MIX = "one of 6 rows of 2^18"
SHARES = "partial sums of a batch: 2^11 x 2^8"
BLOCKS = "blocks of 64 tokens over the batch: 2^16 + 2^8"

SPLIT_COLUMNS = ("split * (D // BLOCK_K)", "(split + 1) * (D // BLOCK_K)")
SPLIT_STARTS = tuple(f"{start} // SPLITS * BLOCK_K" for start in SPLIT_COLUMNS)
SEGMENT_COLUMNS = ("split * (K // BLOCK_K)", "(split + 1) * (K // BLOCK_K)")
SEGMENT_STARTS = tuple(f"{start} // SPLITS * BLOCK_K" for start in SEGMENT_COLUMNS)
PARTS = ("tile * SPLITS", "(tile * SPLITS + split) * ROWS * TOKENS")
ROW_TILES = {"tl.program_id(1) * BLOCK": ROW}
HEADS_OF_ROW = {"head * P": ROW, "program % H * GROUPS": LEFT_OVER}
GRADIENTS = {
    **dict.fromkeys(("batch * blocks", "(batch * blocks + block) * H"), HEAD_BLOCKS),
    "((batch * blocks + block) * H + head) * P": STATE_ROWS,
    **dict.fromkeys(("(batch * blocks + block) * tl.num_programs(2)", "row * BLOCK"), SCORE_ROWS),
    "block * BLOCK": POSITION,
    **dict.fromkeys(("head * P", "group * N", "step % SLICES * SLICE", "tl.program_id(2) * HEADS"), ROW),
}

HARMLESS: dict[str, dict[str, str]] = {
    "_swiglu_forward": ROW_TILES,
    "_swiglu_backward": ROW_TILES,
    "_gate_forward": ROW_TILES,
    "_gate_backward": ROW_TILES,
    "_add_rms_norm_backward": {"tl.program_id(0) * D": PARTIALS},
    "_gate_norm_backward": {"tl.program_id(0) * width": PARTIALS},
    "_rotary": {
        "t * HALF_P": "angles in a table of 2^22 positions x 2^8",
        "tl.program_id(0) // PER_TOKEN * SLOTS": POSITION,
        "tl.program_id(0) % PER_TOKEN * SLOTS": LEFT_OVER,
    },
    "_head_norm_forward": HEADS_OF_ROW,
    "_head_norm_backward": HEADS_OF_ROW,
    "_norm_gate_forward": {"head * V": ROW, "program % H * GROUPS": LEFT_OVER},
    "_norm_gate_backward": {"head * V": ROW, "program % H * GROUPS": LEFT_OVER, "tl.program_id(0) * V": PARTIALS},
    "_shift_forward": {
        "tl.program_id(0) * ROWS": ROW_OF_BATCH,
        "tl.program_id(1) * BLOCK": ROW,
        "MIX * D": SHARES_OF_MIX,
    },
    "_shift_backward": {
        "tl.program_id(0) * stretch": ROW_OF_BATCH,
        "tl.program_id(1) * BLOCK": ROW,
        "MIX * D": SHARES_OF_MIX,
    },
    "_keys_forward": HEADS_OF_ROW,
    "_keys_backward": {"head * P": ROW, "tl.program_id(1) * HEADS": ROW},
    "_cross_entropy_in_place": dict.fromkeys(
        ("block * GROUPS * TOGETHER", "(blocks - 1 - block) * GROUPS * TOGETHER"),
        "within the logits of one token, at most 2^20",
    ),
    "_delta_step": {
        **dict.fromkeys(("h * P", "h * P * V"), STATE),
        **dict.fromkeys(("h // SHARED * q_h", "h // SHARED * k_h", "h * v_h", "h * dt_h"), ROW),
        "tl.program_id(1) * V_TILE": ROW,
    },
    "scan_steps_kernel": {"tl.program_id(0) * BLOCK": POSITION},
    "scan_finish_kernel": dict.fromkeys(("tl.program_id(0) * BLOCK", "blocks * BLOCK"), POSITION),
    "scan_forward_kernel": {
        **dict.fromkeys(("batch * blocks", "(batch * blocks + block) * H"), HEAD_BLOCKS),
        "block * BLOCK": POSITION,
        **dict.fromkeys(("head * P", "head // SHARE * N", "tl.program_id(0) * SLICE"), ROW),
        "(part + tl.arange(0, SLICE))[:, None] * N": STATE,
    },
    "scan_reverse_kernel": {
        **dict.fromkeys(("batch * blocks", "(batch * blocks + block) * H"), HEAD_BLOCKS),
        "((batch * blocks + block) * H + head) * P": STATE_ROWS,
        "block * BLOCK": POSITION,
        **dict.fromkeys(("head * P", "head // SHARE * N", "tl.program_id(0) * SLICE"), ROW),
        "p[:, None] * N": STATE,
    },
    "scan_d_x_kernel": {
        **GRADIENTS,
        "block * B": BLOCKS,
        "(block * B + batch) * H": HEAD_BLOCKS,
        "((block * B + batch) * H + head) * SLICES": "an element for 64 tokens of a slice of x: 2^-11 of its elements",
    },
    "scan_d_b_kernel": {**GRADIENTS, "heads % SHARE // HEADS * B": SHARES},
    "scan_d_c_kernel": {**GRADIENTS, "heads % SHARE // HEADS * B": SHARES},
    "attention_decode_kernel": {
        **dict.fromkeys(("kv_head * R", "(kv_head * R + r)[:, None] * q_stride_h"), ROW),
        "split * stretch": "a slot of a cache, at most 2^22, or the first one past all splits",
        "tl.cdiv(tl.cdiv(length, BLOCK), SPLITS) * BLOCK": POSITION,
    },
    "begin": {"b * D": FEW_TOKENS, "(kind * B + b) * 2 * PAIRS": FEW_TOKENS},
    "embed_words": {"b * D": FEW_TOKENS},
    "project_qkv": {
        "part[:, None] * B": SQUARES,
        **dict.fromkeys((*SPLIT_COLUMNS, *SPLIT_STARTS), COLUMNS_OF_WEIGHT),
        **dict.fromkeys(("head * P", "head * V", "chunk * HALF"), WEIGHT_ROW),
        "(head - H) * P": ROW,
        "row[:, None] * w_width": TILE,
        **dict.fromkeys(PARTS, SCRATCH),
    },
    "project_mamba2": {
        "channel * TAPS": "the weights of a channel: 2^18 x 2^3",
        **dict.fromkeys((*SPLIT_COLUMNS, *SPLIT_STARTS), COLUMNS_OF_WEIGHT),
        "tile * ROWS": WEIGHT_ROW,
        "channel * COLUMNS": "the last few inputs of a channel: 2^18 x 2^3",
        **dict.fromkeys(PARTS, SCRATCH),
    },
    "project_residual": {
        "part[:, None] * B": SQUARES,
        **dict.fromkeys(("split * BLOCKS", "(split + 1) * BLOCKS"), COLUMNS_OF_WEIGHT),
        **dict.fromkeys(
            ("split * BLOCKS // SPLITS * BLOCK_K", "(split + 1) * BLOCKS // SPLITS * BLOCK_K"), COLUMNS_OF_WEIGHT
        ),
        "tile * ROWS": WEIGHT_ROW,
        "tile * B": FEW_TOKENS,
        "row[:, None] * w_width": TILE,
        **dict.fromkeys(PARTS, SCRATCH),
    },
    "project_summand": {
        **dict.fromkeys(("split * BLOCKS", "(split + 1) * BLOCKS"), COLUMNS_OF_WEIGHT),
        **dict.fromkeys(
            ("split * BLOCKS // SPLITS * BLOCK_K", "(split + 1) * BLOCKS // SPLITS * BLOCK_K"), COLUMNS_OF_WEIGHT
        ),
        "tile * ROWS": WEIGHT_ROW,
        "row[:, None] * w_width": TILE,
        **dict.fromkeys(PARTS, SCRATCH),
    },
    "join_residual": {"tile * ROWS": WEIGHT_ROW, "tile * B": FEW_TOKENS},
    "project_swiglu": {
        "part[:, None] * B": SQUARES,
        **dict.fromkeys((*SPLIT_COLUMNS, *SPLIT_STARTS), COLUMNS_OF_WEIGHT),
        "tile * HALF": WEIGHT_ROW,
        **dict.fromkeys(PARTS, SCRATCH),
    },
    "project_segments": {
        "channel * TAPS": "the weights of a channel: 2^18 x 2^3",
        **dict.fromkeys((*SEGMENT_COLUMNS, *SEGMENT_STARTS), COLUMNS_OF_WEIGHT),
        "tile * ROWS": WEIGHT_ROW,
        "channel * COLUMNS": "the last few inputs of a channel: 2^18 x 2^3",
        **dict.fromkeys(PARTS, SCRATCH),
    },
    "mix_rwkv7": {"tl.program_id(0) % BLOCKS * BLOCK": ROW},
    "multiply_low_ranks": {"tile * ROWS": WEIGHT_ROW, "tokens * TOKENS": SEQUENCE},
    "project_rwkv7": {
        **dict.fromkeys((*SPLIT_COLUMNS, *SPLIT_STARTS), COLUMNS_OF_WEIGHT),
        **dict.fromkeys(("(tile - begin) * ROWS", "tile // WIDE * I", "tile // WIDE * WIDE"), WEIGHT_ROW),
        "mix * (B * D)": "one of 6 mixes of 2^8 tokens of 2^18",
        **dict.fromkeys(PARTS, SCRATCH),
    },
    "update_lightning": {
        **dict.fromkeys(("h * P", "chunk * VALUES", "h * CHUNKS"), ROW),
        "(h * CHUNKS + chunk) * B": SHARES,
    },
    "update_mamba3": dict.fromkeys(("(H + h) * P", "h * N", "h // (H // G) * N"), ROW),
    "update_rwkv7": {"h * P": ROW},
    "update_selective": {"tile * CHANNELS": ROW, "tl.program_id(0) % groups * SEQUENCES": SEQUENCE},
    "update_delta": dict.fromkeys(("(G + group) * P", "group * P", "h * P", "h * V", "piece * PIECE"), ROW),
    "update_state_rows": {
        **dict.fromkeys(("b * C", "b * H", "b * I"), FEW_TOKENS),
        **dict.fromkeys(("h * P", "h // (H // G) * N", "part * SLICE", "h * SLICES"), ROW),
        "(h * SLICES + part) * B": SQUARES,
        "first * N": STATE,
    },
    "project_head": {"part[:, None] * B": SQUARES, "tile * ROWS": WEIGHT_ROW, "b * tiles": FEW_TOKENS},
    "finish": {"b * tiles": FEW_TOKENS},
    "update_state": dict.fromkeys(("b * C", "b * H", "b * I", "h * B", "h * P", "h // (H // G) * N"), FEW_TOKENS),
}
"""Kernel to expression to the bound below which all its values lie."""


@pytest.fixture(scope="module")
def found() -> Any:
    environment = {**os.environ, "TRITON_INTERPRET": "0", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, str(PROGRAM)], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


@pytest.mark.timeout(240)  # 15 s of a core that nobody else uses
def test_every_kernel_is_compiled(found: Any) -> None:
    assert len(found["there"]) >= 45
    assert set(found["there"]) <= set(found["compiled"]), "launch what is new in offsets_without_gpu.py"


@pytest.mark.timeout(240)
def test_no_product_of_32_bits_reaches_an_offset_unless_it_is_small(found: Any) -> None:
    products = {(kernel, product) for kernel, products in found["compiled"].items() for product in products}
    listed = {(kernel, product) for kernel, products in HARMLESS.items() for product in products}
    assert not products - listed, "widen one factor before the product, or say below which bound it stays"
    assert not listed - products, "nothing is to be said of these any more"


@pytest.mark.timeout(240)
def test_bad_kernels_are_found_and_their_wide_forms_are_not(found: Any) -> None:
    examples = found["examples"]
    assert examples["bad_row"] == ["tl.program_id(0) * stride"]
    assert examples["bad_widened_late"] == ["a * b"], "widened behind the product, which an inlined function makes"
    assert examples["bad_loop"] == ["i * 4096", "n * N"], "of a loop's variable; carried through a loop and a branch"
    assert examples["bad_descriptor"] == ["tl.program_id(0) * rows"]
    assert examples["good_row"] == []
    assert examples["good_loop"] == [], "a product in a mask or in a value is no offset"
