"""A model's spec survives JSON, its parts add up to its whole, and costing it is quick."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from hybridbench.arch import model
from hybridbench.arch.block import Convention, Storage
from hybridbench.arch.families import ARCHS, RECIPES, Options, build_spec, pattern_spec
from hybridbench.arch.model import ModelSpec
from hybridbench.arch.scales import SCALES
from hybridbench.errors import BadInput

SPECS = {
    **{f"{arch}-{scale}": build_spec(arch, scale) for arch in ARCHS for scale in SCALES},
    **{f"{r}-{s}": build_spec("intra", s, Options(recipe=r, ratio="1:0")) for r in RECIPES for s in SCALES},
    **{f"moe-{arch}": build_spec(arch, "1b", Options(moe=True)) for arch in ARCHS},
    "custom": pattern_spec("M (S&M)- *E S", "tiny", Options(sinks=0, fusion_scale="gate")),
}


@pytest.fixture(params=SPECS.values(), ids=SPECS.keys())
def spec(request: pytest.FixtureRequest) -> ModelSpec:
    """Every family, recipe and scale."""
    found: ModelSpec = request.param
    return found


def test_a_spec_survives_json(spec: ModelSpec) -> None:
    text = json.dumps(spec.to_dict(), allow_nan=False)
    again = ModelSpec.from_dict(json.loads(text))
    assert again == spec
    assert json.dumps(again.to_dict()) == text


@pytest.mark.parametrize("convention", Convention)
def test_layers_add_up_to_the_model(spec: ModelSpec, convention: Convention) -> None:
    storage = Storage.of("bfloat16", "float32")
    rows = model.layer_costs(spec, 700, batch=3, convention=convention, storage=storage)
    whole = model.cost(spec, 700, batch=3, convention=convention, storage=storage)
    assert [row.symbol for row in rows] == [*spec.layers, "head"]
    assert [row.index for row in rows] == list(range(1, len(spec.layers) + 2))
    for name in (
        *("params", "train_flops", "prefill_flops", "decode_flops", "decode_bytes_moved"),
        *("kv_cache_bytes", "ssm_state_bytes", "conv_state_bytes"),
    ):
        assert sum(getattr(row, name) for row in rows) == getattr(whole, name), name
    assert whole.cache_bytes == whole.kv_cache_bytes + whole.ssm_state_bytes + whole.conv_state_bytes
    assert whole.params - whole.params_non_embedding == spec.vocab_size * spec.d_model
    assert (whole.params_active < whole.params) == ("E" in spec.pattern)


def test_the_paper_leaves_out_norms_and_head() -> None:
    spec = build_spec("transformer", "1b")
    exact, paper = (model.cost(spec, 64, convention=c) for c in (Convention.EXACT, Convention.PAPER))
    assert exact.params - paper.params == (2 * 16 + 1) * 2048
    assert exact.decode_flops - paper.decode_flops == 2 * 2048 * 128_256 + 16 * 4 * 2048  # and the new token's own key
    assert exact.train_flops - paper.train_flops == 3 * 64 * 2 * 2048 * 128_256


@pytest.mark.parametrize(
    ("scale", "arch", "label"),
    [("1b", "transformer", "transformer"), ("1b", "swa", "swa 3+13"), ("1b", "intra", "intra 2+11")],
)
def test_labels(scale: str, arch: str, label: str) -> None:
    assert build_spec(arch, scale).label == label
    assert build_spec(arch, scale, Options(moe=True)).label == f"{label} moe"


def test_labels_say_what_is_not_the_familys_default() -> None:
    options = [Options(recipe="hymba"), Options(fusion_op="add", fusion_scale="gate"), Options(split="1152:1152")]
    found = [build_spec("intra", "1b", one).label for one in options]
    assert found == ["intra 2+11 hymba", "intra 2+11 scale=gate,op=add", "intra 2+11 split=1152:1152"]
    assert build_spec("swa", "1b", Options(window=1024, sinks=0)).label == "swa 3+13 window 1024 sinks 0"
    assert build_spec("swa", "1b", Options(window=512)).label == "swa 3+13"
    assert build_spec("inter", "5m", Options(positions=(1, 2))).label == "inter 2+7 at 1,2"
    assert build_spec("inter", "5m", Options(positions=(3, 6))).label == "inter 2+7"  # where they would be anyway
    assert build_spec("intra", "1b", Options(positions=(2, 5))).label == "intra 2+11 at 2,5"


def test_a_letter_without_a_spec() -> None:
    body = build_spec("inter", "tiny").to_dict()
    del body["blocks"]["*"]
    with pytest.raises(BadInput, match=r"uses \* but the model has no spec for it"):
        ModelSpec.from_dict(body)


@pytest.mark.parametrize(
    ("edit", "error", "said"),
    [
        (lambda b: b.pop("pattern"), TypeError, "pattern"),
        (lambda b: b.pop("blocks"), KeyError, "blocks"),
        (lambda b: b.update(colour="red"), TypeError, "colour"),
        (lambda b: b.update(d_model="wide"), BadInput, "d_model is 'wide'"),
        (lambda b: b["blocks"]["M"].update(kind="mamba9"), ValueError, "unknown kind of block 'mamba9'"),
        (lambda b: b["blocks"]["M"].pop("d_state"), TypeError, "d_state"),
        (lambda b: b["blocks"]["M"].update(d_inner=100), BadInput, "d_inner 100 does not divide"),
    ],
    ids=["missing", "no-blocks", "unknown", "text", "kind", "missing-in-block", "misfit"],
)
def test_a_misstated_spec_is_refused(
    edit: Callable[[dict[str, Any]], object], error: type[Exception], said: str
) -> None:
    body = build_spec("inter", "tiny").to_dict()
    edit(body)
    with pytest.raises(error, match=said):
        ModelSpec.from_dict(body)


IDLE_SQUARES = 15_000_000
"""Squares that a loop of Python's sums in a second of an idle core."""


def test_a_thousand_configurations_cost_less_than_a_second() -> None:
    """A second of an idle core: where others share it, a plain loop beside it says how much longer that is."""
    grid = list(itertools.product(SCALES, ("1:1", "2:3", "1:3", "1:4"), ("inter", "intra"), range(25)))
    started = time.process_time()
    sum(i * i for i in range(IDLE_SQUARES))
    second = time.process_time() - started
    started = time.process_time()
    costs = [model.cost(build_spec(a, s, Options(ratio=r)), 1024 * (n + 1)).train_flops for s, r, a, n in grid]
    elapsed = time.process_time() - started
    assert len(costs) == 1000
    assert elapsed < max(1.0, second)
