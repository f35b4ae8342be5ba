"""The exact convention against sums by brute force and against the formulas written out by hand."""

from __future__ import annotations

import pytest

from hybridbench.arch import model
from hybridbench.arch.block import Block, Convention, Flops, Storage
from hybridbench.arch.blocks.attention import Attention
from hybridbench.arch.blocks.mamba2 import Mamba2
from hybridbench.arch.blocks.mlp import Mlp
from hybridbench.arch.blocks.moe import Moe
from hybridbench.arch.blocks.parallel import Fusion, Parallel
from hybridbench.arch.families import ARCHS, Options, build_spec, pattern_spec

LENGTHS = (1, 2, 40, 41, 43, 44, 49, 50, 51, 64, 127, 128, 129, 138, 139, 140, 200)
"""Around every window, span, chunk and tile of the blocks in conftest."""


def visible(spec: Attention, query: int, key: int) -> bool:
    """The mask as a sentence: no key after the query; a window, itself included; sinks always."""
    return key <= query and (spec.window is None or query - key < spec.window or key < spec.sinks)


def test_prefill_is_the_sum_of_decoding(block: Block) -> None:
    total = Flops()
    for context in range(max(LENGTHS)):
        total += block.decode_flops(context)
        if context + 1 in LENGTHS:
            assert block.prefill_flops(context + 1) == total, context + 1


def test_training_is_three_forwards(block: Block) -> None:
    assert block.train_flops(139) == 3 * block.prefill_flops(139)


@pytest.mark.parametrize("arch", ARCHS)
def test_a_whole_model_prefills_for_the_sum_of_its_decoding(arch: str) -> None:
    spec = build_spec(arch, "tiny", Options(moe=arch == "intra", window=48 if arch == "swa" else None))
    total = sum((model.decode_flops(spec, context) for context in range(130)), Flops())
    assert model.prefill_flops(spec, 130, head_positions=130) == total
    head = 2 * 128 * 2048
    assert model.prefill_flops(spec, 130).total == total.total - 129 * head
    assert model.train_flops(spec, 130) == 3 * total


@pytest.mark.parametrize("tokens", LENGTHS)
def test_attention_counts_the_pairs_of_its_mask(attention: Attention, tokens: int) -> None:
    pairs = sum(visible(attention, q, k) for q in range(tokens) for k in range(q + 1))
    assert attention.pairs(tokens) == pairs
    assert attention.keys(tokens - 1) == sum(visible(attention, tokens - 1, k) for k in range(tokens))
    # Q K^T multiplies head_dim columns and P V v_head_dim of them, in every query head.
    per_pair = 2 * attention.n_heads * attention.head_dim + 2 * attention.n_heads * attention.v_head_dim
    assert attention.prefill_flops(tokens).attention == per_pair * pairs


@pytest.mark.parametrize("tokens", [575, 576, 577, 8192])
def test_window_pairs_are_the_papers(tokens: int) -> None:
    """Table 1 counts Lw ((Lw + 1) / 2 + L - Lw) pairs with Lw = window + sinks."""
    spec = Attention(2048, 32, 8, 64, 64, window=512, sinks=64)
    span = min(tokens, 576)
    assert 2 * spec.pairs(tokens) == span * (span + 1) + 2 * span * (tokens - span)


def test_full_mask_counts_every_key(attention: Attention) -> None:
    """For a window the full count is min(T, W) keys a query, the convention of formulas.md section 1b."""
    for tokens in LENGTHS:
        width = tokens if attention.window is None else min(tokens, attention.window + attention.sinks)
        hidden = sum(width - sum(visible(attention, q, k) for k in range(tokens)) for q in range(tokens))
        per_pair = 2 * attention.n_heads * (attention.head_dim + attention.v_head_dim)
        assert attention.full_mask_extra_flops(tokens) == per_pair * hidden


@pytest.mark.parametrize("convention", Convention)
def test_full_mask_of_a_whole_model(convention: Convention) -> None:
    tokens = 1000
    for arch, per_pair in (("transformer", 8 * 4 * 4 * 32), ("mamba", 0)):
        cost = model.cost(build_spec(arch, "tiny"), tokens, convention=convention)
        if convention is Convention.HARDWARE:
            assert cost.train_flops_full_mask is None
            continue
        assert cost.train_flops_full_mask is not None
        assert cost.train_flops_full_mask - cost.train_flops == 3 * per_pair * (tokens**2 - tokens * (tokens + 1) // 2)


def test_one_step_of_attention_by_hand() -> None:
    spec = Attention(d_model=2048, n_heads=32, n_kv_heads=8, head_dim=64, v_head_dim=64)
    weights = 2048 * 64 * (32 + 2 * 8) + 32 * 64 * 2048
    assert spec.params() == weights
    assert spec.decode_flops(4096) == Flops(matmul=2 * weights, attention=4 * 4097 * 32 * 64)
    assert spec.cache(4096, Storage()).total == 2 * 8 * 64 * 2 * 4096


def test_one_step_of_wide_values_by_hand() -> None:
    """The 1B intra block's attention: 16 heads of 72 and 128 over 4, formulas.md 2 n_h (h + h_v)."""
    spec = Attention(d_model=2048, n_heads=16, n_kv_heads=4, head_dim=72, v_head_dim=128)
    weights = 2048 * (1152 + 288 + 512 + 2048)
    assert spec.params() == weights
    assert spec.decode_flops(100) == Flops(matmul=2 * weights, attention=2 * 16 * (72 + 128) * 101)
    assert spec.cache(100, Storage()).kv == 100 * 4 * (72 + 128) * 2
    assert spec.value_bytes(100, Storage()) == 100 * 4 * 128 * 2


@pytest.mark.parametrize("groups", [1, 8])
@pytest.mark.parametrize("gated", [True, False], ids=["gated-norm", "no-gated-norm"])
def test_one_step_of_mamba2_by_hand(groups: int, gated: bool) -> None:
    """formulas.md section 3: d 2048, 32 heads of 128, 128 states, 4 taps."""
    spec = Mamba2(2048, 4096, 128, 128, n_groups=groups, gated_norm=gated)
    d, inner, heads, state, taps = 2048, 4096, 32, 128, 4
    channels = inner + 2 * groups * state
    in_proj = d * (2 * inner + 2 * groups * state + heads)
    norm = inner if gated else 0
    assert spec.params() == in_proj + channels * (taps + 1) + 3 * heads + norm + inner * d
    assert spec.params_fp32() == 3 * heads
    expected = Flops(
        matmul=2 * in_proj + 2 * inner * d,
        conv=2 * taps * channels,
        scan=5 * heads * 128 * state + 2 * heads * 128,
    )
    assert spec.decode_flops(0) == spec.decode_flops(99) == expected
    kept = spec.cache(7, Storage(ssm_bytes=4))
    assert (kept.kv, kept.ssm, kept.conv) == (0, heads * 128 * state * 4, channels * taps * 2)
    assert spec.cache_traffic(7, Storage()) == 2 * (heads * 128 * state + channels * taps) * 2


def test_feed_forward_by_hand() -> None:
    assert Mlp(2048, 8192).params() == 3 * 2048 * 8192
    assert Mlp(2048, 8192).decode_flops(5).total == 6 * 2048 * 8192
    moe = Moe(2048, 4096, n_experts=8, top_k=2, d_shared=1024)
    router, expert, shared = 8 * 2048, 3 * 2048 * 4096, 3 * 2048 * 1024
    assert moe.params() == 8 * expert + router + shared
    assert moe.params_active() == 2 * expert + router + shared
    assert moe.prefill_flops(3).total == 3 * 2 * (2 * expert + router + shared)


def test_experts_a_batch_reads_are_those_it_is_expected_to_meet() -> None:
    moe = Moe(64, 32, n_experts=4, top_k=1, d_shared=16)
    expert, always = 3 * 64 * 32, 4 * 64 + 3 * 64 * 16
    # By counting: of all 4^3 ways three tokens can be routed, how many experts are met on average.
    met = sum(len({a, b, c}) for a in range(4) for b in range(4) for c in range(4)) / 4**3
    assert moe.weight_traffic(1, Storage()) == (expert + always) * 2
    assert moe.weight_traffic(3, Storage()) == round(met * expert + always) * 2
    assert moe.weight_traffic(10_000, Storage()) == moe.weight_bytes(Storage())


FUSED_INPUTS = 96 * 8 * (6 + 2) + 96 * 2 * 16, 96 * (2 * 96 + 2 * 24 + 6)
"""Weights before the output projection: attention's q, k and v; Mamba's in_proj."""


@pytest.mark.parametrize("scale", ["none", "vector", "scalar", "gate", "alpha"])
@pytest.mark.parametrize("value", ["separate", "shared"])
@pytest.mark.parametrize("form", ["subtract-separate", "add-joint", "concat-joint"])
def test_fusion_by_hand(form: str, value: str, scale: str) -> None:
    op, out = form.split("-")
    attention = Attention(96, 6, 2, 8, 16)
    mamba = Mamba2(96, 96, 16, 24, gated_norm=False)
    block = Parallel(mamba, attention, Fusion("group", scale, op, value, out))
    inputs = sum(FUSED_INPUTS) - (96 * 96 if value == "shared" else 0)  # Mamba reads attention's value for its x
    outputs = 96 * 96 if form == "add-joint" else 2 * 96 * 96
    extra = {"none": 0, "vector": 2 * 96, "scalar": 1, "gate": 96, "alpha": 1}[scale]
    conv_and_heads = (96 + 2 * 24) * 5 + 3 * 6
    assert block.params() == inputs + outputs + extra + conv_and_heads
    matmul = 2 * (inputs + outputs + (96 if scale == "gate" else 0))
    assert block.decode_flops(9).matmul == matmul
    # Sharing a value saves its projection, no cache: attention caches it, Mamba only sums it up.
    assert block.cache(9, Storage()) == mamba.cache(9, Storage()) + attention.cache(9, Storage())


def test_two_attentions_on_one_value_cache_it_once() -> None:
    spec = Attention(96, 6, 2, 8, 16)
    block = Parallel(spec, spec, Fusion(value="shared", out="joint"))
    assert block.cache(50, Storage()).kv == 50 * 2 * (8 + 8 + 16) * 2
    assert block.cache_traffic(50, Storage()) == 51 * 2 * (8 + 8 + 16) * 2
    separate = Parallel(spec, spec, Fusion(out="joint"))
    assert separate.cache(50, Storage()).kv == 50 * 2 * 2 * (8 + 16) * 2
    assert separate.params() - block.params() == 96 * 2 * 16


def test_a_window_keeps_and_moves_no_more_than_its_span() -> None:
    spec = Attention(96, 6, 2, 8, 16, window=40, sinks=3)
    token = 2 * (8 + 16) * 2
    assert [spec.cache(n, Storage()).kv // token for n in (0, 42, 43, 44, 9999)] == [0, 42, 43, 43, 43]
    # All visible keys but the token's own are read, and its own is written.
    assert [spec.cache_traffic(n, Storage()) // token for n in (0, 41, 42, 43, 9999)] == [1, 42, 43, 43, 43]


def test_decode_bytes_of_the_transformer_by_hand() -> None:
    """formulas.md section 8 at 1B, batch 4, 4096 cached: all weights once, embedding rows, KV read and written."""
    layer = 2048 * 64 * (32 + 16) + 2048 * 2048 + 3 * 2048 * 8192 + 2 * 2048
    weights = 16 * layer + 2048 + 128_256 * 2048
    kv = 16 * 2 * 8 * 64 * (4096 + 1)
    spec = build_spec("transformer", "1b")
    assert model.params(spec) == weights
    assert model.weight_bytes(spec, Storage()) == 2 * weights
    assert model.decode_bytes_moved(spec, 4096, 4, Storage()) == 2 * weights + 4 * (2048 * 2 + 2 * kv)


def test_decode_bytes_of_mamba_by_hand() -> None:
    """formulas.md section 8 at 1B, batch 4: the fp32 state is read and written, whatever the context."""
    mixer = 2048 * (2 * 4096 + 256 + 32) + 4352 * 5 + 4096 + 4096 * 2048
    bf16 = 13 * (mixer + 3 * 2048 * 8192 + 2 * 2048) + 2048 + 128_256 * 2048
    fp32 = 13 * 3 * 32
    states = 13 * (2 * 4096 * 128 * 4 + 2 * 4352 * 4 * 2)
    spec = build_spec("mamba", "1b")
    storage = Storage.of("bfloat16", "float32")
    assert model.params(spec) == bf16 + fp32
    assert model.weight_bytes(spec, storage) == 2 * bf16 + 4 * fp32
    for context in (1, 4096, 1_000_000):
        moved = model.decode_bytes_moved(spec, context, 4, storage)
        assert moved == 2 * bf16 + 4 * fp32 + 4 * (2048 * 2 + states)


def test_letters_without_a_feed_forward_count_alone() -> None:
    spec = pattern_spec("M*", "tiny")
    table = 2048 * 128
    blocks = spec.blocks["M"].params() + spec.blocks["*"].params()
    assert model.params(spec) == blocks + 3 * 128 + table
    assert model.cost(spec, 64).params_non_embedding == blocks + 3 * 128
