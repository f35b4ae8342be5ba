"""The Python interface: light to import, tidy typed frames that agree with the commands, charts, and the notebook."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import altair as alt
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

import hybridbench
from hybridbench import charts
from hybridbench.cli.main import main
from hybridbench.errors import BadInput, BadResults
from hybridbench.metrics import METRICS, value
from hybridbench.store import load, newest

ROOT = Path(__file__).parents[1]
MIXERS = ROOT / "results/nvidia-h200/mixers"
ENDINGS = {
    "s": "_s",
    "B": "_bytes",
    "J": "_j",
    "W": "_w",
    "frac": "_frac",
    "FLOP/s": "_flops_per_s",
    "B/s": "_bytes_per_s",
    "tokens/s": "_tokens_per_s",
}


@pytest.fixture(name="frame", scope="module")
def _frame() -> pd.DataFrame:
    return hybridbench.load(MIXERS)


def rows_of(*words: str) -> list[dict[str, Any]]:
    done = CliRunner().invoke(main, [*words, "--json"])
    assert done.exit_code == 0, done.output
    found: list[dict[str, Any]] = json.loads(done.stdout)["rows"]
    return found


def test_importing_it_is_light() -> None:
    """CPU time, of the least of several, which other processes change little; and no library behind it."""
    spent = "import time\nstart = time.process_time()\n{}\nprint(time.process_time() - start, *sys.modules)"

    def run(statement: str) -> tuple[float, set[str]]:
        code = "import sys\n" + spent.format(statement)
        found = [
            subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
            for _ in range(3)
        ]
        return min(float(words[0]) for words in found), set(found[0][1:])

    taken, modules = run("import hybridbench; assert 'load' in dir(hybridbench)")
    assert taken < 0.1
    assert not modules & {"torch", "pandas", "numpy", "altair", "rich", "click", "hybridbench.frames"}


def test_frames_need_no_torch() -> None:
    code = (
        "import sys\nsys.modules['torch'] = None\nimport hybridbench\n"
        f"hybridbench.load({str(MIXERS)!r})\nhybridbench.charts.flops(hybridbench.cost())\nhybridbench.fit()\n"
        "hybridbench.price()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_names_are_those_of_the_stub_and_the_page() -> None:
    stub = ast.parse((ROOT / "hybridbench/__init__.pyi").read_text())
    names = [alias.asname for node in stub.body if isinstance(node, ast.ImportFrom) for alias in node.names]
    listed = next(node.value for node in stub.body if isinstance(node, ast.Assign))
    assert sorted(["__version__", *map(str, names)]) == sorted(hybridbench.__all__) == sorted(ast.literal_eval(listed))
    page = (ROOT / "docs/python.md").read_text()
    for name in set(hybridbench.__all__) - {"__version__"}:
        assert f"`hybridbench.{name}" in page
    assert all(f"`{name}`" in page for name in charts.__all__)
    with pytest.raises(AttributeError, match="no attribute 'cots'"):
        _ = hybridbench.cots


def test_a_frame_of_records_has_every_record_and_metric(frame: pd.DataFrame) -> None:
    records = newest(load([MIXERS], pytest.fail))
    assert list(frame["key"]) == [record.case.key for record in records]
    for name in ("step_s", "tokens_per_s", "cache_bytes", "floor_frac", "energy_per_token_j"):
        expected = [value(record, name) for record in records]
        assert list(frame[name].isna()) == [number is None for number in expected]
        assert frame[name].dropna().to_list() == [number for number in expected if number is not None]
    assert len(hybridbench.load(MIXERS, every=True)) >= len(frame)


def test_columns_are_typed_and_say_their_units(frame: pd.DataFrame) -> None:
    assert isinstance(frame["started_at"].dtype, pd.DatetimeTZDtype)
    assert isinstance(frame["status"].dtype, pd.CategoricalDtype)
    assert frame["context_tokens"].dtype == frame["batch"].dtype == "Int64"
    assert all(frame[name].dtype == np.float64 for name in METRICS)
    others = set(frame) - set(METRICS) - {"started_at", "status"}
    assert {str(frame[name].dtype) for name in others} == {"Int64", "string"}
    for metric in METRICS.values():
        if metric.unit in ENDINGS:
            ending = ENDINGS[metric.unit]
            assert metric.name.endswith((ending, ending.removeprefix("_"))), metric.name


def test_a_failed_case_is_a_row_without_values(tmp_path: Path) -> None:
    lines = [json.loads(line) for path in MIXERS.glob("*.jsonl") for line in path.read_text().splitlines()][:2]
    lines[0] |= {"status": "oom", "observed": None, "message": "out of memory"}
    (tmp_path / "records-1.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    frame = hybridbench.load(tmp_path).set_index("key")
    assert frame.loc[lines[0]["key"], "status"] == "oom"
    assert np.isnan(frame.loc[lines[0]["key"], "tokens_per_s"])
    assert frame.loc[lines[1]["key"], "tokens_per_s"] > 0


def test_predictions_are_those_of_the_commands() -> None:
    costs = hybridbench.cost("inter,mamba", ctx=[4096, 8192], ratio="1:3,1:5", state_dtype="float32")
    rows = rows_of("cost", "--arch", "inter,mamba", "--ctx", "4k,8k", "--ratio", "1:3,1:5", "--state-dtype", "float32")
    for name in ("params", "cache_bytes", "train_flops", "decode_bytes_moved", "pattern"):
        assert costs[name].to_list() == [row[name] for row in rows]
    assert costs["context_tokens"].to_list() == [row["context"] for row in rows]
    fits = hybridbench.fit("inter", gpu="h100,rtx-4090", ctx="32k")
    rows = rows_of("fit", "--arch", "inter", "--gpu", "h100,rtx-4090", "--ctx", "32k")
    for name in ("gpu", "batch", "peak_bytes", "fits"):
        assert fits[name].to_list() == [row[name] for row in rows]
    share = str(MIXERS.parent / "crossover")
    prices = hybridbench.price("mamba,transformer", gpu="b200", ctx=8192, efficiency=share)
    rows = rows_of("price", "--arch", "mamba,transformer", "--gpu", "b200", "--efficiency", share)
    for name in ("floor_s", "step_s", "energy_at_tdp_j"):
        assert prices[name].dropna().to_list() == [row[name] for row in rows if row[name] is not None]
    assert hybridbench.cost(model="nemotron-h-8b")["params"].to_list() == [
        row["params"] for row in rows_of("cost", "--model", "nemotron-h-8b")
    ]


@pytest.mark.parametrize(
    ("name", "asked"),
    [
        ("cost", {"ctx": "4k,8k", "tp": "1,2"}),
        ("cost", {"ctx": "4k", "tp": [1, 2], "gpus": 4}),
        ("cost", {"ctx": "4k"}),
        ("fit", {"ctx": "32k", "tp": [1, 4]}),
        ("fit", {"ctx": "32k", "workload": "train", "gpus": "2,8", "tp": 2}),
        ("price", {"ctx": "32k", "tp": [1, 2], "gpu": "h200,b200"}),
        ("price", {"ctx": "32k", "workload": "train", "gpus": [8], "tp": "2,4"}),
        ("price", {"ctx": "32k", "tp": 2, "efficiency": str(MIXERS.parent / "crossover")}),
    ],
)
def test_predictions_of_gpus_that_share_a_model_are_those_of_the_commands(name: str, asked: dict[str, Any]) -> None:
    frame = getattr(hybridbench, name)("inter,mamba", scale="350m", **asked)
    typed = {key: ",".join(map(str, one)) if isinstance(one, list) else str(one) for key, one in asked.items()}
    words = [word for key, one in typed.items() for word in (f"--{key}", one)]
    rows = rows_of(name, "--arch", "inter,mamba", "--scale", "350m", *words)
    assert len(frame) == len(rows)
    renamed = {"label": "model", "context": "context_tokens"}
    there = {key: renamed.get(key, key) for row in rows for key in row if not key.startswith("found")}
    assert set(frame) == set(there.values())
    for key, column in there.items():
        for ours, theirs in zip(frame[column], [row.get(key) for row in rows], strict=True):
            assert ours == theirs or (theirs is None and pd.isna(ours)), (key, ours, theirs)
    assert ("tp" in frame) == ("tp" in asked)
    if "tp" in asked:
        assert frame["tp"].dtype == frame["gpus"].dtype == "Int64"


def test_more_flops_than_64_bits_hold_are_a_number() -> None:
    (flops,) = hybridbench.cost("transformer", scale="3b", ctx="16m", batch=1)["train_flops"]
    assert flops > 2**63


@pytest.mark.parametrize("name", charts.__all__)
def test_every_chart_draws_records_or_costs(name: str, frame: pd.DataFrame) -> None:
    draw = getattr(hybridbench.charts, name)
    chart = draw(frame[frame.workload == "decode"])
    assert isinstance(chart, alt.Chart)
    values = chart.to_dict()["data"]["values"]
    assert {row["series"] for row in values} >= set(frame[frame.workload == "decode"].dropna(subset="step_s")["model"])
    assert all(row["amount"] > 0 for row in values)


def test_lines_that_differ_in_more_than_the_model_say_so() -> None:
    chart = charts.throughput(hybridbench.price("mamba", gpu="h100,h200", ctx="4k,8k", batch=[1, 4]))
    series = {row["series"] for row in chart.to_dict()["data"]["values"]}
    assert series == {f"mamba, gpu {gpu}, batch {n}" for gpu in ("H100 SXM", "H200 SXM") for n in (1, 4)}


def test_what_cannot_be_done_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="unknown arch 'intr': did you mean 'intra'"):
        hybridbench.cost("intr")
    with pytest.raises(BadInput, match="model or config with arch, ratio"):
        hybridbench.cost("inter", model="jamba-mini", ratio="1:3")
    with pytest.raises(BadInput, match="unknown convention"):
        hybridbench.cost(convention="exactly")
    with pytest.raises(BadInput, match="--gpus 4 with --tp 3: give a number of GPUs that 3 divides"):
        hybridbench.cost(gpus=4, tp=3)
    with pytest.raises(BadInput, match="--gpus 2,4 with decode: only training is divided so"):
        hybridbench.fit(gpus=[2, 4])
    with pytest.raises(BadInput, match="context '4q'"):
        hybridbench.cost(ctx="4q")
    with pytest.raises(BadResults):
        hybridbench.load(tmp_path)
    with pytest.raises(BadInput, match="no value of step_s"):
        charts.latency(hybridbench.cost())
    with pytest.raises(BadInput, match="the frame has no model"):
        charts.latency(pd.DataFrame({"step_s": [1.0]}))


def test_the_notebook_and_the_page_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    notebook = json.loads((ROOT / "docs/example.ipynb").read_text())
    cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert len(cells) > 3
    page = (ROOT / "docs/python.md").read_text().partition("```python\n")[2].partition("```")[0]
    (tmp_path / "results").symlink_to(ROOT / "results")
    monkeypatch.chdir(tmp_path)
    space: dict[str, Any] = {}
    for number, source in enumerate(cells):
        exec(compile(source, f"cell {number}", "exec"), space)
    assert (space["fits"]["batch"] > 1).all()
    assert set(space["decode"]["workload"]) == {"decode"}
    exec(compile(page, "python.md", "exec"), {})
    assert (tmp_path / "throughput.html").stat().st_size > 1000
