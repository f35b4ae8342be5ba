"""Stored traces: written by ``trace -o``, read by ``show`` and ``report``, and refused where they are damaged."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st

from hybridbench.cli.main import main
from hybridbench.errors import BadResults
from hybridbench.record.traced import GAPS, Spent, Trace, TraceRecord
from hybridbench.report.build import build_report
from hybridbench.report.render.charts import FAMILY_COLORS
from hybridbench.report.render.folder import write_report
from hybridbench.report.render.stacks import CLASS_COLORS, draw_stack
from hybridbench.report.traces import trace_sections
from hybridbench.store import RecordWriter, load


@pytest.fixture(name="folder")
def _folder(traces: list[TraceRecord], tmp_path: Path) -> Path:
    with RecordWriter(tmp_path / "stored", kind=TraceRecord) as writer:
        for one in traces:
            writer.append(one)
    return tmp_path / "stored"


def run(*args: object) -> Result:
    return CliRunner(env={"COLUMNS": "200"}).invoke(main, list(map(str, args)))


def test_a_trace_comes_back_as_it_was_stored(traces: list[TraceRecord], folder: Path) -> None:
    assert load([folder], pytest.fail, kind=TraceRecord) == traces
    assert run("export", folder, "-o", folder / "x.csv").exit_code == 2, "traces are no records of steps"


@settings(deadline=None)  # how long an example takes depends on what else runs
@given(
    st.dictionaries(
        st.sampled_from([name for name in CLASS_COLORS if name != GAPS]), st.floats(1e-9, 10.0), min_size=1
    ),
    st.floats(-1.0, 10.0),
)
def test_shares_add_up_to_one(classes: dict[str, float], gap_s: float) -> None:
    """Also where threads side by side took longer than the step, so that its busy time is above its wall time."""
    busy_s = sum(classes.values())
    spent = [Spent(name, name, seconds, 1.0) for name, seconds in classes.items()]
    seen = Trace(max(busy_s + gap_s, 1e-9), busy_s, spent, spent, 1)
    assert sum(seen.shares.values()) == pytest.approx(1.0)
    assert all(0 <= share <= 1 for share in seen.shares.values())


def test_the_table_the_chart_and_the_files_hold_the_same_shares(traces: list[TraceRecord], tmp_path: Path) -> None:
    report = build_report([], traces=traces)
    write_report(report, tmp_path)
    (section,) = report.traces
    with (tmp_path / f"tables/{section.stem}.csv").open() as file:
        rows = {row["model"]: row for row in csv.DictReader(file)}
    assert sorted(name.split()[0] for name in rows) == ["inter", "mamba"]
    seen = {trace.case.model.label.split()[0]: trace.observed for trace in traces}
    for name, row in rows.items():
        told = {one.name: one.seconds for one in seen[name.split()[0]].classes}
        whole = sum(told.values()) + 1e-4
        assert float(row["gaps_frac"]) == pytest.approx(1e-4 / whole)
        for one, seconds in told.items():
            assert float(row[f"{one.replace(' ', '_')}_frac"]) == pytest.approx(seconds / whole)
    assert next(row for name, row in rows.items() if name == "mamba")["attention_frac"] == ""
    drawn = draw_stack(section.stack)["data"]["values"]
    for bar in section.stack.bars:
        assert sum(row["share"] for row in drawn if row["bar"] == bar) == pytest.approx(100)
    page = (tmp_path / "report.md").read_text()
    assert "## Findings\n\nNo step was timed here" in page, "no heading stands alone"
    assert "What the columns mean" not in page, "there is no such column"
    assert "full: ." not in page, "no sentence ends in an empty list"
    assert f"(charts/{section.stem}.svg)" in page
    assert f"`tables/{section.stem}.tex`" in page
    assert all(sentence in page for sentence in section.sentences)
    assert section.sentences[0].startswith(f"{section.stack.bars[0]}: matrix products")
    assert {path.suffix for path in (tmp_path / "charts").iterdir()} == {".png", ".svg", ".pdf"}
    write_report(report, tmp_path)  # over its own files


def test_a_class_has_one_colour_and_no_family_has_it(traces: list[TraceRecord]) -> None:
    assert len(set(CLASS_COLORS.values())) == len(CLASS_COLORS)
    assert not set(CLASS_COLORS.values()) & set(FAMILY_COLORS.values())
    (section,) = trace_sections(traces)
    color = draw_stack(section.stack)["layer"][0]["encoding"]["color"]["scale"]
    assert dict(zip(color["domain"], color["range"], strict=True)) == {
        name: CLASS_COLORS[name] for name in section.stack.classes
    }
    assert section.stack.classes[0] == "matrix products"
    assert section.stack.classes[-1] == GAPS


def test_show_ls_and_report_read_them(folder: Path, tmp_path: Path) -> None:
    shown = run("show", folder, "--where", "arch=mamba")
    assert shown.exit_code == 0, shown.output
    assert "mamba" in shown.stdout
    assert "inter" not in shown.stdout
    assert "gaps" in shown.stdout
    (one,) = json.loads(run("show", folder, "--where", "arch=mamba", "--json").stdout)["traces"]
    assert one["classes"]["scan"]["share_frac"] == pytest.approx(3 / 9)
    assert sum(part["share_frac"] for part in one["classes"].values()) == pytest.approx(1)
    assert json.loads(run("ls", folder, "--json").stdout)["rows"][0]["kinds"] == {"traces": 2}
    told = run("report", folder, "-o", tmp_path / "page", "--json")
    assert told.exit_code == 0, told.output
    assert len(json.loads(told.stdout)["traces"]) == 2
    assert "Where the time goes" in (tmp_path / "page/index.html").read_text()
    wrong = run("show", folder, "--where", "arch=swa")
    assert (wrong.exit_code, "unknown arch here 'swa'" in wrong.stderr) == (2, True)


def at(body: dict[str, Any], *path: str) -> dict[str, Any]:
    for name in path:
        body = body[name]
    return body


def _doubled(body: dict[str, Any]) -> None:
    seen = body["observed"]
    seen["classes"].append(seen["classes"][0])


DAMAGED: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "a newer schema": (lambda body: body.update(schema=99), "schema 99"),
    "no observation": (lambda body: body.pop("observed"), "'observed'"),
    "a step of no time": (lambda body: body["observed"].update(step_s=0.0), "step_s"),
    "a negative time": (lambda body: body["observed"]["classes"][0].update(seconds=-1.0), "seconds"),
    "classes that do not add up": (lambda body: body["observed"].update(busy_s=5.0), "add up to"),
    "a class that is there twice": (_doubled, "twice"),
    "text for a number": (lambda body: body["observed"].update(steps="five"), "steps"),
    "no time": (lambda body: body.update(started_at="today"), "started_at"),
    "no case": (lambda body: body.update(case=None), "case"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_trace_is_named_and_the_others_are_shown(name: str, folder: Path) -> None:
    damage, said = DAMAGED[name]
    (file,) = folder.glob("*.jsonl")
    first, *others = file.read_text().splitlines()
    body = json.loads(first)
    damage(body)
    with pytest.raises(BadResults):
        TraceRecord.from_json(json.dumps(body))
    file.write_text("\n".join([json.dumps(body), *others]) + "\n")
    result = run("show", folder)
    assert result.exit_code == 2
    assert f"{file}:1: " in result.stderr.replace("\n", "")
    assert said in result.stderr
    assert "time of a step by class" in result.stdout


def test_a_trace_cut_short_is_left_out(folder: Path) -> None:
    (file,) = folder.glob("*.jsonl")
    file.write_bytes(file.read_bytes()[:-40])
    assert len(load([folder], lambda _: None, kind=TraceRecord)) == 1


def test_the_command_stores_what_it_shows(tmp_path: Path) -> None:
    out = tmp_path / "traced"
    args = ("--workload", "decode", "--arch", "mamba", "--scale", "tiny", "--ctx", "64", "--steps", "1", "-o", out)
    done = run("trace", *args, "--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    (stored,) = load([out], pytest.fail, kind=TraceRecord)
    assert {one.name: one.seconds for one in stored.observed.classes} == {
        one["name"]: one["seconds"] for one in told["classes"]
    }
    assert stored.environment.device_kind == "cpu"
    assert json.loads((out / "trace.json").read_text())["traceEvents"]
    only_chrome = tmp_path / "old"
    only_chrome.mkdir()
    (out / "trace.json").rename(only_chrome / "trace.json")
    assert "has no *.jsonl file" in run("report", only_chrome).stderr
