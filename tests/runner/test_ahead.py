"""Kernels are compiled ahead in processes side by side, which time nothing and may fail."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hybridbench import ahead
from hybridbench.bench import Bench, Instruments, make_ready
from hybridbench.model.language import LanguageModel
from hybridbench.processes import Answering
from hybridbench.suite.sweep import Sweep, cases
from hybridbench.suite.workloads import DECODE, TRAIN


def planned(device: str = "cuda") -> list[Any]:
    sweeps = (Sweep(kind, arch="swa,inter", ctx="64,128", scale="tiny", device=device) for kind in (TRAIN, DECODE))
    return [case for sweep in sweeps for case in cases(sweep, has_gpu=True)]


class Scripted:
    """A process that answers each case at once, dies, or never answers."""

    started: list[Scripted]

    def __init__(self, gpu: str, behaviour: str) -> None:
        self.gpu, self.behaviour = gpu, behaviour
        self.asked: list[str] = []
        self.ended = False
        self._read, self._write = os.pipe()

    def fileno(self) -> int:
        return self._read

    def ask(self, line: str) -> None:
        self.asked.append(line)
        if self.behaviour == "dies":
            os.close(self._write)
            self.behaviour = "dead"
        elif self.behaviour == "answers":
            os.write(self._write, b'{"kind": "phase"}\n{"kind": "answer", "status": "ok"}\n')
        elif self.behaviour == "runs out":
            os.write(self._write, b'{"kind": "answer", "status": "oom", "message": "4 GiB more"}\n')

    def lines(self) -> list[str] | None:
        chunk = os.read(self._read, 1 << 16)
        return [line.decode() for line in chunk.splitlines()] if chunk else None

    def end(self) -> None:
        self.ended = True


@pytest.fixture
def processes() -> list[Scripted]:
    return []


def starting(processes: list[Scripted], *behaviours: str) -> Any:
    def start(_log: Path, gpu: str) -> Scripted:
        processes.append(Scripted(gpu, behaviours[len(processes) % len(behaviours)]))
        return processes[-1]

    return start


def test_a_process_takes_the_cases_of_one_model_and_workload(processes: list[Scripted], tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    start = starting(processes, "answers")
    ahead.compile_ahead(planned(), tmp_path, ["0", "1"], lambda *told: seen.append(told), start=start, cores=16)
    assert [len(process.asked) for process in processes] == [2, 2, 2, 2]
    assert [process.gpu for process in processes] == ["0", "1", "0", "1"]
    assert seen == [(0, 4), (1, 4), (2, 4), (3, 4), (4, 4)]
    assert all(process.ended for process in processes)
    for process in processes:
        models = {json.dumps(json.loads(line)["model"], sort_keys=True) for line in process.asked}
        assert len(models) == 1


def test_a_process_that_dies_stops_nothing(processes: list[Scripted], tmp_path: Path) -> None:
    missing = ahead.compile_ahead(planned(), tmp_path, ["0"], start=starting(processes, "dies", "answers"), cores=2)
    assert len(processes) == 4
    assert missing == ["a process ended before its cases were ready"] * 2


def test_what_a_case_ran_out_of_is_said(processes: list[Scripted], tmp_path: Path) -> None:
    missing = ahead.compile_ahead(planned(), tmp_path, ["0"], start=starting(processes, "runs out", "answers"), cores=2)
    assert missing == ["oom: 4 GiB more"] * 4  # two cases of two models


def test_as_many_run_at_once_as_the_memory_of_the_gpu_holds(processes: list[Scripted], tmp_path: Path) -> None:
    groups = ahead.groups_of(planned())
    needs = [ahead.needed_bytes(group) for group in groups]
    assert min(needs) > ahead.CONTEXT_BYTES
    clock = iter([0.0, ahead.LIMIT_S + 1])
    start, now, room = starting(processes, "never"), lambda: next(clock), sum(needs[:2])
    ahead.compile_ahead(planned(), tmp_path, ["0"], start=start, now=now, cores=8, free=lambda _gpu: room)
    assert len(processes) == 2


def test_a_case_too_large_for_the_gpu_is_tried_alone(processes: list[Scripted], tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    start = starting(processes, "answers")
    ahead.compile_ahead(
        planned(), tmp_path, ["0"], lambda *now: told.append(now), start=start, cores=8, free=lambda _gpu: 1
    )
    assert told[-1] == (4, 4)
    assert all(process.ended for process in processes)


def waiting() -> list[ahead.AheadGroup]:
    groups = ahead.groups_of(planned())
    return [ahead.AheadGroup(number, group, ahead.needed_bytes(group)) for number, group in enumerate(groups)]


def test_memory_that_is_given_back_is_taken_again() -> None:
    groups = waiting()
    need = max(group.needs for group in groups)
    rooms = ahead.Rooms({"0": need, "1": None})
    taken = [found for _ in range(5) if (found := rooms.next_of(groups)) is not None]
    assert sorted(group.number for group, _ in taken) == [0, 1, 2, 3]
    assert {gpu for _, gpu in taken} == {"1"}  # of unknown room, which is as much as any needs
    few = waiting()
    one = ahead.Rooms({"0": need})
    found, nothing = one.next_of(few), one.next_of(few)
    assert found is not None
    assert nothing is None
    one.give_back(found[1], found[0].needs)
    assert one.next_of(few) is not None


def test_after_the_limit_the_sweep_begins(processes: list[Scripted], tmp_path: Path) -> None:
    clock = iter([0.0, ahead.LIMIT_S + 1])
    start = starting(processes, "never")
    missing = ahead.compile_ahead(planned(), tmp_path, ["0"], start=start, now=lambda: next(clock), cores=2)
    assert missing == [f"4 of 4 models were not ready after {ahead.LIMIT_S:.0f} s"]
    assert [process.ended for process in processes] == [True, True]


def test_cases_of_a_cpu_compile_nothing_ahead(processes: list[Scripted], tmp_path: Path) -> None:
    ahead.compile_ahead(planned("cpu"), tmp_path, [], start=starting(processes, "answers"))
    assert processes == []


def test_what_is_ready_has_been_counted_too_unless_the_case_is_not() -> None:
    """A count runs without gradients, which has kernels of its own."""
    counted: list[Any] = []

    def count(work: Any, model: Any, resolved: Any) -> list[Any]:
        counted.append((work.step, model, resolved))
        return []

    bench = Bench.open("cpu", lambda _name: None, Instruments(count=count))
    case = planned("cpu")[0]
    make_ready(case, bench)
    ((_, model, resolved),) = counted
    assert isinstance(model, LanguageModel)
    assert resolved
    make_ready(replace(case, sampling=replace(case.sampling, max_samples=1)), bench)
    assert len(counted) == 1


@pytest.mark.slow
def test_a_real_process_makes_a_case_ready_and_observes_nothing(tmp_path: Path) -> None:
    case = next(case for case in planned("cpu") if case.workload.kind == DECODE)
    words = [sys.executable, "-m", "hybridbench.worker", "--ready", str(tmp_path)]
    process = Answering(words, tmp_path / "log", {"OMP_NUM_THREADS": "1"})
    try:
        process.ask(json.dumps(case.to_dict()))
        answers: list[dict[str, Any]] = []
        while not answers:
            lines = process.lines()
            assert lines is not None, process.tail()
            answers = [answer for line in lines if (answer := json.loads(line))["kind"] == "answer"]
    finally:
        process.end()
    assert (answers[0]["status"], answers[0]["observed"], answers[0]["fit"]) == ("ok", None, True)
