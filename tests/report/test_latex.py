r"""Tables in LaTeX: pdflatex takes each, numbers stay numbers, and no character of a name is a command."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from hybridbench.record import Environment, Record, Status
from hybridbench.report.build import build_report
from hybridbench.report.render.folder import ReportFiles, write_report
from hybridbench.report.render.latex import escape, latex_files, to_latex
from hybridbench.report.table import Column, Table, TableCell
from hybridbench.suite.sweep import Sweep, cases

Make = Callable[..., Record]
EVIL = "\\input{/etc/passwd} 5% of $x_1^2$ & #1 {a} ~ <b> | \"q\" `c` 'd' -- \u4e2d \u00f0 \u00e9 \u00b5 \x00"


def made(*cells: str) -> str:
    table = Table("times", [Column("name", "name", numeric=False), Column("step_s", "step [ms]")])
    table.rows = [[TableCell(f"row {place}"), TableCell(text)] for place, text in enumerate(cells)]
    return to_latex(table, "times")


def test_numbers_are_aligned_at_the_point_and_words_are_not_numbers() -> None:
    shown = {
        "1,234.5 [1][2]": r"1234.5\textsuperscript{1,2}",
        "-7": "-7",
        "0.25": "0.25",
        "oom [3]": r"{oom\textsuperscript{3}}",
        "2.40 (tie)": "{2.40 (tie)}",
        "-": "{-}",
        "1,23": "{1,23}",
    }
    text = made(*shown)
    assert "table-format=-4.2,table-space-text-post={\\textsuperscript{1,2}}" in text
    assert re.findall(r"row \d & (.*) \\\\\n", text) == list(shown.values())
    assert "{step [ms]}" in text


def test_notes_are_below_the_table_with_the_marks_of_their_cells() -> None:
    table = Table("times", [Column("x", "x")], "an H200")
    table.rows.append([TableCell(f"1 {table.note('throttled: 5% slower')}")])
    table.remark("kernels differ")
    text = to_latex(table, "t")
    below = text.partition(r"\bottomrule")[2]
    assert r"\textsuperscript{1}\,throttled: 5\% slower\par kernels differ" in below
    assert r"\caption{an H200: times}" in text


def test_no_character_of_a_name_is_a_command() -> None:
    plain = re.sub(r"\\(text[a-z]+\{\}|string\"|[%$&#_{}])", "", escape(EVIL))
    assert not set(plain.replace("{}", "")) & set('\\%$&#_^~{}"')
    assert "(U+4E2D)" in plain
    assert plain.isprintable()
    assert escape("a  b\nc") == "a b c"


@pytest.mark.usefixtures("blank_charts")
def test_every_table_of_a_report_has_a_file_that_its_page_names(
    decode_records: list[Record], written: ReportFiles, tmp_path: Path
) -> None:
    report = build_report(decode_records)
    files = write_report(report, tmp_path)
    (section,) = report.groups
    assert len(section.tables) == 3 + len(section.details)
    names = {path.name for path in files.tables if path.suffix == ".tex"}
    assert names == {"preview.tex", *(f"{name}.tex" for name in section.tables)}
    assert set(re.findall(r"`tables/([^`]+)`", files.page.read_text())) == names
    pictures = {path.suffix: path.read_bytes()[:4] for path in written.charts}
    assert pictures[".pdf"] == b"%PDF"
    assert len(files.charts) == 3 * len(section.plots)
    # Of another report, whose page named it, nothing stays behind; a file of someone else does.
    (tmp_path / "tables" / "train-time.tex").write_text("old")
    (tmp_path / "tables" / "mine.tex").write_text("mine")
    files.page.write_text(files.page.read_text() + "In LaTeX: `tables/train-time.tex`.\n")
    write_report(report, tmp_path)
    assert not (tmp_path / "tables" / "train-time.tex").exists()
    assert (tmp_path / "tables" / "mine.tex").read_text() == "mine"


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex on this machine to compile tables with")
def test_pdflatex_compiles_every_table(
    record_of: Make, h200: Environment, decode_records: list[Record], tmp_path: Path
) -> None:
    evil = replace(h200, device=EVIL)
    failed = [
        record_of(case, environment=evil, status=Status.CRASHED, message=EVIL)
        for case in cases(Sweep("train", arch="transformer", ctx="1k"), has_gpu=True)
    ]
    sections = build_report([*decode_records, *failed]).groups
    tables = {name: table for section in sections for name, table in section.tables.items()}
    odd = Table("characters", [Column("c", "c", numeric=False), Column("n", "n [GiB]")])
    odd.rows = [[TableCell(f"a{chr(code)}b{chr(code)}"), TableCell(f"{code * 37:,}")] for code in range(0x180)]
    tables |= {f"characters-{n}": replace(odd, rows=odd.rows[n::8]) for n in range(8)}
    for name, text in latex_files(tables, "preview").items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "-no-shell-escape", "preview"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, check=False)
    log = (tmp_path / "preview.log").read_text(errors="replace")
    assert done.returncode == 0, re.findall(r"(?m)^! .*(?:\n.*){4}", log)
    assert f"({len(tables)} pages" in log
    assert "Missing character" not in log
