"""A report is a page, tables and charts that fit together, whatever became of the cases."""

from __future__ import annotations

import csv
import io
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hybridbench.errors import BadInput, BadResults
from hybridbench.metrics import METRICS
from hybridbench.record import Environment, Record, Status
from hybridbench.report.build import build_report
from hybridbench.report.findings import findings
from hybridbench.report.groups import group_records
from hybridbench.report.render.folder import ReportFiles, write_report
from hybridbench.report.render.page import OPENINGS, own_page
from hybridbench.suite.sweep import Sweep, cases

Make = Callable[..., Record]


def a_copy(written: ReportFiles, folder: Path) -> Path:
    """A copy of the written report in a folder; returns its page."""
    shutil.copytree(written.page.parent, folder, dirs_exist_ok=True)
    return folder / written.page.name


def test_a_report_is_whole(decode_records: list[Record], written: ReportFiles) -> None:
    files = written
    page = files.page.read_text()
    linked = re.findall(r"\]\(((?:charts|tables)/[^)]+)\)", page)
    (section,) = build_report(decode_records).groups
    assert len(linked) == len(section.plots) + 1, "and the table"
    assert all((files.page.parent / link).is_file() for link in linked)
    assert {path.name for path in files.charts} >= {
        "decode-throughput.png",
        "decode-throughput.svg",
        "decode-cache.svg",
    }
    table = next(path for path in files.tables if path.suffix == ".csv")
    rows = list(csv.DictReader(io.StringIO(table.read_text())))
    assert len(rows) == len(decode_records) == 20
    assert set(METRICS) <= set(rows[0])
    assert float(rows[0]["step_s"]) == pytest.approx(0.000978, rel=1e-3)
    assert "unsupported: head\\_dim 72: no kernel takes it" in page
    assert "attention\\_decode: asked for auto, ran triton (triton 3.6.0)" in page
    assert "peaks 989 TFLOP/s dense for bfloat16, 4.80 TB/s" in page
    for name in METRICS:
        assert f"`{name}`" in page


@pytest.mark.usefixtures("blank_charts")
def test_a_report_over_an_earlier_one_replaces_it(
    decode_records: list[Record], written: ReportFiles, tmp_path: Path
) -> None:
    page = a_copy(written, tmp_path)
    again = write_report(build_report(decode_records), tmp_path)
    assert again.page == page
    assert [path.name for path in again.charts] == [path.name for path in written.charts]
    assert [path.name for path in again.tables] == [path.name for path in written.tables]
    assert page.read_text() == written.page.read_text()


def test_findings_say_who_leads_and_by_how_much(decode_records: list[Record]) -> None:
    (group,) = group_records(decode_records)
    assert findings(group) == [
        "17 of 20 cases ended ok, 1 oom, 2 unsupported.",
        "At context 32k mamba is fastest with 4,633 tokens/s, 2.40 times transformer with 1,929.",
        "It leads inter 2+11 by 1.155 (1.132..1.178) times, in brackets what the 95% intervals of the medians allow.",
        "mamba reaches 63.2% of the speed its floor allows.",
        "What sets the floor there: memory bandwidth (all reach 63.2 to 68.0% of the speed it allows).",
        "hybridbench trace shows where the rest goes.",
        "Peak memory there: 2.63 GiB (mamba) to 6.55 GiB (transformer).",
        "Fastest by context: inter 2+11, mamba, swa 3+13 and intra 2+11 (a tie) at 4k; mamba and inter 2+11 (a tie) at "
        "8k; mamba from 16k to 32k.",
    ]


def test_findings_do_not_claim_a_lead_within_the_noise(record_of: Make) -> None:
    one, two = cases(Sweep("decode", arch="transformer,mamba", ctx="4k"), has_gpu=True)
    (group,) = group_records([record_of(one, 0.00200), record_of(two, 0.00199)])
    assert "Its lead over transformer is within the 95% intervals of the medians." in findings(group)
    (group,) = group_records([record_of(one, 0.003), record_of(two, 0.002)])
    assert not any("within" in sentence for sentence in findings(group))


def test_findings_leave_out_what_cannot_be(record_of: Make) -> None:
    one, two = cases(Sweep("decode", arch="transformer,mamba", ctx="4k"), has_gpu=True)
    (group,) = group_records([record_of(one, 0.002), record_of(two, 0.0001)])
    assert findings(group)[0] == "Marked invalid, because the measurement contradicts what must hold: 1."
    assert "At context 4k transformer makes 2,000 tokens/s." in findings(group)


def test_all_failed_is_a_report_too(record_of: Make, tmp_path: Path) -> None:
    made = cases(Sweep("train", ctx="1k"), has_gpu=True)
    crashed = [record_of(case, status=Status.CRASHED, message="signal 9") for case in made]
    files = write_report(build_report(crashed), tmp_path)
    page = files.page.read_text()
    assert "0 of 5 cases ended ok, 5 crashed. No case has a speed." in page
    assert "crashed [1]" in page
    assert "[1] crashed: signal 9" in page
    assert {path.stem for path in files.charts} == {"train-flops"}


def test_one_record_on_an_unknown_machine(record_of: Make, h200: Environment, tmp_path: Path) -> None:
    (case,) = cases(Sweep("decode", arch="mamba", ctx="1k"), has_gpu=False)
    cpu = replace(h200, device="Xeon", device_kind="cpu", device_memory_bytes=None, driver=None, cuda=None)
    page = write_report(build_report([record_of(case, 0.01, cpu)]), tmp_path).page.read_text()
    assert "At context 1k mamba makes 100 tokens/s." in page
    assert "peaks are unknown" in page
    assert "peaks unknown: no MFU or MBU, no floor" in page
    assert "unknown" in page
    assert "nan" not in page.lower().replace("dominant", "")


@pytest.mark.usefixtures("blank_charts")
def test_mixed_machines_scales_batches_and_dtypes_have_sections_of_their_own(
    record_of: Make, h200: Environment, tmp_path: Path
) -> None:
    records = []
    for sweep in ({}, {"scale": "3b"}, {"batch": "1"}, {"dtype": "float32"}, {"ctx": "16k"}):
        wanted: dict[str, Any] = {"arch": "transformer,inter", "ctx": "4k,8k", **sweep}
        records += [record_of(case, 0.05) for case in cases(Sweep("decode", **wanted), has_gpu=True)]
    newer = replace(h200, packages={"torch": "2.12.0"})
    records[0] = replace(records[0], environment=newer)
    records += [replace(record, environment=replace(h200, device="NVIDIA B200")) for record in records[:4]]
    report = build_report(records)
    files = write_report(report, tmp_path)
    page = files.page.read_text()
    sections = re.findall(r"^## (decode.*)$", page, re.MULTILINE)
    assert len(sections) == len(set(sections)) == 5
    drawn = sum(len(section.plots) for section in report.groups) + sum(len(part.plots) for part in report.parts)
    assert len(files.charts) == len(set(files.charts)) == 3 * drawn
    assert "These records come from 2 software environments" in page


@pytest.mark.usefixtures("blank_charts")
def test_charts_of_two_groups_never_overwrite_each_other(record_of: Make, h200: Environment, tmp_path: Path) -> None:
    (case,) = cases(Sweep("decode", arch="mamba", ctx="4k"), has_gpu=True)
    devices = [replace(h200, device=name) for name in ("NVIDIA H200", "NVIDIA-H200")]
    report = build_report([record_of(case, 0.01, device) for device in devices])
    files = write_report(report, tmp_path)
    assert len(report.groups) == 2
    assert len(set(files.charts)) == len(files.charts) == 3 * sum(len(section.plots) for section in report.groups)


def test_reports_that_cannot_be(record_of: Make, tmp_path: Path) -> None:
    with pytest.raises(BadResults, match="no record"):
        build_report([])
    (case,) = cases(Sweep("decode", arch="mamba", ctx="1k"), has_gpu=True)
    (tmp_path / "file").touch()
    with pytest.raises(BadInput, match="--out"):
        write_report(build_report([record_of(case)]), tmp_path / "file")
    (tmp_path / "out" / "report.md").mkdir(parents=True)
    with pytest.raises(BadInput, match=r"report\.md cannot be written"):
        write_report(build_report([record_of(case)]), tmp_path / "out")


def test_the_report_half_does_not_import_torch() -> None:
    code = "import sys, hybridbench.report.render.folder, hybridbench.report.live; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_tables_for_the_terminal_need_neither_pandas_nor_altair() -> None:
    code = (
        "import sys, hybridbench.report.render.terminal, hybridbench.report.live;"
        "sys.exit(bool({'pandas', 'altair'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.usefixtures("blank_charts")
def test_charts_and_tables_of_other_records_do_not_stay_behind(
    decode_records: list[Record], written: ReportFiles, tmp_path: Path
) -> None:
    page = a_copy(written, tmp_path)
    stale = tmp_path / "charts" / "prefill-throughput.png"
    stale.write_bytes(b"old")
    (tmp_path / "charts" / "decode-mine.png").write_bytes(b"not ours")
    page.write_text(f"{page.read_text('utf-8')}![of other records](charts/{stale.name})\n", "utf-8")
    again = write_report(build_report(decode_records), tmp_path)
    assert not stale.exists()
    assert (tmp_path / "charts" / "decode-mine.png").exists()
    assert [path.name for path in again.charts] == [path.name for path in written.charts]
    assert all(path.exists() for path in again.charts)


@pytest.mark.parametrize("text", ["my notes\n", "# Audit\n\nof the books\n", "# hybridbench report\n\nto write\n"])
@pytest.mark.parametrize("name", sorted(OPENINGS))
def test_a_page_that_somebody_else_wrote_is_not_replaced(name: str, text: str, tmp_path: Path) -> None:
    assert own_page(tmp_path, name) == tmp_path / name
    (tmp_path / name).write_text(text)
    with pytest.raises(BadInput, match=f"{name} is not a page of hybridbench"):
        own_page(tmp_path, name)


def test_pages_that_hybridbench_wrote_are_replaced(
    decode_records: list[Record], written: ReportFiles, tmp_path: Path
) -> None:
    results = Path(__file__).parents[2] / "results"
    stored = [path for name in OPENINGS for path in results.rglob(name)]
    assert len(stored) > 5
    for path in stored:
        assert own_page(path.parent, path.name) == path
    assert own_page(tmp_path, a_copy(written, tmp_path).name) == tmp_path / "report.md"
    (tmp_path / "report.md").write_text("my notes\n")
    with pytest.raises(BadInput, match=r"report\.md"):
        write_report(build_report(decode_records), tmp_path)
    assert (tmp_path / "report.md").read_text() == "my notes\n"
