"""Every command of every workflow is run as GitHub runs it; what needs a network or a GPU has a stand-in."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from workflows import ROOT, Command, commands

from hybridbench.cli.main import main
from hybridbench.gate.cells import DEFAULT_OPS

SHA = "1" * 40
STAND_IN = """#!{python}
import json, os, sys
words = [os.path.basename(sys.argv[0]), *sys.argv[1:]]
with open({log!r}, "a") as file:
    file.write(json.dumps(words) + "\\n")
{code}
"""


@dataclass
class Scene:
    """A clone with the programs that its steps find on their path.

    Attributes:
        clone: where steps run.
        bin: the first folder of the path.
        temp: ``$RUNNER_TEMP``.
        base: the commit that stands for the target of the pull request.
    """

    folder: Path
    base: str = ""
    log: Path = field(init=False)

    def __post_init__(self) -> None:
        self.clone, self.bin, self.temp = (self.folder / name for name in ("clone", "bin", "temp"))
        self.log = self.folder / "log"
        for path in (self.bin, self.temp):
            path.mkdir()

    def stand_in(self, name: str, code: str = "", at: Path | None = None) -> None:
        """A program that notes its words, and then does what its code says."""
        path = (at or self.bin) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(STAND_IN.format(python=sys.executable, log=str(self.log), code=code))
        path.chmod(0o755)

    def called(self) -> list[list[str]]:
        """The words of each program that was called."""
        return [json.loads(line) for line in self.log.read_text().splitlines()] if self.log.exists() else []

    def run(self, command: Command, **more: str) -> subprocess.CompletedProcess[str]:
        """Run the command of a step as GitHub does."""
        assert command.shell == "bash"
        script = self.folder / "step.sh"
        script.write_text(command.run)
        expressions = {
            "github.event.pull_request.base.sha": self.base,
            "github.event.pull_request.number": "7",
            "github.event.workflow_run.id": "11",
            "github.event.workflow_run.head_sha": SHA,
            "github.event.workflow_run.html_url": "https://github.com/o/r/actions/runs/11",
            "github.token": "token",
        }
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("GIT_")},
            "PATH": f"{self.bin}:{os.environ['PATH']}",
            "PYTHONPATH": str(self.clone),
            "OMP_NUM_THREADS": "1",
            "RUNNER_TEMP": str(self.temp),
            "GITHUB_STEP_SUMMARY": str(self.folder / "summary.md"),
            "GITHUB_REPOSITORY": "o/r",
            **command.environment(expressions),
            **more,
        }
        words = ["bash", "--noprofile", "--norc", "-eo", "pipefail", str(script)]
        return subprocess.run(words, cwd=self.clone, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    """A clone of this repository as it is now, with one commit on top of the base."""
    found = Scene(tmp_path)

    def git(*words: str, folder: Path = found.clone) -> str:
        own = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false")
        plain = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
        words = ("git", "-C", str(folder), *own, *words)
        return subprocess.run(words, env=plain, check=True, capture_output=True, text=True).stdout.strip()

    found.clone.mkdir()
    listed = git("ls-files", "--cached", "--others", "--exclude-standard", "-z", folder=ROOT).split("\0")
    wanted = [name for name in listed if name and not name.startswith("results/nvidia")]
    for name in wanted:
        if (ROOT / name).is_file():
            (found.clone / name).parent.mkdir(parents=True, exist_ok=True)
            (found.clone / name).write_bytes((ROOT / name).read_bytes())
            (found.clone / name).chmod((ROOT / name).stat().st_mode)
    git("init", "-q", "-b", "main")
    git("add", "-A")
    git("commit", "-qm", "base")
    found.base = git("rev-parse", "HEAD")
    git("commit", "-qm", "change", "--allow-empty")
    return found


def ok(done: subprocess.CompletedProcess[str], code: int = 0) -> None:
    assert done.returncode == code, done.stdout[-2000:] + done.stderr[-2000:]


def all_tests(scene: Scene, command: Command) -> None:
    """.ci/run calls make, which shows here what it would run. Chromium and LaTeX are there: Debian is not asked."""
    scene.stand_in("chromium")
    scene.stand_in("pdflatex")
    scene.stand_in("apt-get")
    scene.stand_in("make", "os.execv('/usr/bin/make', ['make', '-n', *sys.argv[1:]])")
    done = scene.run(command)
    ok(done)
    lint = ("ruff check .", "ruff format --check .", "mypy", "lint-imports")
    for program in ("pip install", *lint, "pytest -n auto", "mkdocs build"):
        assert program in done.stdout
    within = ["make", "--no-print-directory", "--jobs=2"]  # what make calls itself
    assert [words for words in scene.called() if words[:3] != within] == [["make", "test-all"], ["make", "docs"]]


def checked_install(words: list[str]) -> None:
    """What pip is asked to install: this package, by the pinned versions, or the one that the example names."""
    assert words[:2] == ["pip", "install"] or words[:3] == ["-m", "pip", "install"], words
    rest = words[words.index("install") + 1 :]
    assert rest in (["-c", "constraints.txt", "-e", ".", "triton"], [rest[0], "triton"]), rest
    if rest[0] != "-c":
        assert rest[0].startswith("hybridbench @ git+https://")


def install(scene: Scene, command: Command) -> None:
    scene.stand_in("python")
    ok(scene.run(command))
    ((_, *words),) = scene.called()
    checked_install(words)


def install_apart(scene: Scene, command: Command) -> None:
    """The environment is made for real, without pip, and its Python is one that notes its words."""
    made = "import shutil; os.makedirs(sys.argv[3] + '/bin'); shutil.copy({!r}, sys.argv[3] + '/bin/python')"
    scene.stand_in("noting", at=scene.folder)
    scene.stand_in("python3", made.format(str(scene.folder / "noting")))
    ok(scene.run(command))
    (venv, *words), (_, *pip) = scene.called()
    assert [venv, *words] == ["python3", "-m", "venv", str(scene.temp / "venv")]
    checked_install(pip)


REAL = f"os.execv({sys.executable!r}, [{sys.executable!r}, '-m', 'hybridbench.cli.main', *sys.argv[1:]])"


def exact(scene: Scene, command: Command) -> None:
    scene.stand_in("hybridbench", REAL)
    done = scene.run(command)
    ok(done)
    assert "all equal" in done.stdout
    file = scene.clone / "results/baselines/exact.json"
    body = json.loads(file.read_text())
    row = next(iter(body["formulas"]["figures"].values()))
    row[next(iter(row))] += 1
    file.write_text(json.dumps(body))
    formulas = replace(command, run=command.run.replace(",steps,launches", ""))  # the others take half a minute
    assert formulas.run != command.run
    ok(scene.run(formulas), 1)
    page = (scene.folder / "summary.md").read_text()
    assert "all equal" in page
    assert "1 not equal" in page


def cpu_cells(scene: Scene, command: Command) -> None:
    """Both sides are started and timed for a moment; what is undecided then fails no job."""
    scene.stand_in("hybridbench", REAL)
    began = time.monotonic()
    done = scene.run(command, BUDGET_S="15")
    ok(done)
    assert time.monotonic() - began < 250
    assert re.search(r"\d pairs? of processes", (scene.folder / "summary.md").read_text())
    assert (scene.clone / "check.xml").read_text().count("<testcase") >= len(DEFAULT_OPS)
    ok(scene.run(command, TARGET="0" * 40), 2)  # git merge-base fails, and with it the base


WRITES = """
given = dict(zip(sys.argv[1:], sys.argv[2:]))
open(given["--summary"], "a").write("## Performance check\\n")
if "--junit" in given:
    open(given["--junit"], "w").write("<testsuites/>")
sys.exit(3)
"""


def gpu_check(scene: Scene, command: Command) -> None:
    """The stand-in's words are those that the command line takes, and its exit code is the step's."""
    (scene.clone / "gpu-check").mkdir()
    scene.stand_in("hybridbench", WRITES, at=scene.temp / "venv/bin")
    ok(scene.run(command), 3)
    ((_, name, *words),) = scene.called()
    found = main.commands[name].make_context(name, list(words)).params
    assert (found["base"], found["annotations"]) == (scene.base, True)
    assert float(found["budget"]) > 0
    if command.file == "gpu.yml":
        assert found["ops"] == ("suites/kernels.toml",)
        assert (scene.clone / "gpu-check/summary.md").exists()
    else:
        assert found["kernel"] == ("swiglu=mypkg.fast:swiglu",)
        assert (scene.folder / "summary.md").exists()


def number(scene: Scene, command: Command) -> None:
    ok(scene.run(command))
    assert (scene.clone / "gpu-check/number").read_text() == "7\n"


def shown(scene: Scene, command: Command) -> None:
    ok(scene.run(command))
    assert not (scene.folder / "summary.md").exists()
    (scene.clone / "gpu-check").mkdir()
    (scene.clone / "gpu-check/summary.md").write_text("page\n")
    ok(scene.run(command))
    assert (scene.folder / "summary.md").read_text() == "page\n"


def download(scene: Scene, command: Command) -> None:
    scene.stand_in("gh")
    ok(scene.run(command))
    said = f"gh run download 11 --repo o/r --name gpu-check --dir {scene.temp}/gpu-check"
    assert scene.called() == [shlex.split(said)]


def comment(scene: Scene, command: Command) -> None:
    """The script is run; test_comment has what it writes."""
    scene.stand_in("gh", f"print({SHA!r}) if 'pulls/7' in sys.argv[2] else None")
    ok(scene.run(command), 1)  # nothing was downloaded
    (scene.temp / "gpu-check").mkdir()
    (scene.temp / "gpu-check/number").write_text("7\n")
    ok(scene.run(command))  # the run ended before the check
    scene.log.unlink()
    (scene.temp / "gpu-check/summary.md").write_text("page\n")
    ok(scene.run(command))
    assert [words[1] for words in scene.called()] == ["api"] * 3


HOW = {
    ("tests.yml", "Formatter, linter, types, import rules and all tests"): all_tests,
    ("tests.yml", "Install"): install,
    ("tests.yml", "Exact figures"): exact,
    ("tests.yml", "CPU cells against the merge base"): cpu_cells,
    ("gpu.yml", "Install"): install_apart,
    ("gpu.yml", "Note which pull request it is"): number,
    ("gpu.yml", "Time the change against the merge base"): gpu_check,
    ("gpu.yml", "Show the verdicts"): shown,
    ("gpu-comment.yml", "Download what the check left"): download,
    ("gpu-comment.yml", "Comment"): comment,
    ("kernel-check.yml", "Install"): install_apart,
    ("kernel-check.yml", "Time the kernel against the merge base"): gpu_check,
}
SLOW = {exact, cpu_cells}
LISTED = [
    pytest.param(one, id=f"{one.file}, {one.name}", marks=[pytest.mark.slow] * (HOW.get((one.file, one.name)) in SLOW))
    for one in commands()
]


def test_every_command_has_a_test() -> None:
    assert sorted((one.file, one.name) for one in commands()) == sorted(HOW)


@pytest.mark.parametrize("command", LISTED)
@pytest.mark.slow
def test_commands_run(command: Command, scene: Scene) -> None:
    HOW[command.file, command.name](scene, command)
