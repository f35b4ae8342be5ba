"""Training runs on a GPU in bfloat16: they learn as float32 does and hold the bytes predicted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from waits import waits_are_errors

from hybridbench.arch.families import ARCHS, build_spec
from hybridbench.bench import Bench, Instruments
from hybridbench.quality.corpus.build import CorpusPlan, build
from hybridbench.quality.corpus.manifest import TRAIN, Manifest, Tokens
from hybridbench.quality.corpus.sources import named_source
from hybridbench.quality.training.batches import Batches
from hybridbench.quality.training.case import Judging, LearnCase, RunFiles
from hybridbench.quality.training.predicted import memory
from hybridbench.quality.training.recipe import LearnRecipe
from hybridbench.quality.training.run import Learner, run_learn
from hybridbench.suite.case import Execution

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

Corpus = tuple[Path, Manifest]


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    folder = tmp_path_factory.mktemp("corpus") / "python"
    plan = CorpusPlan(held_out_frac=0.1, max_bytes=8_000_000)
    return folder, build([named_source("python", "text", None)], folder, plan, lambda _sentence: None)


def case_of(arch: str, python: Corpus, out: Path, dtype: str = "bfloat16", mode: str = "eager") -> LearnCase:
    folder, manifest = python
    return LearnCase(
        model=replace(build_spec(arch, "5m"), vocab_size=manifest.model_vocabulary),
        corpus=manifest.key,
        context=512,
        batch=32,
        steps=60,
        recipe=LearnRecipe(3e-3),
        execution=Execution("cuda", dtype, mode),
        sampling=Judging(3, 32),
        place=RunFiles(str(folder), str(out)),
    )


def bench() -> Bench:
    return Bench.open("cuda", lambda _name: None, Instruments(ceilings=lambda _device, _dtype: None))


@pytest.mark.parametrize("arch", ARCHS)
def test_bfloat16_learns_as_float32_does(arch: str, python: Corpus, tmp_path: Path) -> None:
    seen = {dtype: run_learn(case_of(arch, python, tmp_path, dtype), bench())[0] for dtype in ("bfloat16", "float32")}
    ends = {dtype: one.curve[-1].loss for dtype, one in seen.items()}
    assert ends["float32"] < seen["float32"].curve[0].loss - 2
    assert ends["bfloat16"] == pytest.approx(ends["float32"], abs=0.05)
    peak = memory(case_of(arch, python, tmp_path), sum(one.tokens for one in (python[1].train, python[1].held_out)))
    observed = seen["bfloat16"].memory.peak_allocated_bytes
    assert peak is not None
    assert observed is not None
    assert observed == pytest.approx(peak.total, rel=0.2)


@pytest.mark.parametrize("arch", ARCHS)
def test_a_graph_learns_as_its_launches_do(arch: str, python: Corpus, tmp_path: Path) -> None:
    """Equal losses but for the order in which some kernels add, which from one eager run to the next differs too."""
    eager, again, graph = (
        run_learn(case_of(arch, python, tmp_path, mode=mode), bench())[0] for mode in ("eager", "eager", "graph")
    )
    first = np.abs(np.array(graph.losses[:5]) - eager.losses[:5])
    assert first.max() < 2e-3, "the first steps of equal weights and batches"
    noise = np.abs(np.array(again.losses) - eager.losses).max()
    assert np.abs(np.array(graph.losses) - eager.losses).max() <= max(3 * noise, 0.02)
    assert graph.curve[-1].loss == pytest.approx(eager.curve[-1].loss, abs=max(0.01, noise))


@pytest.mark.parametrize("mode", ["eager", "graph"])
@pytest.mark.parametrize("arch", ARCHS)
def test_steps_do_not_wait_for_the_gpu(arch: str, mode: str, python: Corpus, tmp_path: Path) -> None:
    learner = Learner(case_of(arch, python, tmp_path, mode=mode), bench())
    learner.begin()
    losses = [learner.step(step)[0] for step in range(3)]
    with waits_are_errors():
        losses += [learner.step(step)[0] for step in range(3, 6)]
    assert torch.isfinite(torch.stack(losses)).all()


def test_sequences_on_the_gpu_are_those_of_the_shards(python: Corpus) -> None:
    tokens = Tokens(python[0], python[1].split(TRAIN), 512)
    on_gpu = Batches(tokens, 256, 8, 3, torch.device("cuda"))
    on_cpu = Batches(tokens, 256, 8, 3, torch.device("cpu"))
    for step in (0, 5, len(tokens) // 8):
        for theirs, ours in zip(on_cpu.at(step), on_gpu.at(step), strict=True):
            assert np.array_equal(theirs.numpy(), ours.cpu().numpy())
