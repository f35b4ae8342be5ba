"""A task is learned and judged as by hand, its record comes back, and a report holds stacks to what was published."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner, Result
from torch import Tensor
from typing_extensions import override

from hybridbench.arch.families import Options, build_spec, pattern_spec
from hybridbench.arch.model import ModelSpec
from hybridbench.bench import Bench, Instruments
from hybridbench.cli.main import main
from hybridbench.dialogue import UNKNOWN
from hybridbench.errors import BadInput, BadResults
from hybridbench.quality.tasks.anchors import expected_of
from hybridbench.quality.tasks.case import TaskCase
from hybridbench.quality.tasks.examples import IGNORED, ExamplePart
from hybridbench.quality.tasks.plan import TaskOptions, parse_rates, planned
from hybridbench.quality.tasks.record import Scored, TaskObserved, TaskRecord
from hybridbench.quality.tasks.render import write
from hybridbench.quality.tasks.report import build, rows
from hybridbench.quality.tasks.run import TaskLearner, run_task
from hybridbench.quality.tasks.task import TASKS, Setting
from hybridbench.quality.training.record import Mark
from hybridbench.record import Memory, Status
from hybridbench.suite.case import Execution


def case_of(task: str, arch: str = "transformer", **changes: Any) -> TaskCase:
    """A run of a few steps on a few examples, at two blocks of 64."""
    options = Options(ratio="1:1") if arch in ("inter", "intra", "swa") else Options()
    setting = TASKS[task].toy
    few = tuple(replace(part, examples=24) for part in setting.train)
    tests = tuple(replace(part, examples=10) for part in setting.test)
    setting = replace(setting, train=few, test=tests, batch=8, epochs=2, **changes)
    spec = replace(build_spec(arch, "2x64", options), vocab_size=-(-setting.vocabulary // 64) * 64)
    return TaskCase(spec, task, "toy", setting, Execution("cpu", "float32", "eager"), 2)


def learner_of(case: TaskCase) -> TaskLearner:
    instruments = Instruments(ceilings=lambda _device, _dtype: None)
    return TaskLearner(case, Bench(torch.device("cpu"), None, None, instruments=instruments))


@pytest.mark.parametrize("task", ["mqar", "mad-fuzzy-recall", "parity"])
@pytest.mark.parametrize("positions", [False, True])
@torch.no_grad()
def test_losses_and_answers_are_those_of_whole_logits(task: str, positions: bool) -> None:
    learner = learner_of(replace(case_of(task, "inter"), positions=positions))

    def logits_of(token_BT: Tensor) -> Tensor:
        if learner.positions is None:
            logits: Tensor = learner.model(token_BT)
            return logits
        position_TD = learner.positions.embedding_TD[: token_BT.shape[1]]
        return F.linear(learner.model.hidden(token_BT, position_TD=position_TD), learner.model.embedding_VD)

    examples = TASKS[task].train(learner.case.setting, learner.case.seed)
    loss = float(learner.loss_of(*learner._batch(0)))
    part, number_B = learner._batch(0)
    token_BT, target_BT = (
        torch.from_numpy(side)[number_B] for side in (examples[part].token_NT, examples[part].target_NT)
    )
    logits = logits_of(token_BT)
    assert loss == pytest.approx(
        float(F.cross_entropy(logits.flatten(0, 1), target_BT.flatten(), ignore_index=-100)), rel=1e-5
    )
    learner.judge()
    for found, tests in zip(
        learner.progress.curve[0].correct_frac, TASKS[task].test(learner.case.setting), strict=True
    ):
        said = logits_of(torch.from_numpy(tests.token_NT)).argmax(-1).numpy()
        asked = tests.target_NT != IGNORED
        assert found == pytest.approx((said == tests.target_NT)[asked].mean())


def test_what_is_pooled_is_read_at_the_end_only() -> None:
    learner = learner_of(case_of("mad-compression", "mamba"))
    assert learner.decoder is not None
    token_BT, place_A, target_A = learner.parts[0].rows(slice(3))
    with torch.no_grad():
        found, _ = learner._asked_of((token_BT, place_A, target_A))
        last = learner.model.hidden(token_BT)[:, -1]
        due = learner.decoder(last).flatten(0, 1)
        other = learner.decoder(last.flip(0)).flatten(0, 1)
    assert torch.equal(found, due)
    assert not torch.allclose(found, other)
    learner.begin()
    before = [weight.clone() for weight in learner.decoder.parameters()]
    learner.steps_until(2)
    assert all(not torch.equal(one, two) for one, two in zip(before, learner.decoder.parameters(), strict=True))


def planned_specs(task: str, size: str, *specs: ModelSpec) -> list[TaskCase]:
    return planned([TASKS[task]], lambda _setting: specs, TaskOptions(size, seeds=1), has_gpu=False)


def test_stacks_of_attention_learn_positions_of_a_task_that_was_published_so() -> None:
    patterns = ("*-*-", "*E*E", "S-*-", "M-*-", "C-*-", "M-(*&M)-")
    specs = [pattern_spec(pattern, "2x64") for pattern in patterns]
    ropes = {
        case.model.pattern: (
            case.positions,
            {block.rope for block in case.model.blocks.values() if hasattr(block, "rope")},
        )
        for case in planned_specs("mqar", "full", *specs)
    }
    assert list(ropes) == list(patterns)
    for pattern in ("*-*-", "*E*E", "S-*-"):
        assert ropes[pattern] == (True, {None})
    for pattern in ("M-*-", "C-*-", "M-(*&M)-"):
        assert not ropes[pattern][0]
        assert None not in ropes[pattern][1]
    for task, size in (("mqar", "toy"), ("parity", "full")):
        for spec, case in zip(specs, planned_specs(task, size, *specs), strict=True):
            assert not case.positions
            assert case.model.blocks == spec.blocks


@torch.no_grad()
def test_a_position_is_added_to_the_embedding() -> None:
    model = learner_of(case_of("mqar", "inter")).model
    token_BT, position_TD = torch.arange(20, 36)[None], torch.randn(16, 64)
    found = model.hidden(token_BT, position_TD=position_TD)
    assert not torch.allclose(found, model.hidden(token_BT))
    model.embedding_VD[20:36] += position_TD
    torch.testing.assert_close(found, model.hidden(token_BT))


def test_positions_are_learned_where_they_are_trained() -> None:
    case = replace(case_of("mqar"), positions=True)
    learner = learner_of(case)
    assert learner.positions is not None
    assert len(learner.positions.embedding_TD) == 64
    before = learner.positions.embedding_TD.detach().clone()
    learner.begin()
    learner.steps_until(3)
    after = learner.positions.embedding_TD.detach()
    share = after / before
    torch.testing.assert_close(share[32:], share[-1:, -1:].expand(32, 64))  # decay alone
    assert (after[:31] - before[:31]).abs().mean(1).min() > 1e-3
    assert TaskCase.from_dict(json.loads(json.dumps(case.to_dict()))) == case


def test_a_case_from_before_positions_is_read_as_one_without() -> None:
    case = case_of("mqar")
    body = case.to_dict()
    del body["positions"]
    assert TaskCase.from_dict(body).key == case.key != replace(case, positions=True).key


def test_an_epoch_shows_every_example_once_in_an_order_of_the_seed() -> None:
    orders = []
    for arch, seed in (("transformer", 1), ("mamba", 1), ("mamba", 2)):
        case = case_of("mqar", arch)
        learner = learner_of(replace(case, execution=replace(case.execution, seed=seed)))
        batches = [(part, number_B.tolist()) for part, number_B in learner._order(0)]
        seen = sorted((part, number) for part, numbers in batches for number in numbers)
        assert seen == [(part, number) for part in range(2) for number in range(24)]
        orders.append(batches)
    assert orders[0] == orders[1] != orders[2]


@pytest.mark.parametrize("arch", ["swa", "intra"])
def test_a_run_is_observed_and_comes_back(arch: str) -> None:
    case = case_of("parity", arch)
    assert TaskCase.from_dict(json.loads(json.dumps(case.to_dict()))) == case
    seen, caveats = run_task(case, Bench(torch.device("cpu"), None, None))
    assert [point.step for point in seen.curve] == [0, 3, 6]
    assert seen.finished
    assert not caveats
    assert seen.sized
    record = TaskRecord(case, Status.OK, "run", "2026-11-29T00:00:00+00:00", UNKNOWN, seen)
    assert TaskRecord.from_json(record.to_json()) == record
    wrong = record.to_json().replace('"correct_frac":[', '"correct_frac":[7.0,', 1)
    with pytest.raises(BadResults, match="curve has a point without 3 shares from 0 to 1"):
        TaskRecord.from_json(wrong)


def test_a_run_ends_where_the_task_is_solved() -> None:
    case = case_of("parity", solved=0.1)
    assert [point.step for point in run_task(case, Bench(torch.device("cpu"), None, None))[0].curve] == [0, 3]


class Scripted(TaskLearner):
    """A run whose losses are a script: of the part that a batch is of, and of the step."""

    def losses(self, part: int, step: int) -> float:
        return (8.0, 0.5)[part]

    @override
    def step(self, step: int) -> tuple[Tensor, Tensor]:
        part, _ = self._batch(step)
        return torch.tensor(self.losses(part, step)), torch.ones(())

    @override
    def judge(self) -> bool:
        self.progress.curve.append(Scored(self.progress.step, [0.0] * 3, 1, None))
        return False


class Worse(Scripted):
    @override
    def losses(self, part: int, step: int) -> float:
        return super().losses(part, step) + (1.5 if part == 0 and step >= 150 else 0.0)


def scripted(kind: type[Scripted]) -> Scripted:
    """A finished run of 300 steps, half of them of each part, with a pause at every sixth."""
    case = case_of("mqar")
    learner = kind(replace(case, setting=replace(case.setting, epochs=50)), Bench(torch.device("cpu"), None, None))
    learner.progress.curve.append(Scored(0, [0.0] * 3, 1, None))
    learner.train()
    return learner


def test_parts_of_different_loss_are_no_spikes_and_no_divergence() -> None:
    learner = scripted(Scripted)
    assert learner.progress.step == 300
    assert learner.progress.events == []
    assert set(learner.progress.losses) == {8.0, 0.5}


def test_a_part_that_gets_worse_ends_the_run() -> None:
    learner = scripted(Worse)
    events = learner.progress.events
    assert events[0].mark is Mark.SPIKE
    assert events[-1].mark is Mark.DIVERGED
    assert {event.loss for event in events} == {9.5}
    assert 150 < learner.progress.step < 300


def test_equal_seeds_learn_equally() -> None:
    first, again = (run_task(case_of("mqar"), Bench(torch.device("cpu"), None, None))[0] for _ in range(2))
    assert first.losses == again.losses


def record(case: TaskCase, *correct: float) -> TaskRecord:
    curve = [Scored(0, [0.0] * len(correct), 0, None), Scored(case.steps, list(correct), 1_000_000_000, None)]
    memory = Memory(1, None, None, None, None, None)
    seen = TaskObserved([1.0], curve, [], True, [], 1, memory, [], [], 1, 1)
    return TaskRecord(case, Status.OK, "run", "2026-11-29T00:00:00+00:00", UNKNOWN, seen)


def cells(records: list[TaskRecord], table: str) -> dict[object, dict[str, object]]:
    made = build(records).tables[table]
    keys = [column.key for column in made.columns]
    return {row[0].value: dict(zip(keys, (cell.value for cell in row), strict=True)) for row in made.rows}


def test_published_expectations_can_fail(tmp_path: Path) -> None:
    mqar, parity, mamba = case_of("mqar"), case_of("parity"), case_of("parity", "mamba")
    right = cells([record(mqar, 1.0, 0.995, 0.2), record(mamba, 1.0, 0.5, 0.52)], "solve-mqar-toy")["transformer"]
    assert right["as_expected"] == "yes"
    assert cells([record(mqar, 1.0, 0.97, 1.0)], "solve-mqar-toy")["transformer"]["as_expected"] == "NO"
    wrong = cells([record(parity, 0.95, 0.5, 0.5), record(mamba, 1.0, 1.0, 1.0)], "solve-parity-toy")
    assert wrong["transformer"]["as_expected"] == "yes"
    assert wrong["mamba"]["as_expected"] == "NO"
    assert "eigenvalues in [0, 1]" in str(wrong["mamba"]["expected"])
    page = write(build([record(mamba, 1.0, 0.5, 0.5)]), tmp_path / "report").read_text()
    assert page.startswith("# Tasks\n")
    assert (tmp_path / "report" / "charts" / "solve-parity-toy.svg").exists()
    assert (tmp_path / "report" / "tables" / "solve-runs.csv").read_text().count("\n") == 1 + 3


@pytest.mark.parametrize(
    ("task", "arch", "correct", "agrees", "word"),
    [
        ("parity", "mamba", (1.0, 0.9, 0.5), True, "yes"),
        ("parity", "mamba", (0.51, 0.5, 0.5), None, "cannot be told"),
        ("parity", "transformer", (0.9, 0.5, 0.5), True, "yes"),
        ("parity", "transformer", (0.89, 0.5, 0.5), None, "cannot be told"),
        ("parity", "transformer", (0.5, 0.5, 0.7), False, "NO"),
        ("s5", "mamba", (0.03, 0.01, 0.01), None, "cannot be told"),
        ("s5", "transformer", (0.04, 0.01, 0.2), False, "NO"),
        ("s5", "inter", (0.04, 0.01, 0.01), None, "-"),
        ("mqar", "transformer", (0.5, 0.2, 0.1), False, "NO"),
    ],
)
def test_failing_beyond_tells_nothing_of_who_has_not_learned(
    task: str, arch: str, correct: tuple[float, ...], agrees: bool | None, word: str
) -> None:
    report = build([record(case_of(task, arch), *correct)])
    (stack,) = report.stacks[f"{task}-toy"]
    assert (stack.as_expected, stack.verdict, rows(report)[0]["stack_as_expected"]) == (agrees, word, agrees)
    said = "one that has learned nothing fails too" in " ".join(report.tables[f"solve-{task}-toy"].remarks)
    assert said is (word == "cannot be told")


def test_one_of_a_thing_is_no_plural() -> None:
    case = case_of("parity")
    one = replace(case, setting=replace(case.setting, epochs=1))
    made = record(one, 1.0, 0.5, 0.5)
    heading = build([replace(made, environment=replace(made.environment, threads=1))]).tables["solve-parity-toy"].about
    assert ", 1 thread: " in str(heading)
    assert ", 1 epoch, " in str(heading)


@pytest.mark.parametrize(
    ("pattern", "known"),
    [("*-*-", True), ("M-M-", True), ("M-*-", False), ("G-G-", True), ("7-7-", False), ("K-K-", False)],
)
def test_nothing_is_expected_of_what_nobody_published(pattern: str, known: bool) -> None:
    assert (expected_of("parity", pattern_spec(pattern, "2x64")) is not None) is known


def test_each_model_stands_at_its_best_rate_over_seeds() -> None:
    case = case_of("mqar")
    slow = replace(case, setting=replace(case.setting, lr=1e-3))
    seed = replace(case.execution, seed=1)
    records = [
        record(case, 0.5, 0.5, 0.1),
        record(replace(case, execution=seed), 0.7, 0.5, 0.1),
        record(slow, 0.4, 0.6, 0.9),
    ]
    row = cells(records, "solve-mqar-toy")["transformer"]
    assert row["lr"] == 3e-3
    assert row["correct_frac_32x2"] == pytest.approx(0.6)
    assert row["seeds"] == 2


def test_a_table_says_which_stacks_learn_positions() -> None:
    case = case_of("mqar")
    said = [
        build([record(one, 1.0, 1.0, 0.2)]).tables["solve-mqar-toy"] for one in (case, replace(case, positions=True))
    ]
    assert ["have no RoPE" in " ".join(table.remarks) for table in said] == [False, True]


def test_the_head_of_a_table_says_what_is_beyond_training() -> None:
    headings = [
        column.heading
        for column in build([record(case_of("parity"), 1.0, 0.5, 0.5)]).tables["solve-parity-toy"].columns
    ]
    assert headings[5:8] == ["40", "41-64 *", "65-128 *"]


def typed(*words: object) -> Result:
    return CliRunner(env={"COLUMNS": "200"}).invoke(main, [str(word) for word in words])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--task", "mqr"), "unknown task 'mqr': did you mean 'mqar'?"),
        (("--size", "small"), "unknown size 'small'"),
        (("--seeds", "0"), "--seeds 0: give a number from 1"),
        (("--epochs", "0"), "--epochs 0: give a number from 1"),
        (("--batch", "0"), "--batch 0: give 1 or more"),
        (("--batch", "9999"), "--batch 9999 is more than mqar has examples"),
        (("--lr", "fast"), "--lr 'fast' is no list of numbers"),
        (("--lr", "1e-3,-1"), "every learning rate must be above 0"),
        (("--evals", "0"), "--evals 0: give a number"),
        (("--limit", "0"), "--limit 0: give seconds above 0"),
        (("--mode", "graph"), "--mode graph captures a CUDA graph: leave --mode out on a CPU"),
        (("--mode", "compile"), "unknown mode of training 'compile'"),
        (("--arch", "mambo"), "unknown arch 'mambo': did you mean 'mamba'?"),
        (("--resume",), "--resume without -o"),
        (("--arch", "transformer", "--ratio", "1:1"), "--ratio"),
    ],
)
def test_mistakes_are_sentences(options: tuple[str, ...], said: str) -> None:
    done = typed("solve", "--device", "cpu", *options)
    assert done.exit_code == 2, done.output
    assert said in done.stderr
    assert "Traceback" not in done.output


def test_a_dry_run_lists_stacks_of_the_tasks_width() -> None:
    done = typed(
        "solve", "--task", "mqar,s5", "--size", "full", "--seeds", 2, "--lr", "1e-3,1e-2", "--dry-run", "--json"
    )
    assert done.exit_code == 0, done.output
    cases = json.loads(done.stdout)["cases"]
    assert len(cases) == len({case["key"] for case in cases}) == 2 * 5 * 2 * 2
    assert {case["model"]["d_model"] for case in cases if case["task"] == "mqar"} == {64}
    assert {case["model"]["d_model"] for case in cases if case["task"] == "s5"} == {128}
    patterns = {"*-*-", "S-*-", "M-M-", "M-*-", "M-(*&M)-"}
    assert {case["model"]["pattern"] for case in cases} == patterns


def test_numbers_that_cannot_be_are_told_before_anything_runs() -> None:
    def models(_setting: Setting) -> list[ModelSpec]:
        return [build_spec("mamba", "2x64")]

    assert len(planned([TASKS["parity"]], models, TaskOptions(seeds=2), has_gpu=False)) == 2
    with pytest.raises(BadInput, match="--seeds 0"):
        planned([TASKS["parity"]], models, TaskOptions(seeds=0), has_gpu=False)
    assert parse_rates("1e-3,1e-3,2e-3") == [1e-3, 2e-3]


def test_published_settings_are_those_of_their_sources() -> None:
    mqar = TASKS["mqar"].full
    assert [(part.length, part.pairs, part.examples) for part in mqar.train] == [
        (64, 4, 100_000), (128, 8, 20_000), (256, 16, 20_000), (256, 32, 20_000), (256, 64, 20_000)
    ]  # fmt: skip
    assert [(part.length, part.pairs) for part in mqar.test] == [
        (64, 4), (64, 8), (64, 16), (128, 32), (256, 64), (512, 128), (1024, 256)
    ]  # fmt: skip
    assert (mqar.vocabulary, mqar.batch, mqar.width) == (8192, 256, 64)
    assert [mqar.within(part) for part in mqar.test] == [True] * 5 + [False] * 2
    for name, length, vocabulary in (
        ("in-context-recall", 128, 16),
        ("noisy-recall", 128, 32),
        ("compression", 32, 16),
    ):
        mad = TASKS[f"mad-{name}"].full
        assert (mad.train, mad.test) == ((ExamplePart(length, 12_800),), (ExamplePart(length, 1280),))
        assert (mad.vocabulary, mad.width, mad.batch, mad.epochs, mad.lr) == (vocabulary, 128, 128, 200, 5e-4)
    assert TASKS["mad-memorisation"].full.train[0].examples == 256
    assert [part.length for part in TASKS["parity"].full.test] == [40, 64, 128, 256]


@pytest.mark.slow
@pytest.mark.timeout(900)  # 90 s of a core, of which a busy machine gives little
@pytest.mark.parametrize(("task", "arch"), [("mqar", "transformer"), ("parity", "mamba")])
def test_toy_sizes_show_what_was_published(task: str, arch: str, tmp_path: Path) -> None:
    common = ("--size", "toy", "--seeds", 1, "--device", "cpu")
    done = typed("solve", "--task", task, "--arch", arch, *common, "--json", "-o", tmp_path / "out")
    assert done.exit_code == 0, done.output
    run = json.loads(done.stdout)["runs"][0]
    assert run["stack_as_expected"] is (True if task == "mqar" else None), run["parts"]  # toy parity is not learned
    shown = typed("report", tmp_path / "out")
    assert shown.exit_code == 0, shown.output
    assert f"{task}: share of right answers" in " ".join(shown.output.split())
    if task == "parity":
        assert run["parts"][-1]["correct_frac"] == pytest.approx(0.5, abs=0.1)
