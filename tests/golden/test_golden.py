"""A scripted clock plays a suite to records, a table, charts and an exit code, the same to the byte on any machine.

The expected files lie in ``expected/``. After a change that is meant, write them anew and read what changed:

    make golden && git diff tests/golden

which is ``pytest tests/golden --rewrite-golden``.

Charts are compared as their Vega-Lite definitions: an SVG depends on the widths of the fonts that a machine has and on
the version of the renderer, and everything that hybridbench decides is in the definition.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from scripted import play, script

from hybridbench.cli.main import main
from hybridbench.record import Status
from hybridbench.report.render import folder
from hybridbench.store import load
from hybridbench.suite.file import load_suite

HERE = Path(__file__).parent
EXPECTED = HERE / "expected"
CHARTS = ("decode-latency", "prefill-throughput")
"""The charts whose definitions are compared."""


def reported(results: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What ``hybridbench report`` prints and writes of the records in a folder, by the names of the expected files."""
    definitions: dict[str, str] = {}

    def save(definition: dict[str, Any], stem: Path) -> tuple[Path, Path]:
        shown = {name: part for name, part in definition.items() if name != "$schema"}  # it names altair's version
        definitions[stem.name] = json.dumps(shown, indent=1, sort_keys=True) + "\n"
        return stem.with_suffix(".png"), stem.with_suffix(".svg")

    monkeypatch.setattr(folder, "save", save)
    shown = CliRunner(env={"COLUMNS": "160"}).invoke(main, ["report", str(results)])
    assert shown.exit_code == 0, shown.output
    page = (results / "report" / "report.md").read_text(encoding="utf-8")
    return {
        "terminal.txt": shown.stdout.replace(str(results), "RESULTS"),
        "report.md": page.partition("## What the columns mean")[0],
        **{f"{name}.vl.json": definitions[name] for name in CHARTS},
    }


def test_a_scripted_clock_turns_a_suite_into_the_expected_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    planned = load_suite(HERE / "suite.toml").cases(has_gpu=False)
    records = play(planned, tmp_path)
    assert [record.case for record in records] == planned
    assert {record.status for record in records} == {Status.OK}
    stored = load([tmp_path], pytest.fail)
    assert {record.case.key: record.started_at for record in stored} == dict.fromkeys(
        (case.key for case in planned), "2026-01-02T03:04:05.000+00:00"
    )
    found = reported(tmp_path, monkeypatch)
    if request.config.getoption("--rewrite-golden"):
        EXPECTED.mkdir(exist_ok=True)
        for name, text in found.items():
            (EXPECTED / name).write_text(text, encoding="utf-8")
    assert sorted(path.name for path in EXPECTED.iterdir()) == sorted(found)
    assert sum(path.stat().st_size for path in EXPECTED.iterdir()) < 60_000
    for name, text in found.items():
        assert text == (EXPECTED / name).read_text(encoding="utf-8"), f"{name}: see the docstring of this file"


def test_the_script_decides_every_duration(tmp_path: Path) -> None:
    """Of a case that is run twice: nothing of the machine's own clocks is in what is recorded."""
    (case, *_) = load_suite(HERE / "suite.toml").cases(has_gpu=False)
    first, again = (play([case], tmp_path / name)[0].observed for name in ("first", "again"))
    assert first is not None
    assert first == again
    assert first.timer == "scripted"
    assert first.samples_ns == list(
        itertools.islice(script(case), first.warmup_steps, first.warmup_steps + len(first.samples_ns))
    )
