"""Whatever a program started is gone when its run is over, in whichever session it is, and however the run ended."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hybridbench.processes import STARTER, Answering, alive, run_program, terminable

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


@pytest.mark.parametrize("named", [{}, {"TRITON_HOME": "/elsewhere"}, {"TRITON_CACHE_DIR": "/mine"}], ids=str)
def test_a_process_keeps_compiled_kernels_where_triton_keeps_them(
    named: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Inductor moves them for the whole process, unless the environment says where they are."""
    monkeypatch.delenv("TRITON_CACHE_DIR", raising=False)
    for name, value in named.items():
        monkeypatch.setenv(name, value)
    asked = [sys.executable, "-c", "from triton import knobs; print(knobs.cache.dir)"]
    by_triton = subprocess.run(asked, capture_output=True, text=True, check=True).stdout
    code, ours, errors = run_program([sys.executable, "-c", "import os; print(os.environ['TRITON_CACHE_DIR'])"], 60)
    assert (code, ours) == (0, by_triton), errors


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
    program = "import time; from hybridbench.processes import end_with; end_with({}); time.sleep(600)"
    with (
        subprocess.Popen(["sleep", "600"]) as master,
        subprocess.Popen([sys.executable, "-c", program.format(master.pid)]) as servant,
    ):
        time.sleep(1)
        assert servant.poll() is None
        master.kill()
        master.wait()
        assert servant.wait(60) == 1


def test_a_program_ends_with_its_starter_behind_whatever_stands_between(tmp_path: Path) -> None:
    """As behind a profiler, which outlives who called it."""
    servant = "import time; from hybridbench.processes import end_with_starter; end_with_starter(); time.sleep(600)"
    between = f"import subprocess, sys; sys.exit(subprocess.call([sys.executable, '-c', {servant!r}]))"
    with subprocess.Popen(["sleep", "600"]) as master:
        environment = {**os.environ, STARTER: str(master.pid)}
        with subprocess.Popen([sys.executable, "-c", between], env=environment) as profiler:
            time.sleep(2)
            assert profiler.poll() is None
            master.kill()
            assert profiler.wait(60) == 1, "also while nobody has asked how the starter ended"
            master.wait()


# Programs that answer.


@contextmanager
def answering(tmp_path: Path, program: str) -> Iterator[Answering]:
    """A program whose answers go to the file ``answers``."""
    opened = f"import os, sys; answers = os.fdopen(int(sys.argv[-1]), 'w')\n{program}"
    process = Answering([sys.executable, "-c", opened], tmp_path / "log")
    try:
        yield process
    finally:
        process.end()


def heard(process: Answering) -> list[str]:
    """Every line of a process until it answers no more."""
    found: list[str] = []
    while (lines := process.lines()) is not None:
        found += lines
    return found


def test_answers_come_line_by_line_and_all_else_is_logged(tmp_path: Path) -> None:
    echo = "for line in sys.stdin:\n answers.write(line * 2); answers.close(); print('said'); sys.exit(3)"
    with answering(tmp_path, echo) as process:
        process.ask(json.dumps({"a": 1}))
        assert heard(process) == [json.dumps({"a": 1})] * 2
        assert process.exit_code() == 3
        assert process.tail() == "said"
        process.ask("nobody reads this")
    assert (tmp_path / "log").exists()


def test_what_an_answering_program_started_ends_with_it(tmp_path: Path) -> None:
    child = "import subprocess\nchild = subprocess.Popen(['sleep', '600'], start_new_session=True)\n"
    with answering(tmp_path, f"{child}answers.write(f'{{child.pid}}\\n'); answers.flush(); child.wait()") as process:
        (pid,) = map(int, process.lines() or [])
        assert alive(pid)
        assert alive(process.pid)
    assert not alive(pid)
    assert not alive(process.pid)
    assert not (tmp_path / "log").exists(), "it said nothing"


def test_stacks_are_waited_for_until_they_are_all_there(tmp_path: Path) -> None:
    """Of a process that gets its turn now and then, as on a busy machine."""
    slow = """
import signal, time
def write(*_):
    for line in ("late", "in", "parts"):
        time.sleep(0.2)
        print(line, flush=True)
signal.signal(signal.SIGUSR1, write)
answers.write("ready\\n"); answers.flush()
while True:
    time.sleep(0.01)
"""
    with answering(tmp_path, slow) as process:
        assert process.lines() == ["ready"]
        assert process.stacks() == "late\nin\nparts"


# Signals.


def interrupts(*numbers: int) -> int:
    """How many of these signals to this process raise KeyboardInterrupt while it is terminable."""
    count = 0
    with terminable():
        for number in numbers:
            try:
                signal.raise_signal(number)
            except KeyboardInterrupt:
                count += 1
    return count


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_second_signal_does_not_end_the_clearing_up_after_the_first(number: int) -> None:
    before = signal.getsignal(number)
    assert interrupts(number, signal.SIGINT, signal.SIGTERM) == 1
    assert signal.getsignal(number) is before


def test_a_signal_that_nobody_is_to_hear_stays_unheard() -> None:
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        assert interrupts(signal.SIGTERM) == 0
    finally:
        signal.signal(signal.SIGTERM, before)
