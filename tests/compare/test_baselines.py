"""Stored baselines: what is kept and refused, what is compared with them, and trends of steps within the noise."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from hybridbench.cli.main import main
from hybridbench.compare.baselines import add, machine_class
from hybridbench.compare.cell import ASKED, OK, ComparedCell, Noise
from hybridbench.compare.trend import trends
from hybridbench.errors import BadInput
from hybridbench.record import Caveat, Record, Status
from hybridbench.store import load

Again = Callable[..., Record]
Written = Callable[..., Path]
SD = 0.003


def run(*words: object) -> Result:
    return CliRunner(env={"COLUMNS": "160"}).invoke(main, [*map(str, words)])


def at(number: int) -> str:
    return (datetime(2026, 12, 1, tzinfo=UTC) + timedelta(days=number)).isoformat()


def point(amount: float, number: int, name: str = "one", **how: str) -> ComparedCell:
    samples: dict[str, Any] = {"low": amount * 0.999, "high": amount * 1.001, "samples": 100}
    return ComparedCell(
        {"op": name}, {"device": "H", **how}, OK, None, amount, **samples, noise=Noise(SD, 0.0, "known"),
        memory_bytes=None, run=f"run {number}", started_at=at(number), made_by="",
    )  # fmt: skip


# --- trends -----------------------------------------------------------------------------------------------------------


def test_small_losses_add_up() -> None:
    """Half a percent a run is within the noise of two runs, and ten of them are not."""
    draw = random.Random(0)
    amounts = [1.005**number * draw.lognormvariate(0, SD) for number in range(10)]
    (found,) = trends([point(amount, number) for number, amount in enumerate(amounts)])
    assert found.word(ASKED["step"]) == "drifts slower"
    assert found.change_frac == pytest.approx(1.005**9 - 1, abs=0.01)
    assert found.low_frac < 1.005**9 - 1 < found.high_frac
    assert trends([point(amount, number) for number, amount in enumerate(amounts[:2])]) == []


def test_intervals_of_unchanged_cells_hold_zero_together() -> None:
    draw = random.Random(1)
    tables = 200
    wrong = 0
    for table in range(tables):
        runs = 3 if table % 2 else 8
        cells = [point(draw.lognormvariate(0, SD), number, name) for name in "abcdef" for number in range(runs)]
        wrong += any(one.word(ASKED["step"]) != "within noise" for one in trends(cells))
    assert wrong <= 0.08 * tables  # 5% is promised; of 200 tables, 16 or more are seen in 2% of all trials


def test_only_runs_under_the_same_conditions_make_a_trend() -> None:
    cells = [point(1.0, number, driver=str(number % 2)) for number in range(4)]
    assert trends(cells) == []
    failed = replace(point(1.0, 5), status="oom", amount=None)
    doubted = replace(point(9.0, 6), doubts=("other work",))
    (found,) = trends([*(point(1.0, number) for number in range(3)), failed, doubted])
    assert found.runs == 3


# --- files ------------------------------------------------------------------------------------------------------------


def test_what_cannot_carry_a_comparison_is_left_out(decodes: list[Record], again: Again, tmp_path: Path) -> None:
    good, shared, gone = (again(record) for record in decodes[:3])
    shared = replace(shared, caveats=[Caveat.SHARED_GPU])
    gone = replace(gone, status=Status.OOM, observed=None, message="no memory")
    told: list[str] = []
    written = add([good, shared, gone], "main", tmp_path, told.append)
    file = tmp_path / "nvidia-h200" / "records-main.jsonl"
    assert written == {file: 1}
    assert load([file], pytest.fail) == [good]
    assert "shared gpu" in told[0]
    assert "status is oom" in told[1]
    assert add([good], "main", tmp_path) == {file: 0}
    later = again(good, 1.1, run="third")
    assert add([later], "main", tmp_path) == {file: 1}
    assert load([file], pytest.fail) == [good, later]
    with pytest.raises(BadInput, match="none of these records"):
        add([gone], "main", tmp_path)
    for name in ("../main", "", "a b", "-x"):
        with pytest.raises(BadInput, match="cannot name a baseline"):
            add([good], name, tmp_path)


def test_a_class_of_machine_is_its_device(decodes: list[Record]) -> None:
    environment = decodes[0].environment
    assert machine_class(environment) == "nvidia-h200"
    assert machine_class(replace(environment, device="AMD EPYC (2) / x")) == "amd-epyc-2-x"


def test_stored_records_are_compared_and_fail_only_when_asked(
    decodes: list[Record], again: Again, written: Written, tmp_path: Path
) -> None:
    before = written("before", decodes[:3])
    assert run("baseline", "update", before, "--into", tmp_path / "kept", "--name", "v0.1").exit_code == 0
    file = tmp_path / "kept" / "nvidia-h200" / "records-v0.1.jsonl"
    now = written("now", [again(decodes[0], 1.2), *(again(record) for record in decodes[1:3])])
    done = run("check", now, "--baseline", file)
    assert done.exit_code == 0, done.output
    assert "slower" in done.stdout
    assert "fails nothing" in done.stdout
    summary = tmp_path / "summary.md"
    done = run("check", now, "--baseline", file, "--fail-above", "5%", "--json", "--summary", summary)
    assert done.exit_code == 1, done.output
    found = json.loads(done.stdout)
    assert (found["outcome"], found["exit_code"]) == ("regression", 1)
    assert sum(row["failed"] for row in found["rows"]) == 1
    assert "Against stored records" in summary.read_text()
    assert run("check", now, "--baseline", file, "--fail-above", "30%").exit_code == 0
    assert run("check", now, "--baseline", file, "--fail-above", "5%", "--fail-on", "not-comparable").exit_code == 0


def test_what_is_not_comparable_is_refused_by_its_fields(decodes: list[Record], again: Again, written: Written) -> None:
    file = next(iter(written("before", decodes[:2]).glob("*.jsonl")))
    environment = replace(decodes[0].environment, device="NVIDIA H100")
    now = written("now", [again(record, environment=environment) for record in decodes[:2]])
    done = run("check", now, "--baseline", file)
    assert done.exit_code == 4
    assert "device NVIDIA H200 / NVIDIA H100" in " ".join(done.stderr.split())
    assert run("check", now, "--baseline", file, "--across", "machine").exit_code == 0


def test_the_trend_of_updates_is_shown(decodes: list[Record], again: Again, written: Written, tmp_path: Path) -> None:
    for number in range(4):
        later = again(decodes[0], 1.002**number, run=f"run {number}", started_at=at(number))
        folder = written(f"at {number}", [later])
        assert run("baseline", "update", folder, "--into", tmp_path / "kept").exit_code == 0
    file = tmp_path / "kept" / "nvidia-h200" / "records-main.jsonl"
    done = run("baseline", "show", file)
    assert done.exit_code == 0, done.output
    assert "drifts slower" in done.stdout
    (found,) = json.loads(run("baseline", "show", file, "--json").stdout)["trend"]
    assert found["change_frac"] == pytest.approx(0.006, abs=0.0005)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["baseline", "keep", "x"], "unknown action 'keep'"),
        (["baseline", "update"], "update of what?"),
        (["baseline", "show"], "show of what?"),
        (["baseline", "show", "nowhere.jsonl"], "does not exist"),
        (["check", "--baseline", "nowhere.jsonl"], "does not exist"),
        (["check", "--fail-above", "5%", "--base", "HEAD"], "belongs to --baseline"),
        (["check", "--baseline", "x.jsonl", "--base", "HEAD"], "--base with --baseline"),
        (["check", "--baseline", "x.jsonl", "--budget", "5"], "--budget with --baseline"),
        (["check", "--baseline", "x.jsonl", "--fail-above", "much"], "is not a percentage"),
        (["check", "x.jsonl", "swiglu", "--baseline", "y.jsonl"], "name what was measured"),
    ],
)
def test_what_is_typed_wrong(words: list[str], said: str) -> None:
    done = run(*words)
    assert done.exit_code == 2, done.output
    assert said in " ".join(done.stderr.split())
