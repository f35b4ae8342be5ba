"""attention_tiles: what attention kernels execute beyond the whole tiles of 128 x 128 of the ``hardware`` convention.

    cuDNN           queries and keys as wide as values; the width is the last figure in its kernels' names
    flash-attn 4    on Hopper its own tiles, and forward the query heads that share a key side by side in a tile's rows

The names of cuDNN's kernels state tiles of 64 x 128 forward and 64 x 64 backward, but an H200 counted whole tiles of
128 x 128 for both. The tiles of flash-attn 4 are ``_tile_size_fwd_sm90``, ``_tile_size_bwd_sm90`` and the
ranges of ``BlockInfo`` in its 4.0.0b36.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from hybridbench.arch.blocks.attention import Attention
from hybridbench.arch.blocks.ssd_kernels import up
from hybridbench.arch.model import uses_of
from hybridbench.arch.reasons import Reason
from hybridbench.count.ncu import Launch
from hybridbench.suite.case import Case
from hybridbench.suite.workloads import TRAIN

EQUAL_WIDTHS = "this kernel runs queries and keys as wide as values"
OWN_TILES = "this kernel's tiles are not 128 x 128, or its heads are padded to 16 channels"

_CUDNN_WIDTH = re.compile(r"flash_([fb])prop\w*?_\d+x\d+x(\d+)_")
_FLASH_ATTN_4 = re.compile(r"FlashAttention(Forward|Backward)Sm90")


def attention_reasons(case: Case, launches: Sequence[Launch]) -> list[Reason]:
    """Why the attention kernels of a step executed other FLOPs than ``hardware`` counts, by the kernels' names."""
    return _equal_widths(case, launches) + _own_tiles(case, launches)


def _equal_widths(case: Case, launches: Sequence[Launch]) -> list[Reason]:
    found: list[Reason] = []
    names = {match[1]: int(match[2]) for launch in launches if (match := _CUDNN_WIDTH.search(launch.name))}
    for spec, uses in uses_of(case.model, Attention):
        if spec.window is None and spec.head_dim != spec.v_head_dim:
            own = {"f": (2, spec.head_dim + spec.v_head_dim), "b": (5, spec.backward_width)}
            for way, width in names.items():
                products, channels = own[way]
                pairs = case.workload.batch * uses * spec.n_heads * spec.tile_pairs(case.workload.context)
                found.append(Reason(f"{spec.name} core", EQUAL_WIDTHS, 2 * pairs * (products * width - channels)))
    return found


def _own_tiles(case: Case, launches: Sequence[Launch]) -> list[Reason]:
    """The reasons of the blocks that flash-attn 4 runs in tiles of 128 keys: without sinks, heads at most 128 wide."""
    tokens, training = case.workload.context, case.workload.kind == TRAIN
    ways = {match[1] for launch in launches if (match := _FLASH_ATTN_4.search(launch.name))}
    found: list[Reason] = []
    for spec, uses in uses_of(case.model, Attention) if ways else ():
        if spec.sinks or max(spec.head_dim, spec.v_head_dim) > 128:
            continue
        queries, values = up(spec.head_dim, 16), up(spec.v_head_dim, 16)
        plain, extra = spec.n_heads * spec.tile_pairs(tokens), 0
        if "Forward" in ways:
            extra += forward_pairs(spec, tokens) * (queries + values) - plain * (spec.head_dim + spec.v_head_dim)
        if training and "Backward" in ways:
            extra += backward_pairs(spec, tokens) * (3 * queries + 2 * values) - plain * spec.backward_width
        found.append(Reason(f"{spec.name} core", OWN_TILES, 2 * case.workload.batch * uses * extra))
    return found


def forward_pairs(spec: Attention, tokens: int) -> int:
    """Pairs of a query head and a key that flash-attn 4's forward tiles cover on Hopper, all heads together."""
    rows, keys, shared = 192 if spec.head_dim <= 96 else 128, 128, spec.n_heads // spec.n_kv_heads
    blocks = 0
    for tile in range(-(-tokens * shared // rows)):
        first, last = tile * rows // shared, -(-(tile + 1) * rows // shared)
        seen = 0 if spec.window is None else max(0, (first - spec.window + 1) // keys)
        blocks += min(-(-tokens // keys), -(-last // keys)) - seen
    return spec.n_kv_heads * blocks * rows * keys


def backward_pairs(spec: Attention, tokens: int) -> int:
    """Pairs of a query head and a key that its backward tiles cover. These start from keys; each holds one head."""
    rows, keys = 128 if spec.head_dim <= 64 else 64, 128
    blocks = 0
    for tile in range(-(-tokens // keys)):
        end = -(-tokens // rows)
        if spec.window is not None:
            end = min(end, -(-((tile + 1) * keys + spec.window - 1) // rows))
        blocks += end - tile * keys // rows
    return spec.n_heads * blocks * rows * keys
