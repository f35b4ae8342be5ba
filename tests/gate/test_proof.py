"""The proof of the gate: pairs that are stored, pooled and judged; planted work beside the same cells without it."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from hybridbench.errors import BadInput
from hybridbench.gate.cells import CheckCell
from hybridbench.gate.kinds import KINDS
from hybridbench.gate.paired import HEAD, CellInPair
from hybridbench.gate.pairs import SideTimes, State, TimedPair
from hybridbench.gate.pooled import planted_name, pooled, share_of, tallied, verdicts
from hybridbench.gate.proof import main, measured, planned
from hybridbench.gate.sequential import Outcome

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {
    "device": "H",
    "device_kind": "cuda",
    "device_memory_bytes": None,
    "cpu": "c",
    "cores": 2,
    "memory_bytes": None,
    "driver": "1",
    "cuda": None,
    "python": "3",
    "platform": "l",
    "packages": {},
    "hybridbench": "0",
    "git_commit": "abc",
    "threads": None,
}
KERNEL = KINDS["kernel"]
FIRST = KERNEL.looks[0]


def pair(ratio: float) -> TimedPair:
    return TimedPair(1e-3, 1e-3 * ratio)


class Fake:
    """Pairs that take 10 s each and whose planted work takes what it should."""

    def __init__(self) -> None:
        self.clock, self.firsts = 0.0, list[str]()

    def open(self) -> dict[str, Any]:
        return {HEAD: {"environment": ENVIRONMENT}}

    def measure(self, cells: Sequence[CheckCell], number: int, **_more: Any) -> dict[str, CellInPair]:
        self.clock += 10
        self.firsts.append(cells[0].name)
        found = {}
        for cell in cells:
            failed = cell.name == "fails"
            side = SideTimes(State.FAILED, "why") if failed else SideTimes()
            planted = {} if failed else {share: pair(1 + share) for share in cell.planted}
            found[cell.name] = CellInPair(side, side, None if failed else pair(1.0), None, 1.0, planted)
        return found


def cell(name: str, kind: str = "step", planted: tuple[float, ...] = (0.01,)) -> CheckCell:
    return CheckCell(name, kind, "step", {}, {}, 1.0, "cuda", planted)


def test_pairs_end_with_the_budget_and_are_pooled_from_files(tmp_path: Path) -> None:
    fake: Any = Fake()
    cells = [cell("one"), cell("two"), cell("fails")]
    lines = list(measured(cells, fake, budget_s=45.0, now=lambda: fake.clock))
    assert fake.clock == 40
    assert fake.firsts == ["one", "two", "fails", "one"]
    assert [line["pair"] for line in lines] == [0, 1, 2, 3]
    assert lines[0]["failed"] == {"fails": "why"}
    assert set(lines[0]["cells"]) == {"one", "one, planted 1%", "two", "two, planted 1%"}
    paths = [tmp_path / name for name in ("a.jsonl", "b.jsonl")]
    for path in paths:
        path.write_text("".join(json.dumps({**line, "block_ns": 1}) + "\n" for line in lines))
    pool = pooled(paths)
    assert {len(pairs) for pairs in pool.values()} == {8}
    unchanged, slower = tallied(pool)
    assert (unchanged.kind, unchanged.share, unchanged.counts[Outcome.PASS], unchanged.verdicts) == ("step", 0.0, 4, 4)
    assert (slower.share, slower.counts[Outcome.SLOWER], slower.verdicts) == (0.01, 2, 2)  # 5 pairs of 8 for each
    assert slower.effect == pytest.approx(0.01)


def test_what_cannot_be_pooled_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = {"schema": 1, "machine": {"device": "H"}, "block_ns": 1, "cells": {}}
    path = tmp_path / "pool.jsonl"
    for other, said in (
        ({**line, "block_ns": 2}, "line 2 differs from the first pair in block_ns"),
        ({**line, "machine": {"device": "A"}}, "differs from the first pair in device"),
        ({"a": 1}, "line 2 is no pair"),
    ):
        path.write_text(f"{json.dumps(line)}\n{json.dumps(other)}\n")
        assert main(["judge", str(path)]) == 2
        assert said in capsys.readouterr().err
    assert main(["judge", str(tmp_path / "none.jsonl")]) == 2
    assert "error: " in capsys.readouterr().err
    path.write_text("")
    with pytest.raises(BadInput, match="no pairs"):
        pooled([path])


def test_verdicts_are_disjoint_and_as_long_as_the_judge_asks() -> None:
    assert verdicts([pair(1.0)] * (3 * FIRST + 1), KERNEL) == [Outcome.PASS] * 3
    each = FIRST + KERNEL.confirm
    assert verdicts([pair(1.02)] * (2 * each + FIRST), KERNEL) == [Outcome.SLOWER] * 2  # the third lacks fresh pairs
    unconfirmed = [pair(1.02)] * FIRST + [pair(1.0)] * KERNEL.confirm
    assert Outcome.SLOWER not in verdicts(unconfirmed * 3, KERNEL)
    assert verdicts([], KERNEL) == []


def test_noise_makes_no_alarms_and_hides_no_planted_work() -> None:
    draw = random.Random(0)
    pairs = {share: [pair((1 + share) * draw.lognormvariate(0, KERNEL.sd)) for _ in range(2000)] for share in (0, 0.02)}
    assert verdicts(pairs[0], KERNEL).count(Outcome.SLOWER) == 0
    caught = verdicts(pairs[0.02], KERNEL)
    assert caught.count(Outcome.SLOWER) > 0.95 * len(caught) > 200


def test_a_cell_that_its_own_pairs_call_too_noisy_is_advisory() -> None:
    draw = random.Random(0)
    pool = {
        ("kernel", name): [pair((1 + share) * draw.lognormvariate(0, sd)) for _ in range(108)]
        for name, share, sd in (
            ("quiet", 0.0, 0.002), ("quiet, planted 2%", 0.02, 0.002),
            ("noisy", 0.0, 0.02), ("noisy, planted 2%", 0.02, 0.02),
        )
    }  # fmt: skip
    for one in tallied(pool, calibrate_on=8):
        assert (one.cells, one.advisory, one.pairs) == (1, 1, 100)
    unchanged, slower = tallied(pool, calibrate_on=8)
    assert unchanged.counts[Outcome.PASS] == unchanged.verdicts > 20
    assert slower.counts[Outcome.SLOWER] == slower.verdicts > 10
    assert tallied(pool)[0].cells == 2
    with pytest.raises(BadInput, match="108 pairs without planted work: 200 calibrate it"):
        tallied(pool, calibrate_on=200)


def test_planted_cells_stand_beside_those_without() -> None:
    cells = {one.name: one for one in planned(["swiglu", "attention"], "cpu")}
    planted = [one for one in cells.values() if share_of(one.name)]
    assert {one.head["op"] for one in planted} == {"swiglu"}  # attention's work is not proportional to its rows
    for one in planted:
        name = one.name.rpartition(", planted")[0]
        assert planted_name(name, share_of(one.name)) == one.name
        assert one.base == cells[name].base
        rows = one.head["problem"]["length"] / one.base["problem"]["length"]
        assert rows == pytest.approx(1 + share_of(one.name), abs=0.01)
    assert len(planned([], "cpu", only="swiglu")) == 8
    with pytest.raises(BadInput, match="leaves no cell"):
        planned([], "cpu", only="nothing")
    with pytest.raises(BadInput, match="name suites"):
        planned([], "cuda")


def test_the_suites_of_a_gpu_are_what_is_to_be_shown() -> None:
    paths = [str(ROOT / "suites" / name) for name in ("gate-kernels.toml", "gate-steps.toml", "gate-training.toml")]
    cells = planned(paths, "cuda")
    alone = [one for one in cells if not share_of(one.name)]
    assert [sum(one.kind == kind for one in alone) for kind in ("kernel", "step", "training")] == [12, 3, 1]
    assert {share for one in cells for share in one.planted} == {0.01, 0.03, 0.10}
    assert {share_of(one.name) for one in cells} == {0.0, 0.01, 0.02, 0.10}


def test_what_is_typed_wrong(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hybridbench.gate.proof.visible_gpus", list)
    assert main(["run", "--device", "cuda"]) == 2
    assert "shows no NVIDIA GPU" in capsys.readouterr().err
    for words in (["run", "--budget", "0"], ["run", "--block-ms", "-1"], ["judge", "x", "--suite", "0"], []):
        with pytest.raises(SystemExit, match="2"):
            main(words)
    assert main(["run", "--device", "cpu", "--list", "--only", "ssd"]) == 0
    assert "ssd" in capsys.readouterr().out
