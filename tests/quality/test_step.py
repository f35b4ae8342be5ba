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
from torch.utils._pytree import tree_leaves
from typing_extensions import override

from hybridbench.arch.families import ARCHS, MIXED, Options, build_spec, pattern_spec
from hybridbench.bench import Bench, Instruments
from hybridbench.errors import BadInput, Unsupported
from hybridbench.quality.corpus.manifest import Manifest, Tokens
from hybridbench.quality.tasks import plan as tasks
from hybridbench.quality.tasks.case import TaskCase
from hybridbench.quality.tasks.examples import ExamplePart
from hybridbench.quality.tasks.run import TaskLearner
from hybridbench.quality.tasks.task import TASKS
from hybridbench.quality.training import batches as module
from hybridbench.quality.training import step as stepping
from hybridbench.quality.training.batches import Batches
from hybridbench.quality.training.case import LearnCase
from hybridbench.quality.training.plan import LearnOptions, default_mode, place_of, planned
from hybridbench.quality.training.run import Learner, run_learn
from hybridbench.record import Caveat
from hybridbench.suite.case import Execution

CaseOf = Callable[..., LearnCase]


class Reads(TorchDispatchMode):
    """Fails at an operation that waits for its result on a GPU: a number read, or a shape that depends on values."""

    WAITING = ("_local_scalar_dense", "item", "nonzero", "masked_select", "unique", "equal", "is_nonzero")

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in self.WAITING:
            raise AssertionError(f"a step calls {name}")
        return func(*args, **(kwargs or {}))


class Launches(Reads):
    """Notes every operation with the shapes of what it makes."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[tuple[str, list[torch.Size]]] = []

    @override
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = super().__torch_dispatch__(func, types, args, kwargs)
        self.made.append((str(func), [one.shape for one in tree_leaves(out) if isinstance(one, Tensor)]))
        return out


class Graphs:
    """Graphs on a CPU: a replay does the step again, which must launch what was captured, and read nothing.

    Attributes:
        replays: of each graph, in the order of captures.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.replays: list[int] = []
        monkeypatch.setattr(stepping, "captured_together", lambda steps: [self._captured(step) for step in steps])

    def _captured(self, step: Callable[[], object]) -> Callable[[], object]:
        step()  # warm
        with Launches() as due:
            step()
        number = len(self.replays)
        self.replays.append(0)

        def replay() -> None:
            self.replays[number] += 1
            with Launches() as found:
                step()
            assert found.made == due.made

        return replay


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
    modes = ("eager", "compile", "graph")
    assert default_mode(build_spec("inter", "20m"), "cuda", modes) == "graph"
    assert default_mode(experts, "cuda", modes) == "compile"
    assert default_mode(build_spec("inter", "20m"), "cpu", modes) == "eager"
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


def task_case(task: str, arch: str, mode: str, *train: ExamplePart) -> TaskCase:
    """Two epochs on a few examples, four a step."""
    setting = TASKS[task].toy
    parts = train or tuple(replace(part, examples=16) for part in setting.train)
    tests = tuple(replace(part, examples=6) for part in setting.test)
    setting = replace(setting, train=parts, test=tests, batch=4, epochs=2)
    options = Options(ratio="1:1") if arch in MIXED else Options()
    spec = replace(build_spec(arch, "2x64", options), vocab_size=-(-setting.vocabulary // 64) * 64)
    return TaskCase(spec, task, "toy", setting, Execution("cpu", "float32", mode), 2)


def task_learner(case: TaskCase) -> TaskLearner:
    learner = TaskLearner(case, bench())
    learner.begin()
    return learner


@pytest.mark.parametrize("task", TASKS)
def test_a_tasks_step_reads_nothing(task: str) -> None:
    learner = task_learner(task_case(task, "transformer", "eager"))
    learner.step(0)
    with Reads():
        losses = torch.stack([learner.step(step)[0] for step in range(1, learner.case.setting.steps_per_epoch)])
    assert torch.isfinite(losses).all()


LENGTHS = ExamplePart(32, 24, 2), ExamplePart(64, 16, 4), ExamplePart(64, 3, 8)
"""Of two lengths, 6 and 4 batches an epoch; the last has too few examples for a batch."""


@pytest.mark.parametrize("arch", ARCHS)
def test_graphs_of_several_lengths_learn_as_launches_do(arch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    graphs = Graphs(monkeypatch)
    eager, graph = (task_learner(task_case("mqar", arch, mode, *LENGTHS)) for mode in ("eager", "graph"))
    assert len(graphs.replays) == 2
    for learner in (eager, graph):
        learner.steps_until(10)
        learner.judge()  # in between, at lengths that no graph has
        learner.steps_until(20)
        learner.judge()
    assert sorted(graphs.replays) == [8, 12]
    assert graph.progress.losses == eager.progress.losses
    assert graph.progress.norms == eager.progress.norms
    assert graph.progress.curve[-1].correct_frac == eager.progress.curve[-1].correct_frac
    assert len(set(graph.progress.losses)) == 20
    assert set(graph.kinds(20)) == {0, 1}


def test_a_graph_of_a_corpus_learns_as_launches_do(case_of: CaseOf, monkeypatch: pytest.MonkeyPatch) -> None:
    graphs = Graphs(monkeypatch)
    eager = case_of()
    graph = replace(eager, execution=replace(eager.execution, mode="graph"))
    eager_seen, graph_seen = (run_learn(case, bench())[0] for case in (eager, graph))
    assert graphs.replays == [12]
    assert graph_seen.losses == eager_seen.losses
    assert graph_seen.gradient_norms == eager_seen.gradient_norms


def test_what_cannot_be_captured_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_steps: object) -> None:
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(stepping, "captured_together", fail)
    with pytest.raises(Unsupported, match=r"cannot be captured .* give another --mode, such as eager"):
        task_learner(task_case("parity", "transformer", "graph"))


def test_a_task_is_learned_in_graphs_on_a_gpu_unless_experts_are_counted() -> None:
    specs = [build_spec("inter", "2x64", Options(ratio="1:1")), pattern_spec("M-*E", "2x64")]

    def modes(mode: str | None = None, device: str | None = None, has_gpu: bool = True) -> list[str]:
        ask = tasks.TaskOptions(seeds=1, mode=mode, device=device)
        return [case.execution.mode for case in tasks.planned([TASKS["parity"]], lambda _: specs, ask, has_gpu)]

    assert modes() == ["graph", "eager"]
    assert modes("eager") == modes(device="cpu") == modes(has_gpu=False) == ["eager", "eager"]
    with pytest.raises(BadInput, match="has experts, whose tokens are counted on the host; give --mode eager"):
        modes("graph")
    with pytest.raises(BadInput, match="captures a CUDA graph: leave --mode out on a CPU"):
        modes("graph", "cpu")
    with pytest.raises(BadInput, match="unknown mode of training 'compile'"):
        modes("compile")
