"""Operations add up to the totals in every convention, and reasons to the difference between two."""

from __future__ import annotations

from collections import Counter

import pytest

from hybridbench.arch.block import WORKS, Block, Convention
from hybridbench.arch.families import ARCHS, RECIPES, Options, build_spec
from hybridbench.arch.model import ModelSpec, decode_flops, prefill_flops, train_flops
from hybridbench.arch.operations import operations, reasons
from hybridbench.arch.presets import PRESETS, preset_spec
from hybridbench.errors import BadInput

TOTAL = {"train": train_flops, "prefill": prefill_flops, "decode": decode_flops}
SPECS = {
    **{arch: build_spec(arch, "1b") for arch in ARCHS},
    **{f"intra {recipe}": build_spec("intra", "350m", Options(recipe=recipe)) for recipe in RECIPES},
    "gate": build_spec("intra", "tiny", Options(fusion_scale="gate", moe=True)),
}


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS.keys())
@pytest.mark.parametrize("context", [1, 700, 2048])
@pytest.mark.parametrize("convention", Convention)
@pytest.mark.parametrize("work", WORKS)
def test_operations_add_up_and_reasons_close_the_gap(
    spec: ModelSpec, context: int, convention: Convention, work: str
) -> None:
    found = operations(spec, work, context, convention)
    assert sum(found.values()) == TOTAL[work](spec, context, convention).total
    expected = Counter(operations(spec, work, context))
    for reason in reasons(spec, work, context, convention):
        expected[reason.operation] += reason.flops
    assert {name: flops for name, flops in expected.items() if flops} == {
        name: flops for name, flops in found.items() if flops
    }


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("convention", Convention)
def test_published_models_have_operations_too(name: str, convention: Convention) -> None:
    spec = preset_spec(name)
    for work in WORKS:
        try:
            total = TOTAL[work](spec, 300, convention).total
        except BadInput:
            assert convention is Convention.PAPER
            continue
        found = operations(spec, work, 300, convention)
        assert sum(found.values()) == total
        explained = sum(reason.flops for reason in reasons(spec, work, 300, convention))
        assert total - explained == sum(operations(spec, work, 300).values())


@pytest.mark.parametrize("convention", Convention)
@pytest.mark.parametrize("work", WORKS)
@pytest.mark.sampled
def test_every_kind_of_block_has_operations(block: Block, convention: Convention, work: str) -> None:
    total = {"train": block.train_flops, "prefill": block.prefill_flops, "decode": block.decode_flops}[work]
    try:
        flops = total(100, convention).total
    except BadInput:
        assert convention is Convention.PAPER
        return
    assert sum(block.operations(work, 100, convention).values()) == flops


def test_names_say_what_is_what() -> None:
    assert list(operations(SPECS["intra"], "train", 128)) == [
        *("mamba2 in_proj", "mamba2 out_proj", "mamba2 conv", "mamba2 scan", "mlp in_proj", "mlp out_proj"),
        *("attention in_proj", "parallel out_proj", "attention core", "head"),
    ]
    assert {"window attention core", "attention core"} < set(operations(SPECS["swa"], "decode", 128))
