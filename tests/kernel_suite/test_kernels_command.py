"""The command from words to cells, and records to numbers; each number against one made by hand."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from hybridbench.cli.main import main
from hybridbench.errors import BadInput, BadResults
from hybridbench.kernel_suite import file
from hybridbench.kernel_suite.cell import BACKWARD, Budget, Cell
from hybridbench.kernel_suite.figures import FIGURES, speedup
from hybridbench.kernel_suite.plan import KernelOptions, cells
from hybridbench.kernel_suite.record import Agreement, KernelObserved, KernelRecord
from hybridbench.kernel_suite.report import build, notes, rows
from hybridbench.plain import check_values
from hybridbench.problem import Problem
from hybridbench.record import Caveat, Ceilings, Environment, Record, Status
from hybridbench.store import RecordWriter, holds, load, newest, recorded
from hybridbench.suite.sweep import Sweep, cases

ROOT = Path(__file__).parents[2]
MACHINE = Environment("cpu", "cpu", None, "some CPU", 4, None, None, None, "3.12", "linux", {}, "0.1.0", None, 1)
PROBLEM = Problem("cpu", "float32", width=64, length=100, batch=2)
RATES = Ceilings("float32", 1e12, 1e9, 1e9)


def seen(*samples_ns: int, agreement: Agreement | None = None) -> KernelObserved:
    return KernelObserved(
        samples_ns=list(samples_ns),
        by_allocation=[len(samples_ns)],
        calls_per_sample=1,
        graph=False,
        cold=True,
        warmup_ns=1,
        timer="scripted",
        ran="x",
        package="torch",
        version="2",
        agreement=agreement or Agreement("the reference", 1, "out_NF", 1e-7, 1e-4),
        check_ns=5,
        ceilings=RATES,
    )


def record(backend: str, *samples_ns: int, cell: Cell | None = None, **more: Any) -> KernelRecord:
    made = cell or Cell("swiglu", backend, PROBLEM)
    status = more.pop("status", Status.OK)
    observed = more.pop("observed", seen(*samples_ns) if samples_ns else None)
    return KernelRecord(made, status, "run", "2026-01-01T00:00:00+00:00", MACHINE, observed, **more)


# Cells.


def test_a_model_asks_for_its_operations_with_every_backend_of_the_device() -> None:
    made = cells(KernelOptions(ops="swiglu,attention", arch="inter", scale="100m", ctx="512"), has_gpu=False)
    found = [(cell.op, cell.backend, cell.direction, cell.problem.length) for cell in made]
    assert found == [
        ("swiglu", "reference", "forward", 512),
        ("swiglu", "reference", "backward", 512),
        ("swiglu", "reference", "forward", 1),
        *(("attention", name, "forward", 512) for name in ("sdpa-flash", "sdpa-blocks", "reference")),
        *(("attention", name, "backward", 512) for name in ("sdpa-flash", "sdpa-blocks", "reference")),
    ]
    assert {cell.problem.training for cell in made if cell.direction == BACKWARD} == {True}
    assert {cell.models for cell in made} == {("inter 1+5 100m",)}


def test_models_with_the_same_problem_share_a_cell_that_names_them_all() -> None:
    (cell,) = cells(
        KernelOptions(ops="add_rms_norm", arch="inter,intra", scale="100m", direction="forward"), has_gpu=False
    )
    assert cell.models == ("inter 1+5 100m", "intra 1+5 100m")
    assert replace(cell, models=(), limit_s=1).key == cell.key
    assert replace(cell, seed=1).key != cell.key
    assert Cell.from_dict(json.loads(json.dumps(cell.to_dict()))) == cell


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        ({"ops": "swigl"}, "unknown operation 'swigl': did you mean 'swiglu'?"),
        ({"ops": "swiglu", "backends": ("tritn",)}, "unknown backend 'tritn': did you mean 'triton'?"),
        ({"ops": "swiglu", "backends": ("swiglu=tritn",)}, "unknown swiglu backend 'tritn': did you mean 'triton'?"),
        ({"ops": "swiglu", "backends": ("ssd=reference",)}, "backend for ssd: it is not timed here"),
        ({"ops": "kda", "arch": "inter"}, "no model here runs kda; they run "),
        ({"ops": "swiglu", "direction": "sideways"}, "unknown direction 'sideways'"),
        ({"ops": "ssd_step", "arch": "mamba", "direction": "backward"}, "ssd_step has no backward"),
        ({"ops": "attention", "problem": "head_dim=64,n_heads=6,n_kv_heads=4,length=8"},
         "n_heads must be a multiple of n_kv_heads"),
        ({"ops": "attention", "problem": "head_dim=64,length=8"},
         "attention needs n_heads, which the problem does not state"),
        ({"ops": "attention", "problem": "head_dims=64"},
         "unknown size of attention 'head_dims': did you mean 'head_dim'?"),
        ({"ops": "attention", "problem": "head_dim"}, "problem 'head_dim' is not NAME=SIZE"),
        ({"ops": "rotary", "problem": "head_dim=5,n_heads=2,length=8"}, "give an even number"),
        ({"problem": "width=64"}, "--problem without an operation"),
        ({"ops": "swiglu,gate", "kernel": "a.b:c"}, "--kernel with 2 operations"),
        ({"ops": "swiglu", "kernel": "fast"}, "kernel 'fast' names no function"),
        ({"ops": "swiglu", "device": "gpu"}, "unknown device 'gpu'"),
    ],
)  # fmt: skip
def test_what_cannot_be_timed_is_said(ask: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInput) as refused:
        cells(KernelOptions(**ask), has_gpu=False)
    assert said in str(refused.value)


def test_a_value_out_of_range_names_the_table_of_the_suite(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('[[kernels]]\nops = "swiglu"\n[[kernels]]\nops = "swiglu"\nscale = "tony"\n')
    _, asks = file.load(path)
    with pytest.raises(BadInput) as refused:
        file.cells_of(asks, has_gpu=False)
    assert str(refused.value).startswith(f"{path}: [[kernels]] 2: unknown scale 'tony'")


def test_the_committed_suite_begins_with_cells_that_fill_a_gpu() -> None:
    name, asks = file.load(ROOT / "suites" / "kernels.toml")
    made = file.cells_of(asks, has_gpu=True)
    assert name == "kernels"
    assert {cell.problem.device for cell in made} == {"cuda"}
    sizes = {(cell.op, cell.problem.batch, cell.problem.length) for cell in made}
    assert sizes >= {("swiglu", 4, 8192), ("attention", 4, 8192), ("ssd", 4, 8192), ("add_rms_norm", 4, 8192)}
    assert ("product", 2048, 16384, 4 * 8192) in {
        (cell.op, cell.problem.d_model, cell.problem.width, cell.problem.batch * cell.problem.length) for cell in made
    }
    for cell in made:  # as when its record is read
        check_values(cell)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[[kernels]]\nop = 'swiglu'", "[[kernels]] 1: unknown key 'op': did you mean 'ops'?"),
        ("[[sweep]]\n", "unknown key 'sweep' at the top"),
        ("name = 'x'", "has no [[kernels]] table"),
        ("[[kernels]]\nhot = 3", "hot is 3, where true or false is expected"),
        ('name = "a\\nb"\n[[kernels]]\n', "a folder is named after it"),
        (f"name = '{'x' * 101}'\n[[kernels]]\n", "a folder is named after it"),
        ("[[kernels]]\nctx = []", "ctx is an empty list"),
        ("[[kernels]]\nbackends = []", "backends is an empty list"),
        ("[[kernels]", "is not TOML"),
    ],
)
def test_a_suite_with_a_mistake_names_it(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "k.toml"
    path.write_text(text)
    with pytest.raises(BadInput) as refused:
        file.load(path)
    assert said in str(refused.value)


# Figures, by hand.


def test_figures_of_a_record() -> None:
    one = record("reference", *range(1000, 1021))
    found = {name: figure.compute(one) for name, figure in FIGURES.items()}
    assert found["median_s"] == pytest.approx(1010e-9)
    assert (found["low_s"], found["high_s"]) == (pytest.approx(1005e-9), pytest.approx(1015e-9))
    tokens = 2 * 100
    assert found["flops"] == tokens * 64 * 4
    assert found["bytes"] == tokens * (2 + 1) * 64 * 4
    assert found["floor_s"] == max(tokens * 64 * 4 / 1e12, tokens * 3 * 64 * 4 / 1e9)
    assert found["floor_frac"] == pytest.approx(found["floor_s"] / 1010e-9)
    assert found["bytes_per_s"] == pytest.approx(tokens * 3 * 64 * 4 / 1010e-9)
    assert found["blocks_per_sm"] is None
    trained = replace(one, case=replace(one.case, direction=BACKWARD))
    assert FIGURES["flops"].compute(trained) == 3 * found["flops"]
    assert FIGURES["bytes"].compute(trained) == 2 * found["bytes"], (
        "and the output's gradient read, the input's written"
    )
    failed = record("reference", status=Status.OOM)
    assert {name for name, figure in FIGURES.items() if figure.compute(failed) is not None} == {"flops", "bytes"}


def test_a_speed_up_has_the_range_of_both_intervals_and_a_tie_is_one() -> None:
    slow, fast, near = record("a", *[200] * 9), record("b", *[100] * 9), record("c", *range(190, 211))
    twice = speedup(fast, slow)
    assert twice is not None
    assert (twice.times, twice.low, twice.high, twice.tie) == (2, 2, 2, False)
    tie = speedup(near, slow)
    assert tie is not None
    assert tie.low < 1 < tie.high
    assert tie.tie
    assert speedup(fast, None) is None
    assert speedup(fast, record("d", status=Status.WRONG)) is None


def test_speed_ups_are_over_the_reference_else_the_first_that_was_timed_else_what_is_asked() -> None:
    slow, fast = record("reference", *[300] * 9), record("triton", *[100] * 9)
    assert [one["speedup"] for one in rows(build([fast, slow]))] == [3, None]
    assert [one["speedup"] for one in rows(build([fast, slow], over="triton"))] == [None, pytest.approx(1 / 3)]
    gone = record("reference", status=Status.OOM, message="out of memory")
    other = record("liger", *[50] * 9)
    assert [one["speedup_over"] for one in rows(build([gone, fast, other]))] == [None, None, "triton"]
    with pytest.raises(BadInput, match="did you mean 'triton'"):
        build([fast], over="tritn")


def test_tables_say_what_failed_and_what_was_not_checked() -> None:
    unchecked = seen(*[10] * 9, agreement=Agreement(None, why_not="the reference does not fit in memory"))
    some = [
        record("triton", observed=unchecked, caveats=[Caveat.NOT_CHECKED, Caveat.SHARED_GPU]),
        record(
            "own:kernel",
            cell=Cell("swiglu", "own:kernel", PROBLEM),
            status=Status.CRASHED,
            message="E: bad",
            traceback="one\ntwo\nthree\nE: bad",
        ),
    ]  # fmt: skip
    table = build(some).tables["kernels-forward"]
    text = "\n".join(table.footnotes())
    assert "not checked at this size: the reference does not fit in memory" in text
    assert "another process used this GPU" in text
    assert "own:kernel: E: bad (two | three | E: bad)" in text
    assert [row[-2].text for row in table.rows] == ["ok [1] [2]", "crashed [3]"]
    assert notes(record("triton", *[1] * 9)) == []


# Records.


def test_records_of_kernels_stand_beside_those_of_models(tmp_path: Path) -> None:
    one = record("reference", 10, 11, 12)
    with RecordWriter(tmp_path, kind=KernelRecord) as writer:
        writer.append(one)
    assert writer.path.name.startswith("kernels-")
    assert holds([tmp_path], KernelRecord)
    assert not holds([tmp_path], Record)
    assert newest(load([tmp_path], print, kind=KernelRecord)) == [one]
    assert recorded(tmp_path, KernelRecord) == {one.case.key: one}
    assert recorded(tmp_path, Record) == {}, "a sweep into the same folder does not trip over them"
    with pytest.raises(BadResults):
        load([tmp_path], print)


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda body: body.update(schema=9), "reads up to 3: upgrade"),
        (lambda body: body["observed"].update(samples_ns=[]), "samples_ns is empty"),
        (lambda body: body["case"].update(direction="up"), "unknown direction 'up'"),
        (lambda body: body.pop("case"), "it has no 'schema' and 'case'"),
    ],
)
def test_a_damaged_record_is_refused_with_a_sentence(edit: Any, said: str) -> None:
    body = json.loads(record("reference", 10).to_json())
    edit(body)
    with pytest.raises(BadResults) as refused:
        KernelRecord.from_json(json.dumps(body))
    assert said in str(refused.value)


# The command.


def run(*words: str, code: int = 0) -> str:
    found = CliRunner().invoke(main, list(words))
    assert found.exit_code == code, found.output
    return found.output


@pytest.mark.slow
def test_the_page_s_example_runs_from_an_empty_file_to_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the run's records are reported, resumed and listed as those of any other command."""
    page = (ROOT / "docs" / "your-kernel.md").read_text(encoding="utf-8")
    (source,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    signature, command = (block.split()[1:] for block in re.findall(r"```sh\n(.*?)```", page, re.DOTALL))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mypkg").mkdir()
    (tmp_path / "mypkg" / "fast.py").write_text(source)
    assert run(*signature).startswith("def swiglu(packed")
    listed = run(*command, "--dry-run")
    assert listed.count("mypkg.fast:swiglu") == 2
    output = run(*command, "-o", "out")
    assert "mypkg.fast:swiglu" in output
    assert "Self test: work of a known length is timed" in output
    found = load([tmp_path / "out"], print, kind=KernelRecord)
    assert {(one.case.backend, one.status) for one in found} == {
        ("mypkg.fast:swiglu", Status.OK),
        ("reference", Status.OK),
    }
    assert "4 of 4 cases are recorded" in run(*command, "-o", "out", "--resume")
    document = json.loads(run("report", "out", "--json"))
    assert len(document["kernels"]) == 4
    assert all(one["median_s"] > 0 and one["bytes_per_s"] > 0 for one in document["kernels"])
    text = (tmp_path / "out" / "report" / "kernels.md").read_text()
    for name in re.findall(r"\(((?:tables|charts)/[^)]+)\)", text):
        assert (tmp_path / "out" / "report" / name).is_file()
    assert "tables/kernels-backward.csv" in text


def test_mistakes_end_with_a_sentence_and_code_2() -> None:
    for words, said in (
        (["--signature"], "--signature of which operation?"),
        (["swigl", "--signature"], "did you mean 'swiglu'"),
        (["suites/kernels.toml", "--hot"], "a suite says all that is timed"),
        (["swiglu", "--over", "refrence", "--device", "cpu"], "did you mean 'reference'"),
    ):
        output = run("kernels", *words, code=2)
        assert said in " ".join(output.split())
        assert "Traceback" not in output


def test_a_budget_is_what_was_typed() -> None:
    work = KernelOptions(ops="swiglu", problem="width=8,length=4", direction="forward", backends=("reference",))
    (cell,) = cells(replace(work, hot=True, max_time_s=2, min_samples=2000), has_gpu=False)
    assert cell.sampling == Budget(cold=False, max_time_s=2.0, min_samples=2000, max_samples=2000)
    assert cell.problem.batch == 1


def test_one_document_has_both_kinds_of_record(tmp_path: Path) -> None:
    with RecordWriter(tmp_path, "kernels", KernelRecord) as writer:
        writer.append(record("triton", 1_000, 1_100))
    sole = json.loads(run("report", str(tmp_path), "--json"))
    assert sole.keys() == {"report", "self_test", "kernels"}
    (case,) = cases(Sweep("decode", arch="mamba", scale="tiny", ctx="64"), has_gpu=False)
    with RecordWriter(tmp_path, "models") as writer:
        writer.append(Record(case, Status.OOM, "models", "2026-01-01T00:00:00+00:00", MACHINE, message="too large"))
    both = json.loads(run("report", str(tmp_path), "--json"))
    assert both.keys() == {"report", "rows", "kernels", "kernels_report"}
    assert both["kernels"] == sole["kernels"]
    assert both["kernels_report"] == sole["report"]
    assert [row["status"] for row in both["rows"]] == ["oom"]
    assert Path(both["report"]).is_file()
    assert Path(both["kernels_report"]).is_file()
    shown = run("report", str(tmp_path))
    assert shown.count("Report: ") == 2
