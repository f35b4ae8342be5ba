"""``hybridbench ls`` and ``show``: rows counted by hand, conditions against plain filters, and what they refuse."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from hybridbench.cli.main import main
from hybridbench.cli.stored import stored_kinds
from hybridbench.metrics import value
from hybridbench.record import Record
from hybridbench.report.answers import answer
from hybridbench.store import OTHERS, RecordWriter, load, newest

H200 = Path(__file__).parents[2] / "results/nvidia-h200"
MIXERS = H200 / "mixers"


def run(*args: object) -> Result:
    return CliRunner(env={"COLUMNS": "200"}).invoke(main, list(map(str, args)))


def refused(*args: object) -> str:
    done = run(*args)
    assert done.exit_code == 2, done.output
    return done.stderr.replace("\n", " ")


def rows(*args: object) -> list[dict[str, Any]]:
    done = run(*args, "--json")
    assert done.exit_code == 0, done.output
    found: list[dict[str, Any]] = json.loads(done.stdout)["rows"]
    return found


def test_ls_counts_what_the_files_hold() -> None:
    (row,) = rows("ls", MIXERS)
    files = list(MIXERS.glob("*.jsonl"))
    lines = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    assert row["name"] == str(MIXERS)
    assert row["runs"] == len(files)
    assert row["last"][:19] == max(line["started_at"] for line in lines)[:19]
    assert row["machines"] == ["NVIDIA H200"]
    machines = {(line["key"], json.dumps([line["environment"][one] for one in ("cpu", "cores")])) for line in lines}
    assert row["cases"] == sum(row["kinds"].values()) == sum(row["statuses"].values()) == len(machines)
    (oom,) = rows("ls", H200 / "fit")
    assert oom["statuses"] == {"ok": 4, "oom": 3}
    shown = run("ls", H200 / "fit", H200 / "memory").stdout
    assert "NVIDIA H200: 2 folders of results" in shown
    assert "4 ok, 3 oom" in shown


@pytest.mark.parametrize(("name", "kind"), [("learn", "learn"), ("tasks", "solve"), ("contexts", "contexts")])
def test_what_was_learned_is_listed_and_its_page_named(name: str, kind: str) -> None:
    (row,) = rows("ls", H200 / name)
    files = [*(H200 / name).glob(f"{kind}-*.jsonl")]
    assert row["kinds"] == {kind: sum(len(file.read_text().splitlines()) for file in files)}
    for command in ("show", "pareto"):
        assert f"hybridbench report {H200 / name} shows them" in refused(command, H200 / name)


def test_every_kind_that_is_stored_has_words_for_it() -> None:
    assert {kind.FILES for kind in stored_kinds()} == {Record.FILES, *OTHERS}


def test_ls_without_a_path_lists_what_lies_below_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "there is no folder results here: measure something first" in refused("ls")
    (tmp_path / "results").mkdir()
    assert "results holds no results" in refused("ls")
    assert "nowhere does not exist" in refused("ls", "nowhere")
    shutil.copytree(H200 / "crossover", tmp_path / "results/local/crossover")
    assert [row["name"] for row in rows("ls")] == ["results/local/crossover"]


def test_ls_lists_the_good_beside_the_damaged(tmp_path: Path) -> None:
    shutil.copytree(H200 / "crossover", tmp_path / "good")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad/records-x.jsonl").write_text("this is no record\nnor this\n")
    done = run("ls", tmp_path)
    assert done.exit_code == 2
    assert "records-x.jsonl:1" in done.stderr
    assert "1 folder of results" in done.stdout
    assert "bad" not in done.stdout


def test_show_gives_the_cases_and_metrics_asked_for() -> None:
    records = [
        record
        for record in newest(load([H200 / "efficiency"], print))
        if record.case.model.arch == "inter" and record.case.workload.kind == "prefill"
    ]
    asked = ("show", H200 / "efficiency", "--where", "arch=inter", "--where", "workload=prefill", "--metric", "ttft_s")
    assert {row["context"]: row["ttft_s"] for row in rows(*asked)} == {
        record.case.workload.context: value(record, "step_s") for record in records
    }
    shown = run(*asked).stdout
    assert "TTFT" in shown
    assert "[ms]" in shown
    assert shown.count("inter 2+11") == len(records) == 4


def test_models_of_a_family_are_told_apart_by_the_column_of_the_scale() -> None:
    """A name with the whole pattern broke the table in parts on a terminal of 80 columns, its figures apart from it."""
    shown = run("show", H200 / "scales", "--where", "arch=mamba", "--where", "workload=train,decode").stdout
    lines = [line.split() for line in shown.splitlines() if line.startswith(" mamba")]
    assert [(words[1], words[2], words[3]) for words in lines] == [
        ("8k", kind, scale) for kind in ("train", "decode") for scale in ("100m", "350m", "1b", "3b")
    ]
    assert all(words[-1] == "ok" for words in lines)


def test_values_of_a_condition_add_up_and_conditions_narrow() -> None:
    both = rows("show", H200 / "efficiency", "--where", "arch=inter,mamba", "--where", "ctx=4k..16k")
    assert {row["arch"] for row in both} == {"inter", "mamba"}
    assert {row["context"] for row in both} == {4096, 8192, 16384}
    doubted = rows("show", H200 / "long", "--where", "caveats=unsteady")
    everything = rows("show", H200 / "long")
    assert doubted == [row for row in everything if "unsteady" in row["caveats"].split()]
    assert 0 < len(doubted) < len(everything)


def test_a_failed_case_is_a_row_with_its_reason() -> None:
    done = run("show", H200 / "fit", "--where", "status=oom")
    assert done.stdout.count("oom [") == 3
    assert "[1] oom: OutOfMemoryError: CUDA out of memory.\n" in done.stdout, "without PyTorch's advice"
    assert all("expandable_segments" in row["message"] for row in rows("show", H200 / "fit", "--where", "status=oom"))
    assert "CUDA out of memory" in done.stdout


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--where", "arhc=inter"], "unknown field 'arhc': did you mean 'arch'?"),
        (["--where", "arch"], "--where 'arch' is not FIELD=VALUE"),
        (["--where", "arch=intr"], "unknown arch here 'intr': did you mean 'int"),
        (["--where", "ctx=3k"], "no case here has that; there are 8k"),
        (["--where", "ctx=much"], "much"),
        (["--where", "ratio=1:5", "--where", "prompt=512"], "no case here has that; there are 0"),
        (["--where", "backends=fused"], "--where backends=fused: no case here has any backends; leave it out."),
        (["--where", "state_dtype=float32"], "state_dtype=float32: no case here has a state_dtype; leave it out."),
        (["--where", "mode=graph", "--where", "workload=train"], "no case has mode=graph and workload=train together"),
        (["--metric", "tfft_s"], "unknown metric 'tfft_s': did you mean 'ttft_s'?"),
        (["--plot", "--json"], "leave one of them out"),
    ],
    ids=lambda words: " ".join(words) if isinstance(words, list) else "",
)
def test_a_question_that_cannot_be_answered_is_a_sentence(words: list[str], sentence: str) -> None:
    assert sentence in refused("show", MIXERS, *words)


def test_a_caveat_where_there_is_none_is_a_sentence(tmp_path: Path) -> None:
    records = newest(load([MIXERS], print))
    with RecordWriter(tmp_path, records[0].run_id) as writer:
        for record in records:
            writer.append(replace(record, caveats=[], run_id=writer.run_id))
    said = refused("show", tmp_path, "--where", "caveats=unsteady")
    assert "--where caveats=unsteady: no case here has any caveats; leave it out." in said


def test_a_plot_is_drawn_below_the_table() -> None:
    done = run("show", H200 / "efficiency", "--where", "workload=decode", "--metric", "step_s", "--plot")
    assert done.exit_code == 0
    table, _, plot = done.stdout.partition("Median time of a step, decode: NVIDIA H200")
    assert "transformer" in table
    assert "t transformer" in plot
    assert "dots: floor" in plot


def test_report_draws_throughput_when_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hybridbench.cli.rendering._page", lambda _report, folder: folder)
    words = ("report", H200 / "crossover", "-o", tmp_path)
    assert "\nthroughput [tokens/s]\n" in run(*words, "--plot").stdout
    assert "\nthroughput [tokens/s]\n" not in run(*words).stdout


def test_a_heading_says_all_that_cases_share_and_columns_all_in_which_they_differ() -> None:
    eight_bits = H200 / "eight-bits"
    done = run("show", eight_bits, "--where", "weight_dtype=fp8", "--where", "arch=mamba")
    assert done.output.startswith("decode, NVIDIA H200, 1b, bfloat16, weights fp8, KV cache fp8, graph: 3 cases")
    records = load([eight_bits], lambda _: None)[:2]
    named = replace(records[0].case.execution, backends={"swiglu": "reference"})
    table = answer([records[0], replace(records[0], case=replace(records[0].case, execution=named))], ("step_s",))
    (at,) = [place for place, column in enumerate(table.columns) if column.key == "backends"]
    assert [row[at].text for row in table.rows] == ["-", "swiglu=reference"]


def test_what_traces_cannot_answer_is_refused() -> None:
    for option, word in ((("--metric", "step_s"), "--metric"), (("--plot",), "--plot")):
        assert f"{word} is of measured steps, and there are only traces here" in refused(
            "show", H200 / "traces", *option
        )
    assert "time of a step by class" in run("show", H200 / "traces", H200 / "streams", "--metric", "step_s").stdout
