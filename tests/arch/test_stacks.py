"""Families stack their blocks as the paper's tables list them, and refuse what does not fit in a sentence."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from hybridbench.arch.block import Convention
from hybridbench.arch.blocks.attention import Attention
from hybridbench.arch.blocks.mamba2 import Mamba2
from hybridbench.arch.blocks.parallel import Parallel
from hybridbench.arch.families import ARCHS, PAPER_STACKS, RECIPES, Options, build_spec, pattern_spec
from hybridbench.arch.model import ModelSpec, mixers, params
from hybridbench.arch.scales import SCALES
from hybridbench.errors import BadInput, BadPattern


def places(spec: ModelSpec, symbol: str) -> list[int]:
    """1-based blocks whose mixer is ``symbol``; every block is a mixer and a feed-forward layer."""
    assert all(layer in "-E" for layer in spec.layers[1::2])
    return [i for i, layer in enumerate(spec.layers[::2], start=1) if layer == symbol]


def depth(spec: ModelSpec) -> int:
    return len(spec.layers) // 2


@pytest.mark.parametrize(
    ("scale", "ratio", "stack", "attention"),
    [
        ("100m", "1:5", "1+5", None),
        ("350m", "1:1", "6+6", [2, 4, 6, 8, 10, 12]),
        ("350m", "1:3", "3+8", [3, 6, 9]),
        ("350m", "1:5", "2+9", [4, 8]),
        ("350m", "1:12", "1+10", [6]),
        ("1b", "1:1", "7+7", [2, 4, 6, 8, 10, 12, 14]),
        ("1b", "1:3", "3+10", [3, 7, 11]),
        ("1b", "1:5", "2+11", [4, 8]),
        ("1b", "1:12", "1+12", [7]),
        ("3b", "1:5", "4+18", None),
    ],
)
def test_inter_stacks_of_table_17(scale: str, ratio: str, stack: str, attention: list[int] | None) -> None:
    spec = build_spec("inter", scale, Options(ratio=ratio))
    assert spec.label == f"inter {stack}"
    found = places(spec, "*")
    assert 1 not in found
    assert f"{len(found)}+{depth(spec) - len(found)}" == stack
    assert attention is None or found == attention


@pytest.mark.parametrize(
    ("scale", "ratio", "stack", "hybrid"),
    [
        ("100m", "1:5", "1+5", None),
        ("350m", "1:0", "11+0", None),
        ("350m", "1:1", "6+5", None),
        ("350m", "1:3", "3+8", None),
        ("350m", "1:5", "2+9", None),
        ("350m", "1:12", "1+10", None),
        ("1b", "1:0", "13+0", list(range(1, 14))),
        ("1b", "1:1", "7+6", [2, 4, 6, 8, 10, 12, 13]),
        ("1b", "1:3", "3+10", [4, 7, 11]),
        ("1b", "1:5", "2+11", [5, 9]),
        ("1b", "1:12", "1+12", None),
        ("3b", "1:5", "4+18", None),
    ],
)
def test_intra_stacks_of_table_21(scale: str, ratio: str, stack: str, hybrid: list[int] | None) -> None:
    spec = build_spec("intra", scale, Options(ratio=ratio))
    found = places(spec, "(*&M)")
    assert f"{len(found)}+{depth(spec) - len(found)}" == stack
    assert hybrid is None or found == hybrid


@pytest.mark.parametrize(
    ("ratio", "stack"), [("1:1", "8+8"), ("1:3", "4+12"), ("1:5", "3+13"), ("1:15", "1+15"), ("0:1", "0+16")]
)
def test_window_stacks(ratio: str, stack: str) -> None:
    spec = build_spec("swa", "1b", Options(ratio=ratio))
    found = places(spec, "*")
    assert f"{len(found)}+{len(places(spec, 'S'))}" == stack
    assert 1 not in found
    window = spec.blocks["S"]
    assert isinstance(window, Attention)
    assert (window.window, window.sinks) == (512, 64)
    assert window.rope is not None
    assert (window.rope.theta, window.rope.factor) == (10_000, 1)


def test_the_papers_inter_model_as_a_string() -> None:
    assert build_spec("inter", "1b").pattern == "M-M-M-*-M-M-M-*-M-M-M-M-M-"
    assert build_spec("inter", "1B", Options(ratio=" 2 : 10 ")) == build_spec("inter", "1b", Options(ratio="1:5"))


@pytest.mark.parametrize(
    ("scale", "d_model", "layers", "heads", "kv", "head", "ffn"),
    [
        ("100m", 1024, 8, 16, 4, 64, 3072),
        ("350m", 1536, 14, 24, 8, 64, 4096),
        ("1b", 2048, 16, 32, 8, 64, 8192),
        ("3b", 3072, 28, 32, 8, 96, 8192),
    ],
)
def test_transformers_of_table_8(
    scale: str, d_model: int, layers: int, heads: int, kv: int, head: int, ffn: int
) -> None:
    spec = build_spec("transformer", scale)
    block = spec.blocks["*"]
    assert isinstance(block, Attention)
    assert (spec.d_model, depth(spec), spec.vocab_size) == (d_model, layers, 128_256)
    assert (block.n_heads, block.n_kv_heads, block.head_dim, block.v_head_dim) == (heads, kv, head, head)
    assert spec.blocks["-"].params() == 3 * d_model * ffn
    rope = block.rope
    assert rope is not None
    assert (rope.theta, rope.factor, rope.low_freq_factor, rope.high_freq_factor) == (500_000, 32, 1, 4)
    assert rope.original_context == 8192


@pytest.mark.parametrize(
    ("scale", "layers", "d_ssm", "head", "state"),
    [
        ("100m", 6, 2048, 128, 128),
        ("350m", 11, 3072, 128, 128),
        ("1b", 13, 4096, 128, 128),
        ("3b", 21, 6144, 192, 256),
    ],
)
def test_mambas_of_table_8(scale: str, layers: int, d_ssm: int, head: int, state: int) -> None:
    spec = build_spec("mamba", scale)
    block = spec.blocks["M"]
    assert isinstance(block, Mamba2)
    assert (depth(spec), block.d_inner, block.head_dim, block.d_state) == (layers, d_ssm, head, state)
    assert (block.n_groups, block.d_conv, block.a_range) == (1, 4, (0.01, 2.0))


@pytest.mark.parametrize(
    ("scale", "d_ssm", "qk", "heads", "kv"),
    [("100m", 1024, 512, 8, 2), ("350m", 1536, 768, 16, 4), ("1b", 2304, 1152, 16, 4), ("3b", 3072, 1536, 16, 4)],
)
def test_intra_blocks_of_table_15(scale: str, d_ssm: int, qk: int, heads: int, kv: int) -> None:
    block = build_spec("intra", scale).blocks["(*&M)"]
    assert isinstance(block, Parallel)
    mamba, attention = block.branches
    assert isinstance(mamba, Mamba2)
    assert isinstance(attention, Attention)
    assert (mamba.d_inner, attention.n_heads, attention.n_kv_heads) == (d_ssm, heads, kv)
    assert attention.n_heads * attention.head_dim == qk
    assert attention.n_heads * attention.v_head_dim == SCALES[scale].d_model


@pytest.mark.parametrize(
    ("options", "layers"),
    [
        (Options(recipe="paper"), 13),
        (Options(recipe="concat"), 13),
        (Options(recipe="hymba"), 14),
        (Options(recipe="falcon-h1"), 13),
        (Options(recipe="diff-transformer"), 16),
        (Options(recipe="diff-mamba"), 13),
        (Options(fusion_op="add", fusion_out="joint"), 14),
        (Options(fusion_out="joint"), 14),
        (Options(fusion_op="add", fusion_out="separate"), 13),
        (Options(fusion_op="add", fusion_out="joint", fusion_value="shared"), 15),
    ],
    ids=lambda value: (
        value.recipe + "".join(f"-{v}" for v in (value.fusion_op, value.fusion_out, value.fusion_value) if v)
        if isinstance(value, Options)
        else None
    ),
)
def test_depths_of_the_fusion_variants_of_table_6(options: Options, layers: int) -> None:
    spec = build_spec("intra", "1b", Options(**{**vars(options), "ratio": "1:0"}))
    assert depth(spec) == layers


def test_recipes_are_what_they_are_named_after() -> None:
    fusions = {name: recipe.fusion for name, recipe in RECIPES.items()}
    found = {n: (f.norm, f.scale, f.op, f.value, f.out) for n, f in fusions.items()}
    assert found == {
        "paper": ("group", "none", "subtract", "separate", "separate"),
        "concat": ("group", "none", "concat", "separate", "joint"),
        "hymba": ("group", "vector", "add", "separate", "joint"),
        "falcon-h1": ("none", "none", "concat", "separate", "joint"),
        "diff-transformer": ("group", "scalar", "subtract", "shared", "joint"),
        "diff-mamba": ("group", "scalar", "subtract", "separate", "joint"),
    }
    for name, kinds in (("diff-transformer", {Attention}), ("diff-mamba", {Mamba2}), ("hymba", {Attention, Mamba2})):
        block = build_spec("intra", "tiny", Options(recipe=name, ratio="1:0"))
        assert {type(mixer) for _, mixer in mixers(block)} == kinds


@pytest.mark.parametrize(("arch", "scale", "ratio"), [k for k in PAPER_STACKS if k[0] == "inter"])
def test_parameter_matching_reproduces_the_published_depths(arch: str, scale: str, ratio: str) -> None:
    """Asked for by position, the depth comes from matching parameters, not from the table, and is the same."""
    shape = SCALES[scale]
    blocks = build_spec(arch, scale).blocks
    ffn = blocks["-"].params(Convention.PAPER)
    attention, mamba = (blocks[s].params(Convention.PAPER) + ffn for s in "*M")
    count = len(places(build_spec(arch, scale, Options(ratio=ratio)), "*"))
    chosen = tuple(range(2, 2 + count))
    found = depth(build_spec(arch, scale, Options(positions=chosen)))
    target = shape.transformer_layers * attention
    distances = {n: abs(count * attention + (n - count) * mamba - target) for n in range(count, 40)}
    assert found == min(distances, key=lambda n: distances[n])
    assert found == sum(PAPER_STACKS[arch, scale, ratio][:2])


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("ratio", ["2:3", "1:2", "3:1", "1:4"])
@pytest.mark.parametrize("arch", ["inter", "intra"])
def test_unlisted_ratios_match_the_transformer_in_parameters(arch: str, scale: str, ratio: str) -> None:
    spec = build_spec(arch, scale, Options(ratio=ratio))
    transformer = build_spec("transformer", scale)
    embedding = spec.vocab_size * spec.d_model
    sizes = [params(s, Convention.PAPER) - embedding for s in (spec, transformer)]
    block = max(spec.blocks[s].params(Convention.PAPER) for s in spec.blocks) + spec.blocks["-"].params()
    assert abs(sizes[0] - sizes[1]) <= block  # one block more or less would not come closer by much
    rare = places(spec, "*" if arch == "inter" else "(*&M)")
    first, second = map(int, ratio.split(":"))
    assert abs(len(rare) - depth(spec) * first / (first + second)) <= 0.5
    assert spec.ratio == ratio


def test_positions_replace_the_ratio() -> None:
    spec = build_spec("inter", "1b", Options(positions=(3, 9)))
    assert places(spec, "*") == [3, 9]
    assert depth(spec) == 13
    assert spec.ratio is None
    assert places(build_spec("swa", "1b", Options(positions=(1, 16))), "*") == [1, 16]
    assert places(build_spec("intra", "1b", Options(positions=(4, 7, 11))), "(*&M)") == [4, 7, 11]


def test_a_split_sets_both_widths() -> None:
    block = build_spec("intra", "1b", Options(split="512:1280")).blocks["(*&M)"]
    assert isinstance(block, Parallel)
    mamba, attention = block.branches
    assert mamba.out_width == 2 * 1280
    assert isinstance(attention, Attention)
    assert attention.head_dim * attention.n_heads == 512


def test_the_recipe_is_named_with_what_was_changed() -> None:
    assert build_spec("intra", "1b").recipe == "paper"
    changed = Options(fusion_op="add", fusion_norm="group", split="512:1280")
    assert build_spec("intra", "1b", changed).recipe == "paper,op=add,split=512:1280"
    assert build_spec("inter", "1b").recipe is None


def test_a_pattern_with_the_dimensions_of_a_scale() -> None:
    spec = pattern_spec("M- (*&M)- S-", "1B", Options(window=128))
    assert spec.pattern == "M-(*&M)-S-"
    assert (spec.arch, spec.scale, spec.ratio, spec.recipe) == ("custom", "1b", None, "paper")
    window = spec.blocks["S"]
    assert isinstance(window, Attention)
    assert (window.window, window.sinks) == (128, 64)
    assert spec.blocks["M"] == build_spec("mamba", "1b").blocks["M"]
    assert spec.blocks["(*&M)"] == build_spec("intra", "1b").blocks["(*&M)"]
    assert pattern_spec("M-*E", "tiny", Options(moe=True)).pattern == "ME*E"
    assert pattern_spec("(S&M)-", "tiny", Options(sinks=0)).blocks["(S&M)"] is not None


@pytest.mark.parametrize(
    ("arch", "scale", "options", "said"),
    [
        ("intr", "1b", {}, "unknown arch 'intr': did you mean 'intra'? Known: transformer, swa, mamba, inter, intra."),
        ("inter", "1bb", {}, "unknown scale '1bb': did you mean '1b'?"),
        ("intra", "1b", {"recipe": "hymbra"}, "unknown recipe 'hymbra': did you mean 'hymba'?"),
        ("intra", "1b", {"fusion_op": "substract"}, "unknown fusion op 'substract': did you mean 'subtract'?"),
        ("intra", "1b", {"fusion_op": "concat"}, "fusion concat with separate output projections"),
        ("inter", "1b", {"window": 4}, "--window without a window layer: inter has none; use --arch swa"),
        ("mamba", "1b", {"sinks": 4}, "--sinks without a window layer: mamba has none"),
        ("swa", "1b", {"window": 0}, "window is 0: give a whole number of 1 or more."),
        ("swa", "1b", {"sinks": -1}, "sinks is -1: give a whole number"),
        ("inter", "1b", {"ratio": "1:5", "positions": (4,)}, "--positions and --ratio both say where blocks go"),
        ("transformer", "1b", {"positions": (4,)}, "--positions for transformer: all its blocks are alike; use swa,"),
        ("mamba", "1b", {"ratio": "1:5"}, "--ratio for mamba: all its blocks are alike; use swa, inter, intra."),
        ("inter", "1b", {"recipe": "hymba"}, "--recipe without a parallel block: inter has none; use --arch intra"),
        ("swa", "1b", {"fusion_op": "add"}, "--fusion-op without a parallel block: swa has none"),
        ("mamba", "1b", {"split": "8:8"}, "--split without a parallel block: mamba has none"),
        ("inter", "1b", {"positions": (4, 99)}, "position 99 is beyond the 13 blocks of inter at 1b: give 1 to 13."),
        ("swa", "1b", {"positions": (17,)}, "position 17 is beyond the 16 blocks of swa at 1b: give 1 to 16."),
        ("inter", "1b", {"ratio": "1:40"}, "ratio 1:40 does not fit 13 blocks"),
        ("inter", "100m", {"ratio": "1:12"}, "ratio 1:12 does not fit 6 blocks: the first side would get none; the"),
        ("inter", "1b", {"ratio": "five"}, "ratio 'five' is not two whole numbers"),
        ("intra", "1b", {"split": "1152"}, "split '1152' is not two widths: write query/key width : Mamba width,"),
        ("intra", "1b", {"split": "0:8"}, "split '0:8' is not two widths"),
        ("intra", "1b", {"split": "1150:1152"}, "split '1150:1152': 16 heads do not divide query/key width 1150"),
        ("intra", "1b", {"split": "1152:1150"}, "Mamba width 1150 makes 2300 channels, which heads of 128 do not"),
        ("intra", "1b", {"split": "512:1280", "fusion_out": "joint"}, "needs equally wide branches, not 2560 and 2048"),
        ("intra", "1b", {"split": "512:1280", "fusion_value": "shared"}, "a shared value needs branches of equal"),
    ],
)
def test_families_refuse_what_does_not_fit(arch: str, scale: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInput) as caught:
        build_spec(arch, scale, Options(**options))
    assert said in str(caught.value)
    assert str(caught.value).endswith(".")


@pytest.mark.parametrize(
    ("pattern", "options", "said"),
    [
        ("M-*-", {"window": 4}, "--window without a window layer: pattern M-*- has no S."),
        ("M-*-", {"sinks": 4}, "--sinks without a window layer: pattern M-*- has no S."),
        ("M-*-", {"ratio": "1:5"}, "--pattern already places every block: leave out --ratio and --positions."),
        ("M-*-", {"positions": (1,)}, "--pattern already places every block"),
        ("M-*-", {"recipe": "hymba"}, "--recipe without a parallel block: pattern M-*- has none; write one as (*&M)."),
        ("M*", {"moe": True}, "--moe without an MLP to replace: pattern M* has no -."),
    ],
)
def test_patterns_refuse_what_does_not_fit(pattern: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInput) as caught:
        pattern_spec(pattern, "1b", Options(**options))
    assert said in str(caught.value)


def test_a_bad_pattern_says_so() -> None:
    with pytest.raises(BadPattern, match="'x' is no layer"):
        pattern_spec("M-x", "tiny")


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Attention(64, 6, 4, 8, 8), "6 query heads cannot share 4 KV heads: the first must be a multiple"),
        (lambda: Attention(64, 6, 2, 8, 8, sinks=4), "4 sinks without a window: full attention already sees"),
        (lambda: Attention(64, 6, 0, 8, 8), "n_kv_heads is 0: give a whole number of 1 or more."),
        (lambda: Attention(64, 6, 2, "8", 8), "head_dim is '8': give a whole number"),  # type: ignore[arg-type]
        (lambda: Mamba2(64, 100, 16, 8), "d_inner 100 does not divide into SSM heads of 16"),
        (lambda: Mamba2(64, 96, 16, 8, n_groups=4), "6 SSM heads cannot share 4 groups: give a divisor."),
    ],
    ids=["kv-heads", "sinks", "zero", "text", "d_inner", "groups"],
)
def test_blocks_refuse_impossible_shapes(make: Callable[[], object], said: str) -> None:
    with pytest.raises(BadInput) as caught:
        make()
    assert said in str(caught.value)


def test_every_family_is_built_from_every_scale() -> None:
    for scale in SCALES:
        for arch in ARCHS:
            spec = build_spec(arch, scale)
            assert spec.arch == arch
            assert set(spec.layers) == set(spec.blocks)
