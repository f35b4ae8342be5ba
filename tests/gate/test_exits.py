"""Exit codes, accepted regressions and reports, from plain lists of verdicts."""

from __future__ import annotations

import datetime
import itertools
import json
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from hybridbench.errors import BadInput
from hybridbench.gate.accepted import Accepted, read_accepted, still
from hybridbench.gate.exits import WORST_FIRST, Exit, exit_of, parse_fail_on
from hybridbench.gate.report import (
    annotation_without_verdict,
    document,
    github_annotations,
    headline,
    junit,
    junit_without_verdict,
    step_summary,
    summary_without_verdict,
    verdict_table,
)
from hybridbench.gate.verdict import CellVerdict, Word

CODES = {
    Word.PASS: 0,
    Word.IMPROVEMENT: 0,
    Word.ACCEPTED: 0,
    Word.SAME_CODE: 0,
    Word.REGRESSION: 1,
    Word.INCONCLUSIVE: 3,
    Word.NOT_COMPARABLE: 4,
    Word.WRONG: 5,
}


def said(word: Word, cell: str = "swiglu", advisory: str = "") -> CellVerdict:
    return CellVerdict(cell, "kernel", word, f"Because of {word}.", 0.021, 0.018, 0.024, 0.0075, 8, advisory=advisory)


@pytest.mark.parametrize(("word", "code"), CODES.items())
def test_the_code_of_one_verdict(word: Word, code: int) -> None:
    assert exit_of([said(word)]) == (code if word is not Word.NOT_COMPARABLE else 4)
    assert exit_of([said(Word.PASS), said(word)]) == code


def test_nothing_judged_is_not_a_pass() -> None:
    assert exit_of([]) == 6
    assert exit_of([said(Word.NEW)]) == 6
    assert exit_of([said(Word.NOTHING_MEASURED), said(Word.PASS)]) == 6
    assert exit_of([said(Word.PASS, advisory="Too noisy.")]) == 6
    assert exit_of([said(Word.NEW), said(Word.PASS)]) == 0


def test_own_kernels_that_are_all_new_are_no_failure() -> None:
    assert exit_of([said(Word.NEW)], all_first=True) == 0


def test_the_worst_wins() -> None:
    order = [Word.WRONG, Word.REGRESSION, Word.NOT_COMPARABLE, Word.NOTHING_MEASURED, Word.INCONCLUSIVE, Word.PASS]
    codes = [5, 1, 4, 6, 3, 0]
    for (worse, code), (better, _) in itertools.combinations(zip(order, codes, strict=True), 2):
        assert exit_of([said(better), said(worse), said(Word.PASS)]) == code, (worse, better)


def test_advisory_cells_fail_nothing_but_what_is_wrong_or_vanished() -> None:
    for word, code in ((Word.REGRESSION, 0), (Word.INCONCLUSIVE, 0), (Word.WRONG, 5), (Word.NOT_COMPARABLE, 4)):
        assert exit_of([said(Word.PASS), said(word, advisory="Too noisy.")]) == code


def test_fail_on_chooses_what_fails() -> None:
    assert parse_fail_on(None) == WORST_FIRST
    assert parse_fail_on("none") == ()
    both = parse_fail_on("incorrect, regression")
    assert set(both) == {Exit.INCORRECT, Exit.REGRESSION}
    assert exit_of([said(Word.NOT_COMPARABLE)], both) == 0
    assert exit_of([said(Word.NOT_COMPARABLE), said(Word.REGRESSION)], both) == 1
    for bad, words in (("regresion", "did you mean 'regression'"), ("regression,", "empty part"), ("pass", "unknown")):
        with pytest.raises(BadInput, match=words):
            parse_fail_on(bad)


GOOD = """
[[accepted]]
cell = "swiglu 4x8k"
slowdown = 0.03
reason = "right for odd widths now"
until = 2026-12-31
"""


def test_accepted_regressions_end(tmp_path: Path) -> None:
    path = tmp_path / "accepted.toml"
    path.write_text(GOOD)
    found = read_accepted(path)
    assert found == [Accepted("swiglu 4x8k", 0.03, "right for odd widths now", datetime.date(2026, 12, 31))]
    assert still(found, datetime.date(2026, 12, 31)) == (found, [])
    left, ended = still(found, datetime.date(2027, 1, 1))
    assert left == []
    assert "swiglu 4x8k" in ended[0]


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("slowdown = 0.03\n", "", "exactly cell, slowdown, reason, until"),
        ("0.03", "0", "a number above 0"),
        ("0.03", "-0.03", "a number above 0"),
        ("0.03", "inf", "slowdown as inf"),
        ("0.03", "nan", "slowdown as nan"),
        ("0.03", "true", "a number above 0"),
        ('"right for odd widths now"', '" "', "reason must be a text"),
        ("2026-12-31", '"2026-12-31"', "must be a date"),
        ("2026-12-31", "2026-12-31T00:00:00", "must be a date"),
        ("until = ", "untill = ", "exactly"),
        ("[[accepted]]", "[accepted]", r"must hold \[\[accepted\]\]"),
        ("[[accepted]]", "[[accepted", "is not TOML"),
        (GOOD, GOOD + GOOD, "twice"),
    ],
)
def test_a_file_with_a_mistake_is_refused(tmp_path: Path, old: str, new: str, words: str) -> None:
    path = tmp_path / "accepted.toml"
    path.write_text(GOOD.replace(old, new))
    with pytest.raises(BadInput, match=words):
        read_accepted(path)


def test_a_change_that_takes_four_times_the_time_can_be_accepted(tmp_path: Path) -> None:
    path = tmp_path / "accepted.toml"
    path.write_text(GOOD.replace("0.03", "3"))
    assert read_accepted(path)[0].slowdown == 3.0


def test_none_stands_alone() -> None:
    for text in ("regression,none", "none, incorrect", "none,none"):
        with pytest.raises(BadInput, match="none says that nothing fails, so leave it or all others out"):
            parse_fail_on(text)


ALL = [said(word, f"cell <{i}> a|b, 5%") for i, word in enumerate(Word)]


def test_the_table_has_a_row_per_cell_with_its_interval() -> None:
    table = verdict_table(ALL)
    assert len(table.rows) == len(ALL)
    texts = [cell.text for cell in table.rows[0]]
    assert {"+2.10", "+1.80", "+2.40", "0.75", "8"} <= set(texts)
    (page,) = [step_summary(ALL)]
    assert "regression" in page
    assert "a\\|b" in page
    assert headline(ALL).startswith("10 cells: 1 pass, 1 improvement, 1 regression")


def test_memory_is_shown_where_it_is_known() -> None:
    one = CellVerdict("a", "step", Word.PASS, "", base_peak_bytes=3 * 2**30, head_peak_bytes=4 * 2**30)
    table = verdict_table([one, said(Word.PASS)])
    keys = [column.key for column in table.columns]
    place = keys.index("head_peak_bytes")
    assert [row[place].text for row in table.rows] == ["4.00", "-"]
    assert table.rows[0][place].value == 4 * 2**30


def test_junit_counts_what_it_holds() -> None:
    suite = ET.fromstring(junit([*ALL, said(Word.REGRESSION, "noisy", advisory="Too noisy.")]))[0]
    cases = {case.get("name"): [child.tag for child in case] for case in suite}
    by_word = {str(word): cases[one.cell] for word, one in zip(Word, ALL, strict=True)}
    assert by_word["wrong"] == by_word["regression"] == ["failure"]
    assert by_word["inconclusive"] == by_word["not comparable"] == by_word["nothing measured"] == ["error"]
    assert by_word["new"] == cases["noisy"] == ["skipped"]
    assert by_word["pass"] == ["system-out"]
    tags = [child.tag for case in suite for child in case]
    for name, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        assert int(suite.get(name, "")) == tags.count(tag)
    assert int(suite.get("tests", "")) == len(ALL) + 1
    ET.fromstring(junit([said(Word.PASS, "a\x00b\x1b")]))


def test_annotations_are_one_line_each_and_escaped() -> None:
    lines = github_annotations([*ALL, said(Word.WRONG, "two\nlines: 5%")])
    assert not any("\n" in line for line in lines)
    assert sum(line.startswith("::error ") for line in lines) == 3
    assert sum(line.startswith("::warning ") for line in lines) == 3
    assert lines[-1].startswith("::error title=two%0Alines%3A 5%25%3A wrong::wrong. +2.10%25 (")
    assert github_annotations([said(Word.PASS), said(Word.SAME_CODE)]) == []


def test_json_is_one_document() -> None:
    body = json.loads(document(ALL, Exit.PASS, Exit.INCORRECT))
    assert (body["exit_code"], body["outcome"]) == (0, "incorrect"), "the outcome is what was found"
    assert [one["word"] for one in body["verdicts"]] == [str(word) for word in Word]


def test_without_a_verdict_all_outputs_say_why() -> None:
    why = "the base does not start: <it> ended.\nIt said: 5%"
    suite = ET.fromstring(junit_without_verdict(why))[0]
    assert (suite.get("tests"), suite.get("errors")) == ("1", "1")
    (case,) = suite
    assert [(one.tag, one.get("message")) for one in case] == [("error", why)]
    page = summary_without_verdict(why)
    assert page.startswith("## Performance check\n\nNo verdict: the base does not start: ")
    assert "It said: 5%" in page
    line = "::error title=Performance check%3A no verdict::the base does not start: <it> ended.%0AIt said: 5%25"
    assert annotation_without_verdict(why) == line


def test_junit_names_what_each_side_timed() -> None:
    suite = ET.fromstring(junit(ALL, {"base": "0123456789 (main)", "change": "abcdef0123"}))[0]
    listed = suite.find("properties")
    assert listed is not None
    found = [(one.get("name"), one.get("value")) for one in listed]
    assert found == [("base", "0123456789 (main)"), ("change", "abcdef0123")]
