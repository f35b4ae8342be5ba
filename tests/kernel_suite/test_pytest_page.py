"""docs/pytest-benchmark.md: its code is run as a user's, by the commands that it shows, in order."""

from __future__ import annotations

import json
import os
import re
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

from hybridbench.kernel_suite.figures import median_s
from hybridbench.kernel_suite.record import KernelRecord
from hybridbench.kernel_suite.timing import Plan
from hybridbench.record import Status
from hybridbench.store import load

pytest.importorskip("pytest_benchmark")

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "pytest-benchmark.md").read_text(encoding="utf-8")
CODE = "\n\n".join(re.findall(r"^```python\n(.*?)```", PAGE, re.MULTILINE | re.DOTALL))
OWN, OURS = (block.splitlines() for block in re.findall(r"^```sh\n(.*?)```", PAGE, re.MULTILINE | re.DOTALL))
OPTIONS = "-p hybridbench.pytest_plugin -p no:cacheprovider -p no:hypothesispytest --benchmark-max-time=0.05"


def ran(command: str, folder: Path) -> str:
    """What a command prints; only a comparison may fail, and only because something became slower."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**kept, "PATH": path, "PYTHONPATH": str(ROOT), "PYTEST_ADDOPTS": OPTIONS}
    done = subprocess.run(command.split(), cwd=folder, env=environment, capture_output=True, text=True, check=False)
    slower = "--benchmark-compare-fail" in command and "Performance has regressed" in done.stderr + done.stdout
    assert done.returncode == 0 or slower, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.mark.slow
def test_the_commands_run_on_the_code_of_the_page(tmp_path: Path) -> None:
    (tmp_path / "test_rms_norm.py").write_text(CODE)
    names = ["test_rms_norm[512]", "test_rms_norm[2048]", "test_rms_norm_backward"]
    assert len(OWN) == 5
    for command in OWN:
        said = ran(command, tmp_path)
        assert all(name in said for name in names), said
    whole = json.loads((tmp_path / "all.json").read_text())
    assert all(len(bench["stats"]["data"]) == bench["stats"]["rounds"] for bench in whole["benchmarks"])
    medians = json.loads((tmp_path / "medians.json").read_text())
    assert [entry["name"].partition("::")[2] for entry in medians] == names


@pytest.mark.slow
def test_records_and_json_of_one_session_hold_the_same_samples_and_medians(tmp_path: Path) -> None:
    assert OURS[0] == "pytest suites/kernels"
    folder = tmp_path / "records"
    command = (
        OURS[1].replace("kernels.json", str(tmp_path / "kernels.json")).replace("results/local/kernels", str(folder))
    )
    said = ran(f"{command} --gpu-benchmark-medians={tmp_path / 'medians.json'}", ROOT)
    assert "Wrote records in: " in said
    found = {record.case.key: record for record in load([folder], pytest.fail, kind=KernelRecord)}
    benches = json.loads((tmp_path / "kernels.json").read_text())["benchmarks"]
    medians = {entry["name"]: entry["value"] for entry in json.loads((tmp_path / "medians.json").read_text())}
    timed = [record for record in found.values() if record.status is Status.OK]
    assert len(benches) == len(timed) >= 3
    for bench in benches:
        record = found[bench["extra_info"]["key"]]
        assert record.observed is not None
        assert record.case.op == "swiglu"
        assert record.observed.agreement.against or record.case.backend == "reference"
        assert bench["stats"]["data"] == [ns / 1e9 for ns in record.observed.samples_ns]
        assert medians[bench["fullname"]] == pytest.approx(statistics.median(record.observed.samples_ns) / 1e3)
        assert median_s(record) == pytest.approx(bench["stats"]["median"])
    assert {name.rpartition("[")[2].split("-")[0] for name in medians} == {"swiglu"}


def test_the_table_has_every_field_of_a_plan_with_its_default() -> None:
    rows = dict(re.findall(r"^\| `([\w`, ]+)` \| ([^|]+) \|", PAGE, re.MULTILINE))
    told = {}
    for fields, defaults in rows.items():
        told |= dict(zip(re.split(r"`, `", fields), defaults.strip().replace("`", "").split(", "), strict=False))
    plan = {name: str(field.default) for name, field in Plan.__dataclass_fields__.items()}
    assert told.pop("device") == "a GPU if there is one"
    assert told.pop("max_time_s") == "--benchmark-max-time"
    assert plan.pop("max_time_s") == "1.0"
    assert told == plan
