"""Whole comparisons on a CPU: a library's model has our sizes and our logits, and what fails is a row with a reason."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import their_mamba
import torch

from hybridbench.arch.families import Options, build_spec
from hybridbench.measure.clock import HostTimer
from hybridbench.model.build import build_model, parameter_count, resolve_backends
from hybridbench.public import cells
from hybridbench.public.__main__ import main
from hybridbench.public.cells import Venue, compare_cell
from hybridbench.public.llama import TheirLlama
from hybridbench.public.mamba import EagerMamba, TheirMamba
from hybridbench.public.rounds import Rounds
from hybridbench.public.row import PublicRow
from hybridbench.public.theirs import PROMPT, STEPS
from hybridbench.public.ways import Way
from hybridbench.record import Status
from hybridbench.suite.case import Case, Execution
from hybridbench.suite.workloads import DECODE, TRAIN, Workload

CPU = torch.device("cpu")
FAST = Rounds(count=2, block_s=0, least=1, most=1, warmup_s=0)
needs_transformers = pytest.mark.skipif(
    importlib.util.find_spec("transformers") is None, reason="transformers is not installed: pip install -e '.[dev]'"
)


def case_of(arch: str, scale: str = "toy", workload: str = DECODE, context: int = 40, **options: Any) -> Case:
    execution = Execution("cpu", options.pop("dtype", "float32"), "eager")
    return Case(build_spec(arch, scale, Options(**options)), Workload(workload, context, 2), execution)


def compared(case: Case) -> list[PublicRow]:
    return list(compare_cell(case, Venue(CPU, FAST)))


def check_timed(row: PublicRow) -> None:
    assert (row.status, row.reason, row.weights) == (Status.OK, None, "ours"), row.traceback
    assert row.parameters == row.their_parameters
    assert row.logits_error is not None
    assert row.logits_error < 1e-5
    assert [len(block) for side in (row.ours_ns, row.theirs_ns) for block in side] == [1] * 4


@needs_transformers
@pytest.mark.parametrize("workload", [DECODE, TRAIN])
def test_a_transformer_is_timed_beside_llama(workload: str) -> None:
    rows = compared(case_of("transformer", workload=workload))
    assert len(rows) == (2 if workload == DECODE else 1)
    for row in rows:
        check_timed(row)
        assert row.library == "transformers"
        assert row.library_version is not None
        assert row.kernels


def test_mamba_is_timed_beside_its_library(monkeypatch: pytest.MonkeyPatch) -> None:
    their_mamba.install(monkeypatch)
    rows = compared(case_of("mamba", "tiny", vocab_size=202))  # theirs pads the vocabulary to 208
    assert [row.way for row in rows] == ["CUDA graph", "eager"]
    for row in rows:
        assert row.parameters is not None
        check_timed(replace(row, parameters=row.parameters + 6 * 128))


@pytest.mark.parametrize("workload", [DECODE, TRAIN])
def test_a_missing_package_is_a_row(workload: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mamba_ssm", None)
    for row in compared(case_of("mamba", "tiny", workload, vocab_size=200)):
        assert row.status is Status.UNSUPPORTED
        assert str(row.reason).startswith("mamba_ssm is not importable (")
        assert row.parameters is not None
        assert not row.timed
        assert not row.line()["logits_checked"]


def failing(exc: Exception) -> Callable[..., Any]:
    def run(*_args: object) -> Any:
        raise exc

    return run


@needs_transformers
@pytest.mark.parametrize(
    ("exc", "status"),
    [(torch.OutOfMemoryError("no memory"), Status.OOM), (RuntimeError("compiler"), Status.CRASHED)],
)
def test_what_ends_one_way_ends_no_other(exc: Exception, status: Status, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(TheirLlama):
        begin = failing(exc)

    monkeypatch.setattr(cells, "ways", lambda *_: [Way("broken", Broken), Way("whole", TheirLlama)])
    broken, whole = compared(case_of("transformer"))
    assert (broken.status, broken.timed) == (status, False)
    assert str(exc) in str(broken.reason)
    assert broken.their_parameters == whole.their_parameters
    check_timed(whole)


def test_what_ends_ours_is_every_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cells, "open_session", failing(torch.OutOfMemoryError("no memory")))
    rows = compared(case_of("mamba"))
    assert [row.status for row in rows] == [Status.OOM] * 2
    assert all(str(row.reason).startswith("ours: ") for row in rows)


@needs_transformers
def test_other_logits_are_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    class Other(TheirLlama):
        def give(self, ours: Any) -> None:
            super().give(ours)
            with torch.no_grad():
                self.module.model.norm.weight[0] *= 1.5

    monkeypatch.setattr(cells, "ways", lambda *_: [Way("other", Other)])
    (row,) = compared(case_of("transformer"))
    assert row.status is Status.WRONG
    assert not row.timed
    assert row.line()["logits_checked"]


@needs_transformers
def test_another_size_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    class Wider(TheirLlama):
        def config(self) -> Any:
            config = super().config()
            config.intermediate_size += 64
            return config

    monkeypatch.setattr(cells, "ways", lambda *_: [Way("wider", Wider)])
    (row,) = compared(case_of("transformer"))
    assert row.status is Status.WRONG
    assert "not the same model" in str(row.reason)
    assert row.logits_error is None


@needs_transformers
def test_the_step_is_traced_whole_and_once() -> None:
    class Traced(TheirLlama):
        compiled, backend = True, "eager"

    case = case_of("transformer")
    model = build_model(case, resolve_backends(case))
    model.allocate(CPU, 0)
    theirs = Traced(case, CPU)
    theirs.give(model)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    tokens = torch.randint(320, (2, PROMPT))
    theirs.begin(tokens)
    theirs.token_B1.fill_(7)
    expected = theirs.logits(torch.cat((tokens, theirs.token_B1), 1))[:, -1]
    torch.testing.assert_close(theirs.decode(), expected, atol=1e-5, rtol=1e-4)
    theirs.fill(torch.Generator().manual_seed(0))
    for _ in range(STEPS):
        theirs.step()
        theirs.put_back()
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    torch._dynamo.reset()


@needs_transformers
@pytest.mark.parametrize("scale", ["100m", "350m", "1b", "3b"])
def test_llama_has_our_parameters(scale: str) -> None:
    case = case_of("transformer", scale)
    ours = parameter_count(build_model(case, resolve_backends(case)))
    assert TheirLlama(case, torch.device("meta")).parameters == ours


@needs_transformers
def test_llama_keeps_its_angles_in_float32() -> None:
    theirs = TheirLlama(case_of("transformer", dtype="bfloat16"), CPU)
    assert {p.dtype for p in theirs.module.parameters()} == {torch.bfloat16}
    assert {b.dtype for b in theirs.module.buffers()} == {torch.float32}


@pytest.mark.parametrize("scale", ["100m", "350m", "1b", "3b"])
def test_their_mamba_has_our_parameters(scale: str, monkeypatch: pytest.MonkeyPatch) -> None:
    their_mamba.install(monkeypatch)
    case = case_of("mamba", scale)
    ours = build_model(case, resolve_backends(case))
    with torch.device("meta"):
        theirs = TheirMamba(case, torch.device("meta"))
        theirs.give(ours)  # every name and every shape
    assert theirs.parameters == parameter_count(ours)


@pytest.mark.parametrize(("model", "arch"), [(TheirLlama, "inter"), (EagerMamba, "inter")])
def test_other_families_are_refused(model: type[Any], arch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    their_mamba.install(monkeypatch)
    if model is TheirLlama:
        pytest.importorskip("transformers")
    with pytest.raises(Exception, match="is no stack of"):
        model(case_of(arch), CPU)


def test_the_command_writes_lines_and_a_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    their_mamba.install(monkeypatch)
    words = ["decode", "--arch", "mamba", "--scale", "tiny", "--ctx", "64", "--batch", "1", "--device", "cpu"]
    words += ["--rounds", "2", "--warmup", "0", "-o", str(tmp_path)]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert out == (tmp_path / "decode.md").read_text(encoding="utf-8")
    first, *rows = map(json.loads, (tmp_path / "decode.ndjson").read_text(encoding="utf-8").splitlines())
    assert first["environment"]["device_kind"] == "cpu"
    assert [(row["kind"], row["way"], row["status"]) for row in rows] == [
        ("row", "CUDA graph", "ok"),
        ("row", "eager", "ok"),
    ]
    for row in rows:
        assert row["logits_checked"]
        assert len(row["ours_ns"]) == len(row["theirs_ns"]) == 2
        assert f"{row['ratio']['median']:.3f}" in out
    before = (tmp_path / "decode.ndjson").read_bytes()
    assert main(words) == 0
    assert (tmp_path / "decode.ndjson").read_bytes() == before
    assert capsys.readouterr().out == (tmp_path / "decode-2.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--arch", "swa"], "arch swa: compared are transformer and mamba."),
        (["--arch", "mamba,"], "arch 'mamba,' has an empty part"),
        (["--scale", "2b"], "scale"),
        (["--ctx", "x"], "context"),
        (["--dtype", "int3"], "dtype"),
    ],
)
def test_mistakes_are_told(words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["decode", "--device", "cpu", *words, "-o", str(tmp_path / "out")]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--rounds", "x"], "error: argument --rounds: x is not a whole number of 1 or more; see "),
        (["--warmup", "inf"], "error: argument --warmup: inf is not a number of seconds, 0 or more; see "),
        (["--round-trips"], "error: unrecognized arguments: --round-trips; see "),
    ],
)
def test_words_that_cannot_be_read_are_one_sentence(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        main(["decode", *words])
    assert left.value.code == 2
    told = capsys.readouterr().err
    assert told.startswith(said)
    assert told.count("\n") == 1


def test_a_place_that_cannot_be_written_is_told_and_so_is_an_end_by_ctrl_c(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["decode", "--arch", "mamba", "--scale", "tiny", "--ctx", "64", "--batch", "1", "--device", "cpu", "-o"]
    (tmp_path / "file").write_text("")
    assert main([*words, str(tmp_path / "file")]) == 2
    assert "file cannot be a folder for output (File exists)" in capsys.readouterr().err

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cells, "compare_cell", interrupted)
    assert main([*words, str(tmp_path / "out")]) == 130
    assert capsys.readouterr().err == f"Stopped; the rows that were done are in {tmp_path / 'out'}.\n"


def test_timers_are_those_of_the_device() -> None:
    assert isinstance(Venue(CPU).timer(CPU), HostTimer)
