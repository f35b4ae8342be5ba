"""Every case is observed and counted in a process of its own, and what one costs is that one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
from cases_audited import EVERYTHING, case_of, gpu_case
from click.testing import CliRunner

from hybridbench.audit import exchange, run
from hybridbench.audit.exchange import Observation, Taken
from hybridbench.audit.judge.views import EXACT, GPU, Audit
from hybridbench.audit.observe import profiled
from hybridbench.audit.observe.counters import observe, warmed
from hybridbench.audit.observing import AuditRun, observe_all
from hybridbench.audit.render import write_audits
from hybridbench.audit.run import audit
from hybridbench.cli.main import main
from hybridbench.count import ncu
from hybridbench.count.account import FVCORE, TORCH, Account
from hybridbench.errors import Unsupported
from hybridbench.processes import alive, run_program
from hybridbench.session import Proofs
from hybridbench.suite.case import Case
from hybridbench.suite.workloads import DECODE, PREFILL, TRAIN

CASES = [gpu_case(TRAIN), gpu_case(PREFILL), gpu_case(DECODE)]
TAKEN = Taken("a.module", "_kernel", [64, "torch.bfloat16", None], "BLOCK: 64")
SEEN = Observation(
    accounts={name: Account(name, {"head": 5}) for name in (TORCH, FVCORE)},
    tuned=[TAKEN],
)
KINDS = tuple(case.workload.kind for case in CASES)
OBSERVES = f"""
import json, sys, time
for case in json.load(open(sys.argv[3])):
    kind = case["workload"]["kind"]
    BEFORE
    with open(sys.argv[4], "a") as seen:
        seen.write({json.dumps(SEEN.to_dict()) + chr(10)!r})
sys.exit("the end of the last case is no failure")
"""
COUNTS = r"""
import json, sys, time
log = sys.argv[sys.argv.index("--log-file") + 1]
assert sys.argv[-3:-1] == ["-m", "hybridbench.audit.observe.profiled"]
asked = json.load(open(sys.argv[-1]))
kind, taken = asked["case"]["workload"]["kind"], asked["tuned"]
BEFORE
metrics = sys.argv[sys.argv.index("--metrics") + 1].split(",")
if "_sass_" in metrics[0]:
    INSTRUCTIONS
with open(log, "w") as report:
    def row(*cells):
        print(*('"' + str(cell) + '"' for cell in cells), sep=",", file=report)
    row("ID", "Kernel Name", "profiler__replayer_passes", *metrics)
    for number, name in enumerate(["nvjet_" + kind, taken[0]["kernel"]]):
        row(number, name, 3, *range(2, 2 + len(metrics)))
"""


def script(path: Path, text: str) -> str:
    path.write_text(f"#!{sys.executable}\n{text}\n")
    path.chmod(0o755)
    return str(path)


def staged(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    observing: str = "pass",
    counting: str = "pass",
    vector: str = "pass",
    gpus: Sequence[str] = (),
) -> Callable[[float], tuple[list[Audit], list[str]]]:
    """An audit whose processes do something before each case; its audits, and the lines it told."""
    python = script(tmp_path / "python", OBSERVES.replace("BEFORE", observing))
    profiler = script(tmp_path / "ncu", COUNTS.replace("BEFORE", counting).replace("INSTRUCTIONS", vector))
    monkeypatch.setattr("hybridbench.audit.observing.sys", SimpleNamespace(executable=python))
    monkeypatch.setattr(ncu, "find", lambda: profiler)
    told: list[str] = []
    return lambda limit_s: (audit(CASES, limit_s=limit_s, gpus=gpus, progress=told.append), told)


BUSY = (1, 4, 16, 64)
"""Limits to try one after the other: on a busy machine programs take long to start, and less than wanted gets done."""
WORK = ("observed", "counted", "counted vector instructions of")


def errors_of(audits: list[Audit], view: str) -> list[str | None]:
    return [one.views[view].error for one in audits]


def test_every_case_is_observed_and_then_counted_in_a_process_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, told = staged(tmp_path, monkeypatch)(60)
    assert errors_of(found, TORCH) == errors_of(found, FVCORE) == errors_of(found, GPU) == [None] * 3
    names = [[group.kind for group in one.kernels] for one in found]
    assert names == [[f"nvjet_{kind}", "_kernel"] for kind in KINDS], "its own case, and what autotuning took"
    for one in found:
        assert any("2 kernels in 3 passes: bytes are not those of a step" in note for note in one.notes)
        sums = [
            (group.tensor_flops, group.vector_flops, group.read_bytes, group.written_bytes) for group in one.kernels
        ]
        assert sums == [(2, 2 * 2 + 3 + 4 + 4 * 5 + 2 * 6 + 2 * 7, 3, 4)] * 2, "each from the report that has it"
    labels = [case.label for case in CASES]
    assert told == [f"{place}/3 {what} {label}" for what in WORK for place, label in enumerate(labels, 1)]


def test_a_case_that_is_not_counted_costs_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    breaks = f"if kind != {PREFILL!r}: sys.exit('it broke' if kind == {TRAIN!r} else 0)"
    found, told = staged(tmp_path, monkeypatch, counting=breaks)(60)
    assert errors_of(found, TORCH) == [None] * 3
    broke, silent = (f"Nsight Compute ended with exit code {why}" for why in ("1: it broke", "0: it said nothing"))
    assert errors_of(found, GPU) == [broke, None, silent]
    assert found[0].groups == found[0].kernels == []
    assert told[3:] == [
        f"1/3 not counted {CASES[0].label}: {broke}",
        f"2/3 counted {CASES[1].label}",
        f"3/3 not counted {CASES[2].label}: {silent}",
        f"2/3 counted vector instructions of {CASES[1].label}",
    ]


def test_instructions_that_are_not_counted_cost_no_tensor_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    breaks = f"if kind == {TRAIN!r}: sys.exit('it broke')\n    if kind == {PREFILL!r}: taken[0]['kernel'] = 'another'"
    found, told = staged(tmp_path, monkeypatch, vector=breaks)(60)
    assert errors_of(found, GPU) == [None] * 3
    assert [one.kernels[0].tensor_flops for one in found] == [2] * 3
    assert [one.kernels[0].vector_flops is None for one in found] == [True, True, False]
    broke, other = "Nsight Compute ended with exit code 1: it broke", "other kernels ran while they were counted"
    for one, why in zip(found, (broke, other), strict=False):
        assert any(note.endswith(f"Instructions of vector units were not counted: {why}.") for note in one.notes)
    assert f"1/3 not counted vector instructions of {CASES[0].label}: {broke}" in told


def test_what_was_counted_before_the_time_ran_out_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sleeps = f"if kind == {PREFILL!r}: time.sleep(600)"
    audited = staged(tmp_path, monkeypatch, counting=sleeps)
    for limit_s in BUSY:
        found, _ = audited(limit_s)
        if errors_of(found, GPU)[0] is None:
            break
    assert errors_of(found, TORCH) == [None] * 3
    kept, cut, late = errors_of(found, GPU)
    assert kept is None
    assert cut is not None
    assert cut.startswith("Nsight Compute had not finished after ")
    assert late == f"no time was left of {limit_s} s: give more with --limit"


def test_several_gpus_count_at_the_same_time_each_one_case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first two wait for each other; Nsight Compute keeps others away by a file among the temporary ones."""
    meets = f"""
import os, pathlib, tempfile
gpu, all_here = os.environ["CUDA_VISIBLE_DEVICES"], pathlib.Path({str(tmp_path)!r})
(all_here / f"seen-{{gpu}}").touch()
while not all((all_here / f"seen-{{one}}").exists() for one in "03"):
    time.sleep(0.01)
assert tempfile.gettempdir().endswith(f"gpu-{{gpu}}") and asked["temporary"] == {tempfile.gettempdir()!r}
lock = open(tempfile.gettempdir() + "/lock", "x")
time.sleep(0.2)
os.unlink(lock.name)
"""
    found, told = staged(tmp_path, monkeypatch, counting=meets, gpus=["0", "3"])(60)
    assert errors_of(found, GPU) == [None] * 3
    assert [[group.kind for group in one.kernels] for one in found] == [[f"nvjet_{kind}", "_kernel"] for kind in KINDS]
    labels = [case.label for case in CASES]
    assert sorted(told) == sorted(f"{place}/3 {what} {label}" for what in WORK for place, label in enumerate(labels, 1))


def test_a_machine_without_counters_is_asked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = tmp_path / "asked"
    refuses = f"open({str(asked)!r}, 'a').write('x'); open(log, 'w').write('==ERROR== ERR_NVGPUCTRPERM - No.'); exit(1)"
    found, told = staged(tmp_path, monkeypatch, counting=refuses)(60)
    assert errors_of(found, GPU) == ["Nsight Compute ended with exit code 1: ERR_NVGPUCTRPERM - No"] * 3
    assert asked.read_text() == "x"
    assert len([line for line in told if "not counted" in line]) == 1
    monkeypatch.setattr(ncu, "find", lambda: None)
    assert "not installed" in str(errors_of(audit(CASES, limit_s=60), GPU)[0])
    assert errors_of(audit(CASES, counters=False, limit_s=60), GPU) == [run.NOT_ASKED] * 3


def test_a_process_that_dies_on_a_case_costs_that_case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found, told = staged(tmp_path, monkeypatch, observing=f"if kind == {PREFILL!r}: sys.exit('boom')")(60)
    why = "the process that counts ended early (exit code 1): boom"
    for view in (TORCH, FVCORE, GPU):
        assert errors_of(found, view) == [None, why, None]
    assert f"2/3 not observed {CASES[1].label}: {why}" in told
    page = write_audits(found, tmp_path).read_text()
    assert page.count(f"No figures of torch: {why}.") == 1
    assert "Kernels: ." not in page
    assert found[1].views[EXACT].total > 0


def test_what_was_observed_before_the_time_ran_out_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[object] = []
    monkeypatch.setattr(
        "hybridbench.audit.observing.run_program", lambda *words: (started.append(words), run_program(*words))[1]
    )
    audited = staged(tmp_path, monkeypatch, observing=f"if kind == {PREFILL!r}: time.sleep(600)")
    for limit_s in BUSY:
        started.clear()
        try:
            found, _ = audited(limit_s)
            break
        except Unsupported:  # nothing was observed
            assert limit_s != BUSY[-1]
    assert len(started) == 1, "no process for what has no time"
    why = f"counting had not finished after {limit_s} s: give more with --limit"
    assert errors_of(found, TORCH) == [None, why, why]
    assert errors_of(found, GPU) == [f"no time was left of {limit_s} s: give more with --limit", why, why]


@pytest.mark.parametrize(
    ("observing", "limit_s", "reason"),
    [
        ("sys.exit('boom')", 60.0, r"^train .*: the process that counts ended early \(exit code 1\): boom"),
        ("time.sleep(600)", 0.5, "after 0.5 s: give more with --limit"),
    ],
)
def test_nothing_observed_is_no_audit(
    observing: str, limit_s: float, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Unsupported, match=reason):
        staged(tmp_path, monkeypatch, observing)(limit_s)


def test_a_case_that_cannot_run_here_is_no_audit(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process that observes finds no GPU, and says so through its file."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    told: list[str] = []
    with pytest.raises(Unsupported, match="ctx 2k"):
        audit([gpu_case()], counters=False, limit_s=60, progress=told.append)
    assert told[0].startswith(f"1/1 not observed {gpu_case().label}: ")


@pytest.mark.slow
def test_the_process_that_observes_sees_what_this_one_does(tmp_path: Path) -> None:
    cases = [case_of(EVERYTHING, TRAIN), case_of(EVERYTHING, DECODE)]
    seen: list[Observation] = []
    observe_all(AuditRun(cases, tmp_path, 60, print), seen)
    assert [one.accounts for one in seen] == [observe(case, Proofs()).accounts for case in cases]


def test_ctrl_c_keeps_what_was_observed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[Case] = []

    def interrupted(asked: AuditRun, found: list[Observation]) -> None:
        done.append(asked.cases[0])
        found.append(observe(asked.cases[0], Proofs()))
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "observe_all", interrupted)
    words = ["audit", "--arch", "mamba,inter", "--scale", "tiny", "--ctx", "64", "--device", "cpu", "-o", str(tmp_path)]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 130
    assert done[0].model.arch in result.stdout
    (kept,) = json.loads((tmp_path / "audit.json").read_text("utf-8"))["audits"]
    assert kept["case"]["model"]["arch"] == "mamba"


def test_what_autotuning_took_goes_from_one_process_to_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hybridbench.audit.observe.counters.taken", lambda: [TAKEN])
    case = case_of(EVERYTHING, PREFILL)
    seen = observe(case, Proofs())
    assert seen.tuned == [TAKEN]
    done: list[object] = []

    @contextmanager
    def noted(found: Iterable[Taken]) -> Iterator[None]:
        done.extend(found)
        yield
        done.append("restored")

    monkeypatch.setattr(profiled, "using", noted)
    monkeypatch.setattr(profiled, "warmed", lambda case, proofs: (done.append(case), warmed(case, proofs))[1])
    monkeypatch.setattr(profiled, "profiled", lambda step: done.append(step() is not None))
    exchange.ask(tmp_path / "case.json", case, seen.tuned)
    usual = tempfile.gettempdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    profiled.main(tmp_path / "case.json")
    assert done == [TAKEN, case, True, "restored"], "used before anything runs, and until the step has run"
    assert tempfile.gettempdir() == usual, "where kernels were compiled to"


@pytest.mark.parametrize("number", [pytest.param(signal.SIGINT, marks=pytest.mark.slow), signal.SIGTERM])
@pytest.mark.parametrize(("phase", "gpus"), [("observing", []), ("counting", []), ("counting", ["0", "1"])])
def test_a_signal_leaves_no_process_behind(number: int, phase: str, gpus: list[str], tmp_path: Path) -> None:
    """The profiler starts what it watches in a session of its own, which no signal of ours reaches."""
    children = [tmp_path / f"child{gpu}" for gpu in gpus or [""]]
    starts = (
        "import os, subprocess; "
        "sleeper = subprocess.Popen(['sleep', '600'], start_new_session=True); "
        f"child = open({str(tmp_path / 'child')!r} + os.environ['CUDA_VISIBLE_DEVICES'], 'w'); "
        "child.write(f'{sleeper.pid}\\n'); child.close(); time.sleep(600)"
    )
    python = script(tmp_path / "python", OBSERVES.replace("BEFORE", starts if phase == "observing" else "pass"))
    profiler = script(tmp_path / "ncu", COUNTS.replace("BEFORE", starts).replace("INSTRUCTIONS", "pass"))
    command = f"""
import sys
from types import SimpleNamespace
from typing import Any
from hybridbench.audit import observing, run
from hybridbench.count import ncu
from hybridbench.suite.case import Case
import json
observing.sys, ncu.find = SimpleNamespace(executable={python!r}), lambda: {profiler!r}
try:
    case = Case.from_dict(json.loads({json.dumps(CASES[0].to_dict())!r}))
    run.audit([case] * {len(children)}, limit_s=200, gpus={gpus})
except KeyboardInterrupt:
    sys.exit(130)
"""
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    with subprocess.Popen([sys.executable, "-c", command], env=environment) as process:
        try:
            pids = [int(read_line(child)) for child in children]
            process.send_signal(number)
            process.send_signal(number)  # as ``timeout`` does
            assert process.wait(60) == 130
        finally:
            process.kill()
    assert not any(alive(pid) for pid in pids)


def read_line(path: Path) -> str:
    """The line of a file that another process is about to write."""
    for _ in range(1200):
        if path.exists() and (text := path.read_text()).endswith("\n"):
            return text
        time.sleep(0.05)
    raise AssertionError(f"nobody wrote {path}")
