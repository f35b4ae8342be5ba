"""The proof of the gate: pairs that are stored, pooled and judged; planted work beside the same cells without it."""

from __future__ import annotations

import itertools
import json
import math
import random
import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from hybridbench.errors import BadInput
from hybridbench.gate.cells import CheckCell
from hybridbench.gate.choices import Choices, read_choices, write_choices
from hybridbench.gate.kinds import KINDS
from hybridbench.gate.paired import HEAD, CellInPair
from hybridbench.gate.pairs import SideTimes, State, TimedPair
from hybridbench.gate.pool import hash_of, pooled, resumed, run_of
from hybridbench.gate.pooled import planted_name, share_of, tallied, verdicts
from hybridbench.gate.proof import main, measured, planned, said_of
from hybridbench.gate.sequential import Outcome
from hybridbench.gate.spent import PairTime
from hybridbench.plain import from_plain
from hybridbench.record import Environment

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
    "packages": {"torch": "2"},
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
        self.choices: dict[str, Choices] = {}
        self.time = PairTime(lambda: self.clock, {"samples": 6.0}, {"change": {"check": 2.0}})

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
            self.choices[cell.name] = Choices("ran")
            bare = pair(1.0) if cell.unplanted and not failed else None
            found[cell.name] = CellInPair(side, side, bare, None, 1.0, planted)
        return found


def cell(name: str, kind: str = "step", planted: tuple[float, ...] = (0.01,)) -> CheckCell:
    return CheckCell(name, kind, "step", {}, {}, 1.0, "cuda", planted)


def run(cells: Sequence[CheckCell], **changed: Any) -> dict[str, Any]:
    """The first line of a run, with other values of its environment or its settings."""
    settings = {"block_ns": changed.pop("block_ns", 1)}
    source = changed.pop("source", "code")
    return run_of(from_plain(Environment, {**ENVIRONMENT, **changed}), source, settings, cells)


def written(path: Path, *lines: Mapping[str, Any]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_pairs_end_with_the_budget_and_are_pooled_from_files(tmp_path: Path) -> None:
    fake: Any = Fake()
    cells = [cell("one"), cell("two"), cell("fails")]
    lines = list(measured(cells, fake, budget_s=45.0, now=lambda: fake.clock))
    assert fake.clock == 40
    assert fake.firsts == ["one", "two", "fails", "one"]
    assert [line["pair"] for line in lines] == [0, 1, 2, 3]
    assert lines[0]["failed"] == {"fails": "why"}
    assert set(lines[0]["cells"]) == {"one", "one, planted 1%", "two", "two, planted 1%"}
    paths = [written(tmp_path / name, run(cells), *lines) for name in ("a.jsonl", "b.jsonl")]
    pool = pooled(paths)
    assert {len(pairs) for pairs in pool.values()} == {8}
    unchanged, slower = tallied(pool)
    assert (unchanged.kind, unchanged.share, unchanged.counts[Outcome.PASS], unchanged.verdicts) == ("step", 0.0, 4, 4)
    assert (slower.share, slower.counts[Outcome.SLOWER], slower.verdicts) == (0.01, 2, 2)  # 5 pairs of 8 for each
    assert slower.effect == pytest.approx(0.01)


def test_a_later_run_goes_on_where_an_earlier_one_ended() -> None:
    fake: Any = Fake()
    cells = [cell("one"), cell("two"), cell("three")]
    lines = list(measured(cells, fake, budget_s=25.0, first=4, now=lambda: fake.clock))
    assert fake.firsts == ["two", "three"]
    assert [line["pair"] for line in lines] == [4, 5]


def test_where_a_pairs_time_went_stands_in_its_line() -> None:
    fake: Any = Fake()
    (line,) = measured([cell("one")], fake, budget_s=5.0, now=lambda: fake.clock)
    assert line["spent"] == {"phases": {"samples": 6.0, "other": 4.0}, "prepare": {"change": {"check": 2.0}}}
    assert said_of(line) == "pair 1: 2 cells in 10.0 s: samples 6.0, other 4.0"


def test_a_cell_that_is_timed_with_planted_work_alone_has_not_failed() -> None:
    fake: Any = Fake()
    cells = [replace(cell(name), unplanted=False) for name in ("one", "fails")]
    (line,) = measured(cells, fake, budget_s=5.0, now=lambda: fake.clock)
    assert set(line["cells"]) == {"one, planted 1%"}
    assert line["failed"] == {"fails": "why"}


def test_runs_go_on_in_the_same_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fakes = list[Any]()

    @contextmanager
    def started(*_sides: Any, **how: Any) -> Iterator[Any]:
        assert how["alike"]
        fakes.append(Fake())
        yield fakes[-1]

    monkeypatch.setattr("hybridbench.gate.proof.started", started)
    monkeypatch.setattr("hybridbench.gate.proof.time.monotonic", lambda: fakes[-1].clock)
    monkeypatch.setattr("hybridbench.gate.proof.measured.__kwdefaults__", {"first": 0, "now": lambda: fakes[-1].clock})
    out = tmp_path / "pool.jsonl"
    words = ["run", "swiglu", "attention", "--device", "cpu", "--out", str(out), "--budget", "25"]
    assert main(words) == 0
    assert "the first pair checks and compiles" in capsys.readouterr().err
    assert main(words) == 0
    said = capsys.readouterr().err
    assert said.startswith(f"2 pairs are in {out}; ")
    assert "all were checked by an earlier run" in said
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [line.get("pair") for line in lines] == [None, 0, 1, None, 2, 3]
    assert main([*words, "--block-ms", "20"]) == 2
    assert "differs in block_ns (40000000 in the first run, 20000000 in this one)" in capsys.readouterr().err
    assert len(out.read_text().splitlines()) == len(lines)
    assert main(["judge", str(out)]) == 0
    assert "| CPU | 10% | 1 (0), 4 |" in capsys.readouterr().out
    assert main(["judge", str(out), "--without", "planted"]) == 0
    said = capsys.readouterr().out
    assert "| CPU | none | 5 (0), 20 |" in said
    assert "10%" not in said
    assert main(["judge", str(out), "--without", "forward"]) == 2
    assert "leaves no cell" in capsys.readouterr().err


def test_the_page_shows_what_the_kept_pairs_say(capsys: pytest.CaptureFixture[str]) -> None:
    page = (ROOT / "docs/gate.md").read_text()
    folder = ROOT / "results/nvidia-h200/gate"
    pools = [str(folder / f"pool-{number}.ndjson") for number in range(18)]
    assert main(["judge", *pools[:5], "--across", "source", "--without", "length=1 "]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if not line.startswith("| training")]
    assert "\n".join(lines) in page
    for some in (pools[5:9], pools[9:11], pools[11:12], pools[12:]):
        assert main(["judge", *some, "--across", "source"]) == 0
        assert capsys.readouterr().out in page


def test_the_page_shows_what_the_kept_steps_say_of_rests() -> None:
    """A line a round: the samples of four sides, of which the first two are the same step."""
    rounds: dict[str, list[list[float]]] = {}
    for line in (ROOT / "results/nvidia-h200/gate/rests.ndjson").read_text().splitlines():
        told = json.loads(line)
        bare, *others = map(statistics.median, told["got"])
        differ = [100 * math.log(other / bare) for other in others]
        rounds.setdefault(told["design"], []).append([bare / 1e6, *differ])
    page = (ROOT / "docs/gate.md").read_text()
    assert len(rounds) == 7
    for some in rounds.values():
        step_ms, *differ = zip(*some, strict=True)
        cells = [f"{statistics.mean(one):+.2f} ± {statistics.pstdev(one):.2f}%" for one in differ]
        assert f"| {statistics.median(step_ms):.1f} | {' | '.join(cells)} |" in page


def noisy(share: float, count: int, seed: int) -> list[float]:
    draw = random.Random(seed)
    return [(1 + share) * draw.lognormvariate(0, KERNEL.sd) for _ in range(count)]


@pytest.mark.parametrize("cuts", [(), (20,), (1, 7, 33), (8, 16, 24, 32, 40)])
def test_files_and_runs_give_what_one_file_gives(cuts: tuple[int, ...], tmp_path: Path) -> None:
    """Slices of a run in files of their own, and several runs in one file."""
    cells = [cell("a", "kernel", ()), cell("a, planted 2%", "kernel", ())]
    ratios = {one.name: noisy(share_of(one.name), 60, seed) for seed, one in enumerate(cells)}

    def line(number: int) -> dict[str, Any]:
        rows = {name: {"kind": "kernel", **asdict(pair(values[number]))} for name, values in ratios.items()}
        return {"pair": number, "cells": rows}

    first = run(cells)
    whole = written(tmp_path / "whole.jsonl", first, *map(line, range(60)))
    edges = [0, *cuts, 60]
    slices = [[first, *map(line, range(start, end))] for start, end in itertools.pairwise(edges)]
    parts = [written(tmp_path / f"{number}.jsonl", *one) for number, one in enumerate(slices)]
    runs = written(tmp_path / "runs.jsonl", *itertools.chain(*slices))
    found = [tallied(pooled(paths)) for paths in ([whole], parts, [runs])]
    assert found[0] == found[1] == found[2]
    counts = [len(verdicts([pair(ratio) for ratio in values], KERNEL)) for values in ratios.values()]
    assert [one.verdicts for one in found[0]] == counts
    assert min(one.verdicts for one in found[0]) >= 5
    assert resumed(runs, first) == 60


OTHERWISE = {
    "blocks": ({"block_ns": 2}, "block_ns (1 in the first run, 2 in this one)"),
    "device": ({"device": "A"}, "device (H in the first run, A in this one)"),
    "driver": ({"driver": "2"}, "driver"),
    "python": ({"python": "4"}, "python"),
    "torch": ({"packages": {"torch": "3"}}, "torch (2 in the first run, 3 in this one)"),
    "a package more": ({"packages": {"torch": "2", "fla": "1"}}, "fla (None in the first run, 1 in this one)"),
    "code": ({"source": "other"}, "source (code in the first run, other in this one)"),
}


@pytest.mark.parametrize(("changed", "said"), OTHERWISE.values(), ids=OTHERWISE)
def test_runs_that_were_measured_otherwise_do_not_pool(
    changed: dict[str, Any], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cells = [cell("one")]
    row = {"pair": 0, "cells": {"one": {"kind": "step", **asdict(pair(1.0))}}}
    first, other = run(cells), run(cells, **changed)
    one = written(tmp_path / "one.jsonl", first, row)
    two = written(tmp_path / "two.jsonl", other, row)
    both = written(tmp_path / "both.jsonl", first, row, other, row)
    for paths in ([one, two], [both]):
        assert main(["judge", *map(str, paths)]) == 2
        assert said in capsys.readouterr().err
    with pytest.raises(BadInput, match="give another --out"):
        resumed(one, other)
    field = said.partition(" ")[0]
    assert main(["judge", str(one), str(two), "--across", field]) == 0
    assert main(["judge", str(one), "--across", "nothing"]) == 2
    assert "is no field of a run; they are device" in capsys.readouterr().err


def test_a_commit_that_changes_no_code_pools(tmp_path: Path) -> None:
    row = {"pair": 0, "cells": {"one": {"kind": "step", **asdict(pair(1.0))}}}
    lines = [line for commit in ("a", "b") for line in (run([cell("one")], git_commit=commit), row)]
    assert len(pooled([written(tmp_path / "pool.jsonl", *lines)])["step", "one"]) == 2


def test_a_cell_of_the_same_name_that_is_another_one_does_not_pool(tmp_path: Path) -> None:
    def sized(length: int) -> CheckCell:
        return replace(cell("one"), head={"problem": {"length": length}})

    first, other = run([sized(8), cell("two")]), run([sized(9), cell("three")])
    paths = [written(tmp_path / f"{number}.jsonl", line) for number, line in enumerate((first, other))]
    with pytest.raises(BadInput, match=r"head.problem.length of cell 'one' \(8 in the first run, 9 in this one\)"):
        pooled(paths)
    row = {"pair": 0, "cells": {"three": {"kind": "step", **asdict(pair(1.0))}}}
    apart = written(tmp_path / "apart.jsonl", first, run([cell("three")]), row)
    assert set(pooled([apart])) == {("step", "three")}, "other cells are no hindrance"


def test_a_problem_that_suites_reach_from_several_models_pools(tmp_path: Path) -> None:
    row = {"pair": 0, "cells": {"one": {"kind": "step", **asdict(pair(1.0))}}}
    runs = [run([replace(cell("one"), base={"models": [name]}, head={"models": [name]})]) for name in ("swa", "inter")]
    lines = [line for first in runs for line in (first, row)]
    assert len(pooled([written(tmp_path / "pool.ndjson", *lines)])["step", "one"]) == 2


def test_what_is_no_pool_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = run([cell("one")])
    path = tmp_path / "pool.jsonl"
    for lines, said in (
        ([first, {"a": 1}], "line 2 is no pair"),
        ([{"pair": 0, "cells": {}}], "line 1 is no pair"),
        ([{**first, "schema": 1}], "is of schema 1, and 2 is read"),
        ([first], "no pairs"),
        ([], "no pairs"),
    ):
        assert main(["judge", str(written(path, *lines))]) == 2
        assert said in capsys.readouterr().err
    assert main(["judge", str(tmp_path / "none.jsonl")]) == 2
    assert "error: " in capsys.readouterr().err


def test_a_line_that_a_killed_run_left_unfinished_is_no_pair_and_is_removed(tmp_path: Path) -> None:
    first = run([cell("one")])
    row = {"pair": 0, "cells": {"one": {"kind": "step", **asdict(pair(1.0))}}}
    path = written(tmp_path / "pool.jsonl", first, row)
    whole = path.read_text()
    path.write_text(whole + json.dumps(row)[:-3])
    assert len(pooled([path])["step", "one"]) == 1
    assert resumed(path, first) == 1
    assert path.read_text() == whole
    assert resumed(tmp_path / "none.jsonl", first) == 0


def test_choices_are_kept_for_the_same_code_machine_and_cell(tmp_path: Path) -> None:
    path = tmp_path / "choices.json"
    both, one = run([cell("one"), cell("two")]), run([cell("one")])
    kept = {name: Choices(name, [{"key": [1, None]}], True, "own", ["said"], {"0.03": 48}) for name in ("one", "two")}
    assert read_choices(path, both) == {}
    write_choices({"one": kept["one"]}, one, path)
    write_choices({"two": kept["two"]}, both, path)
    assert read_choices(path, both) == kept
    assert read_choices(path, one) == {"one": kept["one"]}
    for other in (run([cell("one")], source="other"), run([cell("one")], device="A"), run([cell("one", "training")])):
        assert read_choices(path, other) == {}
    write_choices({}, run([cell("one")], source="other"), path)
    assert read_choices(path, both) == {}, "those of other code are gone"
    path.write_text("{")
    assert read_choices(path, both) == {}


def test_the_hash_of_code_is_of_its_files(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("1")
    first = hash_of(tmp_path)
    (tmp_path / "b.txt").write_text("1")
    assert hash_of(tmp_path) == first
    (tmp_path / "a.py").rename(tmp_path / "b.py")
    assert hash_of(tmp_path) != first


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
    some = planned(paths, "cuda", shares=(0.03,))
    assert {share for one in some for share in one.planted} == {0.03}
    assert [one.name for one in some] == [one.name for one in alone]
    assert {one.planted for one in planned(paths, "cuda", shares=(0.0,))} == {()}
    (training,) = planned(paths, "cuda", shares=(0.03,), unplanted=False)
    assert (training.kind, training.planted, training.unplanted) == ("training", (0.03,), False)
    with pytest.raises(BadInput, match="--only-planted leaves no cell: only steps"):
        planned(paths[:1], "cuda", unplanted=False)


def test_the_suites_for_many_pairs_have_the_cells_of_the_pools() -> None:
    pool = pooled([ROOT / f"results/nvidia-h200/gate/pool-{number}.ndjson" for number in (3, 4, 6, 7)], ["source"])
    names = {name.rpartition(", planted ")[0] or name for _, name in pool}
    suites = [str(ROOT / "suites" / f"gate-{name}.toml") for name in ("own", "steps-350m", "training-short")]
    cells = planned(suites, "cuda", shares=(0.0,))
    assert {one.name for one in cells} == {name for name in names if "length=1 " not in name}


def test_what_is_typed_wrong(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hybridbench.gate.proof.visible_gpus", list)
    assert main(["run", "--device", "cuda"]) == 2
    assert "shows no NVIDIA GPU" in capsys.readouterr().err
    for words in (
        ["run", "--planted", "4"],
        ["run", "--budget", "0"],
        ["run", "--block-ms", "-1"],
        ["judge", "x", "--suite", "0"],
        [],
    ):
        with pytest.raises(SystemExit, match="2"):
            main(words)
    capsys.readouterr()
    for words, said in (
        (["judge", "x", "--suite", "abc"], "argument --suite: abc is not a whole number of 1 or more"),
        (["run", "--budget", "soon"], "argument --budget: soon is not a number above 0"),
    ):
        with pytest.raises(SystemExit, match="2"):
            main(words)
        assert capsys.readouterr().err.startswith(f"error: {said}; see ")
    assert main(["run", "--device", "cpu", "--list", "--only", "ssd"]) == 0
    assert "ssd" in capsys.readouterr().out
