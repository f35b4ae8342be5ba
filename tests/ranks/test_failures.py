"""What happens to one rank of a case ends that case with it said, and the next case starts with new processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from hybridbench.processes import alive
from hybridbench.record import Record, Status
from hybridbench.runner import run_sweep
from hybridbench.store import RecordWriter
from hybridbench.suite.case import Case
from hybridbench.suite.sweep import Sweep, cases
from hybridbench.team import Team, _first_to_fail, _RankState, _who_waits

HERE = Path(__file__).parent


@pytest.fixture(autouse=True)
def _importable_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def case_with(kernel: str, limit_s: float = 120.0, **spread: str) -> Case:
    sweep = Sweep(
        "train",
        arch="transformer",
        scale="toy",
        ctx="64",
        batch="2",
        device="cpu",
        backends={"attention": f"faulty_on_a_rank:{kernel}"},
        max_time_s=2.0,
        limit_s=limit_s,
        **(spread or {"tp": "2"}),
    )
    return cases(sweep, has_gpu=False)[0]


@pytest.mark.slow
def test_a_rank_that_dies_or_has_no_memory_costs_one_case_and_is_named(tmp_path: Path) -> None:
    planned = [case_with("good", gpus="2"), case_with("dies"), case_with("oom", gpus="2"), case_with("good")]
    with RecordWriter(tmp_path) as writer:
        good, dead, full, after = run_sweep(planned, writer)
    assert [one.status for one in (good, dead, full, after)] == [Status.OK, Status.CRASHED, Status.OOM, Status.OK]
    assert "rank 1 of 2 was killed by signal 9 (SIGKILL) while it was in phase 'measure'" in str(dead.message)
    assert str(full.message).startswith("rank 1 of 2: ")
    assert "20.00 GiB" in str(full.message)
    for record, spread in ((good, "FSDP2"), (after, "tensor parallel")):
        assert isinstance(record, Record)
        assert spread in record.case.label
        seen = record.observed
        assert seen is not None
        assert [rank.rank for rank in seen.ranks] == [0, 1]
        assert len({len(rank.samples_ns) for rank in seen.ranks} | {len(seen.samples_ns)}) == 1
        slowest = [max(run) for run in zip(*(rank.samples_ns for rank in seen.ranks), strict=True)]
        assert slowest == seen.samples_ns, "a step ends when its slowest rank has"
        assert seen.links is not None
        assert seen.silent_ns


@pytest.mark.slow
def test_a_rank_that_does_not_come_to_a_collective_is_named_with_it(tmp_path: Path) -> None:
    with RecordWriter(tmp_path) as writer:
        hung, after = run_sweep([case_with("hangs", limit_s=60.0), case_with("good")], writer)
    assert (hung.status, after.status) == (Status.TIMED_OUT, Status.OK)
    # on a busy machine the ranks may start so late that the case's limit is over before a collective's patience
    assert str(hung.message).startswith(("a collective has hung for ", "not finished after "))
    assert "rank 1 of 2 did not come to all_reduce, number " in str(hung.message)
    assert "where rank 0 waits" in str(hung.message)
    stacks = str(hung.traceback)
    assert "faulty_on_a_rank.py" in stacks.partition("rank 1:")[2], "where the rank is that does not come"
    assert "across.py" in stacks.partition("rank 1:")[0], "and where the other one waits"


@pytest.mark.slow
def test_no_rank_outlives_the_command(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "hybridbench", "train-throughput", "--arch", "transformer", "--scale", "toy"]
    words += ["--ctx", "64", "--batch", "2", "--device", "cpu", "--gpus", "2", "--max-time", "60", "-o", str(tmp_path)]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    ranks: set[int] = set()
    until = time.monotonic() + 60
    while len(ranks) < 2 and time.monotonic() < until:
        time.sleep(0.2)
        ranks = rank_processes()
    assert len(ranks) == 2
    process.send_signal(signal.SIGKILL)
    process.wait()
    until = time.monotonic() + 20
    while any(alive(rank) for rank in ranks) and time.monotonic() < until:
        time.sleep(0.2)
    assert not any(alive(rank) for rank in ranks)


def rank_processes() -> set[int]:
    """The rank processes on this machine whose command line says so."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if b"hybridbench.rank" in words and os.getpid() in ancestors(int(path.parent.name)):
            found.add(int(path.parent.name))
    return found


def ancestors(pid: int) -> list[int]:
    found = []
    while pid > 1:
        try:
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            break
        found.append(pid)
    return found


class Ended:
    """A process that says nothing more."""

    def tail(self) -> str:
        return ""


def judged(*ranks: dict[str, Any]) -> tuple[Status, str]:
    """The answer of a case whose ranks have these fields."""
    team = Team()
    process: Any = Ended()
    team._ranks = [_RankState(number, process, **fields) for number, fields in enumerate(ranks)]
    culprit = _first_to_fail(team._ranks)
    assert culprit is not None
    answer = team._failed(culprit)
    return answer["status"], answer["message"]


def said(status: Status, message: str) -> dict[str, Any]:
    return {"answer": {"status": status, "message": message, "traceback": None}}


def test_the_rank_that_began_it_is_blamed() -> None:
    lost = said(Status.CRASHED, "RuntimeError: connection closed by peer")
    killed = {"ended": "was killed by signal 11 (SIGSEGV)", "phase": "measure"}
    assert judged(lost, killed) == (
        Status.CRASHED,
        "rank 1 of 2 was killed by signal 11 (SIGSEGV) while it was in phase 'measure'",
    )
    assert judged(lost, said(Status.OOM, "no memory")) == (Status.OOM, "rank 1 of 2: no memory")
    assert judged({}, said(Status.WRONG, "the loss is nan")) == (Status.WRONG, "rank 1 of 2: the loss is nan")
    both = said(Status.UNSUPPORTED, "no such kernel")
    assert judged(both, both) == (Status.UNSUPPORTED, "no such kernel"), "it is the case's, and no rank's"


def at(begun: int, done: int, op: str) -> dict[str, object]:
    return {"begun": begun, "done": done, "op": op}


def test_who_waits_for_whom_is_read_from_the_numbers_of_collectives() -> None:
    behind = _who_waits({0: at(12, 11, "all_reduce"), 1: at(9, 9, "all_gather")}, 2)
    assert behind == ": rank 1 of 2 did not come to all_reduce, number 12, where rank 0 waits"
    both = _who_waits({0: at(12, 11, "all_reduce"), 1: at(12, 11, "all_reduce")}, 2)
    assert both == ": all ranks are in collective number 12 (all_reduce), which does not end"
    assert _who_waits({0: at(12, 12, "all_reduce"), 1: at(12, 12, "all_reduce")}, 2) == ""


def test_a_worker_that_sees_too_few_gpus_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hybridbench.team.visible_gpus", lambda: ["0"])
    sweep = Sweep("decode", arch="mamba", ctx="64", tp="2", device="cuda")
    (said,) = Team().answers(cases(sweep, has_gpu=True)[0])
    assert said["status"] is Status.UNSUPPORTED
    assert said["message"] == "2 ranks need a GPU each, and this worker sees 1"
    json.dumps(said)
