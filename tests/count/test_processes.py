"""Whatever a program started is gone when its run is over, in whichever session it is, and however the run ended."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from hybridbench.count.processes import alive, run_program

PLACES = {
    "same group": "",
    "own group": "process_group=0",
    "own session": "start_new_session=True",
}
PARENT = """
import os, subprocess, sys
child = subprocess.Popen(["sleep", "600"], {options})
with open({path!r} + ".new", "w") as file:
    file.write(str(child.pid))
os.rename(file.name, {path!r})
{then}
"""


def parent(path: Path, options: str, then: str) -> list[str]:
    """A program that starts a child, writes down who that is, and does something."""
    return [sys.executable, "-c", PARENT.format(options=options, path=str(path), then=then)]


@pytest.mark.parametrize("options", PLACES.values(), ids=PLACES.keys())
def test_a_child_does_not_outlive_a_program_that_runs_too_long(options: str, tmp_path: Path) -> None:
    for limit_s in (1.5, 6, 24):  # on a busy machine the program takes longer to start its child
        with pytest.raises(subprocess.TimeoutExpired):
            run_program(parent(tmp_path / "pid", options, "child.wait()"), limit_s)
        if (tmp_path / "pid").exists():
            break
    assert not alive(int((tmp_path / "pid").read_text()))


@pytest.mark.parametrize("options", PLACES.values(), ids=PLACES.keys())
def test_a_child_does_not_outlive_a_program_that_ends(options: str, tmp_path: Path) -> None:
    """Nor is it waited for, although it holds the program's output open."""
    program = parent(tmp_path / "pid", options, "print('out'); sys.exit('failed')")
    code, output, errors = run_program(program, limit_s=60)
    assert (code, output, errors) == (1, "out\n", "failed\n")
    assert not alive(int((tmp_path / "pid").read_text()))


def test_a_child_does_not_outlive_a_caller_that_gives_up(tmp_path: Path) -> None:
    pid = tmp_path / "pid"

    def give_up() -> None:
        if pid.exists():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_program(parent(pid, "start_new_session=True", "child.wait()"), 50, give_up)
    assert not alive(int(pid.read_text()))


def test_only_what_was_started_is_ended() -> None:
    with subprocess.Popen(["sleep", "600"]) as other:
        assert run_program([sys.executable, "-c", "print(1)"], 50) == (0, "1\n", "")
        assert alive(other.pid)
        other.kill()
        other.wait()
        assert not alive(other.pid)


def test_what_cannot_be_started_is_told(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="none"):
        run_program([str(tmp_path / "none")], 1)


def test_a_process_ends_with_the_one_it_belongs_to() -> None:
    program = "import time; from hybridbench.count.processes import end_with; end_with({}); time.sleep(600)"
    with (
        subprocess.Popen(["sleep", "600"]) as master,
        subprocess.Popen([sys.executable, "-c", program.format(master.pid)]) as servant,
    ):
        time.sleep(1)
        assert servant.poll() is None
        master.kill()
        master.wait()
        assert servant.wait(60) == 1
