"""A sweep survives whatever a case does to its worker, and whatever happens to the sweep itself."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from hybridbench.cli.main import main
from hybridbench.dialogue import Dialogue
from hybridbench.errors import WorkerDied
from hybridbench.machine import usable_cores
from hybridbench.record import Status
from hybridbench.runner import Events, run_sweep
from hybridbench.store import RecordWriter, load, recorded
from hybridbench.suite.sweep import Sweep, cases
from hybridbench.worker import failure_of

HERE = Path(__file__).parent


@pytest.fixture(autouse=True)
def _importable_kernels(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(HERE))


def case_with(kernel, *, limit_s=60.0):
    sweep = Sweep(
        "prefill",
        arch="transformer",
        ctx="512",
        backends={"attention": f"faulty_kernels:{kernel}"},
        max_time_s=0.05,
        limit_s=limit_s,
    )
    return cases(sweep, has_gpu=False)[0]


@pytest.mark.slow
def test_each_failure_costs_one_case_and_is_recorded_with_its_status(tmp_path):
    planned = [case_with(kernel) for kernel in ("good", "oom", "wrong", "raises", "exits", "killed", "good")]
    seen = []
    with RecordWriter(tmp_path) as writer:
        records = run_sweep(planned, writer, events=Events(finished=seen.append))
    assert [record.case for record in records] == planned
    statuses = [record.status for record in records]
    crashed = Status.CRASHED
    assert statuses == [Status.OK, Status.OOM, Status.WRONG, crashed, crashed, crashed, Status.OK]
    assert seen == records
    stored = load([tmp_path], pytest.fail)
    assert {(r.case.key, r.status) for r in stored} == {(r.case.key, r.status) for r in records}

    good, oom, wrong, raised, exited, killed, _ = records
    assert good.observed is not None
    assert good.observed.samples_ns
    assert good.observed.backends[0].ran == "faulty_kernels:good"
    assert "20.00 GiB" in str(oom.message)
    assert oom.observed is None
    assert "disagrees with the reference" in str(wrong.message)
    assert "ZeroDivisionError" in str(raised.traceback)
    assert 'File "hybridbench/worker.py"' in str(raised.traceback), "no folder of this machine is recorded"
    assert sys.prefix not in str(raised.traceback)
    assert "code 3" in str(exited.message)
    assert "SIGKILL" in str(killed.message)
    assert "out of memory" in str(killed.message)
    assert str(killed.message).startswith("it ended 2 workers: "), "a process may be killed for what others do"
    assert str(killed.message).count("SIGKILL") == 2


@pytest.mark.slow
def test_a_case_whose_process_is_killed_once_has_its_record_all_the_same(tmp_path, monkeypatch):
    monkeypatch.setenv("KILLED_ONCE", str(tmp_path / "killed"))
    with RecordWriter(tmp_path) as writer:
        records = run_sweep([case_with("killed_once"), case_with("good")], writer)
    assert (tmp_path / "killed").exists()
    assert [record.status for record in records] == [Status.OK, Status.OK]


@pytest.mark.slow
def test_a_case_that_hangs_costs_itself_and_says_where(tmp_path, monkeypatch):
    """With limits that grow, until there is time enough to come to the kernel that hangs: other work may delay that."""
    hangs = tmp_path / "hangs"
    monkeypatch.setenv("HANGS", str(hangs))
    for limit_s in (4.0, 16.0, 64.0):
        with RecordWriter(tmp_path / f"{limit_s:g}") as writer:
            hung, good = run_sweep([case_with("hangs", limit_s=limit_s), case_with("good")], writer)
        assert (hung.status, good.status) == (Status.TIMED_OUT, Status.OK)
        assert f"not finished after {limit_s:g} s" in str(hung.message)
        assert "--limit" in str(hung.message)
        if hangs.exists():
            break
    assert "faulty_kernels.py" in str(hung.traceback), "the stack shows where it hung"
    assert str(hung.traceback).endswith("in _run_module_as_main"), "down to where the process began"


def test_a_case_that_cannot_run_here_says_why_and_nothing_runs_in_its_place(tmp_path):
    sweep = Sweep("decode", arch="mamba", ctx="64", backends={"ssd_step": "mamba-ssm"}, max_time_s=0.05)
    with RecordWriter(tmp_path) as writer:
        (record,) = run_sweep(cases(sweep, has_gpu=False), writer)
    assert record.status is Status.UNSUPPORTED
    assert record.observed is None
    assert "CUDA" in str(record.message)


def start_sweep(folder):
    command = [sys.executable, "-m", "hybridbench.cli.main", "decode", "--ctx", "64..512", "--arch", "mamba,inter"]
    command += ["--device", "cpu", "--max-time", "0.2", "-o", str(folder)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def wait_for_records(folder, count, process):
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        lines = sum(path.read_text().count("\n") for path in folder.glob("*.jsonl")) if folder.exists() else 0
        if lines >= count:
            return
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.02)
    pytest.fail("no record in time")


def workers_of(pid):
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid and fields[0] != "Z":
            found.append(int(status.parent.name))
    return found


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").exists(), reason="needs /proc to find a process's children")
def test_kill_9_keeps_what_was_finished_ends_the_worker_and_resume_does_the_rest(tmp_path):
    folder = tmp_path / "out"
    process = start_sweep(folder)
    wait_for_records(folder, 2, process)
    workers = workers_of(process.pid)
    assert workers
    process.kill()
    process.wait()
    process.stdout.close()
    deadline = time.monotonic() + 60
    while any(alive(pid) for pid in workers):
        assert time.monotonic() < deadline, "the worker outlives its parent"
        time.sleep(0.1)
    # What kill -9 may leave behind: a last line cut short.
    (partial,) = folder.glob("*.jsonl")
    with partial.open("a") as file:
        file.write(partial.read_text().splitlines()[0][:100])
    before = recorded(folder)
    assert 2 <= len(before) < 8

    command = [sys.executable, "-m", "hybridbench.cli.main", "decode", "--ctx", "64..512", "--arch", "mamba,inter"]
    command += ["--device", "cpu", "--max-time", "0.2", "-o", str(folder), "--resume"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert f"{len(before)} of 8 cases are recorded" in " ".join(done.stderr.split())
    warnings = []
    records = load([folder], warnings.append)
    assert len(records) == len({record.case.key for record in records}) == 8
    assert warnings, "the cut line is mentioned"


def test_ctrl_c_keeps_what_was_finished_and_says_how_to_go_on(tmp_path):
    folder = tmp_path / "out"
    process = start_sweep(folder)
    wait_for_records(folder, 1, process)
    os.kill(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "--resume" in output
    assert str(folder) in output
    assert "Traceback" not in output
    assert load([folder], pytest.fail)


@pytest.mark.slow
def test_a_folder_that_is_removed_during_the_run_ends_it_in_a_sentence(tmp_path):
    folder = tmp_path / "out"
    process = start_sweep(folder)
    wait_for_records(folder, 1, process)
    shutil.rmtree(folder)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 2, output
    (error,) = [line for line in output.splitlines() if line.startswith("error: ")]
    assert "was removed during the run" in error
    assert "Traceback" not in output
    assert "To go on" not in output


@pytest.mark.slow
def test_a_case_that_kills_the_first_worker_belongs_to_its_machine_all_the_same(tmp_path):
    with RecordWriter(tmp_path) as writer:
        (record,) = run_sweep([case_with("exits")], writer)
    assert record.status is Status.CRASHED
    assert record.environment.device_kind == "cpu"
    assert record.environment.cores > 0


@pytest.mark.slow
@pytest.mark.parametrize("asked", [None, usable_cores()])
def test_one_core_is_left_to_everything_else(asked, tmp_path, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if asked is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", str(asked))
    with RecordWriter(tmp_path) as writer:
        (record,) = run_sweep([case_with("good")], writer)
    assert record.environment.threads == (asked or max(1, usable_cores() - 1))


@pytest.mark.slow
def test_a_worker_that_cannot_start_again_costs_no_case_and_keeps_what_was_finished(tmp_path, monkeypatch):
    def then_break(record):
        # From now on every new process fails before it can greet.
        monkeypatch.setenv("PYTHONPATH", str(tmp_path / "broken"))

    broken = tmp_path / "broken" / "torch"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text("raise ImportError('torch is broken here')")
    planned = [case_with("good"), case_with("exits"), case_with("oom")]
    with RecordWriter(tmp_path / "out") as writer, pytest.raises(WorkerDied, match="torch is broken here"):
        run_sweep(planned, writer, events=Events(finished=then_break))
    stored = load([tmp_path / "out"], pytest.fail)
    assert [record.status for record in stored] == [Status.OK, Status.CRASHED]


@pytest.mark.slow
def test_a_case_that_ran_out_of_time_is_tried_again_when_it_is_given_more(tmp_path):
    def decode(limit):
        command = ["decode", "--arch", "mamba", "--ctx", "64", "--device", "cpu", "--max-time", "0.05"]
        return CliRunner().invoke(main, [*command, "--limit", limit, "-o", str(tmp_path), "--resume"])

    assert decode("0.001").exit_code == 1
    assert "0 to run" in decode("0.001").stderr
    again = decode("60")
    assert again.exit_code == 0, again.output
    assert [record.status for record in load([tmp_path], pytest.fail)] == [Status.TIMED_OUT, Status.OK]


@pytest.mark.slow
def test_resuming_with_other_sampling_says_why_cases_run_again(tmp_path):
    def decode(seconds):
        command = ["decode", "--arch", "mamba", "--ctx", "64", "--device", "cpu", "--max-time", seconds]
        return CliRunner().invoke(main, [*command, "-o", str(tmp_path), "--resume"])

    assert decode("0.05").exit_code == 0
    assert "0 to run" in decode("0.05").stderr
    assert "1 of those to run are recorded with other sampling" in decode("0.06").stderr


@pytest.mark.parametrize(
    "line",
    ["\x00garbage", "", "7", "[]", "{}", '{"kind": "phase"}', '{"kind": "answer", "fit": true, "status": "?"}'],
)
def test_a_line_that_is_no_message_ends_the_case_in_a_sentence(line, tmp_path):
    with RecordWriter(tmp_path) as writer:
        dialogue = Dialogue(writer)
        dialogue.hear('{"kind": "hello"}')
        assert dialogue.hear(line) is None, "without a case there is nothing to record"
        dialogue.begin(case_with("good"))
        record = dialogue.hear(line)
    assert not dialogue.fit
    assert record.status is Status.CRASHED
    assert record.message.startswith("the worker process wrote ")
    assert record.message.isprintable()
    (stored,) = load([tmp_path], pytest.fail)
    assert stored.message == record.message


def test_memory_of_the_host_that_is_used_up_is_told_in_words() -> None:
    said = (
        "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to "
        "allocate 6597069766656 bytes. Error code 12 (Cannot allocate memory)"
    )
    found = failure_of(RuntimeError(said))
    assert found["status"] is Status.OOM
    assert found["message"] == "memory for the CPU is used up: 6.00 TiB more were asked for."
    assert said in found["traceback"]
