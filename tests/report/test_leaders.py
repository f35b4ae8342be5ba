"""Who leads, by how much, what sets the floor and where that changes: each against numbers worked out by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest

from hybridbench import metrics
from hybridbench.derive.floors import floor_set_by
from hybridbench.record import Caveat, Ceilings, Record, Status
from hybridbench.report.findings import findings
from hybridbench.report.groups import Group, group_records
from hybridbench.report.leaders import believed, lead_of, leaders_table
from hybridbench.report.repeat import command
from hybridbench.suite.sweep import Sweep, cases

Make = Callable[..., Record]


def group_of(record_of: Make, steps: dict[str, list[float]], **sweep: str) -> Group:
    """Decode cases at 4k, 8k, 16k with the medians given by family."""
    wanted = {"arch": ",".join(steps), "ctx": "4k,8k,16k", **sweep}
    made = cases(Sweep("decode", **wanted), has_gpu=True)
    at = (4096, 8192, 16384)
    (group,) = group_records(
        [record_of(case, steps[case.model.arch][at.index(case.workload.context)]) for case in made]
    )
    return group


def test_the_range_of_a_lead_is_what_both_intervals_allow(record_of: Make) -> None:
    group = group_of(record_of, {"transformer": [0.003] * 3, "mamba": [0.002] * 3})
    best, other = believed(group)[0].cases[0][1], believed(group)[0].cases[1][1]
    lead = lead_of(best, other)
    assert lead is not None
    # Samples of a scripted case are 0.98 to 1.02 of its median in steps of 0.01, five of each; the 95% interval of the
    # median of 25 is from the 8th to the 18th: 0.99 to 1.01.
    assert lead.times == pytest.approx(1.5)
    assert (lead.low, lead.high) == pytest.approx((1.5 * 0.99 / 1.01, 1.5 * 1.01 / 0.99))
    assert not lead.tie
    assert lead_of(best, replace(other, status=Status.OOM)) is None


def test_where_the_lead_changes_is_said_and_ties_are_ties(record_of: Make) -> None:
    steps = {"transformer": [0.0015, 0.002, 0.004], "mamba": [0.002, 0.00201, 0.002]}
    said = findings(group_of(record_of, steps))
    assert "Fastest by context: transformer at 4k; transformer and mamba (a tie) at 8k; mamba at 16k." in said
    steady = {"transformer": [0.003] * 3, "mamba": [0.002] * 3}
    assert "mamba is fastest at every context from 4k to 16k." in findings(group_of(record_of, steady))


def test_no_leader_where_medians_are_not_reproducible(record_of: Make) -> None:
    group = group_of(record_of, {"transformer": [0.003] * 3, "mamba": [0.002] * 3})
    last = group.series[1].cells[16384]
    group.series[1].cells[16384] = replace(last, caveats=[Caveat.UNSTEADY])
    said = findings(group)
    assert "mamba is fastest at every context from 4k to 8k." in said
    assert "No model is called fastest at context 16k: medians there are not reproducible." in said
    table = leaders_table(group)
    assert table is not None
    assert table.rows[2][2].text.endswith("[1]")
    assert "mamba" in table.notes[0]


@pytest.mark.parametrize(
    ("doubtful", "said"),
    [
        ([4096, 8192], "Fastest by context: mamba at 16k. No model is called fastest at context 4k, 8k:"),
        ([8192], "Fastest by context: mamba at 4k, 16k. No model is called fastest at context 8k:"),
    ],
)
def test_a_lead_is_claimed_of_no_place_where_it_is_denied(record_of: Make, doubtful: list[int], said: str) -> None:
    group = group_of(record_of, {"transformer": [0.003] * 3, "mamba": [0.002] * 3})
    for place in doubtful:
        cells = group.series[1].cells
        cells[place] = replace(cells[place], caveats=[Caveat.UNSTEADY])
    told = " ".join(findings(group))
    assert said in told
    assert "every context" not in told


def test_the_table_has_a_row_for_each_place_with_rivals(record_of: Make) -> None:
    table = leaders_table(group_of(record_of, {"transformer": [0.0015, 0.002, 0.004], "mamba": [0.002] * 3}))
    assert table is not None
    assert [[row[0].text, row[1].text, row[3].text] for row in table.rows] == [
        ["4k", "transformer", "mamba"],
        ["8k", "transformer", "mamba"],
        ["16k", "mamba", "transformer"],
    ]
    assert table.rows[2][2].text == "2.000 (1.960..2.040)"
    assert table.rows[1][2].text.endswith(" tie")
    assert leaders_table(group_of(record_of, {"mamba": [0.002] * 3})) is None


@pytest.mark.parametrize(("flops", "bytes_rate", "word"), [(1e15, 1e12, "memory"), (1e9, 1e13, "compute")])
def test_what_sets_a_floor_follows_the_rates_of_the_machine(
    record_of: Make, flops: float, bytes_rate: float, word: str
) -> None:
    (case,) = cases(Sweep("decode", arch="mamba", ctx="4k"), has_gpu=True)
    record = record_of(case)
    rates = Ceilings("bfloat16", flops, bytes_rate, bytes_rate)
    record = replace(record, observed=replace(record.observed, ceilings=rates))
    assert floor_set_by(record) == word
    work, moved = metrics.value(record, "model_flops"), metrics.value(record, "must_move_bytes")
    assert work is not None
    assert moved is not None
    assert metrics.value(record, "floor_s") == pytest.approx(max(work / flops, moved / bytes_rate))
    (group,) = group_records([record])
    set_by = {"memory": "memory bandwidth", "compute": "arithmetic"}[word]
    assert any(
        sentence.startswith(f"What sets the floor there: {set_by} (mamba reaches ") for sentence in findings(group)
    )


@pytest.mark.parametrize(
    "asked",
    [
        Sweep("decode", ctx="4k,8k", batch="2", dtype="float16", max_time_s=1.5),
        Sweep("train", arch="swa,intra", scale="350m", ctx="1k", checkpoint="full", min_samples=9),
        Sweep("generate", arch="mamba", ctx="2k", depths=3, prompt=256),
        Sweep("decode", arch="inter", ratio="1:1,1:5", backends={"attention_decode": "reference"}),
    ],
)
def test_the_command_that_repeats_a_group_makes_its_cases(record_of: Make, asked: Sweep) -> None:
    made = cases(asked, has_gpu=True)
    (group,) = group_records([record_of(case, math.pi) for case in made])
    typed = command(group)
    assert typed is not None
    words = typed.split()
    assert words[0] == "hybridbench"
    for name in ("dtype", "batch", "scale", "ratio"):
        if getattr(asked, name):
            assert words[words.index(f"--{name}") + 1] == getattr(asked, name)
    (alone,) = group_records([record_of(made[0], math.pi)])
    assert (command(alone) == typed) == (len(made) == 1)


def test_no_command_is_claimed_for_cases_that_none_makes(record_of: Make) -> None:
    one, _, _, four = cases(Sweep("decode", arch="transformer,mamba", ctx="4k,8k"), has_gpu=True)
    (group,) = group_records([record_of(one), record_of(four)])
    assert command(group) is None
