"""Workers that are started early import what their cases will use, and are those that the runner then uses."""

from __future__ import annotations

import io
import json
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click
import pytest

from hybridbench import worker
from hybridbench.cli import measuring
from hybridbench.cli.placing import Place
from hybridbench.early import SOON, Early
from hybridbench.processes import Answering, alive
from hybridbench.record import Status
from hybridbench.runner import run_sweep
from hybridbench.store import RecordWriter
from hybridbench.suite.sweep import Sweep, cases

GPU = "0"
"""A name only: the cases are a CPU's."""


def planned(**more: Any) -> list[Any]:
    sweep = Sweep("decode", arch="mamba", ctx="64", scale="tiny", device="cpu", max_time_s=0.05, **more)
    return cases(sweep, has_gpu=False)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The ids of all processes that are started with answers."""
    pids: list[int] = []
    real = Answering.__init__

    def noted(self: Answering, *args: Any, **more: Any) -> None:
        real(self, *args, **more)
        pids.append(self.pid)

    monkeypatch.setattr(Answering, "__init__", noted)
    return pids


def test_the_runner_takes_the_worker_that_was_started(started: list[int], tmp_path: Path) -> None:
    early = Early([GPU, GPU], planned(), tmp_path)
    with RecordWriter(tmp_path) as writer:
        (record,) = run_sweep(planned(), writer, gpus=[GPU], early=early)
    assert record.status is Status.OK
    assert len(started) == 1
    assert early.take(GPU) is None


@pytest.mark.slow
def test_one_that_ended_before_there_was_a_case_is_replaced(started: list[int], tmp_path: Path) -> None:
    early = Early([GPU], planned(), tmp_path)
    process = early.take(GPU)
    assert process is not None
    process.end()
    early._waiting[GPU] = Answering([sys.executable, "-c", ""], tmp_path / "log")
    with RecordWriter(tmp_path) as writer:
        (record,) = run_sweep(planned(), writer, gpus=[GPU], early=early)
    assert record.status is Status.OK
    assert len(started) == 3


def test_one_that_nobody_takes_is_ended(started: list[int], tmp_path: Path) -> None:
    early = Early([GPU], planned(), tmp_path)
    assert early.take("1") is None
    early.end()
    assert not any(alive(pid) for pid in started)
    assert not list(tmp_path.iterdir())


def test_they_are_there_while_kernels_are_compiled_and_gone_after_the_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    done: list[Any] = []

    class Noted(Early):
        def __init__(self, gpus: Any, soon: Any, folder: Path) -> None:
            done.append(("started", list(gpus), list(soon)))
            super().__init__([], soon, folder)

        def end(self) -> None:
            done.append("ended")

    monkeypatch.setattr(measuring, "Early", Noted)
    monkeypatch.setattr(measuring._Sweep, "_on_gpu", True)
    monkeypatch.setattr(measuring._Sweep, "_devices", (GPU,))
    monkeypatch.setattr(measuring, "_compile_ahead", lambda *_asked: done.append("compiled"))
    monkeypatch.setattr(Place, "run", lambda *asked: done.append(type(asked[-1])))
    with click.Context(click.Command("some")), pytest.raises(click.exceptions.Exit):
        measuring.measure_cases(planned(), "some", (), out=tmp_path, ahead=True)
    assert done == [("started", [GPU], planned()), "compiled", Noted, "ended"]


def test_where_one_does_not_start_the_others_end(
    started: list[int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    noted = Answering.__init__

    def second_fails(self: Answering, *args: Any, **more: Any) -> None:
        if started:
            raise OSError("no more processes")
        noted(self, *args, **more)

    monkeypatch.setattr(Answering, "__init__", second_fails)
    with pytest.raises(OSError, match="no more"):
        Early(["0", "1"], planned(), tmp_path / "new")
    assert [alive(pid) for pid in started] == [False]


def test_what_is_named_is_imported_and_has_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    resolved: list[Any] = []

    def resolve(case: Any) -> None:
        resolved.append(case)
        raise RuntimeError("left to the case itself")

    imported: list[str] = []
    monkeypatch.setattr(worker, "resolve_backends", resolve)
    monkeypatch.setattr(worker, "import_module", imported.append)
    answers = io.StringIO()
    soon = [*planned(), *planned(tp="2")]
    worker.serve([json.dumps({SOON: [case.to_dict() for case in soon]})], answers)
    assert [json.loads(line)["kind"] for line in answers.getvalue().splitlines()] == ["hello"]
    assert resolved == planned()
    assert [find_spec(name) is not None for name in imported] == [True]
