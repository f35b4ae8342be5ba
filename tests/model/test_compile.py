"""Mode compile: every kind of sublayer compiled once, without a graph break, and the same numbers."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch._dynamo.utils import counters
from variants import VARIANTS

from hybridbench.bench import Bench, run_case
from hybridbench.errors import WrongResult
from hybridbench.kernels.dense import reference
from hybridbench.model import build_model, resolve_backends
from hybridbench.suite.case import Case, Execution, Sampling
from hybridbench.suite.workloads import DECODE, PREFILL, TRAIN, Workload
from hybridbench.workload import prepare

# Dynamo looks at .grad of a layer's input itself, which is no leaf, and its own warning then stops it.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf"),
]


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


def run(name: str, kind: str, **execution: Any) -> Any:
    case = Case(
        VARIANTS[name],
        Workload(kind, 24, 2),
        Execution("cpu", "float32", "compile", **execution),
        Sampling(warmup_max_s=0.0, min_samples=1, max_samples=1, max_time_s=0.01),
    )
    return run_case(case, Bench.open("cpu", lambda phase: None))[0]


@pytest.mark.parametrize("kind", [TRAIN, PREFILL, DECODE])
@pytest.mark.parametrize("name", ["inter", "intra"])
def test_compiled_layers_have_a_proof_of_their_own(name: str, kind: str) -> None:
    (proof,) = [use for use in run(name, kind).backends if use.op == "layers"]
    assert (proof.asked, proof.ran) == ("torch.compile", "torch.compile")
    assert 0 <= proof.error < 1e-4 < proof.bound


def test_experts_decode_past_the_compiler_where_it_does_not_know_their_products() -> None:
    """In float32, on a CPU: the graph breaks there, which the record says."""
    observed = run("moe transformer", DECODE)
    assert [use.op for use in observed.backends if use.ran == "torch.compile"] == ["layers"]
    assert counters["graph_break"]


def test_checkpointed_compiled_layers_have_one_too() -> None:
    assert "layers" in {use.op for use in run("inter", TRAIN, checkpoint="full").backends}


def run_with(swiglu: Callable[[torch.Tensor], torch.Tensor], kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A transformer's case on a kernel of one's own."""
    module = types.ModuleType("wrong_in_a_graph")
    vars(module)["swiglu"] = swiglu
    monkeypatch.setitem(sys.modules, module.__name__, module)
    run("transformer", kind, backends={"swiglu": "wrong_in_a_graph:swiglu"})


@pytest.mark.parametrize("kind", [TRAIN, PREFILL, DECODE])
@pytest.mark.parametrize("factor", [1.5, float("nan")])
def test_what_is_wrong_in_a_graph_only_is_not_timed(kind: str, factor: float, monkeypatch: pytest.MonkeyPatch) -> None:
    def swiglu(packed: torch.Tensor) -> torch.Tensor:
        out = reference.swiglu(packed)
        return out * factor if torch.compiler.is_compiling() else out

    with pytest.raises(WrongResult, match=r"compiled .* eager"):
        run_with(swiglu, kind, monkeypatch)


def test_a_gradient_that_only_a_graph_gets_wrong_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loss is right to the last digit."""

    def swiglu(packed: torch.Tensor) -> torch.Tensor:
        return reference.swiglu(2 * packed - packed.detach() if torch.compiler.is_compiling() else packed)

    with pytest.raises(WrongResult, match=r"gradient of .*: relative error .*Run with --mode eager"):
        run_with(swiglu, TRAIN, monkeypatch)


def test_a_proof_leaves_no_trace_in_what_experts_counted() -> None:
    model, work = prepared("moe transformer", TRAIN, "compile")
    assert work.verify is not None
    before = [buffer.clone() for buffer in model.buffers()]
    work.verify()
    assert all(torch.equal(*pair) for pair in zip(model.buffers(), before, strict=True))
    assert all(parameter.grad is None for parameter in model.parameters())
