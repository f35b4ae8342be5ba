"""The timing tier: pairs of scripted processes through looks to verdicts."""

from __future__ import annotations

import json
import math
import re
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hybridbench.errors import BadInput, NotComparable
from hybridbench.gate.alone import check_alone
from hybridbench.gate.blocks import BLOCK_NS, BLOCKS, warm_up
from hybridbench.gate.calibration import read_calibration
from hybridbench.gate.cells import CheckCell
from hybridbench.gate.exits import exit_of
from hybridbench.gate.judge import judge
from hybridbench.gate.kinds import KINDS
from hybridbench.gate.looks import look, predicted_s, prediction, without_self_test
from hybridbench.gate.paired import BASE, HEAD, Pairs
from hybridbench.gate.pairs import State
from hybridbench.gate.report import github_annotations, junit, step_summary
from hybridbench.gate.spent import in_words
from hybridbench.gate.timed import calibrated, check
from hybridbench.gate.verdict import Word
from hybridbench.gate.workers import Died


def cell(name: str, kind: str = "kernel") -> CheckCell:
    body = {"backend": "auto", "name": name}
    return CheckCell(name, kind, "kernel", body, body, 10.0, "cuda")


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
    "git_commit": None,
    "threads": None,
}


class Scripted:
    """A process whose cells take what a function of the side, the cell and the pair says."""

    def __init__(self, rig: Rig, side: str) -> None:
        self.rig, self.side, self.pair = rig, side, rig.starts[side]
        rig.starts[side] += 1
        self.cell = ""
        self.alive, self.paused = True, False
        self.share = 1.0

    @property
    def hello(self) -> Mapping[str, Any]:
        return {"environment": ENVIRONMENT, "package": "", "cuda": True}

    def ask(self, request: Mapping[str, Any], limit_s: float) -> dict[str, Any]:
        assert self.alive
        assert not self.paused
        self.rig.waiting_ran |= request["do"] == "block" and self.rig.running_beside(self)
        self.rig.asked.append((self.side, dict(request)))
        if request["do"] == "prepare":
            self.share = 1.0
            self.cell = request["cell"]["name"]
            said = self.rig.prepared(self.side, self.cell)
            if said is None:
                raise Died("its process was killed by signal 9")
            return {
                "kind": "prepared",
                "facts": {},
                "identity": None,
                "tuning": None,
                "chosen": [],
                "blocks_per_sm": 8.0,
                "peak_bytes": 100,
                **said,
            }
        if request["do"] == "find":
            lacks = (self.side, request["cell"]["backend"]) in self.rig.lacks
            return {"kind": "lacks", "reason": "no such function"} if lacks else {"kind": "found"}
        if request["do"] == "trace":
            return {"kind": "traced", **self.rig.traced(self.side, self.cell)}
        if request["do"] == "plant":
            self.share = 1 + request["frac"]
            return {"kind": "ready", "parts": request["parts"] or 1000 * self.pair + round(100 * request["frac"])}
        if request["do"] == "block":
            self.rig.clock += request["window_ns"] / 1e9
            time_ns = round(self.share * self.rig.time_ns(self.side, self.cell, self.pair))
            return {"kind": "samples", "samples_ns": [time_ns] * 3}
        return {"kind": "ready"}

    def pause(self) -> None:
        assert self.alive
        assert not self.paused
        self.paused = True

    def resume(self) -> None:
        assert self.paused
        self.paused = False

    def end(self) -> None:
        assert self.alive
        self.alive = False
        self.rig.ended += 1


class Rig:
    """What both sides take, and what they were asked."""

    def __init__(
        self,
        time_ns: Callable[[str, str, int], int],
        prepared: Callable[[str, str], dict[str, Any] | None] = lambda _side, _cell: {},
    ) -> None:
        self.time_ns, self.prepared = time_ns, prepared
        self.starts = {BASE: 0, HEAD: 0}
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.clock, self.ended = 0.0, 0
        self.made = list[Scripted]()
        self.imported = list[tuple[str, ...]]()
        self.waiting_ran = False
        self.lacks = set[tuple[str, str]]()
        self.pairs = self.paired(ahead=False)

    def paired(self, **how: Any) -> Pairs:
        """Pairs of these processes."""
        return Pairs(self.started, lambda: self.clock, **how)

    def started(self, side: str, modules: Sequence[str] = ()) -> Scripted:
        self.imported.append(tuple(modules))
        self.made.append(Scripted(self, side))
        return self.made[-1]

    def running_beside(self, one: Scripted) -> bool:
        """Whether a process of another pair runs."""
        return any(other.alive and not other.paused and other.pair != one.pair for other in self.made)

    def traced(self, side: str, name: str) -> dict[str, Any]:
        slower = 2e-5 if side == HEAD and name.startswith("slow") else 0.0
        kernels = [("_first", 1, 4e-4), ("_second", 1, 6e-4 + slower)]
        return {"kernels": kernels, "gap_s": 1e-5, "clock_hz": 1.9e9, "tuning": {}}


def slower(factor: float) -> Callable[[str, str, int], int]:
    """The change takes so much longer in cells called slow, with 0.1% of noise from pair to pair."""

    def time_ns(side: str, name: str, pair: int) -> int:
        noise = 1 + 0.001 * math.sin(3.0 * pair + len(name))
        return round(1e6 * (factor * noise if side == HEAD and name.startswith("slow") else noise**-1))

    return time_ns


def named(*names: str, kind: str = "kernel") -> list[CheckCell]:
    return [cell(name, kind) for name in names]


def words(rig: Rig, cells: list[CheckCell], **options: Any) -> dict[str, Word]:
    return {one.cell: one.word for one in check(cells, rig.pairs, **options).verdicts}


def test_a_slower_cell_is_a_regression_after_fresh_pairs_and_others_are_not_timed_again() -> None:
    rig = Rig(slower(1.02))
    found = check(named("slow", "other"), rig.pairs)
    assert [one.word for one in found.verdicts] == [Word.REGRESSION, Word.PASS]
    assert exit_of(found.verdicts) == 1
    kind = KINDS["kernel"]
    assert len(found.progress.cells["slow"].fresh[kind.looks[0]]) == kind.confirm
    assert len(found.progress.cells["other"].pairs) == kind.looks[0]
    processes = kind.looks[0] + kind.confirm + 1  # the last one is traced
    assert rig.starts == {BASE: processes, HEAD: processes}
    assert rig.ended == sum(rig.starts.values())
    assert found.verdicts[0].change == pytest.approx(0.02, abs=0.003)


def test_a_regression_is_traced_and_its_kernel_is_named_everywhere() -> None:
    rig = Rig(slower(1.02))
    found = check(named("slow", "other"), rig.pairs)
    assert list(found.why) == ["slow"]
    assert found.why["slow"].causes[0].name == "_second"
    slow, other = found.verdicts
    assert slow.why.startswith("_second takes 20")
    assert other.why == ""
    page = step_summary(found.verdicts, found.remarks, found.why)
    assert "### why" in page
    for text in (page, junit(found.verdicts), "".join(github_annotations(found.verdicts))):
        assert "_second takes 20" in text
    assert json.loads(json.dumps(found.more()))["why"]["slow"]["causes"][0]["name"] == "_second"
    traces = [side for side, request in rig.asked if request["do"] == "trace"]
    assert traces[:4] == [BASE, HEAD, HEAD, BASE]
    assert rig.ended == sum(rig.starts.values())


def test_a_regression_that_cannot_be_traced_keeps_its_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig(slower(1.02))
    failed = {"kind": "failed", "state": "failed", "reason": "no profiler", "fit": True}
    monkeypatch.setattr(rig, "traced", lambda _side, _name: failed)
    found = check(named("slow"), rig.pairs)
    assert found.verdicts[0].word is Word.REGRESSION
    assert found.why == {}
    assert any("slow was not traced" in one for one in found.remarks)
    rig = Rig(slower(1.02))
    assert rig.pairs.trace(named("slow"), until_s=0.0) == {}


def test_unchanged_cells_pass_at_the_first_look() -> None:
    rig = Rig(slower(1.0))
    assert set(words(rig, named("slow", "other")).values()) == {Word.PASS}
    assert rig.starts[BASE] == KINDS["kernel"].looks[0]


def test_a_faster_change_is_an_improvement() -> None:
    assert words(Rig(slower(0.9)), named("slow"))["slow"] is Word.IMPROVEMENT


def test_sides_alternate_and_take_turns_in_going_first() -> None:
    rig = Rig(slower(1.0))
    check(named("one"), rig.pairs)
    blocks = [side for side, request in rig.asked if request["do"] == "block"]
    plan = BLOCKS["kernel"]
    of_pair = 2 * sum(plan.least + len(warm_up(number)) for number in range(plan.sets))
    firsts = blocks[::of_pair]
    assert firsts == [BASE, HEAD, BASE, HEAD]
    assert blocks[:4] == [BASE, HEAD, HEAD, BASE]
    assert len(blocks) == 4 * of_pair
    for start in range(0, len(blocks), 2):
        assert set(blocks[start : start + 2]) == {BASE, HEAD}
    assert not any(blocks[i] == blocks[i + 1] == blocks[i + 2] for i in range(of_pair - 2))


def test_processes_of_the_next_pair_start_ahead_stand_still_while_it_is_timed_and_none_is_left() -> None:
    rig = Rig(slower(1.0))
    pairs = rig.paired(identify=False)
    for number in range(2):
        pairs.measure(named("one"), number, seen=lambda _name: None)
        assert rig.starts == {BASE: number + 2, HEAD: number + 2}
        assert rig.ended == 2 * (number + 1)
    assert not rig.waiting_ran
    assert not any(one.paused for one in rig.made)
    pairs.close()
    assert rig.ended == sum(rig.starts.values()) == 6
    asked_to = [one["identify"] for _, one in rig.asked if one["do"] == "prepare"]
    assert asked_to == [True, True, False, False]  # the first pair asks what code runs


@pytest.mark.parametrize("spare", [True, False])
def test_with_cores_to_spare_waiting_processes_go_on_beside_what_a_gpu_runs(spare: bool) -> None:
    rig = Rig(slower(1.0))
    pairs = rig.paired(pause=not spare)
    cells = named("one", kind="training")
    for number in range(2):
        pairs.measure(cells, number, seen=lambda _name: None)
    assert rig.waiting_ran is spare
    pairs.close()


def test_waiting_processes_import_what_earlier_ones_of_their_side_did() -> None:
    rig = Rig(slower(1.0), lambda side, _cell: {"imported": ["fla", side]})
    pairs = rig.paired()
    for number in range(2):
        pairs.measure(named("one"), number, seen=lambda _name: None)
    pairs.close()
    assert [set(one) for one in rig.imported[4:]] == [{"fla", BASE}, {"fla", HEAD}]


def test_waiting_processes_import_what_the_chosen_kernels_come_from() -> None:
    chose = [{"module": f"pkg.{name}", "kernel": name, "key": [1], "configuration": "c"} for name in ("b", "a", "b")]
    rig = Rig(slower(1.0), lambda _side, _cell: {"chosen": chose})
    pairs = rig.paired()
    for number in range(2):
        pairs.measure(named("one"), number, seen=lambda _name: None)
    pairs.close()
    assert rig.imported[:4] == [()] * 4  # nothing is chosen before the first pair
    assert set(rig.imported[4:]) == {("pkg.a", "pkg.b")}


def test_planted_work_is_timed_beside_the_cell_without_it() -> None:
    rig = Rig(slower(1.0))
    planted = replace(cell("one", "step"), planted=(0.01, 0.1))
    found = rig.pairs.measure([planted], 0, seen=lambda _name: None)["one"]
    assert found.pair is not None
    for share in (0.01, 0.1):
        more = found.planted[share]
        assert more.head_s / more.base_s == pytest.approx((1 + share) * found.pair.head_s / found.pair.base_s)
    assert rig.pairs.choices["one"].planted == {"0.01": 1, "0.1": 10}
    rig.asked.clear()
    alone = rig.pairs.measure([replace(planted, planted=(0.01,), unplanted=False)], 1, seen=lambda _name: None)["one"]
    assert alone.pair is None
    assert alone.planted[0.01].head_s == pytest.approx(1.01e-3, rel=2e-3)
    first_block = next(place for place, (_side, asked) in enumerate(rig.asked) if asked["do"] == "block")
    plant = (HEAD, {"do": "plant", "frac": 0.01, "parts": 1})
    assert plant in rig.asked[:first_block], "nothing is timed without planted work, and all pairs have the same"


def test_drift_meets_both_sides_alike() -> None:
    rig = Rig(lambda _side, _cell, _pair: 0)
    rig.time_ns = lambda _side, _cell, _pair: round(1e6 * (1 + 0.01 * rig.clock))
    cells = check(named("one"), rig.pairs).progress.cells
    assert all(abs(pair.log_ratio) < 0.001 for pair in cells["one"].pairs)


def test_same_code_is_still_timed_and_a_canary_that_moves_is_not_a_pass() -> None:
    def same(_side: str, _name: str) -> dict[str, Any]:
        return {"identity": "abc"}

    rig = Rig(slower(1.0), same)
    found = check(named("one"), rig.pairs)
    assert found.verdicts[0].word is Word.SAME_CODE
    assert found.verdicts[0].pairs == KINDS["kernel"].looks[0]
    assert exit_of(found.verdicts) == 0
    assert words(Rig(slower(1.05), same), named("slow"))["slow"] is Word.NOT_COMPARABLE


def test_unknown_code_is_never_the_same() -> None:
    assert words(Rig(slower(1.0), lambda _side, _name: {"identity": None}), named("one"))["one"] is Word.PASS


def test_wrong_is_wrong_however_fast() -> None:
    def wrong(side: str, name: str) -> dict[str, Any]:
        return {"kind": "failed", "state": "wrong", "reason": "off by 1", "fit": False} if side == HEAD else {}

    found = check(named("slow", "other"), Rig(slower(0.5), wrong).pairs)
    assert {one.word for one in found.verdicts} == {Word.WRONG}
    assert exit_of(found.verdicts) == 5


@pytest.mark.parametrize(
    ("side", "state", "word", "code"),
    [
        (BASE, "absent", Word.NEW, 6),
        (HEAD, "absent", Word.NOT_COMPARABLE, 4),
        (HEAD, "failed", Word.NOT_COMPARABLE, 4),
        (BASE, "failed", Word.NOT_COMPARABLE, 4),
        (BASE, "wrong", Word.NOT_COMPARABLE, 4),
    ],
)
def test_a_side_without_the_cell(side: str, state: str, word: Word, code: int) -> None:
    def lacking(asked_side: str, _name: str) -> dict[str, Any]:
        return {"kind": "failed", "state": state, "reason": "why", "fit": True} if asked_side == side else {}

    rig = Rig(slower(1.0), lacking)
    found = check(named("one"), rig.pairs)
    assert found.verdicts[0].word is word
    assert exit_of(found.verdicts) == code
    assert rig.starts == {BASE: 1, HEAD: 1}


def own(name: str, base: str = "mine:f", head: str = "mine:f") -> CheckCell:
    """A cell by a person's own kernel."""
    bodies = [{"backend": backend, "name": name, "op": "swiglu"} for backend in (base, head)]
    return CheckCell(name, "kernel", "kernel", *bodies, 10.0, "cuda")


def lacking(*sides: str) -> Callable[[str, str], dict[str, Any]]:
    """Sides that lack the cell called gone; the one called wrong is wrong in the change."""

    def prepared(side: str, name: str) -> dict[str, Any]:
        if name == "wrong" and side == HEAD:
            return {"kind": "failed", "state": "wrong", "reason": "off by 1", "fit": False}
        gone = name == "gone" and side in sides
        return {"kind": "failed", "state": "absent", "reason": f"no gone on {side}", "fit": True} if gone else {}

    return prepared


def test_an_own_kernel_that_vanished_costs_its_cell_only() -> None:
    cells = [own("wrong"), own("gone"), own("other")]
    found = check(cells, Rig(slower(1.0), lacking(HEAD)).pairs)
    assert [one.word for one in found.verdicts] == [Word.WRONG, Word.NOT_COMPARABLE, Word.PASS]
    assert exit_of(found.verdicts) == 5
    assert found.verdicts[1].because == "The change does not have this cell, which the base has: no gone on change."
    assert exit_of(check(cells[1:], Rig(slower(1.0), lacking(HEAD)).pairs).verdicts) == 4


def test_an_own_kernel_that_is_new_is_new_unless_the_base_s_was_named() -> None:
    found = check([own("gone"), own("other")], Rig(slower(1.0), lacking(BASE)).pairs)
    assert [one.word for one in found.verdicts] == [Word.NEW, Word.PASS]
    named = check([own("gone", base="old:f"), own("other")], Rig(slower(1.0), lacking(BASE)).pairs)
    assert [one.word for one in named.verdicts] == [Word.NOT_COMPARABLE, Word.PASS]
    assert named.verdicts[0].because == "The base was not measured: it failed: no gone on base."


def test_a_first_own_kernel_ends_with_0_and_says_that_no_speed_was_compared() -> None:
    found = check([own("gone")], Rig(slower(1.0), lacking(BASE)).pairs)
    assert (found.verdicts[0].word, found.outcome, found.code([])) == (Word.NEW, 0, 0)
    assert any("agrees with its reference" in one and "no speed was compared" in one for one in found.remarks)
    unknown = check(named("gone"), Rig(slower(1.0), lacking(BASE)).pairs)
    assert (unknown.verdicts[0].word, unknown.outcome) == (Word.NEW, 6)
    assert any("name a base that knows" in one for one in unknown.remarks)
    mixed = check([own("gone"), *named("one")], Rig(slower(1.02), lacking(BASE)).pairs)
    assert not mixed.all_first


def test_a_name_that_neither_side_has_is_refused_before_the_self_test() -> None:
    def self_test() -> str:
        raise AssertionError("nothing is timed")

    for run in (check, lambda *words, **more: calibrated(*words, Path("unused"), **more)):
        rig = Rig(slower(1.0))
        rig.lacks = {(BASE, "mine:f"), (HEAD, "mine:f")}
        with pytest.raises(BadInput, match="neither side has the kernel of one: no such function"):
            run([own("other", head="mine:g"), own("one"), own("two")], rig.pairs, self_test=self_test)
        finds = [(side, one["cell"]["backend"]) for side, one in rig.asked if one["do"] == "find"]
        assert finds == [(HEAD, "mine:g"), (HEAD, "mine:f"), (BASE, "mine:f")], "each name once"
        assert len(finds) == len(rig.asked)
    rig.lacks = {(HEAD, "mine:f")}
    assert rig.paired(ahead=False).lacking([own("one"), *named("two")]) == {}


def test_the_self_test_is_left_out_where_the_budget_has_no_time_for_it() -> None:
    cells, asked = named("one"), list[float]()

    def self_test() -> str:
        asked.append(1.0)
        return "It is timed 1% off."

    found = check(cells, Rig(slower(1.0)).pairs, budget_s=1.0, self_test=self_test)
    assert asked == []
    assert re.match(r"Self test: left out, since the budget had .* left\. It takes about 10", found.remarks[0])
    check(cells, Rig(slower(1.0)).pairs, budget_s=2 * predicted_s(cells)[0], self_test=self_test)
    check(cells, Rig(slower(1.0)).pairs, self_test=self_test)
    assert len(asked) == 2
    many = named(*map(str, range(100)))
    assert predicted_s(many)[0] > 300
    assert without_self_test(many, 300.0) == "", "a thirtieth of it does no harm"
    assert "left out" in without_self_test(many, 90.0)


def test_remarks_come_in_the_order_of_the_cells(tmp_path: Path) -> None:
    cells = named(*(f"slow {at}" for at in range(8)))
    path = tmp_path / "calibration.json"
    calibrated(named("another"), Rig(slower(1.0)).pairs, path)
    rig = Rig(slower(1.02))
    rig.traced = lambda _side, _name: {"kind": "failed", "reason": "none", "fit": True}  # type: ignore[method-assign]
    remarks = check(cells, rig.pairs, calibration=path).remarks
    for said in ("was not traced", "Not in the calibration"):
        told = [one for one in remarks if said in one]
        assert told == sorted(told)
        assert len(told) == len(cells)


def test_what_each_side_timed_is_named() -> None:
    found = check(named("one"), Rig(slower(1.0)).pairs, revisions={BASE: "0123 (main)", HEAD: "4567"})
    assert "Base: 0123 (main). Change: 4567." in found.remarks
    assert found.more()["sides"][HEAD]["revision"] == "4567"
    assert found.revisions == {BASE: "0123 (main)", HEAD: "4567"}


def test_a_side_that_dies_costs_its_cell_only() -> None:
    rig = Rig(slower(1.0), lambda side, name: None if (side, name) == (HEAD, "dies") else {})
    found = check(named("dies", "other"), rig.pairs)
    assert [one.word for one in found.verdicts] == [Word.NOT_COMPARABLE, Word.PASS]
    assert "killed by signal 9" in found.verdicts[0].because


def test_the_budget_ends_it_and_nothing_that_is_undecided_passes() -> None:
    rig = Rig(slower(1.0))
    progress = look(named("one", "two"), rig.pairs, budget_s=2.0, now=lambda: rig.clock)
    assert progress.out_of_time
    assert progress.pairs == 1
    assert rig.clock < 2.0
    rig = Rig(slower(1.0))
    progress = look(named("one", "two"), rig.pairs, budget_s=0.0, now=lambda: rig.clock)
    assert progress.out_of_time
    verdicts = judge(list(progress.cells.values()))
    assert {one.word for one in verdicts} == {Word.NOTHING_MEASURED}
    assert exit_of(verdicts) == 6


def test_a_side_that_dies_is_replaced_by_one_that_waits() -> None:
    rig = Rig(slower(1.0), lambda side, name: None if (side, name) == (HEAD, "dies") else {})
    pairs = rig.paired()
    found = check(named("dies", "other"), pairs)
    assert [one.word for one in found.verdicts] == [Word.NOT_COMPARABLE, Word.PASS]
    pairs.close()
    assert rig.ended == sum(rig.starts.values())


def test_a_check_comes_to_the_same_with_and_without_processes_ahead() -> None:
    found = []
    for ahead in (False, True):
        rig = Rig(slower(1.02))
        found.append(check(named("slow", "other"), rig.paired(ahead=ahead)).verdicts)
        assert not rig.waiting_ran
    assert found[0] == found[1]


def test_samples_that_spread_get_more_blocks_and_close_ones_fewer() -> None:
    def blocks(spread: float) -> int:
        rig, count = Rig(slower(1.0)), iter(range(10**6))
        rig.time_ns = lambda _side, _cell, _pair: round(1e6 * (1 + spread * (next(count) % 7 - 3)))
        rig.pairs.measure(named("one"), 0, seen=lambda _name: None)
        return sum(1e9 * rig.clock > 0 and request["do"] == "block" for _, request in rig.asked)

    plan = BLOCKS["kernel"]
    warm = sum(len(warm_up(number)) for number in range(plan.sets))
    assert blocks(0.0) == 2 * (plan.sets * plan.least + warm)
    assert blocks(0.01) == 2 * (plan.sets * plan.most + warm)


def test_a_block_of_training_steps_has_room_for_the_rest_before_a_step() -> None:
    """A step of 33 ms and its rest fill one. With two, a step that is not timed would lead in, without a rest."""
    for kind, length in (("training", 3), ("step", 1), ("kernel", 1)):
        rig = Rig(slower(1.0))
        rig.pairs.measure(named("one", kind=kind), 0, seen=lambda _name: None)
        blocks = [request["window_ns"] for _, request in rig.asked if request["do"] == "block"]
        assert max(blocks) == length * BLOCK_NS
        assert {request["rest"] for _, request in rig.asked if request["do"] == "prepare"} == {BLOCKS[kind].rest}
        assert (BLOCKS[kind].rest > 0) is (kind == "training")
    plan = BLOCKS["training"]
    assert BLOCK_NS * plan.length < 2 * (1 + plan.rest) * 33e6


def test_what_both_sides_have_in_common_is_checked_once() -> None:
    same, other = named("one", "two"), replace(cell("more"), head={"backend": "auto", "name": "larger"})
    same.append(replace(cell("again"), base=same[0].base, head=same[0].head))

    def checks(**how: Any) -> list[tuple[str, str]]:
        rig = Rig(slower(1.0))
        rig.paired(ahead=False, **how).measure([*same, other], 0, seen=lambda _name: None)
        return [(side, one["cell"]["name"]) for side, one in rig.asked if one.get("check")]

    every = [(side, name) for name in ("one", "two") for side in (BASE, HEAD)]
    assert checks() == [*every, (BASE, "more"), (HEAD, "larger")]
    alike = [(BASE, "one"), (BASE, "two"), (BASE, "more"), (HEAD, "larger")]
    assert checks(alike=True) == alike


def test_whether_calls_are_replayed_is_decided_once_and_for_both_sides() -> None:
    for graphs, then in (((True, False), True), ((False, False), False), ((None, None), None)):
        by_side = dict(zip((BASE, HEAD), graphs, strict=True))
        rig = Rig(slower(1.0), lambda side, _name, by_side=by_side: {"graph": by_side[side]})  # type: ignore[misc]
        for number in range(2):
            rig.pairs.measure(named("one"), number, seen=lambda _name: None)
        assert [one["graph"] for _, one in rig.asked if one["do"] == "prepare"] == [None, None, then, then]


def test_the_time_of_a_pair_is_told_by_phase() -> None:
    rig = Rig(slower(1.0), lambda side, _name: {"spent_s": {"check": 2.0 if side == HEAD else 1.0}})
    rig.pairs.measure(named("one", "two"), 0, seen=lambda _name: None)
    spent = rig.pairs.time
    assert sum(spent.phases.values()) == pytest.approx(rig.clock)
    plan = BLOCKS["kernel"]
    assert spent.phases["samples"] == pytest.approx(2 * 2 * plan.sets * plan.least * 0.04)
    assert spent.phases["warm-up"] == pytest.approx(2 * 2 * 1.5 * 0.04)
    assert spent.within == {BASE: {"check": 2.0}, HEAD: {"check": 4.0}}
    said = in_words({**spent.phases, "prepare": 5.0, "end": 0.01}, spent.within)
    assert said.startswith("prepare 5.0 (of the change: check 4.0), samples 1.0")
    assert "end" not in said


def test_the_prediction_covers_what_is_measured() -> None:
    rig = Rig(slower(1.02))
    cells = named("slow", "other")
    look(cells, rig.pairs, now=lambda: rig.clock)
    least, most = predicted_s(cells)
    assert 0 < least < most
    assert rig.clock < most


def test_the_choice_of_the_first_base_holds_for_all_and_the_others_is_told() -> None:
    def prepared(side: str, _name: str) -> dict[str, Any]:
        tiles = {"module": "m", "kernel": "k", "key": [1], "configuration": f"BLOCK: {64 if side == BASE else 128}"}
        backend = "triton" if side == BASE else "torch"
        return {"chosen": [tiles], "tuning": "BLOCK: 64", "facts": {"backend": "triton", "own_backend": backend}}

    rig = Rig(slower(1.0), prepared)
    found = check(named("one"), rig.pairs)
    prepares = [(side, one) for side, one in rig.asked if one["do"] == "prepare"]
    assert prepares[0][1]["pinned"] == []
    assert all(one["pinned"][0]["configuration"] == "BLOCK: 64" for _, one in prepares[1:])
    assert all(one["backend"] == "triton" for _, one in prepares[1:])
    assert [one["check"] for _, one in prepares] == [True] * 2 + [False] * (len(prepares) - 2)
    said = " ".join(found.remarks)
    assert "backend torch" in said
    assert "'BLOCK: 128' for k, where the base takes 'BLOCK: 64'" in said


def test_a_tuner_that_never_agrees_does_not_go_on_for_ever() -> None:
    count = iter(range(1000))
    rig = Rig(slower(1.0), lambda _side, _name: {"tuning": str(next(count))})
    assert words(rig, named("one"))["one"] is Word.INCONCLUSIVE
    assert rig.starts[BASE] <= 3 * KINDS["kernel"].looks[-1]


def test_calibration_writes_what_a_check_of_this_machine_reads(tmp_path: Path) -> None:
    path = tmp_path / "calibration.json"
    found = calibrated(named("one", "two"), Rig(slower(1.0)).pairs, path).calibration
    assert found.cells["one"].pairs == 8
    assert 0 < found.cells["one"].visible < 0.01
    assert found.cells["one"].false_alarms == 0.0
    assert read_calibration(path, found.machine) == found
    checked = check(named("one"), Rig(slower(1.0)).pairs, calibration=path)
    assert checked.verdicts[0].word is Word.PASS
    body = json.loads(path.read_text())
    body["machine"]["device"] = "another"
    path.write_text(json.dumps(body))
    with pytest.raises(BadInput, match="another machine"):
        check(named("one"), Rig(slower(1.0)).pairs, calibration=path)


def test_a_cell_that_cannot_be_calibrated_is_left_out_and_named(tmp_path: Path) -> None:
    path = tmp_path / "calibration.json"
    found = calibrated(named("one", "gone"), Rig(slower(1.0), lacking(BASE, HEAD)).pairs, path)
    assert list(found.calibration.cells) == ["one"]
    assert found.left_out == {"gone": "gone cannot be calibrated: no gone on change."}
    assert read_calibration(path, found.calibration.machine) == found.calibration
    with pytest.raises(NotComparable, match=r"nothing is written\. gone cannot be calibrated: no gone on change"):
        calibrated(named("gone"), Rig(slower(1.0), lacking(BASE, HEAD)).pairs, tmp_path / "none.json")
    assert not (tmp_path / "none.json").exists()


def test_the_prediction_of_a_calibration_is_of_all_its_pairs() -> None:
    cells = named("one", "two")
    least, most = predicted_s(cells, 8)
    assert least == most > predicted_s(cells)[0]
    assert "for 8 pairs." in prediction(cells, None, 8)
    assert "too short for them: a cell that has fewer is not calibrated" in prediction(cells, least / 2, 8)


def test_sides_that_do_not_start_and_other_machines_are_told_before_the_self_test(tmp_path: Path) -> None:
    rig, asked = Rig(slower(1.0)), list[int]()

    def self_test() -> str:
        asked.append(sum(rig.starts.values()))
        return "It is timed 1% off."

    found = check(named("one"), rig.pairs, self_test=self_test)
    assert found.remarks[0] == "It is timed 1% off."
    assert asked == [2], "both sides had started"
    path = tmp_path / "calibration.json"
    path.write_text('{"schema": 1, "machine": {"device": "another"}, "cells": {}}')
    with pytest.raises(BadInput, match="another machine"):
        check(named("one"), rig.pairs, calibration=path, self_test=self_test)
    assert len(asked) == 1
    done = calibrated(named("one"), rig.pairs, tmp_path / "other.json", self_test=self_test)
    assert len(asked) == 2
    assert done.remarks == ["It is timed 1% off."]


def test_the_start_of_processes_counts_in_what_fits_into_the_budget() -> None:
    """The first pair's processes are opened before it: to ask them once more takes no time, and the next ones will."""
    rig = Rig(slower(1.0))
    slow_start = rig.started

    def started(side: str, modules: Sequence[str]) -> Scripted:
        rig.clock += 2.0
        return slow_start(side, modules)

    pairs = Pairs(started, lambda: rig.clock, ahead=False)
    pairs.open()
    progress = look(named("one"), pairs, budget_s=5.0, now=lambda: rig.clock)
    assert pairs.start_s == pytest.approx(4.0)
    assert (progress.pairs, progress.out_of_time) == (1, True)
    assert rig.clock < 9.0


def test_what_only_a_first_pair_does_is_not_expected_of_the_next() -> None:
    def prepared(_side: str, _name: str) -> dict[str, Any]:
        rig.clock += 30.0 if rig.starts[BASE] == 1 else 0.1  # checks and compilations
        return {}

    rig = Rig(slower(1.0), prepared)
    progress = look(named("one"), rig.pairs, budget_s=90.0, now=lambda: rig.clock)
    assert (progress.pairs, progress.out_of_time) == (KINDS["kernel"].looks[0], False)


def test_what_the_change_s_tuner_would_take_is_told_once() -> None:
    def prepared(side: str, _name: str) -> dict[str, Any]:
        return {"chosen": [{"module": "m", "kernel": "k", "key": [1], "configuration": side}]}

    found = check(named("one", "two"), Rig(slower(1.0), prepared).pairs)
    (said,) = [one for one in found.remarks if "tuner would take" in one]
    assert said.startswith("one: ")


def test_a_budget_that_is_too_short_is_told_first_and_what_it_takes_last() -> None:
    cells = named("one", "two")
    least, most = predicted_s(cells)
    assert "too short" not in prediction(cells, None) + prediction(cells, most)
    assert "too short for the first look" in prediction(cells, 0.9 * least)
    rig = Rig(slower(1.0))
    found = check(cells, rig.pairs, budget_s=0.0)
    (said,) = [one for one in found.remarks if "The budget ended" in one]
    assert "the first look takes about" in said
    assert found.remarks[-1].startswith("1 pair of processes")
    rig = Rig(slower(1.0))
    assert look(cells, rig.pairs, budget_s=0.0, now=lambda: rig.clock).pairs == 0, "no cell began in it"


def test_accepted_regressions_pass_up_to_their_size(tmp_path: Path) -> None:
    path = tmp_path / "accepted.toml"
    path.write_text('[[accepted]]\ncell = "slow"\nslowdown = 0.03\nreason = "right"\nuntil = 2999-01-01\n')
    assert words(Rig(slower(1.02)), named("slow"), accepted=path)["slow"] is Word.ACCEPTED
    assert words(Rig(slower(1.05)), named("slow"), accepted=path)["slow"] is Word.REGRESSION
    found = check(named("one"), Rig(slower(1.0)).pairs, accepted=path)
    assert any("no cell of this check: slow" in one for one in found.remarks)


def test_the_document_holds_all_pairs() -> None:
    found = check(named("slow"), Rig(slower(1.02)).pairs)
    more = json.loads(json.dumps(found.more()))
    assert len(more["pairs"]["slow"]["pairs"]) == 4
    assert len(more["pairs"]["slow"]["fresh"]["4"]) == 4


def test_a_gpu_in_use_is_refused() -> None:
    process = types.SimpleNamespace(pid=41)
    nvml: Any = types.SimpleNamespace(
        NVMLError=RuntimeError,
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetComputeRunningProcesses=lambda _handle: [process],
    )
    with pytest.raises(NotComparable, match=r"GPU 0 is in use by 1 other process \(41\)"):
        check_alone("0", nvml)
    nvml.nvmlDeviceGetComputeRunningProcesses = lambda _handle: []
    check_alone("0", nvml)


def test_states_are_those_of_the_judge() -> None:
    assert {"absent", "failed", "wrong"} <= set(State)
