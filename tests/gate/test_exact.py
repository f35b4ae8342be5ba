"""Exact figures: the committed file is up to date, and whatever changes, vanishes or appears is named."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from hybridbench.arch.families import build_spec
from hybridbench.arch.model import params
from hybridbench.cli.main import main
from hybridbench.errors import BadInput, Unsupported
from hybridbench.gate import exact
from hybridbench.gate.baseline import (
    Allowance,
    Finding,
    Section,
    differences,
    exit_of,
    read_baseline,
    read_budgets,
    write_baseline,
)
from hybridbench.gate.differences import workflow_commands
from hybridbench.gate.exits import Exit, parse_fail_on

ROOT = Path(__file__).parents[2]
OLD = Section({"a": {"parameters": 10, "peak": 5}, "b": {"parameters": 7}, "c": {"peak": None}}, {"torch": "2.13"})


def changed(**rows: dict[str, int | None]) -> Section:
    return replace(OLD, figures={**OLD.figures, **rows})


def test_the_committed_file_is_up_to_date_and_its_figures_are_the_models() -> None:
    path = ROOT / "results" / "baselines" / "exact.json"
    now = exact.formulas()
    assert differences("formulas", read_baseline(path)["formulas"], now) == []
    assert now.figures["inter/1b"]["parameters"] == params(build_spec("inter", "1b"))
    # 8 KV heads of 64, keys and values, 2 bytes, 16 layers
    assert now.figures["transformer/1b"]["cache [B] 4k"] == 4096 * 2 * 8 * 64 * 2 * 16


def test_equal_sections_have_no_differences() -> None:
    assert differences("x", OLD, OLD) == []
    assert exit_of([], 4) is Exit.PASS
    assert exit_of([], 0) is Exit.NOTHING_MEASURED


@pytest.mark.parametrize(
    ("now", "finding", "code"),
    [
        (changed(a={"parameters": 11, "peak": 5}), Finding.DIFFERS, 1),
        (changed(a={"parameters": 9, "peak": 5}), Finding.DIFFERS, 1),
        (changed(a={"parameters": 10, "peak": None}), Finding.DIFFERS, 1),
        (changed(c={"peak": 0}), Finding.DIFFERS, 1),
        (changed(a={"parameters": 10}), Finding.VANISHED, 4),
        (changed(a={"parameters": 10, "peak": 5, "cache": 1}), Finding.NEW, 4),
        (changed(d={"parameters": 1}), Finding.NEW, 4),
        (replace(OLD, figures={"a": OLD.figures["a"], "b": OLD.figures["b"]}), Finding.VANISHED, 4),
        (replace(OLD, versions={"torch": "2.14"}), Finding.NOT_COMPARED, 4),
        (replace(OLD, versions={}), Finding.NOT_COMPARED, 4),
    ],
)
def test_every_difference_is_one_finding(now: Section, finding: Finding, code: int) -> None:
    (found,) = differences("x", OLD, now)
    assert found.finding is finding
    assert exit_of([found], 4) == code
    assert exit_of([found], 4, parse_fail_on("incorrect")) == 0


def test_a_budget_takes_the_place_of_equality() -> None:
    budget = Allowance("a", "peak", 8, "the loss keeps a chunk more")
    for peak, finding, code in (
        (8, Finding.WITHIN_BUDGET, 0),
        (9, Finding.OVER_BUDGET, 1),
        (None, Finding.OVER_BUDGET, 1),
    ):
        (found,) = differences("x", OLD, changed(a={"parameters": 10, "peak": peak}), [budget])
        assert (found.finding, exit_of([found], 4)) == (finding, code)
        assert "the loss keeps a chunk more" in found.because
    others = [one.finding for one in differences("x", OLD, changed(a={"parameters": 11, "peak": 6}), [budget])]
    assert others == [Finding.DIFFERS, Finding.WITHIN_BUDGET]


def test_a_file_is_read_back_and_a_changed_figure_is_a_changed_line(tmp_path: Path) -> None:
    one, two = tmp_path / "one.json", tmp_path / "two.json"
    write_baseline({"x": OLD, "y": OLD}, one)
    write_baseline({"x": OLD, "y": changed(b={"parameters": 8})}, two)
    assert read_baseline(one) == {"x": OLD, "y": OLD}
    lines = zip(one.read_text().splitlines(), two.read_text().splitlines(), strict=True)
    assert sum(before != after for before, after in lines) == 1


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"schema": 9}',
        '{"schema": 1, "x": {}}',
        '{"schema": 1, "x": {"versions": {}, "figures": {"a": {"b": 1.5}}}}',
    ],
)
def test_what_is_no_baseline_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "exact.json"
    path.write_text(text)
    with pytest.raises(BadInput, match="cannot be read as a baseline"):
        read_baseline(path)


BUDGET = '[[budget]]\nname = "inter/1b"\nquantity = "parameters"\nat_most = 1\nreason = "tried"\n'


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('reason = "tried"\n', "", "exactly name, quantity, at_most, reason"),
        ('"tried"', '" "', "reason must be a text"),
        ("= 1", "= 1.5", "whole number"),
        ("= 1", "= true", "whole number"),
        ("[[budget]]", "[budget]", "entries and nothing else"),
        ("[[budget]]", "[[budget", "is not TOML"),
    ],
)
def test_a_budget_with_a_mistake_is_refused(tmp_path: Path, old: str, new: str, words: str) -> None:
    path = tmp_path / "budget.toml"
    path.write_text(BUDGET.replace(old, new))
    with pytest.raises(BadInput, match=words):
        read_budgets(path)


# The command.


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> dict[str, Section]:
    """Parts that take no time; what they give can be changed."""
    parts = {"formulas": OLD, "steps": OLD}
    monkeypatch.setitem(exact.PARTS, "formulas", lambda _known: parts["formulas"])
    monkeypatch.setitem(exact.PARTS, "steps", lambda _known: parts["steps"])

    def missing(_known: Section | None) -> Section:
        raise Unsupported("Triton is not installed.")

    monkeypatch.setitem(exact.PARTS, "kernels", missing)
    return parts


def ran(*words: str) -> Result:
    return CliRunner().invoke(main, ["check", "--exact", *words])


def test_update_then_check_then_a_change(small: dict[str, Section], tmp_path: Path) -> None:
    file = ["--baseline", str(tmp_path / "exact.json")]
    assert ran(*file, "--update", "--parts", "formulas,steps").exit_code == 0
    done = ran(*file, "--parts", "formulas", "--parts", "steps")
    assert (done.exit_code, done.output) == (0, "8 figures compared, all equal.\n")
    small["formulas"] = changed(a={"parameters": 11, "peak": 5})
    done = ran(*file)
    assert done.exit_code == 1
    assert "parameters" in done.output
    assert "+10.000" in done.output
    body = json.loads(ran(*file, "--json").stdout)
    assert (body["exit_code"], body["outcome"], body["compared"]) == (1, "regression", 4)
    assert body["differences"][0]["after"] == 11
    assert ran(*file, "--fail-on", "not-comparable").exit_code == 0
    assert ran(*file, "--update").exit_code == 0
    assert ran(*file, "--parts", "formulas,steps").exit_code == 0, "the other part is kept"


def test_what_differs_is_told_to_ci(small: dict[str, Section], tmp_path: Path) -> None:
    file = ["--baseline", str(tmp_path / "exact.json")]
    told = ["--junit", str(tmp_path / "x.xml"), "--summary", str(tmp_path / "x.md"), "--annotations"]
    assert ran(*file, "--update").exit_code == 0
    assert ran(*file, *told).exit_code == 0
    (suite,) = ET.parse(tmp_path / "x.xml").getroot()
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("1", "0", "0")
    assert "all equal" in (tmp_path / "x.md").read_text()
    small["formulas"] = changed(a={"parameters": 11, "peak": 5})
    done = ran(*file, *told, "--parts", "formulas,steps")
    assert done.exit_code == 1
    assert "::error title=a%2C parameters%3A differs::differs. 10 before, 11 now." in done.stdout
    assert "::warning title=steps%3A" in done.stdout
    (suite,) = ET.parse(tmp_path / "x.xml").getroot()
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("3", "1", "1")
    page = (tmp_path / "x.md").read_text()
    assert page.count("## Exact figures") == 2, "pages are added one after the other"
    assert "| a " in page
    assert "steps: not compared" in page
    assert ran(*file, *told[:2], "--update").exit_code == 2
    refused = ran("--baseline", str(tmp_path / "none.json"), *told)
    assert refused.exit_code == 2
    (suite,) = ET.parse(tmp_path / "x.xml").getroot()
    assert "there is no baseline" in str(suite[0][0].get("message"))


def test_annotations_of_many_figures_end_with_their_number() -> None:
    found = differences("p", OLD, replace(OLD, figures={f"n{n}": {"peak": n} for n in range(30)}))
    lines = workflow_commands(found)
    assert len(lines) == 11
    assert lines[-1].endswith(f"{len(found) - 10} more differ.")


def test_what_cannot_be_compared_is_no_pass(small: dict[str, Section], tmp_path: Path) -> None:
    file = ["--baseline", str(tmp_path / "exact.json")]
    ran(*file, "--update")
    done = ran(*file, "--parts", "steps")
    assert done.exit_code == 4
    assert "has no such part" in done.output
    ran(*file, "--update", "--parts", "steps")
    small["steps"] = replace(OLD, versions={"torch": "2.14"})
    done = ran(*file, "--parts", "formulas,steps")
    assert done.exit_code == 4
    assert "torch 2.13 there, 2.14 here" in done.output
    assert "all of them equal; not compared: steps." in " ".join(done.output.split())
    done = ran(*file, "--parts", "formulas,steps", "--fail-on", "none", "--json")
    assert (done.exit_code, json.loads(done.stdout)["outcome"]) == (0, "not-comparable")
    assert ran(*file, "--update", "--parts", "kernels").exit_code == 1


def test_what_is_known_of_a_part_is_handed_on_unless_all_is_to_be_compiled(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path, given = tmp_path / "exact.json", list[Section | None]()
    now = replace(OLD, sources={"a": {"sm_90": "1234"}})

    def kernels(known: Section | None) -> Section:
        given.append(known)
        return now if known is None else replace(now, kept=2)

    monkeypatch.setitem(exact.PARTS, "kernels", kernels)
    file = ["--baseline", str(path), "--parts", "kernels"]
    assert ran(*file, "--update").stderr == ""
    assert read_baseline(path) == {"kernels": now}, "sources are written"
    assert "1 of 3 compiled" in ran(*file).stderr
    assert "1 of 3 compiled" in ran(*file, "--update").stderr
    assert ran(*file, "--recompile").exit_code == 0
    ran(*file, "--update", "--recompile")
    assert given == [None, now, now, None, None]


def test_a_budget_file_names_figures_that_there_are(small: dict[str, Section], tmp_path: Path) -> None:
    file, budget = ["--baseline", str(tmp_path / "exact.json")], tmp_path / "budget.toml"
    ran(*file, "--update")
    small["formulas"] = changed(a={"parameters": 10, "peak": 6})
    budget.write_text(BUDGET.replace("inter/1b", "a").replace("parameters", "peak").replace("= 1", "= 6"))
    assert ran(*file, "--budget", str(budget)).exit_code == 0
    budget.write_text(BUDGET)
    done = ran(*file, "--budget", str(budget))
    assert done.exit_code == 2
    assert "no such figure" in done.output


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["check"], "one of --exact, --calibrate and --baseline FILE"),
        (["check", "--exact", "--baseline", "none.json"], "there is no baseline at none.json"),
        (["check", "--exact", "--parts", "formula"], "did you mean 'formulas'"),
        (["check", "--exact", "--fail-on", "speed"], "unknown outcome 'speed'"),
        (["check", "--exact", "--update", "--json"], "--update only writes"),
        (["check", "--base", "HEAD", "--recompile"], "--recompile belongs to --exact, which is not given"),
        (["check", "--update"], "--update belongs to --exact, which is not given: add it, or leave this out"),
        (["check", "--base", "HEAD", "--parts", "formulas"], "--parts belongs to --exact, which is not given"),
    ],
)
def test_mistakes_are_one_sentence(words: list[str], said: str) -> None:
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 2
    assert said in " ".join(done.output.split())
    assert "Traceback" not in done.output


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("[]", "the file must be a table, and is a list"),
        ('{"figures": {}}', "its schema is not 1"),
        ('{"schema": 1, "steps": null}', "part 'steps' must be a table, and is null"),
        ('{"schema": 1, "steps": {"versions": {}}}', "part 'steps' must have figures and versions"),
        ('{"schema": 1, "steps": {"figures": null, "versions": {}}}', "steps: figures must be a table, and is null"),
        ('{"schema": 1, "steps": {"figures": [1], "versions": {}}}', "steps: figures must be a table, and is a list"),
        ('{"schema": 1, "steps": {"figures": {"a": 3}, "versions": {}}}', "steps: a must be a table, and is a number"),
        ('{"schema": 1, "steps": {"figures": {"a": {"b": "c"}}, "versions": {}}}', 'a, b: "c" is no whole number'),
        ('{"schema": 1, "steps": {"figures": {}, "versions": "2"}}', "steps: versions must be a table, and is a text"),
        ('{"schema": 1, "steps": {"figures": {}, "versions": {}, "sources": []}}', "steps: sources must be a table"),
    ],
)
def test_a_file_that_is_no_baseline_is_told_in_plain_words(body: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "exact.json").write_text(body)
    with pytest.raises(BadInput) as caught:
        read_baseline(tmp_path / "exact.json")
    assert said in str(caught.value)
    assert "write it again with --update" in str(caught.value)
