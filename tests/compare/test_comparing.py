"""What ``hybridbench compare`` prints, writes and exits with, and what it says of input that cannot be compared."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from hybridbench.cli.main import main
from hybridbench.compare.cell import ASKED
from hybridbench.compare.judging import Verdict
from hybridbench.compare.noise import CLASSES
from hybridbench.compare.sides import CROSSINGS
from hybridbench.record import Record, Status

Again = Callable[..., Record]
Written = Callable[..., Path]
EXPECTED = Path(__file__).parent / "expected.txt"


def run(*args: object, width: int = 160) -> Result:
    return CliRunner(env={"COLUMNS": str(width)}).invoke(main, ["compare", *map(str, args)])


@pytest.fixture(name="two")
def _two(decodes: list[Record], again: Again, written: Written) -> tuple[Path, Path]:
    """Two folders: one cell slower, one faster, one out of memory, one missing, the rest within noise."""
    base = [record for record in decodes if record.case.workload.context <= 8192]
    scales = {0: 1.2, 3: 0.9}
    later = [again(record, scales.get(place, 1.0)) for place, record in enumerate(base)][:-1]
    later[5] = replace(later[5], status=Status.OOM, observed=None, message="150 GiB asked, 139 GiB there")
    return written("before", base), written("after", later)


def test_the_table_is_the_expected_one(two: tuple[Path, Path], request: pytest.FixtureRequest) -> None:
    done = run(*two, "--fail-above", "5%")
    assert done.exit_code == 1, done.output
    shown = done.stdout.replace(str(two[0].parent), "RESULTS")
    if request.config.getoption("--rewrite-golden"):
        EXPECTED.write_text(shown, encoding="utf-8")
    assert shown == EXPECTED.read_text(encoding="utf-8")


def test_files_hold_what_the_table_shows(two: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = run(*two, "-o", out)
    assert done.exit_code == 0, done.output
    assert f"Comparison: {out / 'compare.md'}" in done.stdout
    page = (out / "compare.md").read_text()
    for linked in ("charts/compare.svg", "compare.csv", "compare.json"):
        assert f"({linked})" in page
        assert (out / linked).is_file()
    rows = list(csv.DictReader(io.StringIO((out / "compare.csv").read_text())))
    body = json.loads((out / "compare.json").read_text())
    assert [row["verdict"] for row in rows] == [row["verdict"] for row in body["rows"]]
    assert [row["verdict"] for row in rows][:3] == ["broke", "slower", "faster"]
    assert float(rows[1]["ratio"]) == pytest.approx(1.2, rel=1e-5)
    assert float(rows[1]["other_step_s"]) == pytest.approx(1.2 * float(rows[1]["base_step_s"]), rel=1e-5)
    assert page.count("within noise") == 6 + 1  # and in the summary
    words = [node.text for node in ET.parse(out / "charts/compare.svg").iter("{http://www.w3.org/2000/svg}text")]
    assert words.count("within noise") == 6
    assert {"slower", "faster", "broke", "only in A"} <= set(words)
    assert run(*two, "-o", out).exit_code == 0  # replaces its own page


def test_json_is_one_document_and_nothing_else(two: tuple[Path, Path]) -> None:
    done = run(*two, "--json", "--fail-above", "30")
    assert done.exit_code == 1  # what ran out of memory worked before
    body = json.loads(done.stdout)
    assert body["exit_code"] == 1
    assert body["fail_above_frac"] == 0.3
    assert [side["title"] for side in body["sides"]] == [str(path) for path in two]
    assert sum(row["failed"] for row in body["rows"]) == 1
    assert {row["separate_runs"] for row in body["rows"] if row["ratio"]} == {True}


def test_a_folder_alone_gives_its_two_newest_runs(decodes: list[Record], again: Again, written: Written) -> None:
    record = decodes[0]
    runs = [again(record, scale, run=f"run-{day}", started_at=f"2026-12-0{day}T00:00:00+00:00") for day, scale in
            ((1, 5.0), (3, 1.1), (2, 1.0))]  # fmt: skip
    done = run(written("all", runs))
    assert done.exit_code == 0, done.output
    assert "A: run run-2" in done.stdout
    assert "B: run run-3" in done.stdout
    assert "1.100" in done.stdout


def test_without_results_the_newest_two_of_ones_own_are_compared(
    decodes: list[Record], again: Again, written: Written, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    written("results/local/one", [again(decodes[0], run="one")])
    written("results/local/two", [again(decodes[0], 1.1, run="two", started_at="2026-12-02T00:00:00+00:00")])
    monkeypatch.chdir(tmp_path)
    done = run()
    assert done.exit_code == 0, done.output
    assert "A: run one" in done.stdout
    assert "B: run two" in done.stdout


def test_what_one_run_holds_is_compared_across_a_field(decodes: list[Record], written: Written) -> None:
    done = run(written("one", decodes), "--across", "architecture", "--json")
    assert done.exit_code == 0, done.output
    body = json.loads(done.stdout)
    assert [side["title"] for side in body["sides"]] == [
        "transformer", "swa 3+13", "mamba", "inter 2+11", "intra 2+11",
    ]  # fmt: skip
    assert len(body["rows"]) == 4 * 6
    assert {row["separate_runs"] for row in body["rows"]} == {False}
    fastest = body["rows"][0]
    assert (fastest["side"], fastest["context"], fastest["verdict"]) == ("C", "128k", "faster")


MISTAKES: dict[str, tuple[list[str], list[str], int]] = {
    "unknown metric": (["--metric", "stp"], ["'stp'", "did you mean 'step'"], 2),
    "unknown crossing": (["--across", "backends"], ["'backends'", "did you mean 'backend'"], 2),
    "empty crossing": (["--across", "backend,,mode"], ["'backend,,mode'"], 2),
    "limit that is none": (["--fail-above", "five"], ["'five'", "5%"], 2),
    "limit below nothing": (["--fail-above", "-5%"], ["'-5%'"], 2),
    "limit that is no number": (["--fail-above", "nan"], ["'nan'"], 2),
    "infinite limit": (["--fail-above", "inf%"], ["'inf%'"], 2),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_sentence(name: str, two: tuple[Path, Path]) -> None:
    words, said, code = MISTAKES[name]
    _is_one_sentence(run(*two, *words), said, code)


def _is_one_sentence(done: Result, said: list[str], code: int) -> None:
    assert done.exit_code == code, done.output
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert all(word in done.stderr for word in said), done.stderr


def test_results_that_cannot_be_compared_are_one_sentence(
    decodes: list[Record], again: Again, written: Written, tmp_path: Path
) -> None:
    base = written("base", decodes[:1])
    other_work = written("other", [again(decodes[1])])
    execution = replace(decodes[0].case.execution, dtype="float16")
    other_dtype = written("dtype", [again(decodes[0], case=replace(decodes[0].case, execution=execution))])
    _is_one_sentence(run(base), ["one run", "--across"], 2)
    _is_one_sentence(run(base, "--across", "mode"), ["one mode only"], 2)
    _is_one_sentence(run(base, tmp_path / "nowhere"), ["nowhere does not exist"], 2)
    _is_one_sentence(run(base, other_work), ["no cell in common"], 6)
    _is_one_sentence(run(base, other_dtype), ["dtype bfloat16 / float16", "--across dtype"], 4)
    _is_one_sentence(run(base, other_dtype, "--json"), ["not comparable"], 4)
    _is_one_sentence(run(*[base] * 27), ["27 sides"], 2)
    (tmp_path / "compare.md").write_text("my notes\n")
    _is_one_sentence(run(base, base, "-o", tmp_path), ["compare.md is not a page of hybridbench"], 2)


def test_the_same_results_twice_are_the_same(two: tuple[Path, Path]) -> None:
    done = run(two[0], two[0], "--json")
    assert done.exit_code == 0
    assert {row["verdict"] for row in json.loads(done.stdout)["rows"]} == {"within noise"}


@pytest.mark.slow
def test_the_same_code_run_twice_on_this_machine_has_not_changed(tmp_path: Path) -> None:
    """For real, each side in fresh processes, for long enough that the spread of samples shows other work."""
    sized = ["--arch", "transformer,mamba", "--scale", "tiny", "--ctx", "64", "--device", "cpu", "--max-time", "3"]
    for side in ("a", "b"):
        done = CliRunner().invoke(main, ["decode", *sized, "-o", str(tmp_path / side)])
        assert done.exit_code == 0, done.output
    compared: dict[str, Any] = json.loads(run(tmp_path / "a", tmp_path / "b", "--json").stdout)
    assert {row["verdict"] for row in compared["rows"]} <= {"within noise", "doubtful"}, compared["rows"]
    assert len(compared["rows"]) == 2
    assert {row["separate_runs"] for row in compared["rows"]} == {True}
    assert "two separate runs: all ratios" in run(tmp_path / "a", tmp_path / "b").stdout


def test_the_page_about_comparing_has_the_tables_of_the_program() -> None:
    page = (Path(__file__).parents[2] / "docs" / "compare.md").read_text(encoding="utf-8")
    for found in CLASSES:
        assert f"| {found.cells} | {100 * found.frac:.2g}% | {found.source} |" in page
    for name, fields in CROSSINGS.items():
        assert f"| `{name}` | {', '.join(fields)} |" in page
    words = {word for asked in ASKED.values() for word in (asked.worse_word, asked.better_word)}
    named = {Verdict.WORSE, Verdict.BETTER, Verdict.SAME, Verdict.GONE, Verdict.NEW}
    said = page.partition("## Verdicts")[2]
    assert all(f"{word}" in said for word in words | {verdict.value for verdict in Verdict if verdict not in named})
    assert all(f"`{name}`" in page or f"--metric {name}" in page for name in ASKED)


def test_judging_a_run_needs_no_torch_and_a_table_no_chart_library(two: tuple[Path, Path]) -> None:
    code = (
        "import sys\nfrom hybridbench.cli.main import main\n"
        f"main(['compare', {str(two[0])!r}, {str(two[1])!r}], standalone_mode=False)\n"
        "sys.exit(bool({'torch', 'altair', 'pandas'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "slower" in done.stdout
