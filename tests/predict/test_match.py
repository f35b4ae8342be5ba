"""Matches are the nearest there is, by trying every number of blocks and width; else the nearest is named."""

from __future__ import annotations

from typing import Any

import pytest

from hybridbench.arch import model as arch
from hybridbench.arch.block import Convention, Storage
from hybridbench.arch.blocks.attention import Attention
from hybridbench.arch.blocks.mlp import Mlp
from hybridbench.arch.families import ARCHS, build_spec, pattern_spec
from hybridbench.arch.model import ModelSpec, mixers
from hybridbench.arch.scales import SCALES
from hybridbench.errors import BadInput
from hybridbench.predict.match import BUDGETS, Match, budget_of, matched, named_spec

CONTEXT = 8192
TRANSFORMER = build_spec("transformer", "1b")


def match(spec: ModelSpec, budget: str, side: str = "blocks", tolerance: float = 0.9) -> Match:
    (found,) = matched([spec], TRANSFORMER, budget, side, context=CONTEXT, batch=4, tolerance=tolerance)
    return found


def amount(spec: ModelSpec, budget: str) -> int:
    cost = arch.cost(spec, CONTEXT, 4)
    return {
        "params": cost.params,
        "train-flops": cost.train_flops,
        "cache": cost.cache_bytes,
        "decode-bytes": cost.decode_bytes_moved,
        "paper": arch.params(spec, Convention.PAPER) - spec.vocab_size * spec.d_model,
    }[budget]


@pytest.mark.parametrize("budget", BUDGETS)
def test_mamba_by_blocks_is_the_nearest_number_of_blocks(budget: str) -> None:
    found = match(build_spec("mamba", "1b"), budget)
    wanted = amount(TRANSFORMER, budget)
    errors = {n: abs(amount(pattern_spec("M-" * n, "1b"), budget) - wanted) for n in range(1, 300)}
    best = min(errors, key=lambda n: errors[n])
    assert found.spec.pattern == "M-" * best
    assert found.error == amount(found.spec, budget) / wanted - 1
    assert found.wanted == wanted


@pytest.mark.parametrize("scale", [name for name in SCALES if name != "tiny"])
@pytest.mark.parametrize("family", ARCHS)
@pytest.mark.sampled
def test_the_papers_rule_gives_the_papers_blocks(family: str, scale: str) -> None:
    """Stacks of the paper have the parameters of its Transformer to half a block, at the same width."""
    spec = build_spec(family, scale)
    (found,) = matched([spec], build_spec("transformer", scale), "paper", context=CONTEXT)
    assert found.spec.d_model == spec.d_model
    assert abs(len(found.spec.layers) - len(spec.layers)) <= 2
    if (family, scale) not in {("intra", "3b"), ("inter", "100m"), ("intra", "100m")}:
        assert found.spec == spec


def test_blocks_keep_the_ratio_and_spreads_what_is_rare() -> None:
    found = match(build_spec("inter", "1b"), "cache")
    counts = found.spec.counts
    assert counts["*"] / counts["M"] == pytest.approx(1 / 5, rel=0.05)
    assert found.spec.layers[0] == "M"
    assert abs(found.error) < 0.001


def test_depth_is_an_earlier_name_of_blocks() -> None:
    spec = build_spec("inter", "1b")
    assert match(spec, "cache", "depth") == match(spec, "cache", "blocks")


def test_width_changes_widths_and_keeps_blocks() -> None:
    spec = build_spec("intra", "1b")
    found = match(spec, "train-flops", "width", tolerance=0.05)
    assert found.spec.pattern == spec.pattern
    assert found.spec.d_model > spec.d_model
    assert found.spec.scale == f"1b d{found.spec.d_model}"
    for _, mixer in mixers(found.spec):
        assert mixer.d_model == found.spec.d_model
        if isinstance(mixer, Attention):
            assert mixer.n_heads % mixer.n_kv_heads == 0
    mlp = found.spec.blocks["-"]
    assert isinstance(mlp, Mlp)
    assert mlp.d_ff % 64 == 0
    nearby = [amount(candidate, "train-flops") for candidate in _widths(spec, found.spec.d_model)]
    assert all(abs(other - found.wanted) >= abs(found.reached - found.wanted) for other in nearby)


def _widths(spec: ModelSpec, around: int) -> list[ModelSpec]:
    """The models one step narrower and wider, each found by asking for exactly its own budget."""
    from hybridbench.predict.match import WIDTH_STEP, _wider

    return [one for one in _wider(spec) if abs(one.d_model - around) == WIDTH_STEP]


def test_a_model_as_near_as_any_stays_as_it_is() -> None:
    for family in ARCHS:
        spec = build_spec(family, "1b")
        assert match(spec, "params").spec == spec
    assert match(TRANSFORMER, "cache", "width").spec == TRANSFORMER


def test_budget_of_agrees_with_the_cost_model() -> None:
    for family in ARCHS:
        spec = build_spec(family, "350m")
        for budget in BUDGETS:
            assert budget_of(spec, budget, CONTEXT, 4, Storage()) == amount(spec, budget)


def test_a_budget_that_cannot_be_met_names_the_nearest() -> None:
    with pytest.raises(BadInput, match=r"a width of 8192, which is off by -79\.0%.*by blocks.*--tolerance to 79\.1"):
        match(build_spec("mamba", "1b"), "cache", "width", tolerance=0.05)
    with pytest.raises(BadInput, match=r"inter .* within 0\.1% by blocks: the nearest is 13 blocks"):
        match(build_spec("inter", "1b"), "params", tolerance=0.001)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"budget": "parms"}, "did you mean 'params'"),
        ({"side": "block"}, "did you mean 'blocks'"),
        ({"budget": "paper", "side": "width"}, "match paper by blocks"),
        ({"tolerance": 0.0}, "tolerance"),
    ],
)
def test_bad_requests(change: dict[str, Any], words: str) -> None:
    asked = {"budget": "params", "side": "blocks", "tolerance": 0.05, **change}
    with pytest.raises(BadInput, match=words):
        matched([TRANSFORMER], TRANSFORMER, context=CONTEXT, **asked)


def test_a_pattern_of_three_mixers_has_no_other_number_of_blocks() -> None:
    with pytest.raises(BadInput, match="by width"):
        match(pattern_spec("M-*-S-", "1b"), "params")
    with pytest.raises(BadInput, match="by width"):
        match(pattern_spec("M-M*-", "1b"), "params")


@pytest.mark.parametrize(
    ("text", "label", "scale"),
    [
        ("transformer", "transformer", "1b"),
        ("inter/1:3", "inter 3+10", "1b"),
        ("inter/350m/1:3", "inter 3+8", "350m"),
        ("intra/1:3/350m/paper", "intra 3+8", "350m"),
        ("M-*-", "M-*-", "1b"),
        ("(*&M)-M-", "(*&M)-M-", "1b"),
    ],
)
def test_models_in_a_word(text: str, label: str, scale: str) -> None:
    spec = named_spec(text, "1b")
    assert (spec.label, spec.scale) == (label, scale)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("intr", "did you mean 'intra'"),
        ("inter/2b", "'2b' is no scale, ratio, recipe or mixer"),
        ("inter/1:3/1:5", "'1:5' is a second ratio"),
        ("", "unknown model"),
    ],
)
def test_models_that_are_none(text: str, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        named_spec(text, "1b")
