"""The fixture gpu_benchmark under pytest itself: with pytest-benchmark, without it, in parallel, and unused."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

import hybridbench.kernel_suite.timing  # imported here, so that runs inside this process find PyTorch imported
import hybridbench.measure.environment
from hybridbench.kernel_suite.record import KernelRecord
from hybridbench.record import Status
from hybridbench.store import load

pytest.importorskip("pytest_benchmark")
pytest.importorskip("xdist")
pytest_plugins = ["pytester"]

ROOT = Path(__file__).parents[2]
PLUGIN = ("-p", "hybridbench.pytest_plugin")
WITHOUT = ("-p", "no:hypothesispytest", "-p", "no:anyio")
"""Plugins that have nothing to do here, and take seconds to end a session."""


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs inside these tests are no workers of pytest-xdist, also where these tests run in one."""
    for name in [name for name in os.environ if name.startswith("PYTEST_XDIST_")]:
        monkeypatch.delenv(name)


KERNEL = """
import dataclasses, json, os, time


def test_kernel(gpu_benchmark):
    length_ns = int(os.environ.get("LENGTH_NS", 300_000))
    made = []

    def make(number):
        made.append(number)

        def call():
            end_ns = time.perf_counter_ns() + length_ns
            while time.perf_counter_ns() < end_ns:
                pass
            return number

        return call

    assert gpu_benchmark(make, device="cpu", cold=False, warmup_s=0.02, max_time_s=0.2) == 0
    timed = gpu_benchmark.timed
    with open("timed.json", "w") as file:
        json.dump({"made": made, "timed": timed and dataclasses.asdict(timed)}, file)
"""
OTHER = """
def test_other(benchmark):
    assert benchmark.pedantic(lambda: 3, rounds=2) == 3


def test_plain():
    pass
"""


@pytest.fixture
def kernel(pytester: pytest.Pytester) -> pytest.Pytester:
    pytester.makepyfile(test_kernel=KERNEL)
    return pytester


def loaded(path: Path) -> Any:
    return json.loads(path.read_text())


def test_samples_reach_pytest_benchmark_s_file_and_the_medians_unchanged(kernel: pytest.Pytester) -> None:
    done = kernel.runpytest_inprocess(
        *WITHOUT, *PLUGIN, "--benchmark-json=all.json", "--gpu-benchmark-medians=medians.json"
    )
    assert done.ret == 0
    done.stdout.fnmatch_lines(["*test_kernel*", "Wrote medians in: medians.json"])
    timed, whole = loaded(kernel.path / "timed.json")["timed"], loaded(kernel.path / "all.json")
    (bench,) = whole["benchmarks"]
    seconds = [ns / 1e9 for ns in timed["samples_ns"]]
    assert bench["fullname"] == "test_kernel.py::test_kernel"
    assert bench["stats"]["data"] == seconds
    assert bench["stats"]["median"] == statistics.median(seconds)
    assert (bench["stats"]["rounds"], bench["stats"]["iterations"]) == (len(seconds), 1)
    assert {"mean", "stddev", "ops"} <= bench["stats"].keys(), "what github-action-benchmark reads"
    said = bench["extra_info"]
    assert (said["device"], said["cold"], said["graph"], said["timer"]) == ("cpu", False, False, "perf_counter")
    assert said["samples_by_allocation"] == timed["by_allocation"]
    assert sum(said["samples_by_allocation"]) == len(seconds)
    low, high = said["median_interval_s"]
    assert min(seconds) <= low <= statistics.median(seconds) <= high <= max(seconds)
    assert whole["machine_info"]["gpu"] is None
    assert whole["machine_info"]["packages"]["torch"]

    (entry,) = loaded(kernel.path / "medians.json")
    assert entry.keys() == {"name", "unit", "value", "range", "extra"}
    assert (entry["name"], entry["unit"]) == ("test_kernel.py::test_kernel", "us")
    assert entry["value"] == pytest.approx(statistics.median(seconds) * 1e6)
    half_us = max(high - statistics.median(seconds), statistics.median(seconds) - low) * 1e6
    # Three digits of it, and its last may be rounded either way: seconds are no whole nanoseconds.
    assert float(entry["range"].removeprefix("± ")) == pytest.approx(half_us, rel=0.006)
    assert all(isinstance(entry[key], str) for key in ("range", "extra"))


def test_disabled_it_runs_the_call_once_and_measures_nothing(kernel: pytest.Pytester) -> None:
    done = kernel.runpytest_inprocess(*WITHOUT, *PLUGIN, "--benchmark-disable")
    assert done.ret == 0
    assert loaded(kernel.path / "timed.json") == {"made": [0], "timed": None}


def test_medians_that_nothing_measured_are_an_error(kernel: pytest.Pytester) -> None:
    done = kernel.runpytest_inprocess(*WITHOUT, *PLUGIN, "--benchmark-disable", "--gpu-benchmark-medians=medians.json")
    assert done.ret == pytest.ExitCode.USAGE_ERROR
    done.stdout.fnmatch_lines(["No medians in medians.json: no test measured with gpu_benchmark.*"])
    assert not (kernel.path / "medians.json").exists()


def test_it_counts_as_a_benchmark_where_those_are_selected(kernel: pytest.Pytester) -> None:
    kernel.makepyfile(test_other=OTHER)
    only, skipped = (kernel.runpytest_inprocess(*WITHOUT, *PLUGIN, f"--benchmark-{how}") for how in ("only", "skip"))
    only.assert_outcomes(passed=2, skipped=1)
    skipped.assert_outcomes(passed=1, skipped=2)


def test_without_pytest_benchmark_only_a_test_that_asks_for_it_fails(kernel: pytest.Pytester) -> None:
    kernel.makepyfile(test_other="def test_plain():\n    pass\n")
    done = kernel.runpytest_inprocess(*WITHOUT, *PLUGIN, "-p", "no:benchmark")
    done.assert_outcomes(passed=1, errors=1)
    done.stdout.fnmatch_lines(["*gpu_benchmark needs pytest-benchmark, which is not installed or is switched off:*"])
    done.stdout.no_fnmatch_line("*Traceback*")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("gpu_benchmark(make, colder=True)", "*has no parameter 'colder': known are device, cold, graph,*"),
        ("gpu_benchmark(make, rotate=0)", "*needs 1 or more of allocations*"),
        ("gpu_benchmark(make, cold=False, max_time_s=0.01); gpu_benchmark(make)", "*use gpu_benchmark once in a test*"),
    ],
)
def test_misuse_is_told(pytester: pytest.Pytester, body: str, said: str) -> None:
    pytester.makepyfile(f"def test_it(gpu_benchmark):\n    make = lambda i: lambda: None\n    {body}\n")
    done = pytester.runpytest_inprocess(*WITHOUT, *PLUGIN)
    done.assert_outcomes(failed=1)
    done.stdout.fnmatch_lines([said])


def test_a_kernel_that_raises_fails_its_test_and_leaves_no_figure(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_it(gpu_benchmark):\n    gpu_benchmark(lambda i: lambda: 1 / 0, cold=False)\n")
    done = pytester.runpytest_inprocess(*WITHOUT, *PLUGIN, "--gpu-benchmark-medians=medians.json")
    done.assert_outcomes(failed=1)
    done.stdout.fnmatch_lines(["*ZeroDivisionError*"])
    assert done.ret == pytest.ExitCode.TESTS_FAILED
    assert not (pytester.path / "medians.json").exists()


def test_pytest_benchmark_s_time_is_the_plan_s(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def stand_in(_make: object, _device: object, plan: Any) -> Any:
        asked.append(plan)
        return hybridbench.kernel_suite.timing.Timed([5, 6, 7], [3], 1, False, True, 0, "scripted", None, None)

    monkeypatch.setattr(hybridbench.kernel_suite.timing, "time_calls", stand_in)
    pytester.makepyfile("def test_it(gpu_benchmark):\n    gpu_benchmark(lambda i: lambda: None, rotate=5)\n")
    assert pytester.runpytest_inprocess(*WITHOUT, *PLUGIN, "--benchmark-max-time=0.25").ret == 0
    assert pytester.runpytest_inprocess(*WITHOUT, *PLUGIN).ret == 0
    assert [(plan.max_time_s, plan.rotate) for plan in asked] == [(0.25, 5), (1.0, 5)]


def test_a_cell_that_cannot_run_is_skipped_and_a_wrong_one_fails_and_both_are_recorded(
    pytester: pytest.Pytester,
) -> None:
    pytester.syspathinsert(Path(__file__).parent)
    pytester.makepyfile("""
        import pytest
        from hybridbench.kernel_suite.cell import Budget, Cell
        from hybridbench.problem import Problem

        PROBLEM = Problem("cpu", "float32", width=16, length=8, batch=2)

        @pytest.mark.parametrize("name", ["reference", "triton", "faulty:swapped"])
        def test_it(gpu_benchmark, name):
            gpu_benchmark.cell(Cell("swiglu", name, PROBLEM, sampling=Budget(cold=False, min_samples=3)))
    """)
    more = ("--benchmark-max-time=0.02", "--hybridbench-records=kept", "--benchmark-json=all.json")
    done = pytester.runpytest_inprocess(*WITHOUT, *PLUGIN, *more)
    done.assert_outcomes(passed=1, skipped=1, failed=1)
    done.stdout.fnmatch_lines(["*WrongResult: swiglu backend 'faulty:swapped' disagrees*", "Wrote records in: kept/*"])
    records = load([pytester.path / "kept"], pytest.fail, kind=KernelRecord)
    assert [record.status for record in records] == [Status.OK, Status.UNSUPPORTED, Status.WRONG]
    assert records[0].case.sampling.max_time_s == 0.02
    (bench,) = loaded(pytester.path / "all.json")["benchmarks"]
    assert bench["extra_info"]["key"] == records[0].case.key
    assert bench["extra_info"]["run_id"] == records[0].run_id


def test_the_machine_of_sessions_without_the_fixture_is_described_as_ever(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(OTHER)
    for name, more in (("with", PLUGIN), ("without", ())):
        assert pytester.runpytest_inprocess(*WITHOUT, *more, f"--benchmark-json={name}.json").ret == 0
    with_plugin, without = (loaded(pytester.path / f"{name}.json")["machine_info"] for name in ("with", "without"))
    assert with_plugin.keys() == without.keys()


# In processes of their own --------------------------------------------------------------------------------------------


def pytest_in(folder: Path, *given: str, code: int = 0, **environment: str) -> str:
    """What a pytest of its own prints, which must end with an exit code."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *WITHOUT, *given]
    done = subprocess.run(
        command,
        cwd=folder,
        env={**kept, "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.slow
def test_compared_with_a_saved_run_a_slower_kernel_fails(tmp_path: Path) -> None:
    (tmp_path / "test_kernel.py").write_text(KERNEL)
    strict = ("-W", "error::pytest_benchmark.logger.PytestBenchmarkWarning", *PLUGIN)
    pytest_in(tmp_path, *PLUGIN, "--benchmark-save=base")
    against = (*strict, "--benchmark-compare=0001", "--benchmark-compare-fail=median:150%")
    same = pytest_in(tmp_path, *against, "--benchmark-save=now")  # a warning about the machine would be an error
    assert "test_kernel (0001_base)" in same
    slower = pytest_in(tmp_path, *against, code=1, LENGTH_NS="1500000")
    assert "Performance has regressed" in slower
    command = [str(Path(sys.executable).with_name("pytest-benchmark")), "compare", "0001", "0002"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "test_kernel (0001_base)" in done.stdout
    assert "test_kernel (0002_now)" in done.stdout


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A folder on the path with the metadata that an installation of this package would have."""
    points = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["pytest11"]
    information = tmp_path / "somewhere-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: somewhere\nVersion: 1.0\n")
    lines = [f"{name} = {module}" for name, module in points.items()]
    (information / "entry_points.txt").write_text("\n".join(["[pytest11]", *lines, ""]))
    return tmp_path


@pytest.mark.slow
def test_installed_it_is_there_without_an_option_and_pytorch_is_not_imported_for_others(installed: Path) -> None:
    (installed / "test_other.py").write_text(
        OTHER + "\n\ndef test_light():\n    import sys\n    assert 'hybridbench.pytest_plugin' in sys.modules\n"
        "    assert 'torch' not in sys.modules\n"
    )
    assert "3 passed" in pytest_in(installed, "-W", "error")
    assert "2 passed" in pytest_in(installed, "-W", "error", "-p", "no:benchmark", "-k", "plain or light")
    assert "--gpu-benchmark-medians=PATH" in pytest_in(installed, *PLUGIN, "--help")  # named twice, loaded once


@pytest.mark.slow
def test_in_parallel_pytest_benchmark_warns_and_nothing_is_measured(installed: Path) -> None:
    (installed / "test_kernel.py").write_text(KERNEL)
    said = pytest_in(installed, "-n", "2", "--gpu-benchmark-medians=medians.json", code=4)
    assert "1 passed" in said
    assert "Benchmarks are automatically disabled because xdist plugin is active." in said
    assert "pytest-benchmark measures nothing under pytest-xdist (-n)" in said
    assert "INTERNALERROR" not in said
    assert loaded(installed / "timed.json") == {"made": [0], "timed": None}
