"""Tasks and long contexts on a GPU in bfloat16, by the package's kernels: every family learns, and reads far beyond."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from waits import waits_are_errors

from hybridbench.arch.families import ARCHS, MIXED, Options, build_spec
from hybridbench.bench import Bench, Instruments
from hybridbench.quality.contexts.case import Beyond, ContextCase, There
from hybridbench.quality.contexts.record import ContextObserved, Needle
from hybridbench.quality.contexts.run import Reader, run_contexts
from hybridbench.quality.corpus.build import CorpusPlan, build
from hybridbench.quality.corpus.sources import named_source
from hybridbench.quality.corpus.vocabulary import model_vocabulary
from hybridbench.quality.tasks.case import TaskCase
from hybridbench.quality.tasks.examples import ExamplePart
from hybridbench.quality.tasks.run import TaskLearner, run_task
from hybridbench.quality.tasks.task import TASKS, Setting
from hybridbench.quality.training.case import Judging, LearnCase, RunFiles
from hybridbench.quality.training.recipe import LearnRecipe
from hybridbench.quality.training.run import run_learn
from hybridbench.suite.case import Execution
from hybridbench.suite.ops import DECODE_STEP, OPS

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

ON_GPU = Execution("cuda", "bfloat16", "eager")
IN_GRAPH = replace(ON_GPU, mode="graph")
PLAIN = Execution(
    "cuda", "float32", "eager", backends=dict.fromkeys((op for op in OPS if op != DECODE_STEP), "reference")
)


def bench() -> Bench:
    return Bench.open("cuda", lambda _name: None, Instruments(ceilings=lambda _device, _dtype: None))


def task_case(task: str, arch: str, setting: Setting, execution: Execution) -> TaskCase:
    options = Options(ratio="1:1") if arch in MIXED else Options()
    spec = replace(build_spec(arch, "2x64", options), vocab_size=model_vocabulary(setting.vocabulary))
    return TaskCase(spec, task, "toy", setting, execution, 2)


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("task", ["mqar", "mad-compression", "parity"])
def test_every_family_learns_a_task(task: str, arch: str) -> None:
    setting = replace(TASKS[task].toy, epochs=2)
    seen, caveats = run_task(task_case(task, arch, setting, IN_GRAPH), bench())
    assert seen.finished
    assert not caveats
    guess = {"mqar": 64, "mad-compression": 16, "parity": 2}[task]
    assert seen.losses[-1] < math.log(guess)
    assert len(seen.curve[-1].correct_frac) == len(setting.test)


def learner(arch: str, execution: Execution) -> TaskLearner:
    """Of sequences of two lengths, judged at these and at a longer one."""
    train = ExamplePart(64, 640, 4), ExamplePart(128, 640, 16)
    setting = replace(TASKS["mqar"].toy, train=train, test=(*train, ExamplePart(256, 64, 16)), epochs=1)
    made = TaskLearner(task_case("mqar", arch, setting, execution), bench())
    made.begin()
    return made


@pytest.mark.parametrize("arch", ARCHS)
def test_graphs_of_two_lengths_learn_as_launches_do(arch: str) -> None:
    """Equal losses but for the order in which some kernels add, which from one eager run to the next differs too."""

    def learned(execution: Execution) -> tuple[np.ndarray, np.ndarray]:
        run = learner(arch, execution)
        for stop in (10, 20):
            run.judge()  # between the steps, so that what it allocates and keeps lies beside what graphs use
            run.steps_until(stop)
        assert set(run.kinds(20)) == {0, 1}
        return np.array(run.progress.losses), np.array(run.progress.norms)

    (eager, norms), (again, _), (graph, graph_norms) = (learned(how) for how in (ON_GPU, ON_GPU, IN_GRAPH))
    assert np.abs(graph[:5] - eager[:5]).max() < 2e-3, "the first steps of equal weights and batches"
    assert graph_norms[:5] == pytest.approx(norms[:5], rel=0.02)
    assert np.abs(graph - eager).max() <= max(3 * np.abs(again - eager).max(), 0.02)
    assert graph[-4:].mean() < graph[:4].mean()


@pytest.mark.parametrize("execution", [ON_GPU, IN_GRAPH], ids=lambda one: one.mode)
@pytest.mark.parametrize("arch", ARCHS)
def test_steps_of_a_task_do_not_wait_for_the_gpu(arch: str, execution: Execution) -> None:
    run = learner(arch, execution)
    losses = [run.step(step)[0] for step in range(10)]
    with waits_are_errors():
        losses += [run.step(step)[0] for step in range(10, 20)]
    assert torch.isfinite(torch.stack(losses)).all()


def learned_in(tmp_path: Path, arch: str) -> tuple[LearnCase, There]:
    """A model of 5m parameters after 60 steps of 32 sequences of 512 bytes, and where it and its text are."""
    folder = tmp_path / "corpus"
    source = named_source("python", "text", None)
    manifest = build([source], folder, CorpusPlan(held_out_frac=0.1, max_bytes=8_000_000), lambda _sentence: None)
    spec = replace(build_spec(arch, "5m"), vocab_size=manifest.model_vocabulary)
    place = RunFiles(str(folder), str(tmp_path))
    case = LearnCase(spec, manifest.key, 512, 32, 60, LearnRecipe(3e-3), ON_GPU, Judging(1, 32), place)
    learned, _ = run_learn(case, bench())
    return case, There(str(folder), str(tmp_path / str(learned.weights)))


@pytest.mark.parametrize("arch", ARCHS)
def test_every_family_is_read_to_four_times_its_length(arch: str, tmp_path: Path) -> None:
    case, there = learned_in(tmp_path, arch)

    def read(beyond: Beyond, execution: Execution) -> ContextObserved:
        asked = ContextCase(case.model, case.key, case.corpus, 512, 0, case.tokens, beyond, 10, execution, there)
        return run_contexts(asked, bench())[0]

    beyond = Beyond(4, 4, (256, 1024), (0, 50, 100), 10)
    seen = read(beyond, IN_GRAPH)
    assert seen.stretches[-1].last == 2048
    assert len(seen.needles) == 6
    assert all(math.isfinite(cell.loss) and 0 <= cell.found <= 10 for cell in seen.needles)
    plain = read(replace(beyond, lengths=(), trials=0), PLAIN)
    for fast, slow in zip(seen.stretches, plain.stretches, strict=True):
        assert fast.losses == pytest.approx(slow.losses, rel=0.05, abs=0.05)


def continued(reader: Reader) -> tuple[list[Needle], list[Tensor]]:
    """What is observed of needles, and the tokens that followed the prompts of each length (N, 20)."""
    said: dict[int, list[Tensor]] = {}
    after = reader.continuation.after

    def noting(token_BT: Tensor) -> Tensor:
        said.setdefault(token_BT.shape[1], []).append(after(token_BT))
        return said[token_BT.shape[1]][-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reader.continuation, "after", noting)
        found = list(reader.needles())
    return found, [torch.cat(some) for some in said.values()]


@torch.no_grad()
def missed_by(reader: Reader, said: list[Tensor]) -> tuple[Tensor, Tensor]:
    """How far below the likeliest each token that was said is, by forwards over whole sequences, as a share of what the
    likeliest is above the mean; and whether it is the likeliest.
    """
    shares, same = [], []
    for some, said_NA in zip(reader.texts.prompts, said, strict=True):
        prompt_NT = torch.from_numpy(some.ids[:, : some.length]).to(said_NA.device).long()
        said_NA = said_NA[: len(prompt_NT)]
        logits = reader.model(torch.cat((prompt_NT, said_NA[:, :-1]), 1))[:, some.length - 1 :].float()
        best, own = logits.amax(-1), logits.gather(-1, said_NA[..., None])[..., 0]
        shares.append(((best - own) / (best - logits.mean(-1))).flatten())
        same.append((own == best).flatten())
    return torch.cat(shares), torch.cat(same).float()


@pytest.mark.parametrize("arch", ARCHS)
def test_a_captured_continuation_says_what_an_eager_one_does(arch: str, tmp_path: Path) -> None:
    """33 prompts of each of three lengths, 8 at once, so that the last batch is filled up: eagerly, by the modules in a
    graph, and by the fused step where there is one. Whole forwards agree with each up to rounding.
    """
    case, there = learned_in(tmp_path, arch)
    beyond = Beyond(2, 4, (256, 500, 1024), (0, 50, 100), 11)
    modules = replace(IN_GRAPH, backends={DECODE_STEP: "modules"})
    found: dict[str, list[Needle]] = {}
    said: dict[str, list[Tensor]] = {}
    for name, execution in {"eager": ON_GPU, "modules": modules, "fused": IN_GRAPH}.items():
        asked = ContextCase(case.model, case.key, case.corpus, 512, 0, case.tokens, beyond, 8, execution, there)
        reader = Reader(asked, bench())
        _, caveats = reader.check()
        assert not caveats
        found[name], said[name] = continued(reader)
        shares, same = missed_by(reader, said[name])
        assert float(shares.max()) < 0.1, name
        assert float(same.mean()) > 0.9, name
    for name in ("modules", "fused"):
        for eager, captured in zip(said["eager"], said[name], strict=True):
            assert torch.equal(eager[:, 0], captured[:, 0]), "the first is the prefill's"
            assert float((eager == captured).float().mean()) > 0.7, name
        for before, after in zip(found["eager"], found[name], strict=True):
            assert after.loss == pytest.approx(before.loss, rel=1e-3)


def test_nothing_waits_for_the_device_between_prompts(tmp_path: Path) -> None:
    """Once the step is captured and kernels are compiled, a length goes through without a synchronisation."""
    case, there = learned_in(tmp_path, "inter")
    beyond = Beyond(2, 4, (256, 512), (0, 100), 8)
    asked = ContextCase(case.model, case.key, case.corpus, 512, 0, case.tokens, beyond, 8, IN_GRAPH, there)
    reader = Reader(asked, bench())
    reader.check()
    expected = list(reader.needles())
    ids, answers = reader._on_device(reader.texts.prompts)
    with waits_are_errors():
        through = [reader._through(*one) for one in zip(beyond.lengths, ids, answers, strict=True)]
    losses = torch.cat([loss_N for _, loss_N in through]).view(-1, 8).double().mean(1).tolist()
    assert losses == pytest.approx([cell.loss for cell in expected], rel=1e-5)
