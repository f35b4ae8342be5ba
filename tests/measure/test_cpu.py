"""Threads of this process that wait for a processor are seen, and how fast it is; records say both."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from hybridbench.arch.families import Options, pattern_spec
from hybridbench.bench import Bench, Instruments, run_case
from hybridbench.kernel_suite import timing
from hybridbench.kernel_suite.cell import FORWARD, Budget, Cell
from hybridbench.kernel_suite.run import run_cell
from hybridbench.measure.cpu import THREADS, Canary, CpuWatch, Waiting
from hybridbench.problem import Problem
from hybridbench.record import Caveat
from hybridbench.suite.case import Case, Execution, Sampling
from hybridbench.suite.workloads import DECODE, Workload


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


class Waited(Waiting):
    """Threads that waited for half of their time."""

    def __exit__(self, *exc: object) -> None:
        self.frac = 0.5


def test_a_step_on_a_cpu_is_recorded_with_both_and_doubted_where_its_threads_waited() -> None:
    model, sampling = pattern_spec("*-", "tiny", Options(vocab_size=64)), Sampling(min_samples=2, max_samples=2)
    case = Case(model, Workload(DECODE, 16, 1), Execution("cpu", "float32", "eager"), sampling=sampling)
    for waiting, doubted in ((Waited(), True), (Waiting(Path("no such folder")), False)):
        watch = CpuWatch(waiting)
        tools = Instruments(
            ceilings=lambda *_: None, count=lambda *_: [], kernels=lambda *_: [], cpu=lambda watch=watch: watch
        )
        observed, caveats = run_case(case, Bench.open("cpu", lambda _name: None, tools))
        assert observed.waited_frac == (0.5 if doubted else None)
        assert (Caveat.SHARED_CPU in caveats) == doubted
        assert observed.canary_ns == watch.canary_ns
        assert len(observed.canary_ns) >= 2


def test_a_kernel_on_a_cpu_is_too(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = Problem("cpu", "float32", d_model=8, width=8, length=4, batch=1)
    cell = Cell("product", "torch", problem, FORWARD, Budget(max_time_s=0.01, min_samples=3, max_samples=3))
    bench = Bench.open("cpu", lambda _name: None, Instruments(ceilings=lambda *_: None))
    observed, _ = run_cell(cell, bench)
    assert len(observed.canary_ns) >= 2
    monkeypatch.setattr(timing, "CpuWatch", lambda: CpuWatch(Waited()))
    observed, caveats = run_cell(cell, bench)
    assert observed.waited_frac == 0.5
    assert Caveat.SHARED_CPU in caveats
