"""What is kept: numbers of a record, once each and no longer than it, and the chart library, once per version."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import platformdirs
import pytest
import vl_convert

from hybridbench import metrics
from hybridbench.derive import kept
from hybridbench.record import Record
from hybridbench.report.render.html.library import chart_library, library_file
from hybridbench.suite.sweep import Sweep, cases

Make = Callable[..., Record]


def test_a_number_is_computed_once_per_record_and_forgotten_with_it(record_of: Make) -> None:
    asked: list[str] = []

    @kept.once
    def number(record: Record) -> int:
        asked.append(record.run_id)
        return len(asked)

    (case,) = cases(Sweep("decode", arch="mamba", ctx="4k"), has_gpu=True)
    record = record_of(case)
    changed = replace(record, run_id="other")
    assert [number(record), number(changed), number(record)] == [1, 2, 1]
    assert asked == ["run", "other"]
    before = len(kept._of_record)
    del record, changed
    gc.collect()
    assert len(kept._of_record) == before - 2


def test_a_changed_record_has_numbers_of_its_own(record_of: Make) -> None:
    (case,) = cases(Sweep("decode", arch="mamba", ctx="4k"), has_gpu=True)
    assert metrics.value(record_of(case, 0.002), "step_s") == pytest.approx(0.002)
    assert metrics.value(record_of(case, 0.004), "step_s") == pytest.approx(0.004)


@pytest.fixture(name="folder")
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(platformdirs, "user_cache_path", lambda name: tmp_path / name)
    monkeypatch.setattr(vl_convert, "javascript_bundle", lambda entry: f"made for {entry}")
    return tmp_path / "hybridbench"


def made_again() -> str:
    chart_library.cache_clear()
    found = chart_library()
    chart_library.cache_clear()
    return found


def test_the_chart_library_is_bundled_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = made_again()
    assert first.startswith("made for window.vegaEmbed")
    assert [path.name for path in folder.iterdir()] == [library_file().name]
    monkeypatch.setattr(vl_convert, "javascript_bundle", lambda _: pytest.fail("bundled again"))
    assert made_again() == first


@pytest.mark.parametrize("damage", [b"", b"made for wind", b"\xff\xfe"])
def test_a_damaged_file_is_made_anew(folder: Path, damage: bytes) -> None:
    first = made_again()
    library_file().write_bytes(damage)
    assert made_again() == first
    assert library_file().read_text() == first


def test_a_folder_that_cannot_be_written_costs_no_page(folder: Path) -> None:
    folder.write_text("a file")
    assert made_again().startswith("made for window.vegaEmbed")
    assert folder.read_text() == "a file"
