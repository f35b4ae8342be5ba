"""``hybridbench report`` of kernels and of two runs: sections of the page, and what is in the way stays as it is."""

from __future__ import annotations

import html
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from hybridbench.cli.main import main
from hybridbench.kernel_suite.cell import Cell
from hybridbench.kernel_suite.record import Agreement, KernelObserved, KernelRecord
from hybridbench.problem import Problem
from hybridbench.record import Ceilings, Environment, Record, Status
from hybridbench.suite.sweep import Sweep, cases

Make = Callable[..., Record]
MINE = "mine_5%<b>&"


def kernel(environment: Environment, backend: str, length: int, took_ns: int, **changes: object) -> KernelRecord:
    problem = Problem("cuda", "bfloat16", width=64, length=length, batch=2)
    observed = KernelObserved(
        samples_ns=[took_ns + (place % 5 - 2) * took_ns // 100 for place in range(25)],
        by_allocation=[25],
        calls_per_sample=1,
        graph=True,
        cold=True,
        warmup_ns=1,
        timer="scripted",
        ran=backend,
        package="torch",
        version="2",
        agreement=Agreement("the reference", 1, "out_NF", 1e-7, 1e-4),
        check_ns=5,
        ceilings=Ceilings("bfloat16", 1e15, 1e12, 1e12),
    )
    made = KernelRecord(Cell("swiglu", backend, problem), Status.OK, "run", "2026-01-01T00:00:00+00:00", environment)
    return replace(made, observed=observed, **changes)


def write(folder: Path, records: list[KernelRecord] | list[Record], name: str = "records") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / f"{name}-1.jsonl").write_text("".join(record.to_json() + "\n" for record in records))
    return folder


def report(*arguments: object) -> tuple[int, str]:
    done = CliRunner().invoke(main, ["report", *map(str, arguments)])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exc_info
    return done.exit_code, done.output


@pytest.fixture(name="kernels")
def _kernels(h200: Environment, tmp_path: Path) -> Path:
    timed = [kernel(h200, "reference", length, 40 * length) for length in (1024, 2048, 4096)]
    timed += [kernel(h200, MINE, length, 20 * length) for length in (1024, 2048)]
    failed = replace(kernel(h200, MINE, 4096, 1), status=Status.OOM, observed=None, message="out of memory <i>")
    return write(tmp_path / "kernels", [*timed, failed], "kernels")


def test_kernels_are_a_section_of_the_page(kernels: Path, tmp_path: Path) -> None:
    code, _ = report(kernels, "-o", tmp_path / "out")
    assert code == 0
    page = (tmp_path / "out" / "index.html").read_text()
    said = html.unescape(re.sub(r"<[^>]+>", " ", page.partition("<script")[0]))
    assert "5 of 6 operations were timed, 1 oom." in said
    assert re.search(rf"length=2048 width=64: {re.escape(MINE)} is fastest, 2\.00 times as fast as reference", said)
    assert f"{MINE}: out of memory <i>" in said
    assert "<i>" not in page.partition("<script")[0]
    assert page.count("<figure") == 2  # time against length, and the share of the floor
    assert "Every case has a value" not in said
    assert (tmp_path / "out" / "tables" / "kernels-forward.tex").is_file()
    assert (tmp_path / "out" / "charts" / "kernels-forward-swiglu-time.pdf").is_file()


def test_kernels_beside_models_are_named_by_their_page(kernels: Path, record_of: Make, tmp_path: Path) -> None:
    made = cases(Sweep("decode", arch="mamba", ctx="4k,8k"), has_gpu=True)
    models = write(tmp_path / "models", [record_of(case) for case in made])
    assert report(models, kernels, "-o", tmp_path / "out")[0] == 0
    page = (tmp_path / "out" / "report.md").read_text()
    assert "## Kernels, timed by themselves" in page
    assert "[kernels.md](kernels.md)" in page
    assert (tmp_path / "out" / "kernels.md").is_file()
    assert "have no cell in common" in page


def test_two_runs_have_the_verdicts_of_a_comparison(record_of: Make, tmp_path: Path) -> None:
    made = cases(Sweep("decode", arch="transformer,mamba", ctx="4k"), has_gpu=True)
    paths = []
    for name, steps in (("before", (0.002, 0.003)), ("after", (0.002, 0.004))):
        records = [record_of(case, step_s) for case, step_s in zip(made, steps, strict=True)]
        paths.append(write(tmp_path / name, [replace(record, run_id=name) for record in records]))
    assert report(*paths, "-o", tmp_path / "out")[0] == 0
    compared = CliRunner().invoke(main, ["compare", *map(str, paths)])
    assert "1 slower, 1 within noise." in compared.output
    for name in ("report.md", "index.html"):
        text = (tmp_path / "out" / name).read_text()
        assert "Two runs side by side" in text
        assert "1 slower, 1 within noise." in text
        assert "1.333" in text


def test_what_somebody_else_put_there_stays(kernels: Path, record_of: Make, tmp_path: Path) -> None:
    (case,) = cases(Sweep("decode", arch="mamba", ctx="4k"), has_gpu=True)
    models = write(tmp_path / "models", [record_of(case)])
    for results, name in (
        (models, "index.html"),
        (kernels, "index.html"),
        (models, "tables/decode.csv"),
        (models, "tables/decode-time.tex"),
        (models, "charts/decode-flops.pdf"),
        (kernels, "tables/kernels-forward.csv"),
    ):
        out = tmp_path / f"{results.name}-{name.replace('/', '-')}"
        (out / name).parent.mkdir(parents=True)
        (out / name).write_text("mine")
        code, said = report(results, "-o", out)
        assert code == 2
        assert f"{out / name} is " in said
        assert "name another --out" in said
        assert [path for path in out.rglob("*") if path.is_file()] == [out / name]
        assert (out / name).read_text() == "mine"


def test_a_kernel_of_an_operation_that_is_unknown_is_named_and_left_out(kernels: Path, tmp_path: Path) -> None:
    file = kernels / "kernels-1.jsonl"
    lines = file.read_text().splitlines()
    file.write_text("\n".join([lines[0].replace('"swiglu"', '"swiglux"'), *lines[1:]]) + "\n")
    code, said = report(kernels, "-o", tmp_path / "out")
    assert code == 2
    assert "this version knows no operation 'swiglux'" in said
    assert "4 of 5 operations were timed" in (tmp_path / "out" / "index.html").read_text()
