"""One rank's part of a model under tensor parallelism: engines' figures, and sums over ranks against the whole."""

from __future__ import annotations

import math
from functools import cache

import pytest
from copies import MIXERS, OTHERS, copies
from every_block import EVERY_BLOCK

from hybridbench.arch import model as arch
from hybridbench.arch.block import Block, Convention, Storage, Uncut
from hybridbench.arch.blocks.attention import Attention
from hybridbench.arch.blocks.mamba2 import Mamba2
from hybridbench.arch.blocks.mlp import Mlp
from hybridbench.arch.blocks.moe import Moe
from hybridbench.arch.families import ARCHS, Options, build_spec
from hybridbench.arch.kinds import BLOCKS
from hybridbench.arch.kinds import MIXERS as NAMED_MIXERS
from hybridbench.arch.model import ModelSpec, shard
from hybridbench.arch.presets import PRESETS
from hybridbench.arch.scales import SCALES
from hybridbench.errors import BadInput
from hybridbench.suite.models import preset_specs

RANKS = (1, 2, 4, 8)
ENGINE = Storage(ssm_bytes=4, short_conv=True)
"""As vLLM keeps a model of bfloat16 whose file asks for states in float32."""
CONTEXT = 777


@cache
def models() -> dict[str, ModelSpec]:
    """Every published model, and every family with every mixer at every scale."""
    found = {name: preset_specs(name)[0] for name in PRESETS}
    for scale in SCALES:
        found |= {f"{name}-{scale}": build_spec(name, scale) for name in ARCHS}
        found |= {f"inter-{mixer}-{scale}": build_spec("inter", scale, Options(mixer=mixer)) for mixer in NAMED_MIXERS}
    return found


@pytest.mark.parametrize(
    ("name", "states_mb", "token_bytes"),
    [
        ("nemotron-nano-9b-v2", (143.5, 71.8, 35.9, 17.9), (16_384, 8_192, 4_096, 2_048)),
        ("nemotron-3-super-120b-a12b", None, (8_192, 4_096, 4_096, 4_096)),
    ],
)
def test_an_engine_keeps_these_bytes_on_each_gpu(
    name: str, states_mb: tuple[float, ...] | None, token_bytes: tuple[int, ...]
) -> None:
    (spec,) = preset_specs(name)
    kept = [arch.cache_bytes(shard(spec, tp), CONTEXT, ENGINE) for tp in RANKS]
    assert tuple(one.kv / CONTEXT for one in kept) == token_bytes
    if states_mb is not None:
        assert tuple(round((one.ssm + one.conv) / 1e6, 1) for one in kept) == states_mb


def test_attention_and_mamba2_are_divided_by_vllms_formulas() -> None:
    """K/t heads or one, and its conv of (d_inner + 2 G' N)/t channels with G' = t where t does not divide G."""
    seen = set()
    for spec in models().values():
        for tp in (2, 4, 8, 16):
            for _, mixer in arch.mixers(spec):
                try:
                    kept = mixer.shard(tp).cache(CONTEXT, ENGINE)
                except Uncut:
                    continue
                if type(mixer) is Attention and not (mixer.window or mixer.reuses_kv or mixer.d_conv):
                    heads = max(1, mixer.n_kv_heads // tp)
                    assert kept.kv == CONTEXT * heads * (mixer.head_dim + mixer.v_head_dim) * 2
                    seen.add(("copied", mixer.n_kv_heads < tp))
                elif type(mixer) is Mamba2:
                    groups = mixer.n_groups if mixer.n_groups % tp == 0 else tp
                    conv = (mixer.d_inner + 2 * groups * mixer.d_state) // tp
                    assert kept.conv == (mixer.d_conv - 1) * conv * 2
                    assert kept.ssm == mixer.n_heads // tp * mixer.head_dim * mixer.d_state * 4
                    seen.add(("groups", mixer.n_groups % tp == 0))
    assert seen == {("copied", True), ("copied", False), ("groups", True), ("groups", False)}


def check_sums(block: Block, tp: int) -> None:
    part, more = block.shard(tp), copies(block, tp)
    assert type(part) is type(block)
    assert tp * part.params() == block.params() + more.matrices + more.other
    for context in (0, CONTEXT):
        total = tp * part.decode_flops(context).total
        assert total == block.decode_flops(context).total + 2 * more.matrices + more.core(context)
    tokens = CONTEXT + 1
    trained, whole = part.train_flops(tokens), block.train_flops(tokens)
    cores = sum(more.core(context) for context in range(tokens))
    assert tp * trained.total == whole.total + 6 * tokens * more.matrices + 3 * cores
    storage = Storage(1, 1, 1, 1)
    kept, before = part.cache(CONTEXT, storage), block.cache(CONTEXT, storage)
    cached = before.kv // (block.cache(1, storage).kv or 1)  # tokens, of which a window keeps fewer
    assert tp * kept.kv == before.kv + more.kv * cached
    assert (tp * kept.conv, tp * kept.ssm) == (before.conv + more.conv, before.ssm + more.state)


def test_ranks_hold_and_do_the_whole_and_what_is_copied(block: Block) -> None:
    for tp in (1, 2, 3, 4, 6, 8):
        try:
            block.shard(tp)
        except Uncut:
            continue
        check_sums(block, tp)


def test_every_kind_can_be_shared_by_two_ranks_or_three() -> None:
    assert {*MIXERS, *OTHERS} == set(BLOCKS.values())
    cut = set()
    for block in EVERY_BLOCK.values():
        for tp in (2, 3):
            try:
                block.shard(tp)
            except Uncut:
                continue
            cut.add(type(block))
    assert cut == set(BLOCKS.values())


def test_ranks_of_every_model_hold_it_with_its_copies() -> None:
    shared = 0
    for name, spec in models().items():
        for tp in RANKS:
            try:
                part = shard(spec, tp)
            except BadInput:
                assert tp > 1
                continue
            shared += tp > 1
            blocks = sum(n * (copies(block, tp).matrices + copies(block, tp).other) for block, n in spec.uses)
            # Weights that uses share are copied once.
            again = sum((n - 1) * (tp * block.shard(tp).shared_params() - block.shared_params())
                        for block, n in spec.uses)  # fmt: skip
            norms = spec.d_model * (2 if spec.norm_bias else 1)
            norms += sum(n * block.norm_params(spec.norms * norms) for block, n in spec.uses)
            rows = tp * math.ceil(spec.vocab_size / tp) - spec.vocab_size
            tables = rows * spec.d_model * (1 if spec.tied else 2) + rows * spec.head_bias
            beside = norms + spec.meta_tokens * spec.d_model
            whole = arch.params(spec) + blocks - again + tables + (tp - 1) * beside
            assert tp * arch.params(part) == whole, (name, tp)
            extra = [(n, copies(block, tp)) for block, n in spec.uses]
            flops = sum(n * (2 * more.matrices + more.core(CONTEXT)) for n, more in extra) + 2 * rows * spec.d_model
            alone = arch.decode_flops(spec, CONTEXT).total
            assert tp * arch.decode_flops(part, CONTEXT).total == alone + flops, (name, tp)
            more = sum(n * copies(block, tp).kv for block, n in spec.uses if block.cache(1, ENGINE).kv)
            one = arch.cache_bytes(part, 1, ENGINE).kv
            if not spec.meta_tokens:
                assert tp * one == arch.cache_bytes(spec, 1, ENGINE).kv + 2 * more, (name, tp)
    assert shared > 100


def test_layers_of_a_rank_add_up_to_its_cost() -> None:
    for name in ("zamba2-1.2b", "nemotron-nano-9b-v2", "qwen3-next-80b-a3b"):
        (spec,) = preset_specs(name)
        total = arch.rank_cost(spec, 2, CONTEXT, 3, Convention.EXACT, ENGINE)
        layers = arch.rank_layer_costs(spec, 2, CONTEXT, 3, Convention.EXACT, ENGINE)
        for field in ("params", "train_flops", "decode_flops", "kv_cache_bytes", "decode_bytes_moved"):
            assert sum(getattr(layer, field) for layer in layers) == getattr(total, field), (name, field)
        assert sum(layer.all_reduce_bytes or 0 for layer in layers) == total.all_reduce_bytes


def test_ranks_add_up_what_each_block_and_the_embedding_made() -> None:
    """One vector of d_model numbers a block; a norm over a group that ranks share adds a float."""
    spec = build_spec("inter", "1b")
    norms = sum(isinstance(block, Mamba2) for block in spec.placed)
    reduced = arch.reduced_bytes(spec, 4, 2)
    assert reduced.total == 2 * spec.d_model * (len(spec.layers) + 1) + 4 * norms
    assert arch.reduced_bytes(spec, 1, 2).total == 0
    (nano,) = preset_specs("nemotron-nano-9b-v2")  # 8 groups, so that 8 ranks norm their own
    assert arch.reduced_bytes(nano, 8, 2).total == 2 * nano.d_model * (len(nano.layers) + 1)
    assert arch.reduced_bytes(nano, 16, 2).total == arch.reduced_bytes(nano, 8, 2).total + 27 * 8 * 4


@pytest.mark.parametrize(
    ("block", "tp", "what"),
    [
        (Attention(96, 8, 2, 16, 16), 3, "n_heads 8 of attention"),
        (Attention(96, 12, 6, 16, 16), 4, "n_kv_heads 6 of attention"),
        (Mamba2(96, 192, 16, 24, n_groups=3), 4, "n_groups 3 of mamba2"),
        (Mlp(96, 250), 4, "d_ff 250 of mlp"),
        (Moe(96, 64, d_shared=66), 4, "d_shared 66 of moe"),
    ],
)
def test_a_block_that_ranks_cannot_share_says_what_does_not_divide(block: Block, tp: int, what: str) -> None:
    with pytest.raises(Uncut) as caught:
        block.shard(tp)
    assert caught.value.what == what


def test_a_model_that_ranks_cannot_share_says_which_numbers_can() -> None:
    (falcon,) = preset_specs("falcon-h1-7b")
    with pytest.raises(BadInput, match=r"n_heads 12 of attention, which 8 GPUs cannot share; give 2, 4, 6 or 12\.$"):
        shard(falcon, 8)
    (hymba,) = preset_specs("hymba-1.5b")
    with pytest.raises(BadInput, match=r"^--tp 2: hymba-1\.5b 3\+29 has n_heads 25 of attention, and no number"):
        shard(hymba, 2)
    assert shard(hymba, 1) is hymba
