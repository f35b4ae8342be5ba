"""Mode compile: every kind of sublayer compiled once, without a graph break, and the same numbers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch._dynamo.utils import counters
from variants import VARIANTS

from hybridbench.model import build_model, resolve_backends
from hybridbench.suite import PREFILL, TRAIN, Case, Execution, Workload
from hybridbench.workload import prepare

# Dynamo looks at .grad of a layer's input itself, which is no leaf, and its own warning then stops it.
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")


def prepared(name: str, kind: str, mode: str, checkpoint: str = "none") -> Any:
    execution = Execution("cpu", "float32", mode, checkpoint=checkpoint)
    case = Case(VARIANTS[name], Workload(kind, 24, 2), execution)
    model = build_model(case, resolve_backends(case))
    model.allocate(torch.device("cpu"), 0)
    return model, prepare(case, model)


@pytest.fixture(autouse=True)
def without_code_generation(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Dynamo's graphs are what is looked at; generating code for them takes a CPU half a minute."""
    compile_ = torch.compile
    monkeypatch.setattr(torch, "compile", lambda *args, **options: compile_(*args, backend="aot_eager", **options))
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize("checkpoint", ["none", "full"])
@pytest.mark.parametrize(("name", "kinds"), [("transformer", 2), ("inter", 3), ("intra", 3), ("moe transformer", 1)])
def test_a_training_step_compiles_each_kind_once(name: str, kinds: int, checkpoint: str) -> None:
    model, work = prepared(name, TRAIN, "compile", checkpoint)
    work.step()
    assert counters["stats"]["unique_graphs"] == kinds
    work.step()
    work.step()
    assert counters["stats"]["unique_graphs"] == kinds, "nothing is compiled again"
    assert not counters["graph_break"]
    other, plain = prepared(name, TRAIN, "eager")
    for _ in range(3):
        plain.step()
    assert work.loss() == pytest.approx(plain.loss(), rel=1e-4)
    for one, another in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(one, another, rtol=1e-3, atol=2e-4)


def test_a_prefill_compiles_each_kind_once_and_fills_the_same_caches() -> None:
    _, work = prepared("inter", PREFILL, "compile")
    token = work.step()
    assert torch.equal(token, work.step())
    assert counters["stats"]["unique_graphs"] == 3
    assert not counters["graph_break"]
    _, plain = prepared("inter", PREFILL, "eager")
    assert torch.equal(token, plain.step())
    for one, another in zip(work.caches, plain.caches, strict=True):
        torch.testing.assert_close(one.tensors(), another.tensors(), rtol=1e-4, atol=1e-5)


def test_the_eager_step_compiles_nothing() -> None:
    _, work = prepared("transformer", TRAIN, "compile")
    work.eager_step()
    assert counters["stats"]["unique_graphs"] == 0
