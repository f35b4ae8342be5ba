"""Steps read nothing from the device, and batches come from tokens and orders that lie there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from hybridbench.arch.families import ARCHS, build_spec, pattern_spec
from hybridbench.bench import Bench, Instruments
from hybridbench.quality.corpus.manifest import Manifest, Tokens
from hybridbench.quality.training import batches as module
from hybridbench.quality.training.batches import Batches
from hybridbench.quality.training.case import LearnCase
from hybridbench.quality.training.plan import LearnOptions, default_mode, place_of, planned
from hybridbench.quality.training.run import Learner, run_learn
from hybridbench.record import Caveat

CaseOf = Callable[..., LearnCase]


class Reads(TorchDispatchMode):
    """Fails at an operation that waits for its result on a GPU: a number read, or a shape that depends on values."""

    WAITING = ("_local_scalar_dense", "item", "nonzero", "masked_select", "unique", "equal", "is_nonzero")

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in self.WAITING:
            raise AssertionError(f"a step calls {name}")
        return func(*args, **(kwargs or {}))


def bench() -> Bench:
    instruments = Instruments(ceilings=lambda _device, _dtype: None)
    return Bench(torch.device("cpu"), None, None, instruments=instruments)


def held(tokens: Tokens, _device: torch.device) -> Tensor:
    """All sequences in memory, as they lie on a GPU."""
    return torch.from_numpy(tokens.rows(np.arange(len(tokens))).astype(np.int32))


@pytest.mark.parametrize("arch", ARCHS)
def test_a_step_reads_nothing(arch: str, case_of: CaseOf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_resident", held)
    learner = Learner(case_of(arch), bench())
    learner.begin()
    learner.step(0)  # the optimizer makes its moments
    with Reads():
        losses = torch.stack([learner.step(step)[0] for step in (1, 2)])
        with pytest.raises(AssertionError, match="a step calls _local_scalar_dense"):
            losses[0].item()
    assert torch.isfinite(losses).all()


def test_orders_go_to_the_device_once_an_epoch(
    corpus: Path, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = Tokens(corpus, manifest.train, 32)
    mapped = Batches(tokens, 256, 3, 1, torch.device("cpu"))
    monkeypatch.setattr(module, "_resident", held)
    resident = Batches(tokens, 256, 3, 1, torch.device("cpu"))
    sent: list[int] = []
    made = torch.from_numpy

    def count(values: Any) -> Tensor:
        sent.append(len(values))
        return made(values)

    steps = range(2 * len(tokens) // 3)
    due = [mapped.at(step) for step in steps]
    monkeypatch.setattr(torch, "from_numpy", count)
    for step, batch in zip(steps, due, strict=True):
        for theirs, ours in zip(batch, resident.at(step), strict=True):
            assert torch.equal(theirs, ours)
    assert sent == [len(tokens)] * 2


def test_a_gpu_trains_in_a_graph_unless_experts_are_counted(manifest: Manifest, corpus: Path, tmp_path: Path) -> None:
    experts = pattern_spec("M-M-*E", "toy")
    assert default_mode(build_spec("inter", "20m"), "cuda") == "graph"
    assert default_mode(experts, "cuda") == "compile"
    assert default_mode(build_spec("inter", "20m"), "cpu") == "eager"
    where = place_of(corpus, tmp_path, False)
    ask = LearnOptions(tokens="2k", ctx="64", seeds=1, at_once=8)
    found = planned([build_spec("mamba", "toy"), experts], manifest, where, ask, True)
    assert [(one.execution.mode, one.graphed) for one in found] == [("graph", True), ("compile", False)]
    assert found[0].place.at_once == 2, "no more runs share a device than there are"


def test_runs_that_shared_a_device_say_so(case_of: CaseOf) -> None:
    alone = case_of(steps=2)
    shared = replace(alone, place=replace(alone.place, at_once=3))
    assert run_learn(shared, bench())[1] == [Caveat.AT_ONCE]
    assert run_learn(alone, bench())[1] == []
    assert shared.key == alone.key
