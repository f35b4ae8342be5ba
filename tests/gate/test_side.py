"""One side's program in this process: cells prepared, timed and refused; and what is taken for the same code."""

from __future__ import annotations

import ast
import json
import os
import signal
import subprocess
import sys
import time
import types
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from hybridbench.gate import workers
from hybridbench.gate.attribution import Traced, attribute, traced_of
from hybridbench.gate.cells import asked, of_step
from hybridbench.gate.side import planted, spin, start
from hybridbench.gate.side.identity import LaunchedCode, identity, watched
from hybridbench.gate.side.program import Program, hello
from hybridbench.gate.side.start import CARRIED
from hybridbench.gate.side.understood import understood
from hybridbench.processes import alive
from hybridbench.suite.file import load_suite

ROOT = Path(__file__).parents[2]


@pytest.fixture
def program() -> Iterator[Program]:
    cores = os.sched_getaffinity(0)
    made = Program()
    yield made
    made.answer({"do": "free"})
    os.sched_setaffinity(0, cores)


def prepare(body: Any, what: str = "kernel", **more: Any) -> dict[str, Any]:
    return {
        "do": "prepare",
        "what": what,
        "cell": dict(body),
        "backend": None,
        "pinned": [],
        "check": True,
        "core": None,
        **more,
    }


def swiglu(backend: str | None = None) -> dict[str, Any]:
    kernels = {} if backend is None else {"swiglu": backend}
    words = {"problem": "width=32,length=16", "direction": "forward", "device": "cpu"}
    (cell,) = asked(["swiglu"], has_gpu=False, kernels=kernels, base_kernels={}, **words)
    return dict(cell.head)


def test_a_cell_is_checked_timed_and_freed(program: Program) -> None:
    core = min(os.sched_getaffinity(0))
    said = program.answer(prepare(swiglu(), core=core))
    assert said["kind"] == "prepared", said
    assert said["identity"] is None  # a CPU's code is unknown
    assert said["facts"]["backend"] == said["facts"]["own_backend"] != "auto"
    assert os.sched_getaffinity(0) == {core}
    for number in (0, 1):
        if number:
            assert program.answer({"do": "again", "number": number}) == {"kind": "ready"}
        samples = program.answer({"do": "block", "window_ns": 1_000_000})["samples_ns"]
        assert samples
        assert min(samples) > 0
        few = program.answer({"do": "block", "window_ns": 1})["samples_ns"]
        assert len(few) == 1, "however short the window"
    assert program.answer({"do": "free"}) == {"kind": "freed"}


def test_the_backend_of_the_base_is_taken_where_it_is_there(program: Program) -> None:
    said = program.answer(prepare(swiglu(), backend="reference"))
    assert said["facts"]["backend"] == "reference"
    own = said["facts"]["own_backend"]
    said = program.answer(prepare(swiglu(), backend="of-another-revision"))
    assert said["facts"]["backend"] == own


def off(packed_NC: Any) -> Any:
    """A SwiGLU that is 1% off."""
    gate, up = packed_NC.chunk(2, -1)
    return gate.sigmoid() * gate * up * 1.01


def test_what_this_side_lacks_is_absent_and_what_is_wrong_is_wrong(
    program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    for body in (
        {**swiglu(), "op": "of_another_revision"},
        {**swiglu(), "backend": "nothing"},
        {**swiglu(), "backend": "no_such_module:f"},
        {**swiglu(), "field": 1},
    ):
        said = program.answer(prepare(body))
        assert (said["kind"], said["state"], said["fit"]) == ("failed", "absent", True), said
    module = types.ModuleType("own_kernels_of_a_test")
    vars(module).update(swiglu=lambda packed: off(packed))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    said = program.answer(prepare(swiglu(f"{module.__name__}:swiglu")))
    assert (said["state"], said["fit"]) == ("wrong", False)
    assert "disagrees" in said["reason"]
    said = program.answer(prepare(swiglu(f"{module.__name__}:swiglu"), check=False))
    assert said["kind"] == "prepared"  # an earlier pair has checked it


def test_an_own_kernel_that_is_there_and_cannot_be_loaded_failed_and_one_that_is_not_is_absent(
    program: Program, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    package = tmp_path / "package_of_a_test"
    package.mkdir()
    good = "def swiglu(packed):\n    gate, up = packed.chunk(2, -1)\n    return gate.sigmoid() * gate * up\n"
    for name, text in {
        "__init__": "",
        "good": good,
        "needs_package": f"import nothing_there\n{good}",
        "needs_module": f"from package_of_a_test import nothing_there\n{good}",
        "needs_name": f"import os\nos.nothing_there\n{good}",
        "other_signature": "def swiglu():\n    return 1\n",
        "raises": "raise RuntimeError('broken module')\n",
    }.items():
        (package / f"{name}.py").write_text(text)

    def said(path: str, do: str) -> str:
        body = swiglu(f"{path}:swiglu" if ":" not in path else path)
        answer = program.answer(prepare(body) if do == "prepare" else {"do": do, "cell": body})
        assert answer.get("reason", "?")
        return str(answer.get("state", answer["kind"]))

    at = package.name
    for path in (f"{at}.good:swigloo", f"{at}.goood", "no_package_at_all", "no_package_at_all.good", f"{at}.good.more"):
        assert (said(path, "find"), said(path, "prepare")) == ("lacks", "absent"), path
    for name in ("needs_package", "needs_module", "needs_name", "other_signature", "raises"):
        assert (said(f"{at}.{name}", "find"), said(f"{at}.{name}", "prepare")) == ("found", "failed"), name
    assert (said(f"{at}.good", "find"), said(f"{at}.good", "prepare")) == ("found", "prepared")


def often(packed_NC: Any) -> Any:
    """A SwiGLU whose product is computed 65 times, far beyond what other work of the machine adds to an operator."""
    gate, up = packed_NC.chunk(2, -1)
    gated = torch.nn.functional.silu(gate)
    for _ in range(64):
        torch.mul(gated, up)
    return torch.mul(gated, up)


def once(packed_NC: Any) -> Any:
    gate, up = packed_NC.chunk(2, -1)
    return torch.mul(torch.nn.functional.silu(gate), up)


def test_traces_name_the_operator_that_runs_more_often(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("own_kernels_of_a_test")
    vars(module).update(once=lambda packed: once(packed), often=lambda packed: often(packed))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    sides = {"once": program, "often": Program()}
    found: dict[str, list[Traced]] = {name: [] for name in sides}
    for name, side in sides.items():
        body = swiglu(f"{module.__name__}:{name}")
        body["problem"] = {**body["problem"], "width": 512, "length": 200}
        assert side.answer(prepare(body))["kind"] == "prepared"
    for number in range(8):
        for name, side in sides.items():
            said = side.answer({"do": "trace"})
            assert said["kind"] == "traced", said
            if number:
                found[name].append(traced_of(json.loads(json.dumps(said))))
    names = [one.name for one in found["once"][0].kernels]
    assert names.index("aten::silu") < names.index("aten::mul")  # in the order in which they run
    (first, *_) = attribute(found["once"], found["often"]).causes
    assert first.name == "aten::mul"
    assert "launches: 1 before, 65 now" in first.sentence
    assert sides["often"].answer({"do": "free"}) == {"kind": "freed"}


class TurnClock:
    """A scripted clock, on which a call takes a millisecond, and a turn of a spin 10 ns and half a microsecond more."""

    name, resolution_ns = "scripted", 1

    def __init__(self) -> None:
        self.turns, self.calls, self.sampled = 0, 0, 0

    def call(self) -> None:
        self.calls += 1

    def turn(self, count: int) -> None:
        self.turns += count

    def sample(self, step: Any, count: int, before: Any = lambda: None) -> list[int]:
        self.sampled += count
        found = []
        for _ in range(count):
            before()
            found.append(self.once(step))
        return found

    def once(self, step: Any) -> int:
        self.turns, self.calls = 0, 0
        step()
        return 1_000_000 * self.calls + 10 * self.turns + (500 if self.calls and self.turns else 0)

    def runs(self, count: int) -> int:
        return count


def test_planted_work_takes_its_share_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = TurnClock()
    monkeypatch.setattr(spin, "_turns", clock.turn)
    work = spin.Spin(torch.device("cpu"), clock)
    for share in (0.01, 0.1):
        parts = planted.sized(clock.call, share, work, clock)
        both = planted.appended(clock.call, work.of(parts))
        assert clock.once(both) == pytest.approx(1e6 * (1 + share), rel=1e-4)
    clock.sampled = 0
    planted.sized(clock.call, 0.1, work, clock)
    corrected, clock.sampled = clock.sampled, 0
    rests: list[int] = []
    planted.sized(clock.call, 0.5, work, clock, lambda: rests.append(1))  # 0.5 ms, to which a launch adds 0.1%
    assert 0 < clock.sampled < corrected / 4
    assert len(rests) == clock.sampled


def test_a_gpu_rests_before_a_training_step_for_a_multiple_of_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = TurnClock()
    monkeypatch.setattr(spin, "_cycles", clock.turn)
    rest = spin.rest_before(clock.call, 2.5, torch.device("cuda"), clock)
    assert clock.once(rest) == pytest.approx(2.5e6)


def test_products_take_about_as_long_as_they_should(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = TurnClock()
    monkeypatch.setattr(spin.torch, "mm", lambda *_: clock.turn(2500))
    rests: list[int] = []
    work = spin.Products(torch.device("cpu"), clock, lambda: rests.append(1))
    assert clock.once(work.of(work.parts(1_010_000))) == 40 * 25_000
    assert clock.once(work.of(work.parts(1.0))) == 25_000, "some work is planted, however short the step"
    assert len(rests) == spin.SAMPLES


def test_a_step_of_a_model_is_a_cell(program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "steps.toml"
    path.write_text(
        '[[sweep]]\nworkload = "decode"\narch = "mamba"\nscale = "tiny"\nctx = "32"\nbatch = "1"\ndevice = "cpu"\n'
    )
    (case,) = load_suite(path).cases(has_gpu=False)
    cell = of_step(case)
    assert cell.kind == "cpu"
    said = program.answer(prepare(cell.head, "step"))
    assert said["kind"] == "prepared", said
    assert program.answer({"do": "block", "window_ns": 1_000_000})["samples_ns"]
    said = program.answer({"do": "plant", "frac": 0.5})
    assert said["kind"] == "ready"
    assert said["parts"] > 0
    assert program.answer({"do": "block", "window_ns": 1_000_000})["samples_ns"]
    monkeypatch.setattr("hybridbench.gate.side.program.sized", None)  # what is known is not determined again
    spun: list[int] = []
    monkeypatch.setattr(spin, "_turns", spun.append)
    assert program.answer({"do": "plant", "frac": 0.5, "parts": 7}) == {"kind": "ready", "parts": 7}
    spun.clear()
    samples_ns = program.answer({"do": "block", "window_ns": 1})["samples_ns"]
    assert spun == [7] * len(samples_ns), "each call has them"


def test_a_step_rests_before_each_sample_where_that_is_asked_for(
    program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "steps.toml"
    path.write_text('[[sweep]]\nworkload = "train"\narch = "mamba"\nscale = "tiny"\nctx = "32"\ndevice = "cpu"\n')
    (case,) = load_suite(path).cases(has_gpu=False)
    spun: list[int] = []
    monkeypatch.setattr(spin, "_turns", spun.append)
    for rest in (0.0, 2.0):
        assert program.answer(prepare(of_step(case).head, "step", rest=rest))["kind"] == "prepared"
        spun.clear()
        samples_ns = program.answer({"do": "block", "window_ns": 1})["samples_ns"]
        assert len(spun) == (len(samples_ns) if rest else 0)


def test_the_greeting_says_where_the_package_lies() -> None:
    assert hello()["package"] == str(ROOT / "hybridbench")


@pytest.mark.slow
def test_the_clock_is_the_changes_on_both_sides(tmp_path: Path) -> None:
    """A base whose timing is another one is timed by this one, and its other modules are its own."""
    other = tmp_path / "hybridbench"
    for path in (ROOT / "hybridbench").rglob("*.py"):
        made = other / path.relative_to(ROOT / "hybridbench")
        made.parent.mkdir(parents=True, exist_ok=True)
        made.symlink_to(path)
    for name in CARRIED:
        path = tmp_path.joinpath(*name.split(".")).with_suffix(".py")
        path.unlink()
        path.write_text("raise RuntimeError('the clock of the base')\n")
    start = ROOT / "hybridbench/gate/side/start.py"
    code = (
        f"import runpy, sys; runpy.run_path({str(start)!r})['carry'](); "
        "import hybridbench.kernel_suite.timing as t, hybridbench.kernel_suite.run as r; print(t.__file__, r.__file__)"
    )
    command = [sys.executable, "-P", "-c", code]
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    timing, run = done.stdout.split()
    assert Path(timing).is_relative_to(ROOT)
    assert Path(run).is_relative_to(tmp_path)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such signal")
def test_a_stopped_process_goes_on_when_it_is_told_and_dies_with_the_one_that_started_it() -> None:
    side = f"from hybridbench.gate.side import start; start.end_with_parent(); print(1, flush=True); {ASLEEP}"
    starter = (
        "import subprocess, sys, time; "
        f"one = subprocess.Popen([sys.executable, '-c', {side!r}], stdout=subprocess.PIPE, start_new_session=True); "
        f"one.stdout.readline(); print(one.pid, flush=True); {ASLEEP}"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    started = subprocess.Popen([sys.executable, "-c", starter], stdout=subprocess.PIPE, text=True, env=environment)
    assert started.stdout is not None
    pid = int(started.stdout.readline())
    try:
        for number, states in ((signal.SIGSTOP, "T"), (signal.SIGCONT, "SR"), (signal.SIGSTOP, "T")):
            os.kill(pid, number)
            wait_for(lambda states=states: state_of(pid) in states)  # type: ignore[misc]
        assert alive(pid)
    finally:
        started.kill()
        started.wait()
        started.stdout.close()
    wait_for(lambda: not alive(pid))


ASLEEP = "import time; time.sleep(600)"


def state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def wait_for(what: Callable[[], bool]) -> None:
    ends = time.monotonic() + 60
    while not what():
        assert time.monotonic() < ends
        time.sleep(0.01)


def test_what_a_cell_took_is_told_and_a_graph_is_asked_for(program: Program) -> None:
    said = program.answer(prepare(swiglu(), graph=False))
    assert said["graph"] is False  # a CPU has none
    assert set(said["spent_s"]) >= {"import", "check", "compile", "look at a call", "allocate"}
    assert all(seconds >= 0 for seconds in said["spent_s"].values())
    assert "check" not in program.answer(prepare(swiglu(), check=False))["spent_s"]


@dataclass(frozen=True)
class Inner:
    """Of a base from before ``later``."""

    size: int = 8


@dataclass(frozen=True)
class Outer:
    """What a base describes a cell with."""

    name: str
    inner: Inner = Inner()

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, body: dict[str, Any]) -> Outer:
        return cls(**{**body, "inner": Inner(**body["inner"])})


def test_a_field_that_an_older_base_lacks_is_left_out_where_it_is_at_its_default() -> None:
    plain = ("inner.later", "inner.size")
    assert understood(Outer, {"name": "a", "inner": {"size": 4}}, ()) == Outer("a", Inner(4))
    assert understood(Outer, {"name": "a", "inner": {"size": 4, "later": 1}}, plain[:1]) == Outer("a", Inner(4))
    assert understood(Outer, {"name": "a", "inner": {"size": 8, "later": 1}}, plain) == Outer("a")
    assert understood(Outer, {"name": "a", "inner": {"size": 9, "later": 1}}, plain) == Outer("a", Inner(9))
    elsewhere = {"size": 4, "later": 2}, {"later": 1, "other": 2}
    for body in elsewhere:  # not at its default: the change would do something else
        with pytest.raises(TypeError):
            understood(Outer, {"name": "a", "inner": body}, ["inner.size"])
    with pytest.raises(TypeError):  # it would be timed at another size
        understood(Outer, {"name": "a", "inner": {"later": 1}}, ["inner.later"])


def test_the_fields_of_cells_at_their_default() -> None:
    (cell,) = asked(
        ["swiglu"], has_gpu=False, kernels={}, base_kernels={}, problem="width=32,length=16", device="cpu",
        direction="forward",
    )  # fmt: skip
    assert {"sampling.sustained", "problem.window", "problem.sinks", "seed"} <= set(cell.plain)
    assert not {"op", "problem.width", "problem.length", "sampling.cold"} & set(cell.plain)
    (step,) = [of_step(case) for case in load_suite(ROOT / "suites/gate-training.toml").cases(has_gpu=True)]
    assert "execution.gpus" in step.plain
    assert "workload.kind" not in step.plain


OF_A_BASE = {
    "audit.exchange": "Taken",
    "audit.observe.tuned": "taken using",
    "capture": "captured",
    "errors": "BadInput HybridbenchError Unsupported WrongResult described reason",
    "kernel_suite.agree": "agreement",
    "kernel_suite.bind": "bound drawn",
    "kernel_suite.cell": "Cell",
    "kernel_suite.run": "resolved",
    "kernels": "release",
    "kernels.backend": "Backend",
    "kernels.tuning": "side_by_side",
    "measure.environment": "fingerprint",
    "measure.nvml": "Gpu",
    "measure.sampling": "drifts relative_interval",
    "plain": "to_plain",
    "processes": "end_with_starter",
    "record": "GpuState",
    "session": "Proofs device_for open_session",
    "stats": "median",
    "suite.case": "Case",
    "units": "KIB MIB NS_PER_S",
}
"""What the carried modules take from the base's own package, by module. It has been there since bases are timed."""


def test_what_times_both_sides_needs_nothing_new_of_an_older_base() -> None:
    """Where this fails: carry the new module too (``start.CARRIED``), or do without it."""
    needed: dict[str, set[str]] = {}
    for place, name in enumerate(CARRIED):
        tree = ast.parse(ROOT.joinpath(*name.split(".")).with_suffix(".py").read_text())
        for one in tree.body:  # what is imported inside a function is not needed to start
            if isinstance(one, ast.ImportFrom) and (one.module or "").startswith("hybridbench."):
                assert one.module not in CARRIED[place:], f"{name} comes before {one.module}"
                if one.module not in CARRIED:
                    needed.setdefault(str(one.module), set()).update(alias.name for alias in one.names)
    known = {f"hybridbench.{module}": set(names.split()) for module, names in OF_A_BASE.items()}
    assert needed == known


def test_a_base_that_cannot_trace_is_still_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in start.FOR_TRACES:
        monkeypatch.delitem(sys.modules, name, raising=False)
    (tmp_path / "hybridbench").mkdir()
    (tmp_path / "hybridbench/trace.py").write_text("from hybridbench.record import of_a_later_record\n")
    monkeypatch.setattr(start, "CARRIED", ())
    start.carry(tmp_path)
    assert not set(start.FOR_TRACES) & set(sys.modules)


def test_a_side_that_lacks_a_module_is_told_what_to_do() -> None:
    old = "Traceback\nModuleNotFoundError: No module named 'hybridbench.kernel_suite.pace'"
    assert "--base-kernel" in workers._hint(old)
    assert workers._hint("ModuleNotFoundError: No module named 'torch'") == ""


# --- the same code ----------------------------------------------------------------------------------------------------


class Kernel:
    """A compiled kernel with its disassembly."""

    def __init__(self, sass: str | None) -> None:
        self.asm = {} if sass is None else {"sass": sass}


def event(name: str, **launch: Any) -> dict[str, Any]:
    args = {"grid": [8, 1, 1], "block": [128, 1, 1], "shared memory": 0, "registers per thread": 32, **launch}
    return {"cat": "kernel", "name": name, "args": args}


TORCH = {"torch": "2"}
LIBRARY = "void at::native::add<float>"


def of(
    events: list[dict[str, Any]], seen: LaunchedCode | None = None, *, own: bool = False, **libraries: Any
) -> str | None:
    return identity(events, seen or LaunchedCode(), {**TORCH, **libraries}, own)


def triton(*sass: str | None, tuning: str = "") -> LaunchedCode:
    return LaunchedCode({"_k": [Kernel(one) for one in sass]}, dict.fromkeys([tuning] if tuning else []))


def test_equal_code_launches_and_tiles_are_the_same() -> None:
    code = "//## File 'a.py', line 3\nMOV R1 ;\nEXIT ;"
    moved = "//## File 'b.py', line 9\n\n  MOV R1 ;\nEXIT ;"
    known = of([event("_k"), event(LIBRARY)], triton(code))
    assert known is not None
    assert of([event("_k"), event(LIBRARY)], triton(moved)) == known


def test_any_difference_is_seen() -> None:
    found = [
        of([event("_k")], triton("MOV ;")),
        of([event("_k")], triton("MOV R2 ;")),
        of([event("_k", grid=[9, 1, 1])], triton("MOV ;")),
        of([event("_k", **{"registers per thread": 40})], triton("MOV ;")),
        of([event("_k"), event("_k")], triton("MOV ;")),
        of([event("_k")], triton("MOV ;", tuning="m._k: BLOCK: 64")),
        of([event(LIBRARY)]),
        of([event(LIBRARY)], torch="3"),
        of([event(LIBRARY + "2")]),
    ]
    assert None not in found
    assert len(set(found)) == len(found)


def test_unknown_code_has_no_identity() -> None:
    assert of([]) is None
    assert of([{"cat": "cpu_op", "name": "x"}]) is None
    assert of([event("_k")], triton(None)) is None  # it cannot be disassembled
    assert of([event("_k")], triton("MOV ;", "EXIT ;")) is None  # two builds of one name
    assert of([event("triton_poi_fused_add_0")]) is None  # what torch.compile made
    assert of([event("my_kernel")], own=True) is None  # what a person's module compiled
    assert of([event(LIBRARY)], own=True) is not None
    assert of([event("scan_fwd")], mamba=None) is None  # a library of no known version
    assert of([event(LIBRARY, grid=None)]) is None


def test_launches_are_noted() -> None:
    compiler = pytest.importorskip("triton.compiler.compiler")
    autotuner = pytest.importorskip("triton.runtime.autotuner")
    before = compiler.CompiledKernel.launch_metadata, autotuner.Autotuner.run
    kernel: Any = types.SimpleNamespace(name="_k", asm={}, function=1, src=None, _init_handles=lambda: None)
    with watched() as seen:
        for _ in range(2):
            compiler.CompiledKernel.launch_metadata(kernel, (1, 1, 1), 0)
    assert seen.kernels == {"_k": [kernel]}
    assert (compiler.CompiledKernel.launch_metadata, autotuner.Autotuner.run) == before
