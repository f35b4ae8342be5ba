"""Cells of the same work are checked one by one and timed in turns; what cannot be is timed by itself and says why."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from hybridbench.bench import Bench
from hybridbench.dialogue import Dialogue
from hybridbench.kernel_suite import run, together
from hybridbench.kernel_suite.cell import BACKWARD, Budget, Cell
from hybridbench.kernel_suite.record import Agreement, Chosen, KernelRecord
from hybridbench.kernel_suite.run import ReadyCase, fitting
from hybridbench.kernel_suite.turns import PROCESS_ENDED, Turns, in_turns
from hybridbench.kernels.loading import backends
from hybridbench.measure import memory
from hybridbench.problem import Problem
from hybridbench.record import Status
from hybridbench.runner import run_sweep
from hybridbench.store import RecordWriter

CPU = torch.device("cpu")
SMALL = Budget(max_time_s=0.02, min_samples=3, max_samples=6)
PROBLEM = Problem("cpu", "float32", head_dim=16, n_heads=2, n_kv_heads=2, length=24, batch=2)
NAMES = ("sdpa-flash", "sdpa-blocks", "reference")
CELLS = [Cell("attention", name, PROBLEM, sampling=SMALL) for name in NAMES]


def said(turns: Turns) -> list[dict[str, Any]]:
    return list(together.work(turns, Bench(CPU, None, None, ceilings={"float32": None})))


def answered(messages: list[dict[str, Any]]) -> dict[int, dict[str, Any]]:
    return {one["case"]: one for one in messages if one["kind"] == "answer"}


def answers(turns: Turns) -> dict[int, dict[str, Any]]:
    return answered(said(turns))


def test_cells_of_the_same_work_are_one_job() -> None:
    longer = [replace(cell, problem=replace(PROBLEM, length=48)) for cell in CELLS]
    back = [replace(cell, direction=BACKWARD) for cell in CELLS]
    mixed = [cell for trio in zip(CELLS, longer, back, strict=True) for cell in trio]
    jobs = in_turns(mixed)
    assert [list(job.cells) for job in jobs] == [CELLS, longer, back]
    assert jobs[0].label == (
        "attention forward, batch=2 length=24 head_dim=16 n_heads=2 n_kv_heads=2 float32: "
        "sdpa-flash, sdpa-blocks, reference"
    )
    assert in_turns(CELLS[:1])[0].label == CELLS[0].label


def test_a_job_survives_the_way_to_its_process() -> None:
    known = {CELLS[0].key: Agreement("the reference", 1, "out", 1e-7, 1e-4, run="first"), "other": Agreement(None)}
    (job,) = in_turns(CELLS, known, [Chosen("fla.ops", "kernel", "[64, null]", "BM: 64")])
    back = Turns.from_dict(json.loads(json.dumps(job.to_dict())))
    assert back == replace(job, known={CELLS[0].key: known[CELLS[0].key]})


def test_each_is_checked_alone_and_all_are_timed_in_turns() -> None:
    messages = said(in_turns(CELLS)[0])
    assert [(one["kind"], one["case"]) for one in messages] == [
        *(("turn", place) for place in range(3)),
        ("turn", None),
        *((kind, place) for place in range(3) for kind in ("turn", "answer")),
    ]
    for place, one in answered(messages).items():
        assert one["status"] == "ok"
        assert one["observed"]["turns"] == [name for name in NAMES if name != NAMES[place]]
        assert one["observed"]["why_apart"] is None
        assert one["observed"]["pinned"] is False


def test_what_is_wrong_or_unsupported_drops_out_before_the_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    problem = Problem("cpu", "float32", width=16, length=8, batch=2)
    names = ("faulty:swapped", "triton", "faulty:right", "reference")
    found = answers(in_turns([Cell("swiglu", name, problem, sampling=SMALL) for name in names])[0])
    assert [found[place]["status"] for place in range(4)] == ["wrong", "unsupported", "ok", "ok"]
    assert found[2]["observed"]["turns"] == ["reference"]


def test_what_does_not_fit_together_is_timed_apart_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "free_bytes", lambda _device: 1000)
    for one in answers(in_turns(CELLS)[0]).values():
        assert one["status"] == "ok"
        assert one["observed"]["turns"] == []
        assert "and 1,000 B of memory are free" in one["observed"]["why_apart"]


def test_what_fits_takes_turns_and_the_rest_is_timed_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(together, "fitting", lambda some, _device: (some[::2], "all together need too much"))
    found = [one["observed"] for one in answers(in_turns(CELLS)[0]).values()]
    assert [one["turns"] for one in found] == [["reference"], [], ["sdpa-flash"]]
    assert [one["why_apart"] for one in found] == [None, "all together need too much", None]


def test_what_runs_out_of_memory_in_turns_is_timed_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    timed = together.timed_in_turns

    def limited(some: list[ReadyCase], bench: Bench) -> Any:
        if len(some) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return timed(some, bench)

    monkeypatch.setattr(together, "timed_in_turns", limited)
    found = answers(in_turns(CELLS)[0])
    assert {one["status"] for one in found.values()} == {"ok"}
    assert {one["observed"]["why_apart"] for one in found.values()} == {together.NO_ROOM}


def test_memory_is_that_of_the_inputs_and_of_a_call_for_each_side(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = Problem("cpu", "float32", width=64, length=100, batch=2)
    moved, peak = 2 * 100 * 64 * 3 * 4, 500_000

    def made(backend: str, peak: int) -> ReadyCase:
        return ReadyCase(
            Cell("swiglu", backend, problem), backends("swiglu")["reference"], len, Agreement(None), 0, peak
        )

    small, other = made("a", peak), made("b", peak)

    def kept(*some: ReadyCase, free: float | None) -> str:
        monkeypatch.setattr(run, "free_bytes", lambda _device: None if free is None else int(free / run.ROOM) + 1)
        return "".join(one.cell.backend for one in fitting(some, CPU)[0])

    needed = 2 * (2 * moved + peak)
    assert kept(small, other, free=needed) == "ab"
    assert kept(small, other, free=needed - 9) == "a"
    assert kept(small, other, free=9) == ""
    assert kept(small, other, free=None) == "ab", "nobody knows"
    large = [made(name, peak) for name, peak in (("x", 4 * run.LARGE_BYTES), ("y", 5 * run.LARGE_BYTES))]
    assert kept(*large, free=4 * moved + 5 * run.LARGE_BYTES) == "xy", "of large calls one is in memory at a time"
    assert kept(large[1], small, large[0], other, free=needed + run.LARGE_BYTES) == "ab", "the small ones take turns"


def test_free_memory_is_what_linux_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "meminfo").write_text("MemTotal:       10 kB\nMemAvailable:       7 kB\n")
    monkeypatch.setattr(memory, "MEMINFO", tmp_path / "meminfo")
    assert memory.free_bytes(CPU) == 7 * 1024
    monkeypatch.setattr(memory, "MEMINFO", tmp_path / "absent")
    assert memory.free_bytes(CPU) is None


def test_what_an_earlier_process_found_is_not_checked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    known = {cell.key: Agreement("the reference", 1, "out", 1e-7, 1e-4, guarded=True, run="first") for cell in CELLS}
    monkeypatch.setattr(run, "agreement", lambda *_: pytest.fail("checked again"))
    for one in answers(in_turns(CELLS, known)[0]).values():
        assert one["observed"]["agreement"]["run"] == "first"
        assert one["observed"]["check_ns"] >= 0
        assert "not_checked" not in one["caveats"]


# The runner and a process that ends.


def line(**body: Any) -> str:
    return json.dumps(body)


def test_a_joint_job_has_a_record_for_each_case_and_what_is_left_goes_back(tmp_path: Path) -> None:
    crash = {"kind": "answer", "case": 1, "status": "crashed", "message": "bad", "traceback": None, "fit": False}
    with RecordWriter(tmp_path, kind=KernelRecord) as writer:
        dialogue = Dialogue(writer)
        dialogue.begin(in_turns([replace(cell, limit_s=10.0) for cell in CELLS])[0])
        assert (dialogue.alone, dialogue.limit_s) == (False, 30.0)
        dialogue.hear(line(kind="turn", case=1))
        assert (dialogue.alone, dialogue.limit_s, dialogue.case.backend) == (True, 10.0, "sdpa-blocks")
        record = dialogue.hear(line(**crash))
        assert (record.case.backend, record.status, dialogue.fit) == ("sdpa-blocks", Status.CRASHED, False)
        (back,) = dialogue.take_back()
        assert [cell.backend for cell in back.cells] == ["sdpa-flash", "reference"]
        assert back.why_apart is None
        assert dialogue.case is None

        dialogue.begin(back)
        dialogue.hear(line(kind="turn", case=None))
        apart = dialogue.take_back(apart=True)
        assert [(job.cells[0].backend, job.why_apart) for job in apart] == [
            ("sdpa-flash", PROCESS_ENDED),
            ("reference", PROCESS_ENDED),
        ]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "apart", "turns"), [("ends", None, ["reference"]), ("ends_later", PROCESS_ENDED, [])])
def test_a_process_that_ends_costs_the_cell_that_ended_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, apart: str | None, turns: list[str]
) -> None:
    """In its check: the others take turns. In the turns: nobody knows whose fault it was, and each is timed apart."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    problem = Problem("cpu", "float32", width=16, length=8, batch=2)
    names = ("faulty:right", f"faulty:{name}", "reference")
    cells = [Cell("swiglu", one, problem, sampling=SMALL) for one in names]
    with RecordWriter(tmp_path, kind=KernelRecord) as writer:
        records = {one.case.backend: one for one in run_sweep(in_turns(cells), writer)}
    assert {one: records[one].status for one in names} == {
        "faulty:right": Status.OK,
        f"faulty:{name}": Status.CRASHED,
        "reference": Status.OK,
    }
    assert "ended with code" in str(records[f"faulty:{name}"].message)
    seen = records["faulty:right"].observed
    assert seen is not None
    assert (seen.why_apart, seen.turns) == (apart, turns)
