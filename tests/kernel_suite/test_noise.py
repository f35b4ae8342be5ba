"""The noise between processes, by hand, and the reasons that records give for it; one run of three processes."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import replace
from pathlib import Path
from statistics import stdev
from typing import Any

import pytest
from click.testing import CliRunner

from hybridbench.cli.main import main
from hybridbench.kernel_suite.cell import Cell
from hybridbench.kernel_suite.noise import noise_of
from hybridbench.kernel_suite.noise_table import noise_rows, noise_table, summary
from hybridbench.kernel_suite.record import Agreement, Chosen, KernelObserved, KernelRecord
from hybridbench.kernel_suite.report import build
from hybridbench.problem import Problem
from hybridbench.record import Caveat, Environment, GpuState, Status
from hybridbench.store import load, newest

GPU = Environment("H200", "cuda", None, "CPU", 4, None, "570", "12.8", "3.12", "linux", {}, "0.1.0", None, None)
CPU = replace(GPU, device="cpu", device_kind="cpu")
CELL = Cell("swiglu", "triton", Problem("cuda", "bfloat16", width=64, length=100, batch=2))


def record(run: int, median_ns: int, environment: Environment = GPU, **seen: Any) -> KernelRecord:
    """A process whose samples are 2% around a median."""
    samples = [round(median_ns * (0.98 + 0.01 * (place % 5))) for place in range(30)]
    made: dict[str, Any] = {"blocks_per_sm": 8.0, "kernels": ["k"], "graph": True, **seen}
    observed = KernelObserved(
        samples_ns=samples, by_allocation=[30], calls_per_sample=1, cold=True, warmup_ns=1, timer="scripted",
        ran="triton", package="ours", version=None, agreement=Agreement("the reference"), check_ns=1, **made,
    )  # fmt: skip
    return KernelRecord(CELL, Status.OK, f"run{run}", f"2026-01-01T00:00:0{run}+00:00", environment, observed)


def reasons(*some: KernelRecord) -> tuple[str, ...]:
    (found,) = noise_of(some)
    return found.reasons


def test_between_is_the_standard_deviation_of_medians_and_within_the_spread_of_samples() -> None:
    medians = [1_000_000, 1_020_000, 990_000]
    (found,) = noise_of([record(run, ns) for run, ns in enumerate(medians)])
    assert found.between_frac == pytest.approx(stdev(math.log(ns) for ns in medians))
    assert found.within_frac == pytest.approx(0.02, rel=0.1)
    assert not found.quiet
    quiet = [record(run, ns) for run, ns in enumerate([1_000_000, 1_002_000, 999_000])]
    (found,) = noise_of(quiet)
    assert found.quiet
    assert found.reasons == ()


def test_two_runs_other_machines_and_failures_do_not_count() -> None:
    some = [record(run, 1_000_000) for run in range(3)]
    assert noise_of(some[:2]) == []
    assert noise_of([*some[:2], record(3, 1_000_000, CPU)]) == []
    assert noise_of([*some[:2], replace(some[2], status=Status.OOM, observed=None)]) == []
    assert noise_of([*some[:2], some[1]]) == [], "one run counts once"
    changed = replace(some[2], environment=replace(GPU, git_commit="another"))
    assert noise_of([*some[:2], changed]) == [], "of other code"


FAR = (1_000_000, 1_050_000, 980_000)


@pytest.mark.parametrize(
    ("seen", "said"),
    [
        ([{}, {}, {}], "nothing in the records tells why"),
        ([{"blocks_per_sm": 0.4}] * 3, "less than one block per SM (0.40): the time varies with where they land"),
        ([{"kernels": [name]} for name in ("a", "a", "b")], "different kernels ran"),
        (
            [{"graph": graph} for graph in (True, False, True)],
            "replayed from a graph in some processes and launched one by one in others",
        ),
        (
            [{"tuning": [Chosen("m", "scan", "[64]", text)]} for text in ("BM: 64", "BM: 64", "BM: 128")],
            "the autotuner of scan chose differently",
        ),
        (
            [{"gpu_before": GpuState(hz, 1e9, 700.0, 60.0, 0, ["power cap"], 0)} for hz in (1.98e9, 1.9e9, 1.7e9)],
            "clocks from 1700 to 1980 MHz (power cap)",
        ),
    ],
)
def test_each_reason_comes_from_what_a_record_holds(seen: list[dict[str, Any]], said: str) -> None:
    some = [record(run, ns, **more) for run, (ns, more) in enumerate(zip(FAR, seen, strict=True))]
    assert reasons(*some) == (said,)


def test_short_calls_that_the_host_launches_wait_for_it() -> None:
    short = [record(run, ns // 100, graph=False, not_captured="it synchronises") for run, ns in enumerate(FAR)]
    assert reasons(*short) == ("launched one by one, so it waits for the host (it synchronises)",)
    long = [record(run, ns, graph=False) for run, ns in enumerate(FAR)]
    assert reasons(*long) == ("nothing in the records tells why",)


def test_allocations_of_one_process_that_differ_as_much_are_a_reason() -> None:
    def spread(run: int, ns: int) -> KernelRecord:
        made = record(run, ns)
        assert made.observed is not None
        samples = [ns] * 10 + [round(1.1 * ns)] * 10 + [round(1.2 * ns)] * 10
        return replace(made, observed=replace(made.observed, samples_ns=samples, by_allocation=[10, 10, 10]))

    (said,) = reasons(*(spread(run, ns) for run, ns in enumerate(FAR)))
    assert said.startswith("memory placement: allocations of one process differ by ")


def test_a_shared_gpu_comes_first_and_a_cpu_has_other_work() -> None:
    shared = [replace(record(run, ns), caveats=[Caveat.SHARED_GPU]) for run, ns in enumerate(FAR)]
    assert reasons(*shared) == ("another process used the GPU",)
    on_cpu = [record(run, ns, CPU) for run, ns in enumerate(FAR)]
    assert reasons(*on_cpu) == ("other work on the same cores",)
    waited = [replace(one, caveats=[Caveat.SHARED_CPU]) for one in on_cpu]
    assert reasons(*waited) == ("other programs had the processors",)


def test_the_table_counts_the_quiet_cells_and_those_that_fill_the_gpu() -> None:
    some = [record(run, ns) for run, ns in enumerate(FAR)]
    small = replace(CELL, op="rotary")
    quiet = [
        replace(record(run, 1_000_000, blocks_per_sm=0.5), case=small) for run in range(3)
    ]  # fmt: skip
    found = noise_of([*some, *quiet])
    assert summary(found) == [
        "1 of 2 cells differ by at most 0.5% between processes.",
        "Of those with a block for every SM, 0 of 1.",
    ]
    assert [row[-1].text for row in noise_table(found).rows] == ["nothing in the records tells why", "-"]
    assert [row["medians_s"] for row in noise_rows(found)] == [[ns / 1e9 for ns in FAR], [1e-3] * 3]
    report = build(newest([*some, *quiet]), every=[*some, *quiet])
    assert [len(table.rows) for table in report.tables.values()] == [2, 2]
    assert "kernels-noise" not in build(some[:1], every=some[:1]).tables


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--processes", "2"), "--processes 2: give 3 or more"),
        (("--processes", "0"), "--processes 0: give 3 or more"),
        (("--processes", "3", "--resume"), "--processes with --resume"),
        (("--pin-tuning",), "--pin-tuning without --processes"),
    ],
)
def test_mistakes_are_one_sentence(words: tuple[str, ...], said: str) -> None:
    done = CliRunner().invoke(main, ["kernels", "swiglu", "--device", "cpu", *words])
    assert done.exit_code == 2
    assert said in " ".join(done.output.split())


@pytest.mark.slow
def test_three_processes_give_the_noise_of_each_cell_and_check_once(tmp_path: Path) -> None:
    small = [
        "kernels",
        "attention",
        "--device",
        "cpu",
        "--direction",
        "forward",
        "--ctx",
        "32",
        "--max-time",
        "0.03",
        "--processes",
        "3",
    ]
    done = CliRunner().invoke(
        main, [*small, "--problem", "head_dim=8,n_heads=2,n_kv_heads=2", "-o", str(tmp_path), "--json"]
    )
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    records = load([tmp_path], pytest.fail, kind=KernelRecord)
    runs = list(dict.fromkeys(one.run_id for one in records))
    assert len(runs) == 3
    assert len(records) == 9
    assert [one["processes"] for one in document["noise"]] == [3, 3, 3]
    by_run = {one.run_id: one.observed.agreement.run for one in records if one.observed is not None}
    assert [by_run[run] for run in runs] == [None, runs[0], runs[0]]
    for row in document["noise"]:
        medians = [one.observed for one in records if one.case.key == row["key"]]
        assert len(medians) == 3
        assert row["between_frac"] == pytest.approx(stdev(math.log(seconds) for seconds in row["medians_s"]))
    with (tmp_path / "report" / "tables" / "kernels-noise.csv").open() as file:
        assert len(list(csv.reader(file))) == 1 + 3
    again = json.loads(CliRunner().invoke(main, ["report", str(tmp_path), "--json"]).stdout)
    assert again["noise"] == document["noise"]
