"""The first layer of a kind may have a shape of its own: whatever is summed over a model's layers has it once."""

from __future__ import annotations

from collections.abc import Collection, Hashable
from dataclasses import replace

import pytest
import torch

from hybridbench.arch import model as arch
from hybridbench.arch.block import Convention, Storage
from hybridbench.arch.blocks.mamba2 import Mamba2
from hybridbench.arch.families import pattern_spec
from hybridbench.arch.model import ModelSpec, layer_costs, mixers, uses_of
from hybridbench.arch.operations import operations
from hybridbench.arch.presets import PRESETS, preset_spec
from hybridbench.model.build import build_model, parameter_count, resolve_backends
from hybridbench.suite.case import Case, Execution
from hybridbench.suite.ops import block_uses
from hybridbench.suite.workloads import PREFILL, Workload

PATTERNS = {"alone": "M-*-M-M-", "in a branch": "*-(*&M)-M-(*&M)-", "none": "*-S-"}
TAPS = 2


@pytest.fixture(autouse=True)
def _short_first_conv(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first Mamba-2 has a conv of fewer taps."""

    def leading(self: Mamba2, lines: Collection[Hashable]) -> Mamba2:
        return replace(self, d_conv=TAPS) if self.line in lines else self

    monkeypatch.setattr(Mamba2, "leading", leading)


@pytest.fixture(params=PATTERNS.values(), ids=PATTERNS.keys())
def spec(request: pytest.FixtureRequest) -> ModelSpec:
    return pattern_spec(request.param, "tiny")


def test_only_the_first_has_it(spec: ModelSpec) -> None:
    taps = [mixer.d_conv for block in spec.placed for mixer in block.mixers if isinstance(mixer, Mamba2)]
    assert taps == [TAPS, 4, 4][: len(taps)]
    assert sum(n for _, n in spec.uses) == len(spec.layers) == len(spec.placed)
    assert sum(n for _, n in uses_of(spec, Mamba2)) == len(taps)
    assert {mixer.d_conv for _, mixer in mixers(spec) if isinstance(mixer, Mamba2)} == set(taps)
    assert spec.blocks == pattern_spec(spec.pattern, "tiny").blocks, "the specs by symbol stay as they are"
    assert ModelSpec.from_dict(spec.to_dict()) == spec


@pytest.mark.parametrize("convention", [Convention.EXACT, Convention.HARDWARE])
def test_every_sum_over_layers_has_it(spec: ModelSpec, convention: Convention) -> None:
    storage = Storage.of("bfloat16")
    cost, rows = arch.cost(spec, 100, 3, convention, storage), layer_costs(spec, 100, 3, convention, storage)
    summed = ("params", "train_flops", "prefill_flops", "decode_flops", "ssm_state_bytes", "conv_state_bytes")
    for name in (*summed, "kv_cache_bytes", "decode_bytes_moved"):
        assert getattr(cost, name) == sum(getattr(row, name) for row in rows), name
    assert sum(operations(spec, "prefill", 100, convention).values()) == cost.prefill_flops


def test_the_module_is_of_the_shape_it_has_in_its_place(spec: ModelSpec) -> None:
    case = Case(spec, Workload(PREFILL, 16, 1), Execution("cpu", "float32", "eager"))
    assert {block for block, _ in block_uses(spec)} >= set(spec.placed)
    model = build_model(case, resolve_backends(case))
    model.allocate(torch.device("cpu"), 0)
    assert parameter_count(model) == arch.params(spec)


def test_blocks_of_another_line_have_a_first_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Mamba2, "line", property(lambda self: (Mamba2, self.d_inner)))
    spec = pattern_spec(PATTERNS["in a branch"], "tiny")
    taps = [mixer.d_conv for block in spec.placed for mixer in block.mixers if isinstance(mixer, Mamba2)]
    assert taps == [TAPS, TAPS, 4]


def test_published_models_have_none() -> None:
    for name in PRESETS:
        published = replace(preset_spec(name))  # what a spec works out under the patch stays with it
        if not any(isinstance(mixer, Mamba2) for _, mixer in mixers(published)):
            assert published.placed == tuple(published.blocks[symbol] for symbol in published.layers)
