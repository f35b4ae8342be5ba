"""Damaged files: a sentence names file, line and field, what is good is used, and the exit code is 2.

``tests/cases`` holds them: records that crashes, other programs and editors left, suites and configurations.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from hybridbench.cli.main import main
from hybridbench.report.render.charts import save
from hybridbench.store import load, newest

CASES = Path(__file__).parents[1] / "cases"
RECORDS = CASES / "records"


def run(*args: object) -> Result:
    return CliRunner().invoke(main, [str(arg) for arg in args])


def refused(result: Result) -> str:
    """The one sentence of a refusal."""
    assert result.exit_code == 2, result.output
    assert isinstance(result.exception, SystemExit | type(None))
    (sentence,) = result.stderr.splitlines()
    assert sentence.isprintable()
    assert len(sentence) < 700
    return sentence


FIELDS = {
    "casenull": "(case: expected a table, not None)",
    "ctl": r"(environment.device: '\x1b[31mEVIL\x07' holds control characters, where a line of text is expected)",
    "nulc": r"(environment.device: 'a\x00b' holds control characters, where a line of text is expected)",
    "sur": r"(environment.device: 'a\ud800b' holds control characters, where a line of text is expected)",
    "hugeint": "environment.cores as a number of 5,000 digits, where at most 40 can be used",
    "hugeint2": "case.workload.context as a number of 400 digits",
    "hugeint3": "environment.memory_bytes as a number of 4,000 digits",
    "inf": "observed.ceilings.read_bytes_per_s as inf",
    "nan": "observed.ceilings.matmul_flops_per_s as nan",
    "negc": "(observed.ceilings.read_bytes_per_s: -5.0, where a number from 1 to",
    "zero": "(observed.ceilings.read_bytes_per_s: 0.0, where a number from 1 to",
    "schemastr": "the record has schema '4', where a whole number from 1 to",
}


@pytest.mark.parametrize("name", FIELDS)
def test_a_record_that_cannot_be_right(name: str, tmp_path: Path) -> None:
    file = RECORDS / f"{name}.jsonl"
    sentence = refused(run("report", file, "-o", tmp_path))
    assert sentence.startswith(f"error: {file}:1: ")
    assert FIELDS[name] in sentence
    assert not list(tmp_path.iterdir()), "no report of nothing"


def edited(tmp_path: Path, *path: str, value: Any) -> Path:
    """A record as it was made, with one value changed."""
    body = json.loads((RECORDS / "tz.jsonl").read_text())
    part = body
    for name in path[:-1]:
        part = part[name]
    part[path[-1]] = value
    file = tmp_path / "edited.jsonl"
    file.write_text(json.dumps(body) + "\n")
    return file


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (("environment", "device"), "x" * 100_000, "environment.device: 'xxx.*has 100,000 characters"),
        (("case", "model", "scale"), "a\u202eb", "case.model.scale: .*control characters"),
        (("case", "model", "blocks", "*", "rope", "theta"), "x", r"case.model.blocks.\*.rope.theta: expected float"),
        (("case", "model", "norm_eps"), [], "case.model.norm_eps: expected float, not"),
        (("case", "workload", "context"), 0, "case.workload.context: 0, where a number above 0"),
        (("case", "workload", "context"), 2**63, "case.workload.context: 9223372036854775808"),
        (("case", "workload", "batch"), -1, "case.workload.batch: -1"),
        (("case", "execution"), None, "case.execution: expected the fields of Execution, not None|Execution"),
        (("case", "execution", "dtype"), "../..", "unknown dtype '../..'"),
        (("environment", "packages"), {"a\x1b[2J": "1"}, "control characters"),
        (("observed", "memory", "weights_bytes"), -1, "observed.memory.weights_bytes: -1"),
        (("observed", "kernels"), ["a", 5], r"observed.kernels\[1\]: expected str, not 5"),
        (("started_at",), "yesterday", "started_at is 'yesterday', which is no time"),
        (("observed", "samples_ns"), [1] + [[]] * 9, r"observed.samples_ns\[1\]: expected int"),
    ],
)
def test_a_field_that_was_edited(tmp_path: Path, path: tuple[str, ...], value: Any, said: str) -> None:
    assert re.search(said, refused(run("report", edited(tmp_path, *path, value=value))))


def test_what_a_program_said_may_hold_anything(tmp_path: Path) -> None:
    file = edited(tmp_path, "message", value="\x1b[31mred\ud800\nand more")
    (record,) = load([file], print)
    assert record.message == "\\x1b[31mred\\ud800\nand more"


def test_levels_without_end(tmp_path: Path) -> None:
    file = tmp_path / "deep.jsonl"
    for levels in (70, 100_000):
        file.write_text('{"schema":4,"case":' + "[" * levels + "]" * levels + "}\n")
        assert "1: the line has more than 64 levels" in refused(run("report", file))


def test_a_key_given_twice(tmp_path: Path) -> None:
    file = tmp_path / "twice.jsonl"
    line = (RECORDS / "tz.jsonl").read_text()
    file.write_text(line.replace('"cores":', '"cores":64,"cores":', 1))
    assert "environment.cores given twice, as 64 and as" in refused(run("report", file))
    file.write_text(line.replace('"device_kind":"cpu"', '"device_kind":"cpu","device_kind":"cpu"'))
    assert len(load([file], print)) == 1


def test_what_is_good_is_used_and_the_exit_code_is_2(tmp_path: Path) -> None:
    shutil.copy(RECORDS / "tz.jsonl", tmp_path)
    shutil.copy(RECORDS / "negc.jsonl", tmp_path)
    (tmp_path / "foreign.jsonl").write_bytes(b"\x89PNG\n\xff\n")
    whole = (RECORDS / "bom.jsonl").read_text(encoding="utf-8-sig").splitlines(keepends=True)
    (tmp_path / "partly.jsonl").write_text(whole[0] + whole[1][:300] + "\n" + whole[2])
    result = run("report", tmp_path, "-o", tmp_path / "out", "--json")
    assert result.exit_code == 2
    rows = {(row["arch"], row["context"]) for row in json.loads(result.stdout)["rows"]}
    assert rows == {("transformer", 256), ("mamba", 256)}
    told = result.stderr.splitlines()
    assert [Path(line.split(":")[1].strip()).name for line in told] == ["foreign.jsonl", "negc.jsonl", "partly.jsonl"]
    assert "partly.jsonl:2: not a JSON line" in told[2]
    assert (tmp_path / "out" / "report.md").is_file()


def test_nul_bytes_at_the_end_are_a_line_cut_short(tmp_path: Path) -> None:
    warnings: list[str] = []
    assert len(load([RECORDS / "nultail.jsonl"], warnings.append)) == 6
    assert ["line 7, the last, was cut short" in text for text in warnings] == [True]
    file = tmp_path / "within.jsonl"
    line = (RECORDS / "tz.jsonl").read_bytes()
    file.write_bytes(line + line[:200] + b"\0" * 512)
    assert len(load([file], warnings.append)) == 1
    assert "line 2, the last, was cut short" in warnings[1]
    file.write_bytes(line.rstrip() + b"\0" * 512)
    assert len(load([file], warnings.append)) == 1


def test_a_byte_order_mark_is_read() -> None:
    assert len(load([RECORDS / "bom.jsonl"], print)) == 6
    assert run("run", "--dry-run", CASES / "suites" / "bom.toml").stderr == "29 cases.\n"
    assert run("cost", "--config", CASES / "configs" / "bom.json").exit_code == 0


def test_utf_16_is_named(tmp_path: Path) -> None:
    for name, args in (("a.jsonl", ["report"]), ("a.toml", ["run"]), ("a.json", ["cost", "--config"])):
        file = tmp_path / name
        file.write_text('{"schema": 1}', encoding="utf-16")
        assert "UTF-16: save it as UTF-8" in refused(run(*args, file))


def test_times_are_compared_as_times(tmp_path: Path) -> None:
    """23:00 at UTC+14 is 09:00 in UTC, before the same record's 12:42 in UTC."""
    early = json.loads((RECORDS / "tz.jsonl").read_text())
    late = {**early, "run_id": "later", "started_at": "2026-11-28T12:42:18Z"}
    file = tmp_path / "two.jsonl"
    file.write_text(json.dumps(late) + "\n" + json.dumps(early) + "\n")
    first, second = load([file], print)
    assert [record.run_id for record in (first, second)] == [early["run_id"], "later"]
    assert newest([first, second]) == [second]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("deep", "more than 64 levels"),
        ("deeptab", "more than 64 levels"),
        ("hugeint", "a number of 5,000 digits at line 4 ('seed=999"),
        ("product", "rows, more than 100,000"),
    ],
)
def test_suites(name: str, said: str) -> None:
    assert said in refused(run("run", "--dry-run", CASES / "suites" / f"{name}.toml"))


@pytest.mark.parametrize("name", ["\\u0000", "x" * 200, "\\u001b[2J", ".", "a/b"])
def test_a_suite_is_named_as_a_folder_can_be(name: str, tmp_path: Path) -> None:
    file = tmp_path / "suite.toml"
    file.write_text(f'name = "{name}"\n[[sweep]]\nworkload = "decode"\n')
    assert "give one short word" in refused(run("run", "--dry-run", file))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("hugeint", "hidden_size as a number of 5,000 digits"),
        ("integer_of_4301_digits", "vocab_size as a number of 4,301 digits"),
        ("expand_inf", "expand as inf"),
        ("expand_nan", "expand as nan"),
    ],
)
def test_configurations(name: str, said: str) -> None:
    assert said in refused(run("cost", "--config", CASES / "configs" / f"{name}.json"))


READERS = (
    ("report",),
    ("price", "--efficiency"),
    ("run",),
    ("cost", "--config"),
    ("kernels",),
    ("compare",),
    ("check", "--exact", "--baseline"),
    ("check", "--exact", "--budget"),
)
"""Commands that a path is added to, one for each reader of a file that people name."""


@pytest.mark.timeout(60)
@pytest.mark.parametrize("args", READERS, ids=" ".join)
def test_what_is_no_regular_file_is_not_read(args: tuple[str, ...], tmp_path: Path) -> None:
    """A device may have no end, and to open a FIFO waits until somebody writes to it."""
    fifo = tmp_path / "fifo.toml"
    os.mkfifo(fifo)
    for path in (fifo, Path("/dev/zero")) if args != ("kernels",) else (fifo,):  # whose suites end in .toml
        sentence = refused(run(*args, path))
        assert f"{path}" in sentence
        assert "is no regular file" in sentence


@pytest.mark.parametrize("args", READERS, ids=" ".join)
def test_a_name_that_no_file_can_have(args: tuple[str, ...]) -> None:
    assert "File name too long" in refused(run(*args, f"{'9' * 300}.toml"))


@pytest.mark.parametrize(
    ("args", "most"),
    [(("report",), "a line of more than 64 MiB"), (("run",), "larger than 1 MiB"), (("cost", "--config"), "16 MiB")],
)
def test_a_file_larger_than_is_read(args: tuple[str, ...], most: str, tmp_path: Path) -> None:
    large = tmp_path / "records-large.jsonl"
    with large.open("wb") as file:
        file.truncate(65 << 20)
    assert most in refused(run(*args, large))


@pytest.mark.parametrize("args", [("run",), ("kernels",)])
def test_a_suite_that_ends_in_nul_bytes_may_be_cut_short(args: tuple[str, ...], tmp_path: Path) -> None:
    suite = tmp_path / "suite.toml"
    suite.write_text('[[sweep]]\nworkload = "decode"\n' + "\0" * 512)
    assert "ends in NUL bytes, as after a power cut, and may be cut short" in refused(run(*args, suite))


def test_noise_is_not_read_to_its_end(tmp_path: Path) -> None:
    file = tmp_path / "noise.jsonl"
    file.write_bytes(b"\xff\n" * 5000)
    assert ". 999 more lines of the file are none either. Delete the lines" in refused(run("report", file))


def test_a_chart_survives_any_character(tmp_path: Path) -> None:
    """vl-convert ends the process over what no XML holds."""
    title = "".join(map(chr, (*range(32), 0x7F, 0xD800, 0xFFFE, 0xFFFF)))
    _, svg, _ = save({"title": title, "data": {"values": [{"x": 1}]}, "mark": "point"}, tmp_path / "chart")
    assert "\\x1b" in svg.read_text()
