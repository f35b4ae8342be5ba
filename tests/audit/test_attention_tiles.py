"""What flash-attn 4's tiles cover, beside tiles laid over the mask one by one."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hybridbench.arch.block import Convention
from hybridbench.arch.blocks.attention import Attention
from hybridbench.arch.families import build_spec
from hybridbench.arch.operations import operations
from hybridbench.audit.judge.attention_tiles import OWN_TILES, attention_reasons, backward_pairs, forward_pairs
from hybridbench.count.ncu import Launch
from hybridbench.suite.case import Case, Execution
from hybridbench.suite.workloads import TRAIN, Workload


def touched(spec: Attention, tokens: int, rows: int, keys: int, shared: int) -> int:
    """Elements of tiles in which some query sees some key; a row is one query of one of ``shared`` heads."""
    count = 0
    for top in range(0, tokens * shared, rows):
        queries = {row // shared for row in range(top, top + rows)}
        for left in range(0, tokens, keys):
            columns = range(left, left + keys)
            if spec.window is None:
                count += min(columns) <= max(queries)
            else:
                count += any(columns[0] <= t and t - columns[-1] < spec.window for t in queries)
    return count * rows * keys


@pytest.mark.parametrize("window", [None, 100, 512])
@pytest.mark.parametrize(("n_heads", "n_kv_heads", "width"), [(8, 2, 64), (6, 2, 72), (4, 4, 128)])
def test_tiles_are_those_that_touch_the_mask(n_heads: int, n_kv_heads: int, width: int, window: int | None) -> None:
    spec, tokens = Attention(256, n_heads, n_kv_heads, width, width, window=window), 768
    rows = 192 if width <= 96 else 128
    assert forward_pairs(spec, tokens) == n_kv_heads * touched(spec, tokens, rows, 128, n_heads // n_kv_heads)
    assert backward_pairs(spec, tokens) == n_heads * touched(spec, tokens, 128 if width <= 64 else 64, 128, 1)


def test_a_step_on_flash_attn_4_is_explained_whole() -> None:
    spec = build_spec("transformer", "100m")
    case = Case(spec, Workload(TRAIN, 2048, 1), Execution("cuda", "bfloat16", "eager"))
    block = next(iter(b for b in spec.blocks.values() if isinstance(b, Attention)))
    uses = spec.counts["*"]
    channels = block.head_dim + block.v_head_dim
    forward = uses * 2 * forward_pairs(block, 2048) * channels
    backward = uses * 2 * backward_pairs(block, 2048) * (3 * block.head_dim + 2 * block.v_head_dim)
    names = [
        f"kernel_cutlass_kernel_flash_attncuteflash_{way}_object_at__tensor"
        for way in (
            "fwd_sm90FlashAttentionForwardSm90",
            "bwd_preprocessFlashAttentionBackwardPreprocess",
            "bwd_sm90FlashAttentionBackwardSm90",
        )
    ]
    launches = [
        Launch(i, name, flops, 0, 0, 0)
        for i, (name, flops) in enumerate(zip(names, (forward, 0, backward), strict=True))
    ]
    form = operations(spec, TRAIN, 2048, Convention.HARDWARE)["attention core"]
    (reason,) = attention_reasons(case, launches)
    assert (reason.operation, reason.text) == ("attention core", OWN_TILES)
    assert reason.flops == forward + backward - form != 0
    assert attention_reasons(case, [replace(launch, name="flash_fwd_kernel") for launch in launches]) == []
