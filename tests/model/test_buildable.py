"""What can be costed but has no module is unsupported, in a sentence, before anything is built."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hybridbench.arch.families import build_spec, pattern_spec
from hybridbench.arch.model import ModelSpec
from hybridbench.arch.presets import preset_spec
from hybridbench.errors import Unsupported
from hybridbench.model.build import check_buildable, resolve_backends
from hybridbench.suite.case import Case, Execution
from hybridbench.suite.workloads import Workload

TINY = build_spec("inter", "tiny")

WITHOUT_MODULE: dict[str, tuple[ModelSpec, str]] = {
    "letter": (pattern_spec("R-*-", "tiny"), "blocks of kind rg_lru have no module"),
    "mimo": (
        preset_spec("mamba3-mimo-1.5b"),
        "mamba3 with rank 4 has no module, because its kernels are",
    ),
    "branch": (preset_spec("hymba-1.5b"), "has no module"),
    "shared": (preset_spec("zamba2-1.2b"), "blocks of kind shared have no module"),
    "untied": (replace(TINY, tied=False), "a model with tied False has no module"),
    "norms": (replace(TINY, norms=2), "a model with norms 2"),
    "mlp": (preset_spec("nemotron-h-8b"), "mlp with gated False has no module"),
}


@pytest.mark.parametrize("name", WITHOUT_MODULE)
def test_a_model_without_modules_is_unsupported(name: str) -> None:
    spec, said = WITHOUT_MODULE[name]
    with pytest.raises(Unsupported, match=f"{said}.*: hybridbench can cost"):
        check_buildable(spec)
    with pytest.raises(Unsupported, match="hybridbench can cost"):
        resolve_backends(Case(spec, Workload("decode", 64, 1), Execution("cpu", "float32", "eager")))


def test_families_and_published_models_of_the_same_blocks_can_be_built() -> None:
    for spec in (
        TINY,
        pattern_spec("M(S&M)-E*", "tiny"),
        preset_spec("llama-3.2-1b"),
        preset_spec("mamba2-130m"),
    ):
        check_buildable(spec)
