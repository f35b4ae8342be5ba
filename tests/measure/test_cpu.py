"""Threads of this process that wait for a processor are seen, and how fast the processor is."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from hybridbench.measure.cpu import THREADS, Canary, CpuWatch, Waiting


def write(folder: Path, **threads: tuple[int, int]) -> None:
    for name, (ran_ns, waited_ns) in threads.items():
        (folder / name).mkdir(exist_ok=True)
        (folder / name / "schedstat").write_text(f"{ran_ns} {waited_ns} 7\n")


def test_the_share_is_of_all_threads_between_entry_and_exit(tmp_path: Path) -> None:
    write(tmp_path, old=(1000, 900), ended=(50, 5000))
    with Waiting(tmp_path) as waiting:
        assert waiting.frac is None
        write(tmp_path, old=(1600, 1000), new=(200, 100))
        (tmp_path / "ended" / "schedstat").unlink()
    assert waiting.frac == pytest.approx((100 + 100) / (600 + 100 + 200 + 100))


def test_a_system_that_does_not_count_says_nothing(tmp_path: Path) -> None:
    (tmp_path / "odd" / "1").mkdir(parents=True)
    (tmp_path / "odd" / "1" / "schedstat").write_text("no such times\n")
    for folder in (tmp_path, tmp_path / "odd", tmp_path / "no such folder"):
        with Waiting(folder) as waiting:
            pass
        assert waiting.frac is None


@pytest.mark.skipif(not list(THREADS.glob("*/schedstat")), reason="this system does not count")
def test_a_program_on_the_same_core_is_seen() -> None:
    """Both are bound to one core, so that each has half of it, whatever the others do."""
    code = (
        "import os, time\n"
        "from hybridbench.measure.cpu import Waiting\n"
        "os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "def spin(seconds):\n"
        "    end = time.perf_counter() + seconds\n"
        "    while time.perf_counter() < end:\n"
        "        pass\n"
        "child = os.fork()\n"
        "if not child:\n"
        "    spin(60)\n"
        "with Waiting() as waiting:\n"
        "    spin(1)\n"
        "os.kill(child, 9)\n"
        "print(waiting.frac)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert 0.3 < float(done.stdout) < 1


def test_waiting_for_time_to_pass_is_not_waiting_for_a_processor() -> None:
    with Waiting() as waiting:
        time.sleep(0.2)
    assert waiting.frac is None or 0 <= waiting.frac <= 1


def test_the_loop_is_timed_at_each_call_and_takes_as_long_again() -> None:
    ticks = iter((5, 25, 100, 140))
    scripted = Canary(now=lambda: next(ticks))
    scripted()
    scripted()
    assert scripted.taken_ns == [20, 40]
    real = Canary()
    for _ in range(50):
        real()
    assert 0 < sorted(real.taken_ns)[25] < 20 * min(real.taken_ns)


def test_a_watch_says_both(tmp_path: Path) -> None:
    write(tmp_path, one=(0, 0))
    with CpuWatch(Waiting(tmp_path), Canary(now=iter(range(0, 100, 10)).__next__)) as watch:
        watch()
        write(tmp_path, one=(75, 25))
        watch()
    assert watch.waited_frac == 0.25
    assert watch.canary_ns == [10, 10]
