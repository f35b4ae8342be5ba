"""A small corpus, and training runs of a few steps on it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from texts import words

from hybridbench.arch.families import build_spec
from hybridbench.quality.corpus.build import CorpusPlan, build
from hybridbench.quality.corpus.manifest import Manifest, read_manifest
from hybridbench.quality.corpus.sources import named_source
from hybridbench.quality.training.case import Judging, LearnCase, RunFiles
from hybridbench.quality.training.recipe import LearnRecipe
from hybridbench.suite.case import Execution


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 documents of some 600 bytes, a fifth of them held out."""
    folder = tmp_path_factory.mktemp("text")
    for number in range(40):
        (folder / f"{number:02}.txt").write_text(words(number, 100))
    out = tmp_path_factory.mktemp("corpus") / "made"
    build([named_source(str(folder), "text", None)], out, CorpusPlan(held_out_frac=0.2), lambda _sentence: None)
    return out


@pytest.fixture
def manifest(corpus: Path) -> Manifest:
    return read_manifest(corpus)


@pytest.fixture
def case_of(corpus: Path, manifest: Manifest, tmp_path: Path) -> Callable[..., LearnCase]:
    """Makes a run of a family at toy scale: 12 steps of 2 sequences of 32 tokens unless changed."""

    def make(
        arch: str = "inter", *, out: Path = tmp_path / "out", resume: bool = False, **changes: object
    ) -> LearnCase:
        spec = replace(build_spec(arch, "toy"), vocab_size=manifest.model_vocabulary)
        case = LearnCase(
            model=spec,
            corpus=manifest.key,
            context=32,
            batch=2,
            steps=12,
            recipe=LearnRecipe(3e-3),
            execution=Execution("cpu", "float32", "eager"),
            sampling=Judging(3, 4),
            place=RunFiles(str(corpus), str(out), resume),
        )
        return replace(case, **changes)

    return make
