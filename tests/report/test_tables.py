"""Tables to the letter for scripted records: text, footnotes, CSV in SI; and that they fit a terminal."""

from __future__ import annotations

import csv
import io
import random
import re
import time
from collections.abc import Callable
from dataclasses import replace

import pytest
from rich.console import Console

from hybridbench.arch import model as arch
from hybridbench.arch.block import Convention
from hybridbench.arch.families import build_spec
from hybridbench.metrics import METRICS
from hybridbench.record import BackendUse, Caveat, Environment, Record, Status
from hybridbench.report.build import build_report
from hybridbench.report.display import unit_for
from hybridbench.report.frame import to_frame
from hybridbench.report.groups import Group, group_records
from hybridbench.report.measured import detail_tables, headline_table, several_runs, summary_table, unequal_kernels
from hybridbench.report.predicted import build_cost, cost_table, layer_table
from hybridbench.report.render import terminal
from hybridbench.report.render.csv import to_csv
from hybridbench.report.render.markdown import to_markdown
from hybridbench.report.render.terminal import print_table
from hybridbench.report.table import Column, Table, TableCell
from hybridbench.suite.sweep import Sweep, cases
from hybridbench.units import format_tokens

Make = Callable[..., Record]


@pytest.fixture(name="scripted")
def _scripted(record_of: Make) -> list[Record]:
    """Two models at two contexts: one fine, one doubtful, one impossible, one failed."""
    fine, doubtful, fast, failed = cases(Sweep("decode", arch="transformer,inter", ctx="4k,16k"), has_gpu=True)
    return [
        record_of(fine, 0.002),
        record_of(doubtful, 0.004, caveats=[Caveat.UNSTEADY]),
        record_of(fast, 0.0005),
        record_of(failed, status=Status.TIMED_OUT, message="no answer in 600 s:\n the worker | was ended"),
    ]


def only(records: list[Record]) -> Group:
    (group,) = group_records(records)
    return group


def test_every_ratio_of_a_stack_is_in_its_table_and_csv(record_of: Make) -> None:
    sweep = Sweep("decode", arch="inter", scale="350m", ctx="4k", ratio="1:7,1:8,1:3")
    records = [record_of(case) for case in cases(sweep, has_gpu=True)]
    assert list(to_frame(records)["ratio"]) == ["1:7 1:8", "1:3"]
    said = "ratios 1:7, 1:8 are the same stack, inter 1+10 350m"
    assert said in headline_table(only(records)).remarks
    assert not [remark for remark in headline_table(only(records[1:])).remarks if "same stack" in remark]


def test_a_kernel_beyond_its_limit_has_a_footnote_in_every_format(record_of: Make) -> None:
    sweep = Sweep("prefill", arch="mamba", scale="1b", ctx="128k", batch="4", device="cuda")
    (case,) = cases(sweep, has_gpu=True)
    record = record_of(case, 20.0)
    assert record.observed is not None
    use = BackendUse("mamba2_core", "auto", "fused", "mamba_ssm", "2.3.2.post1", 1e-3, 1e-2)
    record = replace(record, observed=replace(record.observed, backends=[use]))
    text = to_markdown(headline_table(only([record])))
    assert "[1] beyond limit: a kernel was given more than it is known to be right on" in text
    assert list(to_frame([record])["caveats"]) == ["beyond_limit"]


def test_markdown_of_the_headline(scripted: list[Record]) -> None:
    assert to_markdown(headline_table(only(scripted))) == (
        "### decode: NVIDIA H200, 1b, batch 4, bfloat16, graph: throughput [tokens/s]\n"
        "\n"
        "| model       |        4k |           16k |\n"
        "|:------------|----------:|--------------:|\n"
        "| transformer |     2,000 |     1,000 [1] |\n"
        "| inter 2+11  | 8,000 [2] | timed out [3] |\n"
        "\n"
        "[1] unsteady: samples still drift or spread more than the target: give it more time or quiet the machine  \n"
        "[2] invalid: faster than the floor (1.09 times): the clock, the work or the prediction is wrong  \n"
        "[3] timed out: no answer in 600 s: the worker \\| was ended  \n"
    )


def test_csv_of_the_headline(scripted: list[Record]) -> None:
    assert to_csv(headline_table(only(scripted))) == (
        "model,tokens_per_s@4096,tokens_per_s@16384\ntransformer,2000.0,1000.0\ninter 2+11,8000.0,timed out\n"
    )


def test_markdown_of_the_summary(scripted: list[Record]) -> None:
    lines = to_markdown(summary_table(only(scripted)), alone=False).splitlines()
    assert lines[:7] == [
        "### measured against the floor",
        "",
        "| model       |   ctx |   step [ms] |   step p95 [ms] |   throughput [tokens/s] |   floor [ms] "
        "|   of floor [%] |   MBU [%] | status        |",
        "|:------------|------:|------------:|----------------:|------------------------:|-------------:"
        "|---------------:|----------:|:--------------|",
        "| transformer |    4k |        2.00 |            2.04 |                   2,000 |        0.627 "
        "|           31.3 |      31.3 | ok            |",
        "| transformer |   16k |        4.00 |            4.08 |                   1,000 |        0.962 "
        "|           24.1 |      24.1 | ok [1]        |",
        "| inter 2+11  |    4k |       0.500 |           0.510 |                   8,000 |        0.543 "
        "|            109 |       109 | invalid [2]   |",
    ]
    assert lines[7].split("|")[3:9] == ["           - ", "               - ", "                       - ",
                                        "        0.585 ", "              - ", "         - "]  # fmt: skip


def test_an_unknown_peak_says_so(scripted: list[Record], h200: Environment) -> None:
    unknown = replace(h200, device="NVIDIA H300")
    table = summary_table(only([replace(record, environment=unknown) for record in scripted]))
    row = {column.key: cell for column, cell in zip(table.columns, table.rows[0], strict=True)}
    for name in ("floor_s", "floor_frac", "mbu_frac"):
        assert row[name].text == "unknown"
        assert row[name].value is None
    assert "unknown" not in to_csv(table)


def test_a_cell_nobody_ran_is_not_a_hole(scripted: list[Record]) -> None:
    text = to_markdown(headline_table(only([scripted[0], scripted[3]])))
    assert "| transformer |   2,000 |       not run |" in text
    assert "| inter 2+11  | not run | timed out [1] |" in text


def test_counters_say_what_they_did_not_see(scripted: list[Record]) -> None:
    table = next(table for table in detail_tables(only(scripted)) if "counter" in table.title)
    assert table.notes[:2] == [
        "torch counted as nothing: flash (16x)",
        "fvcore has no count: the forward cannot be traced: no",
    ]
    row = {column.key: cell.text for column, cell in zip(table.columns, table.rows[0], strict=True)}
    assert row["torch_flops"].endswith(" [1]")
    assert row["fvcore_flops"] == "unknown [2]"
    assert row["torch_ratio"] == "0.900"


def test_what_closed_forms_count_is_said(scripted: list[Record]) -> None:
    assert scripted[0].observed is not None
    count = replace(scripted[0].observed.counts[0], unseen={}, formulas={"attention core": 2_000_000})
    record = replace(scripted[0], observed=replace(scripted[0].observed, counts=[count]))
    table = next(table for table in detail_tables(only([record])) if "counter" in table.title)
    assert table.notes == ["torch cannot look into kernels that closed forms count, in MFLOP: attention core 2.00"]


@pytest.mark.parametrize("workload", ["train", "prefill", "decode", "generate"])
def test_every_workload_has_its_tables(workload: str, record_of: Make) -> None:
    records = [record_of(case, 0.01) for case in cases(Sweep(workload, ctx="1k"), has_gpu=True)]
    group = only(records)
    tables = [headline_table(group), summary_table(group), *detail_tables(group)]
    titles = [table.title for table in tables]
    assert len(set(titles)) == len(titles)
    assert ("cache of the whole batch, predicted and observed" in titles) == (workload != "train")
    assert "energy" in titles
    assert ("MFU" in to_markdown(tables[1])) == (workload in ("train", "prefill"))
    for table in tables:
        assert all(len(row) == len(table.columns) for row in table.rows)
        assert [row[0].text for row in table.rows] == [series.name for series in group.series]


def shown(table: Table, width: int) -> list[str]:
    file = io.StringIO()
    print_table(table, Console(width=width, file=file, color_system=None))
    return file.getvalue().splitlines()


@pytest.mark.parametrize("width", [80, 120])
def test_tables_for_the_terminal_fit_it(decode_records: list[Record], width: int) -> None:
    group = only(decode_records)
    for table in (headline_table(group), summary_table(group)):
        lines = shown(table, width)
        assert max(map(len, lines)) <= width
        assert not any("…" in line for line in lines)
        for series in group.series:
            assert sum(series.name in line for line in lines) in (1, 4)
    assert any(line.rstrip().endswith("oom [1]") for line in shown(summary_table(group), width))


def test_colour_is_never_alone(scripted: list[Record]) -> None:
    file = io.StringIO()
    console = Console(width=120, file=file, force_terminal=True, color_system="standard")
    print_table(summary_table(only(scripted)), console)
    text = file.getvalue()
    assert "\x1b[32mok" in text
    assert "\x1b[31minvalid [2]" in text
    assert "\x1b[31mtimed out [3]" in text


def test_the_frame_has_every_metric_in_si(scripted: list[Record]) -> None:
    frame = to_frame(scripted)
    assert list(frame["status"]) == ["ok", "ok", "ok", "timed_out"]
    assert list(frame["arch"]) == ["transformer", "transformer", "inter", "inter"]
    assert list(frame["caveats"]) == ["", "unsteady", "", ""]
    assert frame["problems"][2].startswith("faster than the floor")
    assert frame["ran"][0] == "attention_decode=triton"
    assert frame["step_s"][0] == 0.002
    assert frame["step_s"].isna().tolist() == [False, False, False, True]
    assert set(METRICS) <= set(frame.columns)
    assert set(frame[list(METRICS)].dtypes.astype(str)) == {"float64"}
    (row,) = list(csv.DictReader(io.StringIO(to_frame(scripted[3:]).to_csv(index=False))))
    assert row["tokens_per_s"] == ""
    assert float(row["floor_s"]) > 0
    assert to_frame([]).empty


def test_cost_table_names_its_convention_and_keeps_integers() -> None:
    specs = [build_spec("mamba", "1b"), build_spec("transformer", "1b")]
    table = cost_table([(spec, arch.cost(spec, 8192, 4, Convention.PAPER)) for spec in specs])
    assert table.title == "predicted cost of one sequence: 1b, convention paper, batch 4 for decode moves"
    rows = list(csv.DictReader(io.StringIO(to_csv(table))))
    assert [row["model"] for row in rows] == ["transformer", "mamba"]
    assert rows[0]["cache_bytes"] == str(256 * 2**20)
    assert rows[0]["train_flops"] == str(arch.train_flops(specs[1], 8192, Convention.PAPER).total)
    assert rows[1]["pattern"] == "M-" * 13
    text = to_markdown(table)
    assert "| 61.0 |" in " ".join(text.split()).replace("  ", " ")
    assert "train [TFLOP]" in text
    lines = shown(table, 80)
    assert max(map(len, lines)) <= 80
    assert not any("…" in line for line in lines)


def test_cost_table_shows_what_differs_as_columns() -> None:
    spec = build_spec("inter", "1b")
    rows = [(spec, arch.cost(spec, 4096, batch, convention)) for batch in (1, 4) for convention in Convention]
    table = cost_table(rows)
    assert [column.key for column in table.columns[:4]] == ["model", "convention", "batch", "context"]
    assert [row[1].text for row in table.rows] == ["exact", "paper", "hardware"] * 2
    assert cost_table([]).rows == []
    assert "No rows." in to_markdown(cost_table([]))


def test_layer_table_adds_up_to_the_model() -> None:
    spec = build_spec("intra", "1b")
    table = layer_table(arch.layer_costs(spec, 4096), "intra 1b at 4k, convention exact")
    rows = list(csv.DictReader(io.StringIO(to_csv(table))))
    assert sum(int(row["params"]) for row in rows) == arch.params(spec)
    assert [row["symbol"] for row in rows] == [*spec.layers, "head"]
    assert "| (\\*&M)" in to_markdown(table)
    lines = shown(table, 80)
    assert max(map(len, lines)) <= 80
    assert not any("…" in line for line in lines)


@pytest.mark.parametrize(
    ("values", "unit", "label", "text"),
    [
        ([0.002, 0.003], "s", "ms", "2.00"),
        ([90.0, 100.0], "s", "min", "1.50"),
        ([0.25, 0.5], "frac", "%", "25.0"),
        ([2**30, 2**31], "B", "GiB", "1.00"),
        ([4.5e12], "B/s", "TB/s", "4.50"),
        ([0, 3e9], "FLOP", "GFLOP", "0"),
        ([None], "B", "B", "unknown"),
        ([None], "frac", "%", "unknown"),
        ([25.0], "", "", "25"),
        ([973_078_528], "", "M", "973"),
        ([0.9], "", "", "0.900"),
    ],
)
def test_a_column_has_the_unit_its_numbers_read_best_in(
    values: list[float | None], unit: str, label: str, text: str
) -> None:
    scale = unit_for(values, unit)
    assert (scale.label, scale.show(values[0])) == (label, text)


def test_every_unit_of_a_metric_can_be_shown() -> None:
    assert {metric.unit for metric in METRICS.values() if unit_for([1.0], metric.unit)} == {
        *("s", "", "tokens/s", "FLOP", "B", "FLOP/s", "B/s", "frac", "J", "W")
    }


@pytest.mark.parametrize("width", [40, 50, 60, 80, 120])
def test_a_number_is_never_cut(decode_records: list[Record], width: int) -> None:
    table = summary_table(only(decode_records))
    console = Console(width=width, record=True, file=io.StringIO())
    print_table(table, console)
    text = console.export_text()
    assert "\N{HORIZONTAL ELLIPSIS}" not in text
    shown = [place for place, column in enumerate(table.columns) if not column.wide]
    for row in table.rows:
        for place in shown:
            for word in row[place].text.split():
                assert word in text


def test_unequal_kernels_are_said_beside_the_headline(decode_records: list[Record]) -> None:
    def with_kernel(record: Record, name: str) -> Record:
        assert record.observed is not None
        use = BackendUse("attention_decode", "auto", name, "p", None, 0.0, 1.0)
        return replace(record, observed=replace(record.observed, backends=[use]))

    ok = [record for record in decode_records if record.observed]
    first = ok[0].case.model
    same = [with_kernel(record, "triton") for record in ok]
    other = [with_kernel(record, "flash-attn" if record.case.model == first else "triton") for record in ok]
    assert not unequal_kernels(only(same))
    (sentence,) = unequal_kernels(only(other))
    assert "attention_decode is" in sentence
    assert "flash-attn in" in sentence
    assert sentence in headline_table(only(other)).remarks


def test_kernels_that_differ_along_the_axis_are_said_to_do_so_with_their_places(decode_records: list[Record]) -> None:
    def ran(name_of: Callable[[Record], str]) -> list[str]:
        made = []
        for record in decode_records:
            if record.observed:
                use = BackendUse("decode_step", "auto", name_of(record), "p", None, 0.0, 1.0)
                record = replace(record, observed=replace(record.observed, backends=[use]))
            made.append(record)
        return unequal_kernels(only(made))

    contexts = sorted({record.case.workload.context for record in decode_records})
    first, last = format_tokens(contexts[0]), format_tokens(contexts[-1])
    (said,) = ran(lambda record: "searched" if record.case.workload.context == contexts[0] else "by rules")
    assert said.startswith("kernels differ between contexts: decode_step is searched in transformer")
    assert f" (at {first}); by rules in " in said
    assert last in said.partition("by rules in ")[2]
    (said,) = ran(lambda record: "searched" if record.case.model.arch == "mamba" else "by rules")
    assert said.startswith("kernels differ between models: decode_step is by rules in transformer")
    assert said.endswith("; searched in mamba")


def test_cells_of_several_runs_are_said_to_be(decode_records: list[Record]) -> None:
    assert not several_runs(only(decode_records))
    mixed = [replace(r, run_id="second" if r.case.model.arch == "mamba" else "first") for r in decode_records]
    (sentence,) = several_runs(only(mixed))
    assert "cells come from 2 runs" in sentence
    assert sentence.endswith("mamba in second") or "mamba in second;" in sentence
    assert sentence in headline_table(only(mixed)).remarks


# One report, several formats.


def cells_of(table: Table) -> list[list[str]]:
    return [[cell.text for cell in row] for row in table.rows]


def markdown_cells(text: str) -> list[list[str]]:
    """The cells of the one table in a piece of Markdown, escapes undone."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in lines[2:]]
    return [[re.sub(r"\\(.)", r"\1", cell.strip()) for cell in row] for row in rows]


@pytest.mark.parametrize("what", ["measured", "predicted"])
def test_terminal_markdown_and_csv_show_the_same_cells(what: str, scripted: list[Record]) -> None:
    """Whatever a report holds, each format shows the text or the value of every cell, and all of them every note."""
    if what == "measured":
        section = build_report(scripted).groups[0]
        tables = [section.headline, section.summary, *section.details]
    else:
        specs = [build_spec(name, "1b") for name in ("mamba", "intra")]
        tables = [build_cost([(spec, arch.cost(spec, context)) for spec in specs for context in (4096, 8192)]).table]
    for table in tables:
        assert markdown_cells(to_markdown(table)) == cells_of(table)
        read = list(csv.reader(io.StringIO(to_csv(table))))
        assert read[0] == [column.key for column in table.columns]
        values = [["" if cell.value is None else str(cell.value) for cell in row] for row in table.rows]
        assert read[1:] == values
        on_terminal = shown(replace(table, columns=[replace(column, wide=False) for column in table.columns]), 400)
        words = [re.split(r" {2,}", line.strip()) for line in on_terminal]
        for row in cells_of(table):
            assert [text for text in row if text] in words
        for footnote in table.footnotes():
            assert footnote.replace("|", "\\|") in to_markdown(table).replace("\\_", "_").replace("\\*", "*")
            assert footnote in " ".join(on_terminal)


@pytest.mark.parametrize("width", [30, 80, 120])
def test_rows_have_the_lines_that_rich_draws(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(3)
    words = ("x", "1,234", "a longer cell", "层", "é", "12.3 [1]", "", "1e9")
    aligned = 0
    for n_columns, n_rows in ((1, 1), (3, 20), (6, 3), (2, 0), (4, 60), (9, 30)):
        columns = [Column(f"c{at}", f"heading {at} [GiB]", numeric=rng.random() < 0.5) for at in range(n_columns)]
        rows = [[TableCell(rng.choice(words) * rng.choice((1, 1, 3))) for _ in columns] for _ in range(n_rows)]
        table = Table("title", columns, rows=rows)
        aligned += (
            terminal._aligned(table, terminal._longest(table, range(n_columns)), [0], _console(width)) is not None
        )
        quick = _printed(table, width)
        with monkeypatch.context() as patch:
            patch.setattr(terminal, "_aligned", lambda *_: None)
            assert quick == _printed(table, width)
    assert aligned, "rich drew every table, so nothing was compared"


def test_rows_cost_little_beside_what_rich_takes_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = build_spec("inter", "1b")
    table = cost_table([(spec, arch.cost(spec, context)) for context in range(1, 301)])
    quick = _cpu_s(lambda: _printed(table, 120))
    monkeypatch.setattr(terminal, "_aligned", lambda *_: None)
    assert quick < _cpu_s(lambda: _printed(table, 120)) / 4


def _console(width: int) -> Console:
    return Console(file=io.StringIO(), width=width, force_terminal=True)


def _printed(table: Table, width: int) -> str:
    console = _console(width)
    print_table(table, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def _cpu_s(work: Callable[[], object]) -> float:
    """The least CPU time of three calls, so that other processes on the machine do not count."""
    took = []
    for _ in range(3):
        began = time.process_time()
        work()
        took.append(time.process_time() - began)
    return min(took)


def test_what_rows_of_one_group_share_is_said_once_on_a_terminal() -> None:
    names = [Column("op", "op", numeric=False, once=True), Column("problem", "problem", numeric=False, once=True)]
    table = Table("some", [*names, Column("backend", "backend", numeric=False)])
    for words in ("scan,T=8,a", "scan,T=8,b", "scan,T=9,a", "norm,T=9,a", "norm,T=9,b", "norm,T=9,c"):
        table.rows.append([TableCell(word, word) for word in words.split(",")])
    out = io.StringIO()
    print_table(table, Console(width=80, file=out, color_system=None))
    shown = [line.split() for line in out.getvalue().splitlines()[-7:]]
    said = [["scan", "T=8", "a"], ["b"], ["scan", "T=9", "a"], ["norm", "T=9", "a"], ["b"], ["c"]]
    assert [line for line in shown if line and not line[0].startswith("─")] == said
    assert to_csv(table).splitlines()[2] == "scan,T=8,b"


@pytest.mark.parametrize("width", [50, 60, 80])
def test_a_word_of_a_cell_in_lines_is_never_cut(width: int) -> None:
    names = [Column("op", "operation", numeric=False), Column("problem", "problem", numeric=False, wraps=True)]
    table = Table("some", [*names, *(Column(f"n{place}", f"number {place}") for place in range(6))])
    words = "batch=4 n_params=1235814400 length=8192"
    table.rows.append([TableCell("linear_cross_entropy"), TableCell(words), *[TableCell("1,234.5")] * 6])
    out = io.StringIO()
    print_table(table, Console(width=width, file=out, color_system=None))
    shown = set(out.getvalue().split())
    assert {"linear_cross_entropy", "1,234.5", *words.split()} <= shown
