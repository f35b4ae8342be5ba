"""Mixers and variants beyond the paper's, against their formulas written out by hand (formulas.md sections 1 to 6)."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from typing import Any

import pytest

from hybridbench.arch import model
from hybridbench.arch.block import Block, Convention, Flops, Storage, spec_to_dict
from hybridbench.arch.blocks.attention import Attention
from hybridbench.arch.blocks.gated_delta import GatedDelta
from hybridbench.arch.blocks.kda import Kda
from hybridbench.arch.blocks.latent import LatentAttention
from hybridbench.arch.blocks.lightning import Lightning
from hybridbench.arch.blocks.mamba1 import Mamba1
from hybridbench.arch.blocks.mamba2 import Mamba2
from hybridbench.arch.blocks.mamba3 import Mamba3
from hybridbench.arch.blocks.mlp import Mlp
from hybridbench.arch.blocks.moe import Moe
from hybridbench.arch.blocks.rg_lru import RgLru
from hybridbench.arch.blocks.shared import SharedBlock
from hybridbench.arch.blocks.short_conv import ShortConv
from hybridbench.arch.families import pattern_spec
from hybridbench.arch.model import ModelSpec, block_from_dict
from hybridbench.arch.recurrent import Recurrent
from hybridbench.arch.scales import SCALES
from hybridbench.errors import BadInput

HARDWARE, PAPER = Convention.HARDWARE, Convention.PAPER
D = 2048
TAPS = 4


def test_one_step_of_mamba1_by_hand() -> None:
    inner, states, rank = 4096, 16, 128
    spec = Mamba1(D, inner, rank)
    matmul = D * 2 * inner + inner * (rank + 2 * states) + rank * inner + inner * D
    assert spec.params() == matmul + inner * (TAPS + 1) + inner + inner * states + inner
    assert spec.decode_flops(9) == Flops(2 * matmul, scan=7 * inner * states + 2 * inner, conv=2 * TAPS * inner)
    assert spec.prefill_flops(64, HARDWARE).scan == 64 * (9 * inner * states + 2 * inner)
    assert (spec.cache(5, Storage()).ssm, spec.cache(5, Storage()).conv) == (inner * states * 2, inner * TAPS * 2)
    assert dataclasses.replace(spec, inner_norms=True).params() - spec.params() == rank + 2 * states


@pytest.mark.parametrize("rank", [1, 4])
def test_one_step_of_mamba3_by_hand(rank: int) -> None:
    """formulas.md section 3c; at rank 4 the published 1.5B's in_proj has 9440 columns."""
    inner, head, states, angles = 4096, 64, 128, 32
    heads = inner // head
    spec = Mamba3(D, inner, head, states, rank=rank, n_angles=angles, chunk_size=64 // rank)
    columns = 2 * inner + 2 * states * rank + 3 * heads + angles
    assert rank == 1 or columns == 9440
    maps = 3 * heads * rank * head if rank > 1 else 0
    extra = 2 * heads * rank * states + 2 * states + maps + 2 * heads
    assert spec.params() == D * columns + extra + inner * D
    assert spec.decode_flops(0).scan == (1 + 4 * rank) * inner * states + 2 * inner
    kept = spec.cache(100, Storage(ssm_bytes=4))
    assert kept.ssm == 4 * (inner * states + heads * angles)
    assert kept.conv == 2 * (rank * heads * states + inner)
    assert spec.cache(100, Storage()).ssm == 2 * inner * states + 4 * heads * angles
    assert spec.params_fp32() == 2 * heads + 2 * heads * rank * states + maps


def test_one_chunk_of_mamba3_at_rank_one_is_one_of_mamba2_with_scores_for_every_head() -> None:
    chunk, inner, states = 64, 4096, 128
    spec = Mamba3(D, inner, 64, states, chunk_size=chunk)
    pairs = 2 * chunk * chunk
    in_chunk = pairs * states * (inner // 64) + pairs * inner + 4 * chunk * states * inner + 2 * states * inner
    assert spec.prefill_flops(chunk, HARDWARE).scan == in_chunk + 2 * chunk * inner
    assert spec.prefill_flops(chunk + 1, HARDWARE).scan == 2 * in_chunk + 2 * (chunk + 1) * inner


def test_one_step_of_gated_delta_net_by_hand() -> None:
    """OLMo-Hybrid's block: 30 heads of 96 x 192 at d 3840; and Qwen3-Next's 16 key heads for 32 value heads."""
    d, heads, key, value = 3840, 30, 96, 192
    spec = GatedDelta(d, heads, heads, key, value)
    matmul = d * (2 * heads * key + 2 * heads * value + 2 * heads) + heads * value * d
    channels = 2 * heads * key + heads * value
    assert spec.params() == matmul + TAPS * channels + 2 * heads + value
    assert spec.decode_flops(3) == Flops(2 * matmul, scan=7 * heads * key * value, conv=2 * TAPS * channels)
    assert spec.cache(3, Storage()).ssm == heads * key * value * 2
    chunk = heads * (6 * 64 * key + 4 * 64 * value + 6 * key * value)
    assert spec.prefill_flops(128, HARDWARE).scan == 128 * chunk
    assert spec.prefill_flops(129, HARDWARE).scan == 192 * chunk
    assert spec.train_flops(128, HARDWARE).scan == 4 * 128 * chunk
    shared = GatedDelta(D, 32, 16, 128, 128)
    assert shared.conv_channels == 2 * 16 * 128 + 32 * 128
    assert shared.state_size == 32 * 128 * 128


def test_one_step_of_kda_by_hand() -> None:
    d, heads, head = 2304, 32, 128
    width = heads * head
    spec = Kda(d, heads, head)
    matmul = 3 * d * width + 2 * (d * head + head * width) + d * heads + width * d
    assert spec.params() == matmul + 3 * width * TAPS + heads + width + head
    assert spec.decode_flops(3) == Flops(2 * matmul, scan=7 * heads * head**2, conv=2 * TAPS * 3 * width)


def test_one_step_of_rg_lru_by_hand() -> None:
    d, width, blocks = 2560, 2560, 10
    spec = RgLru(d, width, blocks)
    gates = 2 * width * width // blocks
    norms = 2 * width + d + width * (TAPS + 1) + width + 2 * width
    assert spec.params() == 3 * d * width + gates + norms
    assert spec.decode_flops(3) == Flops(2 * (3 * d * width + gates), scan=12 * width, conv=2 * TAPS * width)
    kept = spec.cache(9, Storage(ssm_bytes=4))
    assert (kept.ssm, kept.conv) == (4 * width, 2 * width * (TAPS - 1))


def test_one_step_of_short_convolution_and_of_lightning_by_hand() -> None:
    conv = ShortConv(D)
    assert conv.params() == 4 * D * D + 3 * D
    assert conv.decode_flops(3) == Flops(8 * D * D, conv=2 * 3 * D + 2 * D)
    assert (conv.cache(3, Storage()).ssm, conv.cache(3, Storage()).conv) == (0, 3 * D * 2)
    d, heads, head = 6144, 64, 128
    width = heads * head
    fast = Lightning(d, heads, head)
    assert fast.params() == 4 * d * width + width * d + width
    assert fast.decode_flops(3) == Flops(2 * 5 * d * width, scan=5 * heads * head**2)
    assert fast.prefill_flops(256, HARDWARE).scan == 256 * heads * (4 * 256 * head + 4 * head**2)
    # hardware: two products of either shape forward, five backward; formulas of fla's simple_gla
    assert fast.train_flops(256, HARDWARE).scan == 256 * heads * 7 * (2 * 256 * head + 2 * head**2)
    assert fast.train_flops(256).scan == 3 * 256 * 5 * heads * head**2
    assert fast.cache(3, Storage()).total == heads * head**2 * 2


def test_latent_attention_by_hand() -> None:
    """Kimi-Linear's: 512 + 64 numbers a token, whatever the heads; absorbed decoding works in the latent."""
    d, heads, nope, rope, value, rank = 2304, 32, 128, 64, 128, 512
    spec = LatentAttention(d, heads, nope, rope, value, rank)
    weights = d * heads * (nope + rope) + d * (rank + rope) + rank * heads * (nope + value) + heads * value * d
    assert spec.params() == weights + rank
    assert spec.decode_flops(99) == Flops(2 * weights, attention=2 * heads * (nope + rope + value) * 100)
    assert spec.decode_flops(127, HARDWARE).attention == 2 * heads * (2 * rank + rope) * 128
    assert spec.cache(1000, Storage()).kv == 1000 * (512 + 64) * 2
    assert spec.cache_traffic(999, Storage()) == 1000 * 576 * 2
    full = spec.prefill_flops(100).attention + spec.full_mask_extra_flops(100)
    assert full == 2 * heads * (nope + rope + value) * 100 * 100


def test_variants_of_attention_by_hand() -> None:
    plain = Attention(D, 16, 2, 256, 256)
    gated = dataclasses.replace(plain, gated=True, qk_norm="head")
    assert gated.params() - plain.params() == D * 16 * 256 + 2 * 256
    assert gated.decode_flops(0).matmul - plain.decode_flops(0).matmul == 2 * D * 16 * 256
    assert dataclasses.replace(plain, qk_norm="full").params() - plain.params() == 18 * 256
    biased = dataclasses.replace(plain, qkv_bias=True, out_bias=True)
    assert biased.params() - plain.params() == (16 + 2 * 2) * 256 + D
    assert biased.decode_flops(7) == plain.decode_flops(7)
    conv = dataclasses.replace(plain, d_conv=4)
    assert conv.params() - plain.params() == 20 * 256 * 5
    assert conv.decode_flops(7).conv == 2 * 4 * 20 * 256
    assert conv.cache(7, Storage()).conv == 4 * 20 * 256 * 2
    borrowing = dataclasses.replace(plain, reuses_kv=True)
    assert plain.params() - borrowing.params() == D * 2 * 2 * 256
    assert borrowing.cache(7, Storage()).total == 0
    assert borrowing.cache_traffic(7, Storage()) == plain.cache_traffic(7, Storage())


def test_learned_tokens_before_the_first_are_seen_and_cached_whatever_the_window() -> None:
    spec = Attention(96, 6, 2, 8, 16, window=40, prefix=9)
    token = 2 * (8 + 16) * 2
    assert [spec.keys(context) for context in (0, 38, 39, 500)] == [10, 48, 49, 49]
    assert [spec.cache(context, Storage()).kv // token for context in (0, 40, 500)] == [9, 49, 49]


def test_feed_forward_variants_by_hand() -> None:
    relu2 = Mlp(4096, 21_504, gated=False)
    assert relu2.params() == 2 * 4096 * 21_504
    assert relu2.decode_flops(1).total == 4 * 4096 * 21_504
    assert Mlp(64, 32, bias=True).params() == 3 * 64 * 32 + 2 * 32 + 64
    assert Mlp(64, 32, gated=False, bias=True).params() == 2 * 64 * 32 + 32 + 64
    moe = Moe(64, 16, n_experts=8, top_k=2, d_shared=24, gated=False, shared_gate=True, latent=32)
    always = 8 * 64 + 2 * 64 * 24 + 64 + 2 * 64 * 32
    assert moe.params() == 8 * 2 * 32 * 16 + always
    assert moe.decode_flops(3).total == 2 * (2 * 2 * 32 * 16 + always)


SHARED = SharedBlock(Attention(64, 4, 4, 32, 32, d_in=128), Mlp(64, 256), lora_rank=8, attention_lora=True)


def test_shared_weights_count_once_and_work_and_move_every_time() -> None:
    own = 64 * 64 + 8 * (64 + 2 * 256) + 3 * 8 * (128 + 128)
    shared = 4 * 128 * 128 - 128 * 64 + 3 * 64 * 256 + 128 + 64
    assert SHARED.shared_params() == shared
    assert SHARED.params() == shared + own

    def stack(uses: int) -> ModelSpec:
        return ModelSpec("x", "y", 64, 100, uses * "Z", {"Z": SHARED})

    three, one = stack(3), stack(1)
    assert model.params(three) - model.params(one) == 2 * own
    assert model.weight_bytes(three, Storage()) == 2 * model.params(three)
    assert model.decode_flops(three, 9).total - model.decode_flops(one, 9).total == 2 * SHARED.decode_flops(9).total
    assert model.cache_bytes(three, 9, Storage()) == 3 * model.cache_bytes(one, 9, Storage())
    moved = [model.decode_bytes_moved(spec, 9, 2, Storage()) for spec in (one, three)]
    assert moved[1] - moved[0] == 2 * (2 * (shared + own) + 2 * SHARED.cache_traffic(9, Storage()))


@pytest.mark.parametrize("convention", [Convention.EXACT, HARDWARE])
@pytest.mark.parametrize("batch", [1, 3])
def test_layers_of_every_variant_add_up_to_the_model(convention: Convention, batch: int) -> None:
    blocks: dict[str, Block] = {"Z": SHARED, "Z'": SHARED, "M": Mamba2(64, 64, 16, 8), "-": Mlp(64, 32, bias=True)}
    around: dict[str, Any] = {"tied": False, "norms": 2, "norm_bias": True, "head_bias": True, "meta_tokens": 5}
    spec = ModelSpec("x", "y", 64, 100, "MZM-Z'MZ-", blocks, **around)
    rows = model.layer_costs(spec, 50, batch, convention)
    whole = model.cost(spec, 50, batch, convention)
    for name in ("params", "train_flops", "prefill_flops", "decode_flops", "kv_cache_bytes", "decode_bytes_moved"):
        assert sum(getattr(row, name) for row in rows) == getattr(whole, name), name
    assert whole.params - whole.params_non_embedding == 2 * 100 * 64 + 100 + 5 * 64
    norms = (5 * 2 + 1) * 2 * 64  # the shared block's are its own, and of other widths
    plain = dataclasses.replace(spec, norms=1, norm_bias=False)
    assert model.params(spec) - model.params(plain) == norms - 6 * 64
    assert ModelSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec


def test_an_untied_head_is_stored_and_only_the_head_is_read() -> None:
    tied = ModelSpec("x", "y", 64, 100, "M", {"M": Mamba2(64, 64, 16, 8)})
    untied = dataclasses.replace(tied, tied=False)
    assert model.params(untied) - model.params(tied) == 64 * 100
    assert model.weight_bytes(untied, Storage()) - model.weight_bytes(tied, Storage()) == 2 * 64 * 100
    assert model.decode_bytes_moved(untied, 5, 2, Storage()) == model.decode_bytes_moved(tied, 5, 2, Storage())


def test_specs_without_a_variant_are_written_as_they_were() -> None:
    """Keys of stored cases come from this text."""
    assert "gated" not in spec_to_dict(Mlp(8, 8))
    assert set(spec_to_dict(Attention(8, 1, 1, 8, 8))) == {
        *("kind", "d_model", "n_heads", "n_kv_heads", "head_dim", "v_head_dim", "window", "sinks", "rope"),
    }
    assert "tied" not in pattern_spec("M-", "tiny").to_dict()
    assert spec_to_dict(Mlp(8, 8, gated=False))["gated"] is False


def test_every_block_survives_json(block: Block) -> None:
    assert block_from_dict(json.loads(json.dumps(spec_to_dict(block)))) == block


def test_the_paper_has_no_formula_for_them(block: Block) -> None:
    if isinstance(block, Recurrent | LatentAttention | SharedBlock) and not isinstance(block, Mamba2):
        for ask in (block.prefill_flops, block.decode_flops, block.train_flops):
            with pytest.raises(BadInput, match=r"convention paper has no formula for .*take exact or hardware"):
                ask(8, PAPER)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("letter", "m3GK7RCL")
def test_every_mixer_stands_in_a_pattern_at_every_scale(letter: str, scale: str) -> None:
    spec = pattern_spec(f"{letter}-{letter}-*-", scale)
    assert spec.label == spec.pattern
    alone = spec.blocks[letter].params()
    mamba2 = pattern_spec("M", scale).blocks["M"].params()
    assert 0.4 < alone / mamba2 < 2.1
    assert math.isclose(model.cost(spec, 64).params, model.params(spec))


def test_lightning_attention_is_as_wide_as_mamba2_in_heads_of_at_most_128() -> None:
    for scale, (heads, head) in {"1b": (32, 128), "3b": (48, 128), "tiny": (4, 64)}.items():
        block = pattern_spec("L", scale).blocks["L"]
        assert block == Lightning(SCALES[scale].d_model, heads, head, chunk_size=64)
        assert block.out_width == SCALES[scale].d_inner


def test_at_1b_the_gated_delta_net_is_the_one_of_qwen3_next() -> None:
    assert pattern_spec("G", "1b").blocks["G"] == GatedDelta(2048, 32, 16, 128, 128)


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("A-M-", "latent attention has no dimensions at a scale; cost it with --model or --config"),
        ("ZM-", "a block of shared weights has no dimensions"),
        ("M'-", "a scale has one shape of each kind; leave out the quote"),
    ],
)
def test_layers_without_a_shape_at_a_scale(pattern: str, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        pattern_spec(pattern, "1b")


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: GatedDelta(64, 6, 4, 8, 8), "6 value heads cannot share 4 key heads"),
        (lambda: RgLru(64, 50, 4), "width 50 does not divide into 4 blocks"),
        (lambda: Mamba3(64, 100, 64, 8), "does not divide into SSM heads of 64"),
        (lambda: Mamba3(64, 128, 64, 8, n_groups=3), "cannot share 3 groups"),
        (lambda: Attention(64, 4, 4, 16, 16, qk_norm="heads"), "unknown qk_norm 'heads': did you mean 'head'"),
        (lambda: Attention(64, 4, 4, 16, 16, prefix=-1), "prefix is -1"),
        (lambda: Kda(64, 0, 8), "n_heads is 0"),
        (lambda: Lightning(64, 2, -8), "head_dim is -8"),
        (lambda: SharedBlock(SHARED.attention, SHARED.mlp, -1), "lora_rank is -1"),
        (lambda: SharedBlock(SHARED.attention, SHARED.mlp, 0, True), "give a lora_rank"),
        (lambda: Moe(64, 8, latent=0), "latent is 0"),
    ],
)
def test_misfits_are_refused(make: Callable[[], object], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        make()
