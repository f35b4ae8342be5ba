"""Records survive crashes, strangers and each other: what is on disk is read back or refused in a sentence."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from hybridbench.errors import BadInput, BadResults
from hybridbench.record import SCHEMA, Environment, Record, Status
from hybridbench.store import RecordWriter, load, newest, recorded
from hybridbench.suite.sweep import Sweep, cases

HERE = Environment("CPU", "cpu", None, "CPU", 2, None, None, None, "3.11", "Linux", {}, "0", None)
CASES = cases(Sweep("decode", arch="transformer,mamba", ctx="1k..2k"), has_gpu=False)


def made(case: int = 0, run_id: str = "run", at: int = 0, message: str = "no") -> Record:
    return Record(CASES[case], Status.UNSUPPORTED, run_id, f"2026-11-21T18:00:{at:02d}Z", HERE, message=message)


def silent(sentence: str) -> None:
    raise AssertionError(f"warned: {sentence}")


def test_what_was_appended_is_loaded_in_the_order_it_began(tmp_path: Path) -> None:
    first, second = made(0, at=1), made(1, at=0)
    with RecordWriter(tmp_path / "new" / "folder") as writer:
        writer.append(first)
        writer.append(second)
    assert load([tmp_path], silent) == [second, first]
    assert load([writer.path], silent) == [second, first]
    assert load([tmp_path, writer.path], silent) == [second, first]


def test_a_record_is_on_disk_before_the_writer_is_closed(tmp_path: Path) -> None:
    writer = RecordWriter(tmp_path)
    writer.append(made())
    assert load([tmp_path], silent) == [made()]
    writer.close()


def test_runs_have_files_of_their_own_and_an_empty_run_leaves_none(tmp_path: Path) -> None:
    with RecordWriter(tmp_path) as one, RecordWriter(tmp_path) as two, RecordWriter(tmp_path):
        assert one.run_id != two.run_id
        one.append(made(0, one.run_id))
        two.append(made(1, two.run_id))
    assert sorted(tmp_path.iterdir()) == sorted([one.path, two.path])
    assert {record.run_id for record in load([tmp_path], silent)} == {one.run_id, two.run_id}


def test_the_latest_record_of_a_case_counts_within_a_run_and_newest_across_runs(tmp_path: Path) -> None:
    with RecordWriter(tmp_path) as writer:
        for record in (made(at=0, message="old"), made(at=1, message="new"), made(run_id="later", at=2)):
            writer.append(record)
        writer.append(replace(made(at=3), environment=replace(HERE, device="other")))
    loaded = load([tmp_path], silent)
    assert [(record.run_id, record.started_at[-3:-1]) for record in loaded] == [("later", "02"), ("run", "03")]
    assert [record.started_at[-3:-1] for record in newest(loaded)] == ["02", "03"]
    assert newest([made(at=1, message="new"), made(run_id="x", at=0)]) == [made(at=1, message="new")]


@pytest.mark.parametrize("cut", [1, 9, 300, -2])
def test_a_line_cut_short_at_the_end_is_left_out_with_a_warning(tmp_path: Path, cut: int) -> None:
    file = tmp_path / "records-a.jsonl"
    file.write_text(made(0).to_json() + "\n" + made(1).to_json()[:cut])
    warnings: list[str] = []
    assert load([file], warnings.append) == [made(0)]
    assert len(warnings) == 1
    assert str(file) in warnings[0]
    assert "line 2" in warnings[0]
    assert set(recorded(tmp_path)) == {CASES[0].key}


def test_a_whole_last_line_without_a_line_feed_counts(tmp_path: Path) -> None:
    file = tmp_path / "records-a.jsonl"
    file.write_text(made(0).to_json() + "\n" + made(1).to_json())
    assert len(load([file], silent)) == 2


def test_garbage_in_the_middle_is_refused_with_its_place(tmp_path: Path) -> None:
    file = tmp_path / "records-a.jsonl"
    file.write_text(made(0).to_json() + "\n" + made(1).to_json()[:200] + "\n" + made(2).to_json() + "\n")
    with pytest.raises(BadResults, match=r"records-a\.jsonl:2: not a JSON line"):
        load([file], silent)


def newer() -> str:
    return json.dumps({**json.loads(made().to_json()), "schema": SCHEMA + 1})


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "holds no record"),
        (b"\n\n", "holds no record"),
        (made().to_json()[:50].encode(), "holds no record"),
        (newer().encode(), f"schema {SCHEMA + 1}.*upgrade"),
        (b'{"key":"1","schema":1,"case":{}}\n', "lacks or misstates"),
        (b'{"loss": 2.1}\n', "not a hybridbench record"),
        (b"a,b\n1,2\n", "not a JSON line"),
        (b"[1,2]", "not a hybridbench record"),
        (b"\x89PNG\r\n\x1a\n\xff\n", "not text"),
    ],
)
def test_a_file_that_is_not_ours_is_refused_in_a_sentence(tmp_path: Path, content: bytes, says: str) -> None:
    file = tmp_path / "x.jsonl"
    file.write_bytes(content)
    with pytest.raises(BadResults, match=says) as caught:
        load([file], lambda _sentence: None)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_empty_file_beside_others_is_only_a_warning(tmp_path: Path) -> None:
    (tmp_path / "records-killed.jsonl").touch()
    with RecordWriter(tmp_path) as writer:
        writer.append(made())
    warnings: list[str] = []
    assert load([tmp_path], warnings.append) == [made()]
    assert "records-killed.jsonl is empty" in warnings[0]


def test_places_without_results_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(BadResults, match="does not exist"):
        load([tmp_path / "nowhere"], silent)
    with pytest.raises(BadResults, match="measure something with"):
        load([tmp_path], silent)
    with pytest.raises(BadResults, match="no results were named"):
        load([], silent)
    assert recorded(tmp_path / "nowhere") == {}
    assert recorded(tmp_path) == {}


def test_every_way_a_case_ended_counts_as_recorded(tmp_path: Path) -> None:
    with RecordWriter(tmp_path) as writer:
        for index, status in enumerate([Status.CRASHED, Status.TIMED_OUT, Status.OOM]):
            writer.append(replace(made(index), status=status))
    assert set(recorded(tmp_path)) == {case.key for case in CASES[:3]}


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(BadInput, match=r"file cannot be a folder.*--out"):
        RecordWriter(tmp_path / "file")
    with pytest.raises(BadInput, match="--out"):
        RecordWriter(tmp_path / "file" / "below")
    with pytest.raises(BadInput, match="--out"):
        RecordWriter(Path("/proc/1"))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_is_a_sentence(tmp_path: Path) -> None:
    writer = RecordWriter(tmp_path)
    full = os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, writer._fd)
    os.close(full)
    with pytest.raises(BadInput, match=r"No space left.*--resume"):
        writer.append(made())
    writer.close()


def write_many(folder: Path, count: int) -> None:
    with RecordWriter(folder) as writer:
        for at in range(count):
            writer.append(made(at % len(CASES), f"{writer.run_id}-{at}", message="x" * 5000))


def start_writer(folder: Path, count: int) -> subprocess.Popen[bytes]:
    script = (
        f"import runpy, pathlib; runpy.run_path({__file__!r})['write_many'](pathlib.Path({str(folder)!r}), {count})"
    )
    return subprocess.Popen([sys.executable, "-c", script])


def test_writers_in_one_folder_do_not_mix_lines(tmp_path: Path) -> None:
    children = [start_writer(tmp_path, 20) for _ in range(3)]
    assert [child.wait(60) for child in children] == [0, 0, 0]
    assert len(load([tmp_path], silent)) == 60


def test_a_killed_writer_loses_at_most_its_last_line(tmp_path: Path) -> None:
    child = start_writer(tmp_path, 10**6)
    deadline = time.monotonic() + 60
    while sum(file.stat().st_size for file in tmp_path.glob("*.jsonl")) < 100_000 and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(child.pid, signal.SIGKILL)
    child.wait(10)
    warnings: list[str] = []
    loaded = load([tmp_path], warnings.append)
    assert len(loaded) >= 10
    assert len(warnings) <= 1


def test_a_file_that_is_removed_during_the_run_is_a_sentence(tmp_path: Path) -> None:
    with RecordWriter(tmp_path / "out") as writer:
        writer.append(made())
        shutil.rmtree(tmp_path / "out")
        with pytest.raises(BadInput, match="was removed during the run"):
            writer.append(made(1))
