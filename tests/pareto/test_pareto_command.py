"""``hybridbench pareto`` on the committed records of the paper's cells: tables, files, and what it refuses."""

from __future__ import annotations

import csv
import itertools
import json
import shutil
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from hybridbench.cli.main import main
from hybridbench.pareto.chart import HEIGHT, draw_fronts
from hybridbench.pareto.join import COSTS, ParetoOptions, fronts
from hybridbench.pareto.quality import paper_figures
from hybridbench.report.paper.figures import LENGTHS, STACKS
from hybridbench.store import load, newest

COMMITTED = Path(__file__).parents[2] / "results/nvidia-h200/paper"


def run(*args: object, width: int = 160) -> Result:
    return CliRunner(env={"COLUMNS": str(width)}).invoke(main, ["pareto", *map(str, args)])


def rows_of(*args: object) -> list[dict[str, Any]]:
    done = run(*args, "--json")
    assert done.exit_code == 0, done.output
    found: list[dict[str, Any]] = json.loads(done.stdout)["rows"]
    return found


@pytest.fixture(name="every", scope="module")
def _every(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The committed records with the first five samples of each, which are read in a tenth of the time."""
    folder = tmp_path_factory.mktemp("paper")
    for path in COMMITTED.glob("*.jsonl"):
        lines = []
        for line in path.read_text().splitlines():
            body = json.loads(line)
            seen = body["observed"] or {"samples_ns": [], "parts": []}
            for part in (seen, *seen["parts"]):
                part["samples_ns"] = part["samples_ns"][:5]
            lines.append(json.dumps(body, separators=(",", ":")))
        (folder / path.name).write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(name="records", scope="module")
def _records(every: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Those at a context of 8k."""
    folder = tmp_path_factory.mktemp("few")
    for path in every.glob("*.jsonl"):
        lines = [
            line for line in path.read_text().splitlines() if json.loads(line)["case"]["workload"]["context"] == 8192
        ]
        (folder / path.name).write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(name="generated", scope="module")
def _generated(every: Path) -> list[dict[str, Any]]:
    return rows_of(every, "--workload", "generate")


def refused(*args: object) -> str:
    done = run(*args)
    assert done.exit_code == 2, done.output
    (sentence,) = done.stderr.splitlines()
    return sentence


def test_the_papers_arm_is_its_figure_1b(generated: list[dict[str, Any]]) -> None:
    """Its x axis is the mean throughput over the five lengths; the frontier is made of intra stacks and Mamba."""
    means = {row["model"]: row for row in generated if (row["arm"], row["place"]) == ("the paper", "mean")}
    printed = (158, 175, 218, 234, 293, 311, 2722, 305, 515, 596, 697, 235, 356, 596, 687, 947)
    assert sorted(round(row["cost_value"]) for row in means.values()) == sorted(printed)
    frontier = {name for name, row in means.items() if row["on_frontier"]}
    assert frontier == {"mamba", "intra 1+12", "intra 2+11", "intra 7+6"}
    assert means["transformer"]["beaten_by"] == "intra 7+6"
    assert means["intra 7+6"]["quality_value"] == 2.706


def test_ours_stand_beside_it_as_published_and_with_equal_kernels(generated: list[dict[str, Any]]) -> None:
    arms = list(dict.fromkeys(row["arm"] for row in generated))
    assert arms == ["the paper", "as published", "equal kernels, graph"]
    for arm in arms:
        places = list(dict.fromkeys(row["place"] for row in generated if row["arm"] == arm))
        assert places == ["2k", "4k", "8k", "16k", "32k", "mean"]
        assert all(
            len([row for row in generated if (row["arm"], row["place"]) == (arm, place)]) == len(STACKS)
            for place in places
        )
    ours = {(row["arm"], row["model"], row["place"]): row for row in generated}
    assert ours["equal kernels, graph", "mamba", "mean"]["cost_value"] == pytest.approx(
        sum(ours["equal kernels, graph", "mamba", f"{n // 1024}k"]["cost_value"] for n in LENGTHS) / len(LENGTHS)
    )


def test_whoever_beats_a_stack_is_better_or_tied_in_both(generated: list[dict[str, Any]]) -> None:
    by_cell = {(row["arm"], row["place"], row["model"]): row for row in generated}
    beaten = [row for row in generated if not row["on_frontier"]]
    assert len(beaten) > 100
    for row in beaten:
        rival = by_cell[row["arm"], row["place"], row["beaten_by"]]
        faster, better = rival["cost_value"] / row["cost_value"], row["quality_value"] - rival["quality_value"]
        assert faster >= 1 / 1.02
        assert better > -0.0013
        assert faster > 1.02 or better >= 0.0013


@pytest.mark.parametrize("metric", COSTS)
def test_every_metric_has_a_frontier(records: Path, metric: str) -> None:
    rows = rows_of(records, "--metric", metric, "--ctx", "8k")
    assert {row["cost"] for row in rows} == {COSTS[metric]}
    assert {row["place"] for row in rows} == {"8k"}
    assert any(row["on_frontier"] for row in rows)
    assert ("train" in {row["conditions"].split(",")[0] for row in rows}) == (metric != "cache")


def test_budgets_are_matched_in_tokens_too(records: Path) -> None:
    rows = rows_of(records, "--matched", "tokens", "--workload", "train")
    assert {row["tokens"] for row in rows} == {60e9}
    assert {row["model"]: row["quality_value"] for row in rows}["inter 2+11"] == 2.735


def test_a_csv_of_ones_own_joins_and_replaces(records: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine.csv"
    mine.write_text(
        "arch,scale,ratio,metric,value,seeds,std,source\n"
        "mamba,1b,,loss,3.28,3,0.002,ours\ntransformer,1b,,loss,3.26,3,0.002,ours\n",
        encoding="utf-8",
    )
    rows = rows_of(records, "--quality", mine, "--workload", "train")
    assert {row["model"]: row["quality_value"] for row in rows} == {"mamba": 3.28, "transformer": 3.26}
    assert rows[0]["quality_noise"] == pytest.approx(0.002 / 3**0.5)
    assert {row["on_frontier"] for row in rows} == {True}
    mine.write_text("arch,scale,metric,value,flops\nmamba,1b,dclm_nll,2.5,4.5e20\n", encoding="utf-8")
    replaced = {row["model"]: row for row in rows_of(records, "--quality", mine, "--workload", "train")}
    assert len(replaced) == 5
    assert replaced["mamba"]["quality_value"] == 2.5
    assert replaced["intra 2+11"]["beaten_by"] == "mamba"
    done = run(records, "--quality", mine, "--workload", "train")
    assert "arXiv 2510.04800 v3, table 9" in done.stdout


def test_files_hold_what_the_table_shows(records: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = run(records, "-o", out)
    assert done.exit_code == 0, done.output
    page = (out / "pareto.md").read_text()
    for linked in ("charts/pareto-generate.svg", "pareto.csv", "pareto.json"):
        assert f"({linked})" in page
        assert (out / linked).stat().st_size > 1000
    drawn = " ".join(ET.parse(out / "charts/pareto-generate.svg").getroot().itertext())
    for word in ("the paper, 8k", "as published, 8k", "equal kernels, graph, 8k", "intra 7+6", "mamba"):
        assert word in drawn
    table = list(csv.DictReader((out / "pareto.csv").read_text().splitlines()))
    rows = json.loads((out / "pareto.json").read_text())["rows"]
    assert [float(row["cost_value"]) for row in table] == [row["cost_value"] for row in rows]
    assert run(records, "-o", out).exit_code == 0  # its own page is replaced
    assert "mean" not in done.stdout


def test_names_of_a_frontier_stand_apart(records: Path) -> None:
    """By at least the height of their letters, whichever losses are alike."""
    asked = ParetoOptions(workloads=("generate",))
    found = fronts(newest(load([records], pytest.fail)), paper_figures(), asked)
    panels = list(_marks(draw_fronts(found, asked)))
    assert len(panels) == 3
    worths = [row["quality"] for rows in panels for row in rows]
    span = (max(worths) - min(worths)) * 1.24
    for rows in panels:
        heights = sorted(row["name_at"] for row in rows if row["frontier"])
        assert len(heights) > 3
        assert all(above - below > 10 / HEIGHT * span for below, above in itertools.pairwise(heights))


def _marks(part: Any) -> Iterator[list[dict[str, Any]]]:
    """The rows of each panel of a definition."""
    if isinstance(part, list) and part and isinstance(part[0], dict) and "frontier" in part[0]:
        yield part
    for inner in part.values() if isinstance(part, dict) else part if isinstance(part, list) else ():
        yield from _marks(inner)


def test_a_page_of_someone_else_is_kept(records: Path, tmp_path: Path) -> None:
    (tmp_path / "pareto.md").write_text("# Mine\n")
    assert "is not a page of hybridbench" in refused(records, "-o", tmp_path)
    assert (tmp_path / "pareto.md").read_text() == "# Mine\n"


def test_what_cannot_be_joined_is_a_sentence(records: Path, tmp_path: Path) -> None:
    assert "unknown metric 'speed'" in refused(records, "--metric", "speed")
    assert "unknown metric 'cach': did you mean 'cache'?" in refused(records, "--metric", "cach")
    assert "unknown score 'dclm': did you mean" in refused(records, "--score", "dclm")
    assert "unknown budget to match 'flop': did you mean 'flops'?" in refused(records, "--matched", "flop")
    assert "no record is of a context of --ctx: the records have 8k" in refused(records, "--ctx", "1k")
    assert "unknown workload of these records 'decode'" in refused(records, "--workload", "decode")
    assert "no figure of quality is a bits_per_byte" in refused(records, "--score", "bits_per_byte")
    assert "has a cache: name another" in refused(records, "--metric", "cache", "--workload", "train")
    assert "none.csv cannot be read" in refused(records, "--quality", tmp_path / "none.csv")
    (tmp_path / "mine.csv").write_text("arch,scale,metric,value\nmamba,3b,loss,2.7\n")
    sentence = refused(records, "--quality", tmp_path / "mine.csv")
    assert "no measured stack has a loss: records are of" in sentence
    assert "add yours with --quality" in sentence


def test_damaged_records_are_named_and_the_others_used(records: Path, tmp_path: Path) -> None:
    for path in records.glob("*.jsonl"):
        shutil.copy(path, tmp_path)
    first = min(tmp_path.glob("*.jsonl"))
    first.write_text(first.read_text() + '{"key":"1","schema":6}\n{"key":"2"}\n')
    done = run(tmp_path)
    assert done.exit_code == 2
    assert "error:" in done.stderr
    assert first.name in done.stderr
    assert "mamba" in done.stdout
