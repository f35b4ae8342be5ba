"""``hybridbench export``: one file of many records, and what it refuses."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner, Result

import hybridbench
from hybridbench.cli.main import main

MIXERS = Path(__file__).parents[2] / "results/nvidia-h200/mixers"


def run(*args: object) -> Result:
    return CliRunner().invoke(main, ["export", *map(str, args)])


def refused(*args: object) -> str:
    done = run(*args)
    assert done.exit_code == 2, done.output
    (sentence,) = done.stderr.splitlines()
    return sentence


def test_a_csv_holds_what_load_gives(tmp_path: Path) -> None:
    out = tmp_path / "all.csv"
    done = run(MIXERS, "-o", out)
    assert done.exit_code == 0, done.output
    expected = hybridbench.load(MIXERS, every=True)
    assert f"{len(expected)} records, {len(expected.columns)} columns: {out}" in done.stdout
    found = pd.read_csv(out)
    assert list(found) == list(expected)
    for name in ("key", "status", "step_s", "context_tokens", "cache_bytes"):
        assert found[name].dropna().to_list() == expected[name].dropna().to_list()


def test_parquet_keeps_the_types(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    out = tmp_path / "all.parquet"
    assert run(MIXERS, "-o", out).exit_code == 0
    expected = hybridbench.load(MIXERS, every=True)
    pd.testing.assert_frame_equal(pd.read_parquet(out), expected, check_dtype=False, check_categorical=False)


def test_what_cannot_be_written_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "ends in neither .parquet nor .csv" in refused(MIXERS, "-o", tmp_path / "all.xlsx")
    assert "cannot be written" in refused(MIXERS, "-o", tmp_path / "none" / "all.csv")
    assert "all.csv cannot be written" in refused(MIXERS, "-o", _folder(tmp_path / "all.csv"))
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "pyarrow" else find(name, *rest)
    )
    sentence = refused(MIXERS, "-o", tmp_path / "all.parquet")
    assert "needs pyarrow, which is not installed: pip install pyarrow, or write a .csv" in sentence


def _folder(path: Path) -> Path:
    path.mkdir()
    return path


def test_damaged_lines_are_named_and_the_others_written(tmp_path: Path) -> None:
    shutil.copytree(MIXERS, tmp_path / "mixers")
    first = min((tmp_path / "mixers").glob("*.jsonl"))
    first.write_text(first.read_text() + '{"key":"1","schema":6}\n{"key":"2"}\n')
    done = run(tmp_path / "mixers", "-o", tmp_path / "all.csv")
    assert done.exit_code == 2
    assert first.name in done.stderr
    assert len(pd.read_csv(tmp_path / "all.csv")) == len(hybridbench.load(MIXERS, every=True))
