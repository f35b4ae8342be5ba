"""Over batches and scales: shares of the floor side by side, and throughput under a limit on a step's time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from hybridbench.metrics import value
from hybridbench.record import Caveat, Record, Status
from hybridbench.record.caveats import said_of
from hybridbench.report.build import build_report
from hybridbench.report.places import BATCH, SCALE
from hybridbench.report.render.charts import draw
from hybridbench.report.render.folder import write_report
from hybridbench.report.serving import serving_part
from hybridbench.suite.sweep import Sweep, cases

Make = Callable[..., Record]
STEPS = {1: 0.004, 16: 0.009, 64: 0.0199, 128: 0.06}


def swept(record_of: Make, **options: str) -> list[Record]:
    made = cases(Sweep("decode", device="cuda", **options), has_gpu=True)
    return [record_of(case, STEPS[case.workload.batch]) for case in made]


@pytest.fixture(name="records")
def _records(record_of: Make) -> list[Record]:
    return swept(record_of, arch="transformer,mamba", ctx="4k,32k", batch="1,16,64,128")


def test_the_largest_batch_under_each_limit_is_named(records: list[Record]) -> None:
    part = serving_part(records)
    assert part is not None
    assert [table.full_title.count("context") for table in part.tables] == [1, 1]
    assert [table.about.rpartition(" ")[2] for table in part.tables] == ["4k", "32k"]
    for table in part.tables:
        for row, name in zip(table.rows, ("transformer", "mamba"), strict=True):
            assert [cell.value for cell in row[2::2]] == [16, 64, 64]
            rates = [cell.value for cell in row[1::2]]
            assert rates == pytest.approx([16 / 0.009, 64 / 0.0199, 64 / 0.0199], rel=1e-3)
            assert row[0].text == name
        assert table.notes == []
        assert "median step" in table.footnotes()[0]


def test_a_limit_that_no_batch_meets_is_empty_and_one_that_memory_ended_says_so(record_of: Make) -> None:
    slow = [record_of(record.case, 1.0) for record in swept(record_of, arch="mamba", ctx="4k", batch="1,16,64")]
    part = serving_part(slow)
    assert part is not None
    assert [cell.text for cell in part.tables[0].rows[0][1:]] == ["-"] * 6
    fast = swept(record_of, arch="mamba", ctx="4k", batch="1,16,64")
    fast[-1] = replace(fast[-1], status=Status.OOM, observed=None, message="out of memory")
    part = serving_part(fast)
    assert part is not None
    (table,) = part.tables
    assert table.rows[0][6].value == 16
    assert table.notes == ["the next batch measured, 64, is oom"]


def test_the_fastest_batch_under_a_limit_is_shown_with_what_is_doubted_of_it(record_of: Make) -> None:
    steps = {1: 0.004, 16: 0.009, 64: 0.045, 128: 0.1}
    made = cases(Sweep("decode", device="cuda", arch="mamba", ctx="4k", batch="1,16,64,128"), has_gpu=True)
    records = [record_of(case, steps[case.workload.batch]) for case in made]
    records[1] = replace(records[1], caveats=[Caveat.UNSTEADY])
    part = serving_part(records)
    assert part is not None
    (table,) = part.tables
    assert [cell.value for cell in table.rows[0][2::2]] == [16, 16, 16]
    assert [cell.text for cell in table.rows[0][1::2]] == ["1,778 [1]"] * 3
    assert table.notes == [said_of(Caveat.UNSTEADY)]


def test_plots_against_the_scale_say_in_what_they_differ_and_keep_runs_apart(record_of: Make) -> None:
    plain = swept(record_of, arch="mamba", ctx="4k", batch="16", scale="100m,1b")
    coded = swept(record_of, arch="mamba", ctx="4k", batch="16", scale="100m,1b", weight_dtype="fp8")
    again = [replace(record, run_id="second") for record in plain]
    part = serving_part([*plain, *coded, *again], {plain[0].run_id: "before", "second": "after"})
    assert part is not None
    by_scale = [plot for plot in part.plots if plot.axis == SCALE]
    assert len({plot.subtitle for plot in by_scale}) == 2
    assert [("weights fp8" in plot.subtitle) for plot in by_scale] == [False, True]
    assert all(text in by_scale[0].subtitle for text in ("bfloat16", "graph", "batch 16", "context 4k"))
    assert list(by_scale[0].models) == ["mamba (before)", "mamba (after)"]
    places = [(point.series, point.place) for point in by_scale[0].points]
    assert len(set(places)) == len(places) == 4


def test_shares_are_drawn_against_batch_and_scale(record_of: Make, records: list[Record]) -> None:
    across = swept(record_of, arch="inter,mamba", ctx="4k", batch="16", scale="100m,350m,1b")
    part = serving_part([*records, *across])
    assert part is not None
    by_batch = [plot for plot in part.plots if plot.axis == BATCH]
    (by_scale,) = [plot for plot in part.plots if plot.axis == SCALE]
    assert len(by_batch) == 2
    assert sorted({point.place for point in by_batch[0].points}) == [1, 16, 64, 128]
    assert {(point.series, point.place) for point in by_scale.points if point.series == "inter"} == {
        ("inter", 10**8),
        ("inter", 35 * 10**7),
        ("inter", 10**9),
    }
    shares = {(point.series, point.place): point.amount for point in by_scale.points}
    expected = {(record.case.model.arch, record.case.model.scale): value(record, "floor_frac") for record in across}
    assert shares["mamba", 35 * 10**7] == expected["mamba", "350m"]
    assert "350m" in str(draw(by_scale))


@pytest.mark.parametrize("kind", ["train", "prefill"])
def test_a_scale_with_another_batch_stands_in_the_same_plot(record_of: Make, kind: str) -> None:
    def measured(scale: str, batch: str) -> list[Record]:
        made = cases(Sweep(kind, device="cuda", arch="inter,mamba", ctx="4k", scale=scale, batch=batch), has_gpu=True)
        return [record_of(case, 0.1) for case in made]

    records = [*measured("350m,1b", "4"), *measured("3b", "2")]
    part = serving_part(records)
    assert part is not None
    (plot,) = part.plots
    assert plot.name == f"{kind}-share-by-scale-1"
    assert plot.title.endswith(kind)
    assert "batch 4 (350m, 1b), batch 2 (3b)" in plot.subtitle
    shares = {(point.series, point.place): point.amount for point in plot.points}
    (widest,) = (one for one in records if (one.case.model.arch, one.case.model.scale) == ("mamba", "3b"))
    assert shares["mamba", 3 * 10**9] == value(widest, "floor_frac")
    assert len(shares) == 6
    part = serving_part([*records, *measured("1b", "2")])
    assert part is not None
    assert {plot.subtitle.count("batch") for plot in part.plots} == {1}, "two batches of a scale are apart"
    assert [sorted({point.place for point in plot.points}) for plot in part.plots] == [
        [350 * 10**6, 10**9],
        [10**9, 3 * 10**9],
    ]


@pytest.mark.usefixtures("blank_charts")
def test_shares_are_files_that_the_page_shows(record_of: Make, records: list[Record], tmp_path: Path) -> None:
    files = write_report(build_report(records), tmp_path)
    page = files.page.read_text(encoding="utf-8")
    assert "(charts/decode-share-by-batch-1.svg)" in page
    assert tmp_path / "charts/decode-share-by-batch-1.svg" in files.charts


def test_a_report_has_the_section_only_where_there_is_something_to_set_side_by_side(
    record_of: Make, records: list[Record]
) -> None:
    assert [part.title for part in build_report(records).parts] == ["Over batches and scales"]
    assert build_report(swept(record_of, arch="mamba", ctx="4k", batch="1,16")).parts == ()
