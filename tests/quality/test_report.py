"""Tables of training runs, with figures by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from hybridbench.quality.training.case import TUNING_SEED, LearnCase
from hybridbench.quality.training.figures import arms, bits_per_byte, difference, estimate, final_bits, tie
from hybridbench.quality.training.plan import tuning_runs, with_seed
from hybridbench.quality.training.record import Judged, LearnObserved, LearnRecord
from hybridbench.quality.training.render import write
from hybridbench.quality.training.report import build
from hybridbench.record import Memory, Status
from hybridbench.runner import UNKNOWN

CaseOf = Callable[..., LearnCase]


def record(case: LearnCase, loss: float, finished: bool = True) -> LearnRecord:
    curve = [Judged(0, 6.0, 100, 50, 0, None), Judged(case.steps, loss, 100, 50, 2_000_000_000, 8.0)]
    seen = LearnObserved(
        losses=[loss] * case.steps,
        gradient_norms=[1.0] * case.steps,
        curve=curve,
        events=[],
        finished=finished,
        resumed_at=[],
        start=[],
        parameters=1,
        memory=Memory(1, None, None, None, None, None),
        backends=[],
        sized=[],
        build_ns=1,
        prepare_ns=1,
    )
    return LearnRecord(case, Status.OK, "run", "2026-11-29T00:00:00+00:00", UNKNOWN, seen)


def test_bits_per_byte_and_intervals_by_hand() -> None:
    assert bits_per_byte(Judged(1, math.log(2), 30, 60, 1, None)) == pytest.approx(0.5)
    found = estimate([1.0, 1.2, 1.4])
    assert found.half == pytest.approx(4.302653 * 0.2 / math.sqrt(3), rel=1e-5)  # t(97.5%, 2) of tables
    assert estimate([2.0]).half is None


def test_models_stand_side_by_side_with_paired_differences(case_of: CaseOf, tmp_path: Path) -> None:
    mamba, inter = case_of("mamba"), case_of("inter")
    losses = {0: (2.0, 2.1), 1: (2.4, 2.51), 2: (2.2, 2.29)}
    records = [
        record(with_seed(case, seed), loss)
        for seed, pair in losses.items()
        for case, loss in zip((mamba, inter), pair, strict=True)
    ]
    first, second = arms(records)
    found = difference(second, first, final_bits)
    assert found is not None
    assert found.mean == pytest.approx(0.1 / math.log(2) * 2)
    assert not tie(found)  # though both means have intervals five times as wide
    assert difference(second, first, lambda one: None) is None
    report = build([*records, record(with_seed(mamba, TUNING_SEED), 3.0)])
    rows = {
        row[0].text: {c.key: cell for c, cell in zip(report.tables["learn"].columns, row, strict=True)}
        for row in report.tables["learn"].rows
    }
    assert rows["mamba"]["verdict"].text == "best"
    assert rows["inter 1+2"]["verdict"].text == "worse"
    assert rows["mamba"]["bits_per_byte"].value == pytest.approx(2.2 / math.log(2) * 2)
    assert rows["mamba"]["tokens_per_s"].value == pytest.approx(12 * 64 / 2)
    assert rows["mamba"]["energy_j"].value == 8.0
    page = write(report, tmp_path / "report").read_text()
    assert page.startswith("# Learning\n\nModels trained on a corpus")
    assert {path.stem for path in (tmp_path / "report" / "charts").glob("*.svg")} == {
        "learn-tokens", "learn-train_flops", "learn-train_s", "learn-energy_j"
    }  # fmt: skip
    assert (tmp_path / "report" / "tables" / "learn-curves.csv").read_text().count("\n") == 5


def test_a_diverged_run_has_no_mean_and_says_so(case_of: CaseOf) -> None:
    case = case_of()
    table = build([record(case, 2.0), record(with_seed(case, 1), 9.0, finished=False)]).tables["learn"]
    row = {column.key: cell for column, cell in zip(table.columns, table.rows[0], strict=True)}
    assert row["seeds"].value == 1
    assert row["status"].word == "diverged"


def test_tuning_runs_have_a_seed_of_their_own(case_of: CaseOf) -> None:
    cases = [with_seed(case_of(arch), seed) for arch in ("mamba", "inter") for seed in range(3)]
    found = tuning_runs(cases, [0.5, 2.0])
    assert [(one.model.arch, one.recipe.lr) for one in found] == [
        ("mamba", 1.5e-3), ("mamba", 6e-3), ("inter", 1.5e-3), ("inter", 6e-3)
    ]  # fmt: skip
    assert all(one.tuning and replace(one, execution=cases[0].execution).steps == 12 for one in found)
