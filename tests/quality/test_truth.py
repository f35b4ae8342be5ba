"""The same weights, batches and schedule in transformers' Llama and Bamba give the same losses, step by step."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from their_models import give_weights, their_model
from torch import Tensor

from hybridbench.arch.families import build_spec
from hybridbench.bench import Bench, Instruments
from hybridbench.quality.corpus.build import CorpusPlan, build
from hybridbench.quality.corpus.manifest import Manifest
from hybridbench.quality.corpus.sources import named_source
from hybridbench.quality.training.case import Judging, LearnCase, RunFiles
from hybridbench.quality.training.recipe import LearnRecipe
from hybridbench.quality.training.run import Learner
from hybridbench.suite.case import Execution

STEPS, CONTEXT, BATCH, RATE = 500, 64, 4, 1e-3
"""At a rate of 3e-3 the two transformers were 1e-6 nats apart at step 100 and 0.013 at step 500: rounding grows where
training is chaotic, and tells nothing of either program."""
WITHIN_NATS = 0.005


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Manifest]:
    """Half a megabyte of Python's own modules."""
    folder = tmp_path_factory.mktemp("corpus") / "python"
    plan = CorpusPlan(held_out_frac=0.2, max_bytes=500_000)
    return folder, build([named_source("python", "text", None)], folder, plan, lambda _sentence: None)


def learner_of(arch: str, python: tuple[Path, Manifest], out: Path) -> Learner:
    folder, manifest = python
    case = LearnCase(
        model=replace(build_spec(arch, "toy"), vocab_size=manifest.model_vocabulary),
        corpus=manifest.key,
        context=CONTEXT,
        batch=BATCH,
        steps=STEPS,
        recipe=LearnRecipe(RATE),
        execution=Execution("cpu", "float32", "eager"),
        sampling=Judging(1, 1),
        place=RunFiles(str(folder), str(out)),
    )
    instruments = Instruments(ceilings=lambda _device, _dtype: None)
    learner = Learner(case, Bench(torch.device("cpu"), None, None, instruments=instruments))
    learner.begin()
    return learner


class Theirs:
    """One of their models under torch's own AdamW and clipping, and the trapezoid written out."""

    def __init__(self, learner: Learner) -> None:
        transformers = pytest.importorskip("transformers")
        spec = learner.case.model
        self.model = their_model(transformers, spec, CONTEXT)
        give_weights(learner.model, spec, self.model)
        matrices = [p for name, p in self.model.named_parameters() if p.dim() == 2]
        others = [p for name, p in self.model.named_parameters() if p.dim() != 2]
        groups = [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=RATE, betas=(0.9, 0.95), eps=1e-8)

    def loss(self, inputs: Tensor, targets: Tensor) -> Tensor:
        logits = self.model(input_ids=inputs, use_cache=False).logits
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten())

    def step(self, number: int, inputs: Tensor, targets: Tensor) -> float:
        rise, fall = (number + 1) / (STEPS / 4), (STEPS - number) / (STEPS / 5)
        for group in self.optimizer.param_groups:
            group["lr"] = RATE * min(rise, 1.0, fall)
        loss = self.loss(inputs, targets)
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        return float(loss.detach())


@pytest.mark.parametrize("arch", ["transformer", "mamba", "inter"])
def test_first_steps_agree(arch: str, python: tuple[Path, Manifest], tmp_path: Path) -> None:
    learner = learner_of(arch, python, tmp_path)
    theirs = Theirs(learner)
    for number in range(3):
        due = theirs.step(number, *learner.batches.at(number))
        assert float(learner.step(number)[0]) == pytest.approx(due, abs=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["transformer", "mamba", "inter"])
def test_losses_agree_at_every_hundredth_step(arch: str, python: tuple[Path, Manifest], tmp_path: Path) -> None:
    learner = learner_of(arch, python, tmp_path)
    theirs = Theirs(learner)
    far: dict[int, float] = {}
    first = last = 0.0
    for number in range(STEPS):
        due = theirs.step(number, *learner.batches.at(number))
        ours = float(learner.step(number)[0])
        first, last = first or ours, ours
        if (number + 1) % 100 == 0:
            far[number + 1] = abs(ours - due)
    assert last < first - 2  # it did learn, so equal losses say something
    assert len(far) == 5
    assert max(far.values()) < WITHIN_NATS, far
