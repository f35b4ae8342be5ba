"""Workers on one host share a suite: whatever is killed, each case has one record."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from hybridbench.machine import usable_cores
from hybridbench.queue.plan import find
from hybridbench.store import load

pytestmark = pytest.mark.skipif(not Path("/proc").exists(), reason="needs /proc to find a process's children")

SUITE = """
name = "shared"
[defaults]
scale = "tiny"
device = "cpu"
max_time_s = 0.3
[[sweep]]
workload = "decode"
arch = "transformer,mamba,inter"
ctx = "64..256"
"""
CASES = 9


@pytest.fixture
def suite(tmp_path):
    path = tmp_path / "shared.toml"
    path.write_text(SUITE)
    return path


def command(*words):
    return [sys.executable, "-m", "hybridbench", *map(str, words)]


def began(*words, **settings):
    return subprocess.Popen(
        command(*words), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ, **settings}
    )


def until(done, process, limit_s=200.0):
    ends_at = time.monotonic() + limit_s
    while not done():
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < ends_at, "not in time"
        time.sleep(0.05)


def records(folder):
    return sum(file.read_bytes().count(b"\n") for file in folder.glob("records-*.jsonl"))


def measuring(pid):
    """The processes that measure for a command, each by the id of its process."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return found


def phases(folder):
    planned = find(folder)
    if planned is None:
        return set()
    said = [json.loads(file.read_text()) for file in (planned.folder / "members").glob("*.json")]
    return {phase for one in said for phase in one["at"].values()}


@pytest.mark.slow
def test_a_killed_worker_process_costs_no_case(suite, tmp_path):
    out = tmp_path / "out"
    process = began("run", suite, "-o", out, "--workers", min(2, usable_cores()))
    until(lambda: records(out) >= 1, process)
    for victim in measuring(process.pid):
        os.kill(victim, signal.SIGKILL)
    said, _ = process.communicate(timeout=250)
    assert process.returncode == 0, said
    found = load([out], pytest.fail)
    assert Counter(record.case.key for record in found) == Counter({record.case.key: 1 for record in found})
    assert len(found) == CASES
    assert {record.status for record in found} == {"ok"}
    assert find(out) is None, "a finished queue is removed"


AN_HOUR_AHEAD = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <time.h>
int clock_gettime(clockid_t clock, struct timespec *now) {
    static int (*honest)(clockid_t, struct timespec *);
    if (!honest) honest = dlsym(RTLD_NEXT, "clock_gettime");
    int failed = honest(clock, now);
    if (!failed && clock == CLOCK_REALTIME) now->tv_sec += 3600;
    return failed;
}
"""
"""A library that a process loads before the C library, so that its clock, and that of what it starts, is off."""


@pytest.mark.slow
@pytest.mark.skipif(not (sys.platform == "linux" and shutil.which("cc")), reason="needs Linux and a C compiler")
def test_a_second_run_whose_clock_is_an_hour_off_helps_and_takes_over_when_the_first_is_killed(suite, tmp_path):
    out = tmp_path / "out"
    (tmp_path / "ahead.c").write_text(AN_HOUR_AHEAD)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", "ahead.so", "ahead.c", "-ldl"], cwd=tmp_path, check=True)
    first = began("run", suite, "-o", out)
    until(lambda: records(out) >= 1, first)
    second = began("run", suite, "-o", out, "--resume", LD_PRELOAD=str(tmp_path / "ahead.so"))
    until(lambda: len(list(out.glob("queue/*/members/*.json"))) == 2, second)
    status = subprocess.run(command("status", out, "--json"), capture_output=True, text=True, check=True)
    seen = json.loads(status.stdout)
    assert len(seen["workers"]) == 2
    assert seen["cases"] == CASES
    assert seen["done"] + seen["waiting"] + seen["running"] == CASES
    first.kill()
    first.wait()
    first.stdout.close()
    said, _ = second.communicate(timeout=250)
    assert second.returncode == 0, said
    assert "Workers are at these cases already" in said
    found = load([out], pytest.fail)
    assert sorted(Counter(record.case.key for record in found).values()) == [1] * CASES
    assert len({record.run_id for record in found}) == 1, "one run, whoever had its cases"
    stamps = sorted(datetime.fromisoformat(record.started_at) for record in found)
    assert stamps[-1] - stamps[0] > timedelta(minutes=50), "each stamped by its worker's own clock"


@pytest.mark.slow
def test_ctrl_c_puts_back_what_was_begun_and_resume_does_the_rest(suite, tmp_path):
    out = tmp_path / "out"
    process = began("run", suite, "-o", out)
    until(lambda: records(out) >= 2, process)
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=100)
    assert process.returncode == 130
    assert "--resume" in said
    planned = find(out)
    assert list((planned.folder / "held").iterdir()) == list((planned.folder / "members").iterdir()) == []
    status = subprocess.run(command("status", out), capture_output=True, text=True, check=True)
    assert "Nobody works at it" in status.stdout
    again = subprocess.run(
        command("run", suite, "-o", out, "--resume"), capture_output=True, text=True, check=False, timeout=250
    )
    assert again.returncode == 0, again.stderr
    assert len(load([out], pytest.fail)) == CASES
    assert find(out) is None


@pytest.mark.slow
def test_a_disk_that_fills_up_keeps_what_is_recorded_and_loses_no_case(suite, tmp_path):
    """A limit on the size of files stands for the disk: the system refuses to write on in the same way."""
    out = tmp_path / "out"
    words = " ".join(map(str, command("run", suite, "-o", out)))
    full = subprocess.run(
        ["bash", "-c", f"ulimit -f 24; {words}"], capture_output=True, text=True, check=False, timeout=250
    )
    assert full.returncode != 0
    assert "Traceback" not in full.stderr
    assert "cannot take another record (File too large): make room, then go on with --resume" in full.stderr
    planned = find(out)
    assert list((planned.folder / "held").iterdir()) == []
    warned = []
    kept = load([out], warned.append)
    assert 1 <= len(kept) < CASES
    again = subprocess.run(
        command("run", suite, "-o", out, "--resume"), capture_output=True, text=True, check=False, timeout=250
    )
    assert again.returncode == 0, again.stderr
    found = load([out], warned.append)
    assert sorted(Counter(record.case.key for record in found).values()) == [1] * CASES
