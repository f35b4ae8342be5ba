"""Bisect: histories of any shape lead to the planted commit, and real processes find it in a real repository."""

from __future__ import annotations

import json
import os
import subprocess
import types
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from hybridbench.cli.main import main
from hybridbench.errors import BadInput
from hybridbench.gate import revisions
from hybridbench.gate.bisect import (
    Answer,
    Bisection,
    BisectResult,
    OutOfTime,
    key_of,
    most_steps,
    read_progress,
    walk_through,
    write_progress,
)
from hybridbench.gate.bisected import conclusion, document, walk_table
from hybridbench.gate.cells import CheckCell
from hybridbench.gate.kinds import KINDS, CellKind
from hybridbench.gate.looks import CheckProgress
from hybridbench.gate.revisions import Commit
from hybridbench.gate.verdict import CellVerdict, Word

CELLS = [CheckCell(name, "cpu", "kernel", {}, {}, 1.0, "cpu") for name in ("one", "two")]


class Played:
    """A history of numbered commits, 0 the good one, and what a cell takes in each."""

    def __init__(self, count: int, slow: dict[str, int], broken: Sequence[int] = (), undecided: Sequence[int] = ()):
        self.count, self.slow, self.broken, self.undecided = count, slow, broken, undecided
        self.asked: list[tuple[str, str, tuple[str, ...]]] = []

    def walk(self) -> Bisection:
        return Bisection("0", [Commit(str(at), f"commit {at}", "2026-01-01") for at in range(1, self.count + 1)])

    def measure(self, base: str, head: str, cells: Sequence[CheckCell]) -> list[CellVerdict]:
        self.asked.append((base, head, tuple(cell.name for cell in cells)))
        if int(head) in self.broken:
            raise BadInput("it does not start.")
        if int(head) in self.undecided:
            return [CellVerdict(cell.name, "cpu", Word.INCONCLUSIVE, "Noisy.", pairs=4) for cell in cells]
        found = []
        for cell in cells:
            slower = int(base) < self.slow.get(cell.name, self.count + 1) <= int(head)
            found.append(
                CellVerdict(cell.name, "cpu", Word.REGRESSION if slower else Word.PASS, "", 0.5 * slower, 0, 1)
            )
        return found

    def found(
        self, walk: Bisection | None = None, keep: Callable[[Bisection], None] = lambda _walk: None
    ) -> BisectResult:
        return walk_through(walk or self.walk(), CELLS, self.measure, lambda one: str(int(one) - 1), keep)


@pytest.mark.parametrize("count", range(1, 34))
def test_the_planted_commit_is_found_in_as_few_steps_as_are_told(count: int) -> None:
    for slow in range(1, count + 1):
        played = Played(count, {"one": slow})
        found = played.found()
        assert [one.name for one in found.suspects] == [str(slow)]
        assert len(played.asked) <= most_steps(count)
        assert played.asked[0] == ("0", str(count), ("one", "two"))
        assert {cells for _, _, cells in played.asked[1:]} <= {("one",)}  # the other cell is not slower
        assert found.before is None or found.before.commit == str(slow - 1)
        assert found.alone is None if slow == 1 else found.alone is not None and found.alone.answer is Answer.SLOW


@pytest.mark.parametrize("broken", [[4], [1, 2], [3, 4, 6], list(range(2, 9))])
def test_skipped_revisions_narrow_it_down_to_themselves(broken: list[int]) -> None:
    for slow in range(1, 11):
        played = Played(10, {"one": slow}, broken)
        names = [int(one.name) for one in played.found().suspects]
        assert slow in names
        assert set(names[:-1]) <= set(broken)  # all but the first that was slow for sure
        assert len(played.asked) <= most_steps(10) + len(broken)


@pytest.mark.parametrize("slow", [1, 60, 385, 400, 512])
def test_half_of_a_long_history_that_does_not_start_costs_few_steps(slow: int) -> None:
    played = Played(512, {"one": slow}, range(128, 384))
    assert [one.name for one in played.found().suspects] == [str(slow)]
    assert len(played.asked) <= most_steps(512) + 1


def test_what_is_undecided_is_measured_again_and_then_skipped() -> None:
    played = Played(4, {"one": 4}, undecided=[2])
    found = played.found()
    assert [head for _, head, _ in played.asked].count("2") == 2
    assert [one.name for one in found.suspects] == ["4"]
    played = Played(2, {"one": 2}, undecided=[1])
    assert [one.name for one in played.found().suspects] == ["1", "2"]


def test_the_first_of_two_slow_cells_is_followed() -> None:
    found = Played(9, {"one": 7, "two": 3}).found()
    assert [one.name for one in found.suspects] == ["3"]


@pytest.mark.parametrize(("undecided", "answer"), [((), Answer.FAST), ((5,), Answer.SKIPPED)])
def test_a_bad_revision_that_is_not_slower_ends_it(undecided: tuple[int, ...], answer: Answer) -> None:
    found = Played(5, {}, undecided=undecided).found()
    assert (found.suspects, found.bad.answer) == ([], answer)


def test_a_bad_revision_that_does_not_start_is_an_error() -> None:
    with pytest.raises(BadInput, match="does not start"):
        Played(5, {"one": 2}, broken=[5]).found()


def test_an_interrupted_one_goes_on_and_asks_nothing_twice(tmp_path: Path) -> None:
    path, whole = tmp_path / "progress.json", Played(20, {"one": 13}, broken=[10])
    whole.found()
    played, most = Played(20, {"one": 13}, broken=[10]), [0]

    def ended(base: str, head: str, cells: Sequence[CheckCell]) -> list[CellVerdict]:
        if len(played.asked) == most[0]:
            raise OutOfTime("the budget ended.")
        return played.measure(base, head, cells)

    for count in range(1, len(whole.asked)):
        most[0] = count
        walk = played.walk()
        read_progress(walk, "key", path)
        with pytest.raises(OutOfTime):
            walk_through(
                walk, CELLS, ended, lambda one: str(int(one) - 1), lambda one: write_progress(one, "key", path)
            )
    walk = played.walk()
    read_progress(walk, "key", path)
    assert [one.name for one in played.found(walk).suspects] == ["13"]
    assert played.asked == whole.asked


def test_damaged_and_foreign_progress_is_refused_and_kept(tmp_path: Path) -> None:
    path, walk = tmp_path / "progress.json", Played(3, {"one": 2}).walk()
    Played(3, {"one": 2}).found(walk)
    write_progress(walk, "key", path)
    text = path.read_text()
    for damaged, key in ((text, "other"), (text[:-40], "key"), ("[]", "key"), (text.replace('"3"', '"4"'), "key")):
        path.write_text(damaged)
        with pytest.raises(BadInput, match=r"remove it, or name another file"):
            read_progress(Played(3, {}).walk(), key, path)
        assert path.read_text() == damaged
    assert key_of("a", "b", CELLS, "m") != key_of("a", "b", CELLS[:1], "m") != key_of("a", "b", CELLS[:1], "n")


def test_what_was_found_is_shown() -> None:
    played = Played(9, {"one": 6}, broken=[5])
    walk = played.walk()
    found = played.found(walk)
    lines = conclusion(found, [f"file {at}" for at in range(25)])
    assert lines[0] == "The first slow commit is one of these 2; all but the last were skipped:"
    found = Played(9, {"one": 6}).found(walk := played.walk())
    lines = conclusion(found, [f"file {at}" for at in range(25)])
    assert lines[0] == "first slow commit: 6 commit 6 (2026-01-01)"
    assert lines[1] == "  one +50.00% (+0.00% to +100.00%) against the good revision; before it +0.00%"
    assert lines[-1] == "  and 5 more: git show --stat 6"
    body = json.loads(document(found, walk, ["file"], "remark"))
    assert body["first_slow"] == {"name": "6", "subject": "commit 6", "date": "2026-01-01", "touched": ["file"]}
    table = walk_table(walk)
    assert [row[0].text for row in table.rows] == sorted(row[0].text for row in table.rows)


# --- git --------------------------------------------------------------------------------------------------------------


class Repository:
    """A repository of one's own."""

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir()
        self.git("init", "-q", "-b", "main")

    def git(self, *words: str) -> str:
        own = (
            "-c",
            "user.name=a",
            "-c",
            "user.email=a@b",
            "-c",
            "commit.gpgsign=false",
            "-c",
            "protocol.file.allow=always",
        )
        done = subprocess.run(["git", "-C", str(self.root), *own, *words], check=True, capture_output=True, text=True)
        return done.stdout.strip()

    def commit(self, subject: str, **files: str) -> str:
        for name, text in files.items():
            (self.root / f"{name}.py").write_text(text)
        self.git("add", "-A")
        self.git("commit", "-qm", subject, "--allow-empty")
        return self.git("rev-parse", "HEAD")


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Repository:
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    made = Repository(tmp_path / "mine")
    monkeypatch.chdir(made.root)
    return made


def test_revisions_between_are_those_of_the_first_parents(repository: Repository) -> None:
    good = repository.commit("good", mine="a = 1\n")
    repository.git("checkout", "-qb", "side")
    side = repository.commit("on a side", other="b = 1\n")
    repository.git("checkout", "-q", "main")
    second = repository.commit("second", mine="a = 2\nb = 3\n")
    repository.git("merge", "-q", "--no-ff", "-m", "merge", "side")
    bad = repository.git("rev-parse", "HEAD")
    root = repository.root
    assert [one.name for one in revisions.between(root, good, bad)] == [second, bad]
    assert [one.subject for one in revisions.between(root, good, bad)] == ["second", "merge"]
    assert revisions.touched(root, second) == ["mine.py (+2 -1)"]
    assert revisions.touched(root, bad) == ["other.py (+1 -0)"]
    assert revisions.parent_of(root, bad) == second
    with pytest.raises(BadInput, match="are of two branches"):
        revisions.between(root, side, second)


def test_the_middle_is_git_s_own(repository: Repository) -> None:
    names = [repository.commit(f"{at}") for at in range(12)]
    for count in range(2, 12):
        walk = Bisection(names[0], revisions.between(repository.root, names[0], names[count]))
        following = walk.following()
        theirs = repository.git("rev-list", "--bisect", "--first-parent", f"{names[0]}..{names[count]}")
        assert following is not None
        halves = [abs(2 * names.index(one) - count) for one in (following.name, theirs)]
        assert halves[0] == halves[1]  # of two in the middle either one halves them


OWN = ("--kernel", "swiglu=mine:swiglu", "--problem", "width=8,length=4", "--direction", "forward", "--device", "cpu")


def typed(*words: str) -> tuple[int, str]:
    result = CliRunner().invoke(main, ["bisect", *words])
    return result.exit_code, " ".join(result.output.split())


def test_what_is_typed_wrong(repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, last = repository.commit("first"), repository.commit("last")
    repository.git("checkout", "-qb", "other", first)
    repository.commit("other")
    for words, said in (
        (("--good", "nothing", "--bad", last, *OWN), "--good 'nothing' is no revision"),
        (("--good", first, "--bad", "HEAD:mine.py", *OWN), "--bad 'HEAD:mine.py' is no revision"),
        (("--good", last, "--bad", first, *OWN), "is newer than --bad"),
        (("--good", last, "--bad", "main", *OWN), "are the same commit"),
        (("--good", "other", "--bad", last, *OWN), "are of two branches"),
        (("--good", first, "--bad", last), "nothing that is timed comes from there"),
        (("--good", first, "--bad", last, *OWN, "--budget", "soon"), "such as 300."),
        (("--good", first, "--bad", last, *OWN, "--progress", "/nowhere/x"), "cannot be written"),
        (("--good", first, *OWN), "bisect lacks --bad"),
        (("--good", first, "--bad", last, "--base", first), "bisect has no --base"),
    ):
        code, output = typed(*words)
        assert (code, said in output) == (2, True), output
    subprocess.run(["git", "clone", "-q", "--depth", "1", f"file://{repository.root}", tmp_path / "cut"], check=True)
    monkeypatch.chdir(tmp_path / "cut")
    code, output = typed("--good", first, "--bad", "HEAD", *OWN)
    assert code == 2
    assert "fetch-depth: 0" in output
    monkeypatch.chdir(tmp_path)
    assert "needs a git repository here" in typed("--good", first, "--bad", last, *OWN)[1]


def test_a_step_that_the_budget_cuts_says_what_is_lost_and_how_much_it_takes(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, last = repository.commit("first"), repository.commit("last")

    def cut(cells: Sequence[CheckCell], _pairs: Any, **_more: Any) -> Any:
        verdicts = [CellVerdict(one.name, "cpu", Word.INCONCLUSIVE, "Too few.", pairs=3) for one in cells]
        return types.SimpleNamespace(verdicts=verdicts, progress=CheckProgress({}, pairs=3, out_of_time=True))

    def tested(*_words: Any) -> str:
        raise AssertionError("the budget has no time for it")

    pairs = types.SimpleNamespace(start_s=1.0)
    monkeypatch.setattr("hybridbench.cli.bisecting.started", lambda *_sides: nullcontext(pairs))
    monkeypatch.setattr("hybridbench.cli.bisecting.check", cut)
    monkeypatch.setattr("hybridbench.cli.bisecting.self_tested", tested)
    code, output = typed("--good", first, "--bad", last, *OWN, "--budget", "20")
    assert code == 3
    assert "The budget of 20.0 s is too short for a step: one that it cuts is lost" in output
    assert "the budget ended after 0 steps: the same command goes on from" in output
    assert "The next step was cut and its 3 pairs of processes lost; of a step the first look takes about" in output


KERNEL = """
import time
import torch.nn.functional as F

def swiglu(packed):
    gate, up = packed.chunk(2, -1)
    end = time.perf_counter_ns() + {spin_ns}
    while time.perf_counter_ns() < end:
        pass
    return F.silu(gate) * up
"""


@pytest.mark.slow
def test_a_slow_commit_is_found_in_real_processes(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    """Judged after two pairs instead of four, so that it is over in a minute: the effect is twice the time."""
    monkeypatch.setitem(KINDS, "cpu", CellKind("CPU", 0.05, (2, 4), 1, 0.02, host=True))
    fast, slow = KERNEL.format(spin_ns=1_000_000), KERNEL.format(spin_ns=2_000_000)
    good = repository.commit("fast", mine=fast)
    repository.commit("does not import", mine="import nothing_there\n")
    repository.commit("fast again", mine=fast)
    planted = repository.commit("twice the work", mine=slow, more="MORE = 1\n")
    (repository.root / "mine.py").write_text("raise RuntimeError('not committed, so not timed')\n")
    result = CliRunner().invoke(main, ["bisect", "--good", good, "--bad", "HEAD", *OWN, "--json"])
    assert result.exit_code == 0, result.output
    body = json.loads(result.stdout)
    assert body["first_slow"]["name"] == planted
    assert body["first_slow"]["touched"] == ["mine.py (+1 -1)", "more.py (+1 -0)"]
    for against in ("against_good", "against_parent"):
        (one,) = body[against]
        assert one["word"] == "regression"
        assert 0.5 < one["change"] < 1.5  # a busy machine lengthens both sides, and what is beside the loop
    skipped = [one for one in body["steps"] if one["answer"] == "skipped"]
    assert [one["subject"] for one in skipped] == ["does not import"]
    assert "nothing_there" in skipped[0]["because"]
    assert "not committed" in result.stderr
    listed = repository.git("worktree", "list")
    assert len(listed.splitlines()) == 1
    again = CliRunner().invoke(main, ["bisect", "--good", good, "--bad", "HEAD", *OWN])
    assert "known from" in again.stderr
    assert "twice the work" in again.stdout
