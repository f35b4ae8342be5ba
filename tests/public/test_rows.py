"""Ratios and tables by hand, and blocks that take turns on a scripted clock."""

from __future__ import annotations

import json

from hybridbench.measure.clock import ScriptedTimer
from hybridbench.public.rounds import Rounds, Steps, take_turns
from hybridbench.public.row import HEADER, PublicRow, fastest, table
from hybridbench.record import Status

ROW = PublicRow(
    *("decode", "transformer", "1b", 4096, 4, "cuda", "bfloat16", "graph", "transformers", "5.24.0", "compiled"),
    parameters=1_235_814_400,
    their_parameters=1_235_814_400,
    weights="ours",
    logits_error=0.021,
    logits_bound=0.06,
    ours_ns=[[1_000_000, 1_000_000, 1_100_000], [2_000_000] * 3, [1_000_000] * 3],
    theirs_ns=[[3_000_000] * 3, [5_000_000] * 3, [2_000_000] * 3],
)
OF_ROW = ["transformer", "1b", "4k", "4"]
FASTER = PublicRow(**{**vars(ROW), "way": "other", "theirs_ns": [[2_000_000] * 3] * 3, "notes": ["a note"]})
MISSING = PublicRow(
    *("decode", "mamba", "1b", 4096, 4, "cuda", "bfloat16", "graph", "mamba_ssm", None, "CUDA graph"),
    status=Status.UNSUPPORTED,
    reason="it is missing",
)


def test_a_ratio_is_of_blocks_of_one_round() -> None:
    assert (ROW.ratio.median, ROW.ratio.low, ROW.ratio.high) == (2.5, 2.0, 3.0)
    assert ROW.ours_ms.median == 1.0
    assert ROW.theirs_ms.median == 3.0


def test_the_table() -> None:
    assert fastest([ROW, FASTER, MISSING]) == {1}
    text = table([ROW, FASTER, MISSING])
    lines, (blank, *below) = text.splitlines()[:5], text.splitlines()[5:]
    assert len({len(line) for line in lines}) == 1
    assert [[cell.strip() for cell in line.strip("|").split("|")] for line in (lines[0], *lines[2:])] == [
        list(HEADER),
        [*OF_ROW, "1", "3", "transformers: compiled", "2.500", "2.000 to 3.000", "1.24 B / 1.24 B", "2.1e-02"],
        [*OF_ROW, "1", "2", "transformers: other", "2.000*", "1.000 to 2.000", "1.24 B / 1.24 B", "2.1e-02"],
        ["mamba", *OF_ROW[1:], "-", "-", "mamba_ssm: CUDA graph", "unsupported", "-", "- / -", "not compared"],
    ]
    assert (blank, below) == (
        "",
        [
            "ratio: their time over ours, so above 1 ours is faster. *: the fastest of their ways.",
            "transformer 1b 4k b4, transformers, other: a note",
            "mamba 1b 4k b4, mamba_ssm, CUDA graph: unsupported: it is missing",
        ],
    )


def test_a_line_holds_everything() -> None:
    line = json.loads(json.dumps(ROW.line()))
    assert line["logits_checked"]
    assert line["ratio"] == {"median": 2.5, "low": 2.0, "high": 3.0}
    assert line["theirs_ns"] == ROW.theirs_ns
    line = json.loads(json.dumps(MISSING.line()))
    assert not line["logits_checked"]
    assert "ratio" not in line
    assert line["reason"] == "it is missing"


def test_blocks_take_turns() -> None:
    ran: list[str] = []
    sides = [Steps(lambda: ran.append("a")), Steps(lambda: ran.append("B"), lambda: ran.append("-"))]
    timer = ScriptedTimer(iter(range(1000, 2000)))
    rounds = Rounds(count=3, block_s=4e-6, least=2, most=4, warmup_s=0)
    ours_ns, theirs_ns = take_turns(sides, timer, rounds, timer.now)
    one, other = "a" * 4, "-" + "-B" * 4
    assert "".join(ran) == "aaa" + "--B-B-B" + one + other + other + one + one + other
    assert [len(block) for block in ours_ns + theirs_ns] == [4] * 6
    assert ours_ns[0] == [1006, 1007, 1008, 1009]
    assert theirs_ns[1] == [1014, 1015, 1016, 1017]
    assert ours_ns[1] == [1018, 1019, 1020, 1021]


def test_a_block_has_its_least_and_its_most() -> None:
    for duration_ns, count in ((10, 7), (10**9, 2), (1000, 4)):
        timer = ScriptedTimer(iter([duration_ns] * 100))
        rounds = Rounds(count=1, block_s=4e-6, least=2, most=7, warmup_s=0)
        taken = take_turns([Steps(lambda: None)], timer, rounds, timer.now)
        assert [len(block) for block in taken[0]] == [count]


def test_a_warm_up_lasts_its_time() -> None:
    timer = ScriptedTimer(iter([1000] * 100))
    runs: list[int] = []
    take_turns([Steps(lambda: runs.append(1))], timer, Rounds(count=1, least=1, most=1, warmup_s=8e-6), timer.now)
    assert len(runs) == 9 + 1
