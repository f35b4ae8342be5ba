"""What a check is asked for, its two sides, and real processes of a revision that was made slower."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from hybridbench.cli.main import main
from hybridbench.errors import BadInput, NotComparable
from hybridbench.gate.cells import asked, of_step, parse_kernels
from hybridbench.gate.sides import as_it_is, here, moved, of_python, of_revision
from hybridbench.suite.file import load_suite

ROOT = Path(__file__).parents[2]

# --- what is asked for ------------------------------------------------------------------------------------------------


def test_cells_of_suites_and_of_steps() -> None:
    kernels = asked([str(ROOT / "suites/kernels.toml")], has_gpu=True, kernels={}, base_kernels={})
    assert {one.kind for one in kernels} == {"kernel"}
    assert all(one.head["backend"] == "auto" for one in kernels)
    assert len({one.name for one in kernels}) == len(kernels) > 20
    steps = [of_step(case) for case in load_suite(ROOT / "suites/smoke.toml").cases(has_gpu=True)]
    assert {one.kind for one in steps} <= {"step", "training", "cpu"}
    assert len({one.name for one in steps}) == len(steps)


def test_own_kernels_stand_on_their_sides() -> None:
    found = asked(
        [], has_gpu=False, kernels={"swiglu": "new:f"}, base_kernels={"swiglu": "old:f"}, problem="width=8,length=4"
    )
    assert {(one.base["backend"], one.head["backend"]) for one in found} == {("old:f", "new:f")}
    with pytest.raises(BadInput, match="without --kernel"):
        asked([], has_gpu=False, kernels={}, base_kernels={"swiglu": "old:f"})
    for text in ("swiglu", "swiglu=new", "nothing=new:f", "=a:b"):
        with pytest.raises(BadInput):
            parse_kernels("--kernel", [text])


# --- sides ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with a kernel that its second commit made slower."""
    root = tmp_path / "mine"
    root.mkdir()
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)

    def git(*arguments: str) -> None:
        author = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false")
        subprocess.run(["git", "-C", str(root), *author, *arguments], check=True, capture_output=True)

    git("init", "-q")
    (root / "mine.py").write_text(KERNEL)
    git("add", "mine.py")
    git("commit", "-qm", "first")
    (root / "mine.py").write_text(KERNEL + SLOWER)
    git("commit", "-qam", "slower")
    monkeypatch.chdir(root)
    return root


KERNEL = """
import torch.nn.functional as F

def swiglu(packed):
    gate, up = packed.chunk(2, -1)
    return F.silu(gate) * up
"""
SLOWER = """
fast = swiglu

def swiglu(packed):
    made = fast(packed)
    fast(packed[: len(packed) // 2])
    return made
"""


def test_a_revision_is_a_worktree_that_is_removed(repository: Path) -> None:
    with of_revision("HEAD~1", own_kernels=True) as base:
        tree = base.folder
        assert (tree / "mine.py").read_text() == KERNEL
        assert base.package == here().package  # hybridbench is of another repository, so both sides have the same
    assert not tree.exists()
    listed = subprocess.run(["git", "worktree", "list"], cwd=repository, capture_output=True, text=True, check=True)
    assert len(listed.stdout.splitlines()) == 1


def test_revisions_that_cannot_be_a_base(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for revision in ("nothing", "-q", "HEAD:mine.py"):
        with pytest.raises(BadInput, match="is no revision"), of_revision(revision, own_kernels=True):
            pass
    with pytest.raises(BadInput, match="nothing that is timed comes from there"), of_revision("HEAD", False):
        pass
    monkeypatch.chdir(tmp_path)
    with (
        pytest.raises(BadInput, match=r"repository here, and .* lies in none .*: run this"),
        of_revision("HEAD", own_kernels=True),
    ):
        pass
    with pytest.raises(BadInput, match="is no program"):
        of_python(str(tmp_path))


def test_code_that_a_revision_lacks_is_not_timed_for_it(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its folder is on the path here, is tracked by now or new, and holds another kernel of the same name."""
    kept, later, new = (repository / name for name in ("environment", "later", "new"))
    for folder in (kept, later, new):
        folder.mkdir()
        (folder / "only_here.py").write_text("made = 1\n")
    (repository / ".gitignore").write_text("environment/\n")
    subprocess.run(["git", "-C", str(repository), "add", "later", ".gitignore"], check=True)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, (later, new, kept))))
    monkeypatch.chdir(later)
    with of_revision("HEAD", own_kernels=True) as base:
        assert base.path[-3:] == (str(base.folder / "later"), str(base.folder / "new"), str(kept))
        assert (base.folder / "mine.py").is_file(), "it runs at the top, where its own folder is missing"
        listed = os.pathsep.join(base.path[:-1])
        tried = subprocess.run(
            [base.python, "-c", "import only_here"],
            cwd=base.folder,
            env={**os.environ, "PYTHONPATH": listed},
            capture_output=True,
            check=False,
        )
        assert b"ModuleNotFoundError" in tried.stderr
    monkeypatch.chdir(repository)


def test_what_lies_in_the_repository_moves_and_all_else_stays(tmp_path: Path) -> None:
    root, tree, other = (tmp_path / name for name in ("root", "tree", "other"))
    for path in (root / "src", tree / "src", root / "ignored", other):
        path.mkdir(parents=True)
    subprocess.run(["git", "init", "-q", str(root)], check=True)
    (root / ".gitignore").write_text("/ignored/\n")
    side = here()
    side = type(side)("base", folder=root, path=tuple(map(str, (root / "src", root / "ignored", other))), package=None)
    there = moved(side, root, tree)
    assert there.path == (str(tree / "src"), str(root / "ignored"), str(other))
    assert there.folder == tree


# --- the command ------------------------------------------------------------------------------------------------------

USAGE = {
    "no tier": (["check"], "--base REVISION"),
    "two sides": (["check", "--base", "HEAD", "--base-python", "python"], "are two other sides"),
    "exact and a base": (["check", "--exact", "--base", "HEAD"], "--base with --exact"),
    "exact and an operation": (["check", "swiglu", "--exact"], "times nothing"),
    "calibrate and a base": (["check", "--calibrate", "--base", "HEAD"], "--base with --calibrate"),
    "a baseline alone": (["check", "--base", "HEAD", "--update"], "--update belongs to --exact"),
    "calibrate and a file of verdicts": (["check", "--calibrate", "--junit", "x.xml"], "--junit with --calibrate"),
    "calibrate and a page": (["check", "--calibrate", "--summary", "x.md"], "--summary with --calibrate"),
    "calibrate and annotations": (["check", "--calibrate", "--annotations"], "--annotations with --calibrate"),
    "calibrate and what fails": (["check", "--calibrate", "--fail-on", "none"], "--fail-on with --calibrate"),
    "a calibration that cannot be written": (
        ["check", "--calibrate", "--device", "cpu", "--calibration", "/dev/null/x.json"],
        "/dev/null/x.json cannot be written",
    ),
    "no seconds": (["check", "--base", "HEAD", "--budget", "soon"], "give seconds above 0"),
    "a file that cannot be written": (["check", "--base", "HEAD", "--junit", "/nowhere/x.xml"], "cannot be written"),
    "a suite and no GPU": (["check", "suites/gate-steps.toml", "--base", "HEAD"], "gate-steps.toml says device cuda"),
    "no calibration": (["check", "--base", "HEAD", "--calibration", "no.json"], "no calibration at no.json: write one"),
    "no file of accepted ones": (["check", "--base", "HEAD", "--accepted", "no.toml"], "no.toml cannot be read"),
    "no GPU": (["check", "swiglu", "--base", "HEAD", "--device", "cuda"], "shows no NVIDIA GPU"),
    "a suite with options": (["check", "suites/kernels.toml", "--base", "HEAD", "--ctx", "1k"], "give it alone"),
}


@pytest.mark.parametrize(("arguments", "said"), USAGE.values(), ids=USAGE)
def test_what_is_typed_wrong(arguments: list[str], said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hybridbench.cli.timing.visible_gpus", list)
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2, result.output
    assert said in " ".join(result.output.split())


def test_a_calibration_that_cannot_be_written_is_refused_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def started(*_words: Any, **_more: Any) -> None:
        raise AssertionError("nothing is to start")

    monkeypatch.setattr("hybridbench.cli.timing.started", started)
    folder = tmp_path / "a folder"
    folder.mkdir()
    (tmp_path / "file").write_text("")
    words = ["check", "swiglu", "--calibrate", "--device", "cpu", "--calibration"]
    for path in (tmp_path / "file" / "x.json", Path("/proc/nowhere.json")):
        result = CliRunner().invoke(main, [*words, str(path)])
        assert (result.exit_code, "cannot be written" in result.output) == (2, True), result.output


def ends(error: BaseException) -> Any:
    def chosen(*_words: Any) -> None:
        raise error

    return chosen


ENDS = {
    "bad input": (BadInput("the base does not start: it ended."), 2, "the base does not start: it ended."),
    "a refusal": (NotComparable("GPU 0 is in use."), 4, "GPU 0 is in use."),
    "an interrupt": (KeyboardInterrupt(), 130, "it was interrupted before all cells were judged."),
    "a fault of ours": (RuntimeError("oops"), 1, "the check itself failed: RuntimeError: oops"),
}


@pytest.mark.parametrize(("error", "code", "said"), ENDS.values(), ids=ENDS)
def test_files_of_a_check_that_could_not_judge_say_why(
    error: BaseException, code: int, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hybridbench.cli.timing.chosen", ends(error))
    xml, page = tmp_path / "junit.xml", tmp_path / "summary.md"
    page.write_text("an earlier step\n")
    words = ["check", "swiglu", "--base", "HEAD", "--junit", str(xml), "--summary", str(page), "--annotations"]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == code, result.output
    (case,) = ET.fromstring(xml.read_text())[0]
    assert [child.tag for child in case] == ["error"]
    assert said in str(case[0].get("message"))
    assert page.read_text().startswith("an earlier step\n## Performance check\n\nNo verdict: ")
    assert said in page.read_text()
    assert "::error title=Performance check%3A no verdict::" in result.output


def test_a_comparison_with_stored_records_that_could_not_be_made_says_why(tmp_path: Path) -> None:
    page = tmp_path / "summary.md"
    words = ["check", "--baseline", str(tmp_path / "none.jsonl"), "--summary"]
    assert CliRunner().invoke(main, [*words, str(page)]).exit_code == 2
    assert "No verdict: " in page.read_text()
    result = CliRunner().invoke(main, [*words, "/proc/nowhere.md"])
    assert (result.exit_code, "cannot be written" in result.output) == (2, True), result.output


def test_figures_that_cannot_be_written_are_not_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hybridbench.cli.checking.update_exact", ends(AssertionError("nothing is to be computed")))
    result = CliRunner().invoke(main, ["check", "--exact", "--update", "--baseline", "/proc/nowhere.json"])
    assert (result.exit_code, "cannot be written" in result.output) == (2, True), result.output


def test_files_that_are_not_reached_are_not_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hybridbench.cli.timing.judged", ends(RuntimeError("before anything")))
    xml, page = tmp_path / "junit.xml", tmp_path / "summary.md"
    CliRunner().invoke(main, ["check", "swiglu", "--base", "HEAD", "--junit", str(xml), "--summary", str(page)])
    assert not xml.exists()
    assert not page.exists()


def test_the_working_tree_is_named_with_what_is_not_committed(repository: Path) -> None:
    def git(*words: str) -> str:
        done = subprocess.run(["git", "-C", str(repository), *words], check=True, capture_output=True, text=True)
        return done.stdout.strip()

    head, first = git("rev-parse", "HEAD")[:10], git("rev-parse", "HEAD~1")[:10]
    assert as_it_is(here(), own_kernels=False).revision == "", "nothing that is timed is of this repository"
    assert as_it_is(here(), own_kernels=True).revision == head
    (repository / "check.xml").write_text("what a job left")
    assert as_it_is(here(), own_kernels=True).revision == head
    (repository / "fast.py").write_text(KERNEL)
    assert as_it_is(here(), own_kernels=True).revision == f"{head}, working tree with uncommitted changes"
    (repository / "fast.py").unlink()
    (repository / "mine.py").write_text(KERNEL)
    assert as_it_is(here(), own_kernels=True).revision == f"{head}, working tree with uncommitted changes"
    with of_revision("HEAD~1", own_kernels=True) as base:
        assert base.revision == f"{first} (HEAD~1)"


def run(*arguments: str, folder: Path) -> tuple[int, dict[str, Any]]:
    command = [sys.executable, "-m", "hybridbench.cli.main", "check", *arguments, "--json"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


ONE = ("--problem", "width=1024,length=128", "--direction", "forward")


@pytest.mark.slow
def test_a_revision_that_is_slower_is_seen_in_real_processes(repository: Path, tmp_path: Path) -> None:
    files = ("--junit", str(tmp_path / "junit.xml"), "--summary", str(tmp_path / "summary.md"))
    code, found = run(
        "--base", "HEAD~1", "--kernel", "swiglu=mine:swiglu", *ONE, "--budget", "25", *files, folder=repository
    )
    (pairs,) = found["pairs"].values()
    ratios = sorted(one["head_s"] / one["base_s"] for one in pairs["pairs"])
    assert ratios[len(ratios) // 2] > 1.2  # half of the rows twice: 1.5 by work
    assert found["verdicts"][0]["word"] in ("regression", "inconclusive")  # by what fits into the budget here
    assert code in (1, 3)
    assert "<testsuite" in (tmp_path / "junit.xml").read_text()
    assert "Performance check" in (tmp_path / "summary.md").read_text()


@pytest.mark.slow
def test_the_same_revision_is_no_regression_in_real_processes(repository: Path) -> None:
    code, found = run("--base", "HEAD", "--kernel", "swiglu=mine:swiglu", *ONE, "--budget", "25", folder=repository)
    assert found["verdicts"][0]["word"] in ("pass", "inconclusive", "improvement")  # by how busy the machine is
    assert found["verdicts"][0]["pairs"] >= 1
    assert code in (0, 3)


@pytest.mark.slow
def test_a_revision_that_does_not_import_is_told_by_its_last_lines(repository: Path) -> None:
    command = [sys.executable, "-m", "hybridbench.cli.main", "check", "--base-python", "/bin/false", "swiglu"]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    assert done.returncode == 2
    assert "base does not start" in done.stderr
    (repository / "mine.py").write_text("raise RuntimeError('broken module')\n")
    code, found = run("--base", "HEAD", "--kernel", "swiglu=mine:swiglu", *ONE, "--budget", "120", folder=repository)
    assert code == 4
    assert "broken module" in found["verdicts"][0]["because"]
