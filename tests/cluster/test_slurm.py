"""Workers as jobs of a real Slurm on this machine: every case once, also when a node dies in the middle."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from slurm_here import WHY_NOT, Slurm

from hybridbench.queue.plan import find
from hybridbench.store import load

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT or "-"),
    pytest.mark.timeout(900),
]

SUITE = """
name = "shared"
[defaults]
scale = "tiny"
device = "cpu"
max_time_s = 0.3
[[sweep]]
workload = "decode"
arch = "transformer,mamba"
ctx = "64..512"
"""
CASES = 8


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    pytest.importorskip("submitit")
    running = Slurm(tmp_path_factory.mktemp("slurm"))
    yield running
    running.stop()


@pytest.fixture
def suite(tmp_path):
    path = tmp_path / "shared.toml"
    path.write_text(SUITE)
    return path


def hybridbench(slurm, *words, **settings):
    return subprocess.Popen(
        [sys.executable, "-m", "hybridbench", *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**slurm.environment, **settings},
    )


def said(slurm, *words):
    process = hybridbench(slurm, *words)
    text, _ = process.communicate(timeout=120)
    return process.returncode, " ".join(text.split())


def records(folder):
    return sum(file.read_bytes().count(b"\n") for file in folder.glob("records-*.jsonl"))


def each_worker_recorded(folder):
    return sum(b"\n" in file.read_bytes() for file in folder.glob("records-*.jsonl")) == 2


def until(done, process, limit_s=400.0):
    ends_at = time.monotonic() + limit_s
    while not done():
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < ends_at, "not in time"
        time.sleep(0.1)


def each_once(folder):
    found = load([folder], pytest.fail)
    assert sorted(Counter(record.case.key for record in found).values()) == [1] * CASES
    assert {record.status for record in found} == {"ok"}
    return found


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (("--workers", 3), "--workers 3: partition small has 2 cores in all: give --workers 2."),
        (("--workers", 2, "--partition", "tiny"), "partition tiny has 1 core in all: give --workers 1."),
        (("--workers", 1, "--partition", "big"), "--partition 'big': the cluster has small, tiny."),
        (("--workers", 1, "--slurm", "account"), "--slurm 'account': give an option of sbatch with its value"),
        (("--workers", 1, "--slurm", "time=forever"), "sbatch refused the workers: Invalid --time specification"),
    ],
)
def test_what_the_cluster_does_not_have_is_told_before_anything_runs(slurm, suite, tmp_path, words, error):
    code, text = said(slurm, "run", suite, "-o", tmp_path / "out", "--on", "slurm", *words)
    assert code == 2
    assert error in text
    assert "Traceback" not in text
    assert slurm.jobs() == []


def test_a_node_that_dies_in_the_middle_costs_its_lease_and_every_case_runs_once(slurm, suite, tmp_path):
    out = tmp_path / "out"
    process = hybridbench(slurm, "run", suite, "-o", out, "--on", "slurm", "--workers", 2, HYBRIDBENCH_LEASE_S="15")
    until(lambda: each_worker_recorded(out), process)
    code, text = said(slurm, "status", out)
    assert code == 0
    assert "2 RUNNING" in text
    assert "2 workers" in text
    slurm.kill_node("n2")
    try:
        text, _ = process.communicate(timeout=600)
    finally:
        slurm.start_node("n2")
    assert process.returncode == 0, text
    assert len({record.run_id for record in each_once(out)}) == 1
    assert len(list(out.glob("records-*.jsonl"))) == 2, "a file for each worker"
    assert find(out) is None


def test_ctrl_c_cancels_the_jobs_and_resume_does_the_rest(slurm, suite, tmp_path):
    out = tmp_path / "out"
    process = hybridbench(slurm, "run", suite, "-o", out, "--on", "slurm", "--workers", 1, "--partition", "tiny")
    until(lambda: records(out) >= 2, process)
    process.send_signal(2)
    text, _ = process.communicate(timeout=120)
    assert process.returncode == 130, text
    assert "--resume" in text
    deadline = time.monotonic() + 60
    while slurm.jobs():
        assert time.monotonic() < deadline, "the jobs go on"
        time.sleep(0.2)
    planned = find(out)
    assert os.listdir(planned.folder / "held") == [], "Slurm's signal was heard, and the case put back"
    process = hybridbench(slurm, "run", suite, "-o", out, "--resume")
    text, _ = process.communicate(timeout=400)
    assert process.returncode == 0, text
    each_once(out)


def test_workers_that_cannot_start_end_the_run_with_what_their_logs_say(slurm, suite, tmp_path):
    broken = tmp_path / "broken" / "torch"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text("raise ImportError('torch is broken on this node')")
    path = os.pathsep.join([str(broken.parent), os.environ.get("PYTHONPATH", str(Path(__file__).parents[2]))])
    words = ("run", suite, "-o", tmp_path / "out", "--on", "slurm", "--workers", 1)
    process = hybridbench(slurm, *words, PYTHONPATH=path)
    text, _ = process.communicate(timeout=300)
    assert process.returncode == 1, text
    assert "no worker is left, and 8 of 8 cases are to run" in text
    assert "torch is broken on this node" in text
