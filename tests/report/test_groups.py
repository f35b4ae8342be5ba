"""Records that do not compare never share a table, and models that differ never share a name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from hybridbench.arch.families import Options, build_spec, pattern_spec
from hybridbench.record import Caveat, Environment, Record
from hybridbench.report.findings import findings
from hybridbench.report.groups import file_stem, group_records, series_names
from hybridbench.suite.sweep import Sweep, cases

Make = Callable[..., Record]


def decode(record_of: Make, environment: Environment | None = None, **sweep: Any) -> list[Record]:
    made = cases(Sweep("decode", **{"arch": "transformer", "ctx": "4k,8k", **sweep}), has_gpu=True)
    return [record_of(case, 0.01, **({"environment": environment} if environment else {})) for case in made]


@pytest.mark.parametrize(
    "sweep",
    [{"scale": "3b"}, {"dtype": "float16"}, {"state_dtype": "float32"}, {"mode": "eager"}, {"batch": "8"}],
)
def test_each_condition_makes_a_group(record_of: Make, sweep: dict[str, str]) -> None:
    groups = group_records([*decode(record_of), *decode(record_of, **sweep)])
    assert len(groups) == 2
    assert groups[0].title != groups[1].title
    assert len({file_stem(group, groups) for group in groups}) == 2
    assert all(group.places == [4096, 8192] for group in groups)


@pytest.mark.parametrize("change", [{"device": "NVIDIA B200"}, {"cpu": "another"}, {"cores": 8}])
def test_machines_are_kept_apart_and_told_apart(record_of: Make, h200: Environment, change: dict[str, Any]) -> None:
    groups = group_records([*decode(record_of), *decode(record_of, replace(h200, **change))])
    assert len(groups) == 2
    assert groups[0].title != groups[1].title
    assert len({file_stem(group, groups) for group in groups}) == 2


def test_a_cpus_threads_are_kept_apart_and_told_apart(record_of: Make, h200: Environment) -> None:
    cpu = replace(h200, device=h200.cpu, device_kind="cpu")
    made = [record for threads in (None, 1, 2) for record in decode(record_of, replace(cpu, threads=threads))]
    titles = [group.title for group in group_records(made)]
    assert len(titles) == 3
    assert titles[1].endswith("16 cores, 1 thread")
    assert titles[2].endswith("16 cores, 2 threads")


def test_generations_integrated_and_as_published_are_groups_of_their_own(record_of: Make) -> None:
    ways: list[dict[str, Any]] = [{}, {"depths": 5}, {"depths": 7}, {"depths": 5, "as_published": True}]
    made = [case for way in ways for case in cases(Sweep("generate", arch="mamba", ctx="1k", **way), has_gpu=True)]
    groups = group_records([record_of(case, 0.01) for case in made])
    assert len({group.title for group in groups}) == len({file_stem(group, groups) for group in groups}) == 4
    assert groups[1].title.endswith("prompt 512, integrated over 5 depths, bfloat16, graph")
    assert groups[3].title.endswith("prompt 512, integrated over 5 depths, bfloat16, published")


def test_backends_asked_for_by_name_are_a_group(record_of: Make) -> None:
    (case, _) = cases(Sweep("decode", arch="transformer", ctx="4k,8k"), has_gpu=True)
    flash = replace(case, execution=replace(case.execution, backends={"attention_decode": "flash"}))
    auto = replace(case, execution=replace(case.execution, backends={"attention_decode": "auto"}))
    groups = group_records([record_of(case), record_of(flash), record_of(auto)])
    assert [len(group.records) for group in groups] == [1, 1]
    assert groups[0].superseded == 1
    assert groups[1].title.endswith("attention_decode=flash")


def test_one_context_and_several_batches_run_along_the_batch(record_of: Make) -> None:
    (group,) = group_records(decode(record_of, ctx="4k", batch="1,4,16"))
    assert (group.axis, group.places) == ("batch", [1, 4, 16])
    assert group.place_label(4) == "4"
    assert "context 4k" in group.title
    assert "batch" not in group.title


def test_two_streams_and_checkpointing_are_conditions_of_their_own(record_of: Make) -> None:
    (case,) = cases(Sweep("decode", arch="intra", ctx="1k"), has_gpu=True)
    twice = replace(case, execution=replace(case.execution, streams=2))
    one, two = group_records([record_of(case, 0.02), record_of(twice, 0.01)])
    assert "streams" not in one.title
    assert two.title.endswith("2 streams")
    (train,) = cases(Sweep("train", arch="intra", ctx="1k"), has_gpu=True)
    full = replace(train, execution=replace(train.execution, checkpoint="full"))
    assert len(group_records([record_of(train, 0.02), record_of(full, 0.03)])) == 2


def test_workloads_come_in_their_order_and_families_in_theirs(record_of: Make) -> None:
    records = [
        record_of(case, 0.01)
        for workload in ("generate", "decode", "train")
        for case in cases(Sweep(workload, arch="intra,mamba,transformer", ctx="1k"), has_gpu=False)
    ]
    custom = cases(Sweep("train", pattern="M-*-", ctx="1k"), has_gpu=False)
    groups = group_records([record_of(custom[0], 0.01), *records])
    assert [group.workload for group in groups] == ["train", "decode", "generate"]
    assert [series.model.arch for series in groups[0].series] == ["transformer", "mamba", "intra", "custom"]


def test_the_latest_record_of_a_cell_is_shown(record_of: Make) -> None:
    (case,) = cases(Sweep("decode", arch="mamba", ctx="4k"), has_gpu=True)
    reseeded = replace(case, execution=replace(case.execution, seed=1))
    old = record_of(case, 0.01, started_at="2026-01-01")
    new = record_of(case, 0.02, started_at="2026-01-03", run_id="other")
    between = record_of(reseeded, 0.03, started_at="2026-01-02")
    (group,) = group_records([new, old, between])
    assert group.records == [new]
    assert group.superseded == 2


def test_runs_that_measured_the_same_cells_stand_side_by_side(record_of: Make) -> None:
    made = cases(Sweep("decode", arch="transformer,mamba", ctx="4k,8k"), has_gpu=True)
    before = [record_of(case, 0.02, run_id="a", started_at="2026-01-01") for case in made]
    older = record_of(made[0], 0.03, run_id="a0", started_at="2025-12-31")
    after = [record_of(case, 0.01, run_id="b", started_at="2026-01-02") for case in made[:3]]
    runs = {"a0": "before", "a": "before", "b": "after"}
    (group,) = group_records([older, *before, *after], runs)
    assert [(series.name, len(series.cells)) for series in group.series] == [
        *(("transformer (before)", 2), ("transformer (after)", 2)),
        *(("mamba (before)", 2), ("mamba (after)", 1)),
    ]
    assert sorted(map(id, group.records)) == sorted(map(id, [*before, *after]))
    assert group.superseded == 1, "the older record of the run before"
    (plain,) = group_records([older, *before, *after])
    assert [series.name for series in plain.series] == ["transformer", "mamba"]
    assert (len(plain.records), plain.superseded) == (4, 4)


def test_runs_that_measured_other_cells_are_one_table(record_of: Make) -> None:
    made = cases(Sweep("decode", arch="transformer", ctx="4k,8k"), has_gpu=True)
    one, other = record_of(made[0], 0.02, run_id="a"), record_of(made[1], 0.02, run_id="b")
    (group,) = group_records([one, other], {"a": "first", "b": "second"})
    assert [(series.name, list(series.cells)) for series in group.series] == [("transformer", [4096, 8192])]
    assert group.superseded == 0


@pytest.mark.parametrize("at", [0, 1])
def test_no_difference_is_claimed_that_caveats_deny(record_of: Make, at: int) -> None:
    made = cases(Sweep("decode", arch="transformer,mamba", ctx="4k"), has_gpu=True)
    steady = [record_of(case, time) for case, time in zip(made, (0.02, 0.01), strict=True)]
    (group,) = group_records(steady)
    assert "mamba is fastest" in findings(group)[0]
    assert "2.00 times transformer" in findings(group)[0]
    throttled = [replace(record, caveats=[Caveat.THROTTLED]) for record in steady]
    assert findings(group_records(throttled)[0]) == findings(group)
    doubted = [replace(one, caveats=[Caveat.UNSTEADY] if place == at else []) for place, one in enumerate(steady)]
    said = findings(group_records(doubted)[0])[0]
    assert "times" not in said
    assert "fastest" not in said
    assert f"No difference is claimed: {('transformer', 'mamba')[at]} is marked unsteady." in said


def test_findings_of_runs_side_by_side_compare_models_within_a_run(record_of: Make) -> None:
    made = cases(Sweep("decode", arch="transformer,mamba", ctx="4k"), has_gpu=True)
    records = [
        record_of(case, time, run_id=run)
        for run, times in (("a", (0.02, 0.01)), ("b", (0.04, 0.01)))
        for case, time in zip(made, times, strict=True)
    ]
    (group,) = group_records(records, {"a": "before", "b": "after"})
    before, after = findings(group)
    assert before.startswith("before: At context 4k mamba (before) is fastest")
    assert "2.00 times transformer (before)" in before
    assert "4.00 times transformer (after)" in after


def test_models_that_differ_have_names_that_differ() -> None:
    models = [
        build_spec("inter", "1b"),
        build_spec("inter", "1b", Options(positions=(3, 9))),
        build_spec("intra", "1b"),
        build_spec("intra", "1b", Options(recipe="concat")),
        pattern_spec("M-*-", "1b"),
        pattern_spec("*-M-", "1b"),
        build_spec("swa", "1b", Options(window=256)),
        build_spec("swa", "1b", Options(window=512)),
    ]
    names = series_names(models)
    assert len(set(names)) == len(names)
    assert names[2].startswith("intra 2+11")
    assert names[3].startswith("intra 2+11 concat") or "concat" in names[3]
    assert names[4:6] == ["M-*-", "*-M-"]
    assert names[6:] == ["swa 3+13 window 256", "swa 3+13"]


def test_names_say_what_differs_and_no_more() -> None:
    moved = [build_spec("inter", "1b", Options(positions=places)) for places in ((3, 9), (4, 9))]
    assert series_names(moved) == ["inter 2+11 at 3,9", "inter 2+11"]  # 4,9 is where they would be anyway
    plain = build_spec("transformer", "1b")
    small, large = (replace(plain, vocab_size=size) for size in (32_000, 64_000))
    assert series_names([small, large]) == ["transformer vocab size 32000", "transformer vocab size 64000"]
