"""``merge`` of training runs, tasks, long contexts and traces: all are joined, weights too, and nothing is mixed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from hybridbench.arch.families import Options, build_spec
from hybridbench.cli.main import main
from hybridbench.dialogue import UNKNOWN
from hybridbench.quality.contexts.case import Beyond, ContextCase, There
from hybridbench.quality.contexts.record import ContextRecord
from hybridbench.quality.tasks.case import TaskCase
from hybridbench.quality.tasks.record import TaskRecord
from hybridbench.quality.tasks.task import TASKS
from hybridbench.quality.training.case import LearnCase
from hybridbench.quality.training.record import Judged, LearnObserved, LearnRecord
from hybridbench.record import Environment, Memory, Status
from hybridbench.record.traced import Spent, Trace, TraceRecord
from hybridbench.store import RecordWriter, load
from hybridbench.suite.case import Execution

CaseOf = Callable[..., LearnCase]
WHEN = "2026-11-29T00:00:00+00:00"
HERE = replace(UNKNOWN, device="NVIDIA H200", device_kind="cuda")


def learned(case: LearnCase, run: str, environment: Environment = HERE) -> LearnRecord:
    memory = Memory(1, None, None, None, None, None)
    curve = [Judged(case.steps, 2.0, 100, 50, 1, None)]
    place = f"weights/{case.key}.safetensors"
    seen = LearnObserved([2.0], [1.0], curve, [], True, [], [], 1, memory, [], [], 1, 1, weights=place)
    return LearnRecord(case, Status.OK, run, WHEN, environment, seen)


def write(folder: Path, *records: Any) -> None:
    """Records of one run, each with weights that name their run."""
    with RecordWriter(folder, records[0].run_id, type(records[0])) as writer:
        for record in records:
            writer.append(record)
            if isinstance(record, LearnRecord) and record.observed and record.observed.weights:
                path = folder / record.observed.weights
                path.parent.mkdir(exist_ok=True)
                path.write_text(f"{record.run_id} {record.case.seed}")


def merged(*words: object) -> Result:
    done = CliRunner(env={"COLUMNS": "200"}).invoke(main, ["merge", *map(str, words)])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done


def weights_in(folder: Path) -> dict[tuple[str, int], str]:
    found = load([folder], pytest.fail, kind=LearnRecord)
    return {
        (one.run_id, one.case.seed): (folder / one.observed.weights).read_text()
        for one in found
        if one.observed and one.observed.weights
    }


def test_training_runs_are_joined_with_their_weights_also_two_of_one_case(case_of: CaseOf, tmp_path: Path) -> None:
    first, second = (case_of("mamba", execution=Execution("cpu", "float32", "eager", seed=seed)) for seed in (0, 1))
    write(tmp_path / "a" / "below", learned(first, "run-a"), learned(second, "run-a"))
    write(tmp_path / "b", learned(first, "run-b"))
    done = merged(tmp_path / "a", tmp_path / "b", tmp_path / "b", "-o", tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert "3 records of 3 folders" in done.stderr
    assert "1 record stood in several" in done.stderr
    expected = {(run, seed): f"{run} {seed}" for run, seed in (("run-a", 0), ("run-a", 1), ("run-b", 0))}
    assert weights_in(tmp_path / "out") == expected
    assert merged(tmp_path / "out", "-o", tmp_path / "again").exit_code == 0
    assert weights_in(tmp_path / "again") == expected


@pytest.mark.parametrize(
    ("what", "change"),
    [("machines", {"device": "NVIDIA B200"}), ("versions", {"hybridbench": "9.0"})],
)
def test_training_runs_that_differ_are_refused_unless_told(
    case_of: CaseOf, tmp_path: Path, what: str, change: dict[str, Any]
) -> None:
    write(tmp_path / "a", learned(case_of("mamba"), "run-a"))
    write(tmp_path / "b", learned(case_of("mamba"), "run-b", replace(HERE, **change)))
    words = (tmp_path / "a", tmp_path / "b", "-o", tmp_path / "out")
    done = merged(*words)
    assert done.exit_code == 4
    assert f"the records are of different {what}" in done.stderr
    assert not (tmp_path / "out").exists()
    assert merged(*words, "--allow", what).exit_code == 0
    assert len(weights_in(tmp_path / "out")) == 2


def test_weights_that_are_not_below_their_folder_are_not_taken_along(case_of: CaseOf, tmp_path: Path) -> None:
    record = learned(case_of("mamba"), "run-a")
    assert record.observed is not None
    outside = tmp_path / "outside"
    outside.write_text("theirs")
    record = replace(record, observed=replace(record.observed, weights="../outside"))
    write(tmp_path / "a", replace(record, observed=replace(record.observed, weights=str(outside))))
    write(tmp_path / "b", replace(record, run_id="run-b"))
    done = merged(tmp_path / "a", tmp_path / "b", "-o", tmp_path / "deep" / "out")
    assert done.exit_code == 0, done.output
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["out"]
    assert not (tmp_path / "deep" / "out" / "weights").exists()


def test_tasks_long_contexts_and_traces_are_joined_each_as_its_kind(case_of: CaseOf, tmp_path: Path) -> None:
    learn = case_of("mamba")
    execution = Execution("cpu", "float32", "eager")
    setting = TASKS["mqar"].toy
    spec = replace(build_spec("mamba", "2x64", Options()), vocab_size=-(-setting.vocabulary // 64) * 64)
    task = TaskCase(spec, "mqar", "toy", setting, execution, 2)
    beyond = Beyond(3, 4, (128,), (0, 100), 3)
    context = ContextCase(
        learn.model, learn.key, learn.corpus, 32, 0, 768, beyond, 2, execution, There("corpus", "weights")
    )
    spent = [Spent("attention", "attention", 0.5, 1.0)]
    trace = Trace(0.5, 0.5, spent, spent, 1, ["attention"])
    for number, folder in enumerate(("a", "b")):
        run = f"run-{folder}"
        write(tmp_path / folder, TaskRecord(replace(task, evaluations=2 + number), Status.OOM, run, WHEN, HERE))
        write(tmp_path / folder, ContextRecord(replace(context, seed=number), Status.OOM, run, WHEN, HERE))
        write(tmp_path / folder, TraceRecord(learn.step_case, run, WHEN, HERE, trace))
    done = merged(tmp_path / "a", tmp_path / "b", "-o", tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert "6 records of 2 folders" in done.stderr
    for kind in (TaskRecord, ContextRecord, TraceRecord):
        both = load([tmp_path / "a", tmp_path / "b"], pytest.fail, kind=kind)
        assert sorted(map(repr, load([tmp_path / "out"], pytest.fail, kind=kind))) == sorted(map(repr, both))
        assert len(both) == 2
