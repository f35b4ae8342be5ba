"""Charts show every series, place and failure, measured beside predicted, and are drawn without a network."""

from __future__ import annotations

import json
import re
import struct
import xml.etree.ElementTree as ET
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import altair as alt
import pytest
from altair.utils.schemapi import SchemaValidationError

from hybridbench.arch import model as arch
from hybridbench.arch.block import Convention
from hybridbench.arch.families import build_spec
from hybridbench.errors import BadInput
from hybridbench.metrics import value
from hybridbench.record import Record, Status
from hybridbench.report.build import build_report
from hybridbench.report.chart import MEASURED, PREDICTED, Plot
from hybridbench.report.groups import group_records
from hybridbench.report.plots import group_plots
from hybridbench.report.predicted import cost_plots
from hybridbench.report.render.charts import FAMILY_COLORS, definition_of, draw, save
from hybridbench.report.render.clouds import draw_scatter, draw_spread
from hybridbench.report.render.panels import draw_panels
from hybridbench.store import load
from hybridbench.suite.sweep import Sweep, cases
from hybridbench.units import MIB

Make = Callable[..., Record]
RESULTS = Path(__file__).parents[2] / "results" / "nvidia-h200"


def plots(records: list[Record]) -> dict[str, Plot]:
    (group,) = group_records(records)
    return {plot.name: plot for plot in group_plots(group)}


def texts(svg: Path) -> list[str]:
    return [node.text or "" for node in ET.parse(svg).iter("{http://www.w3.org/2000/svg}text")]


def values(definition: dict[str, Any]) -> list[dict[str, Any]]:
    """All rows of data inside a definition."""
    data = [*definition.get("datasets", {}).values()]
    for layer in [definition, *definition["layer"]]:
        if "values" in layer.get("data", {}):
            data.append(layer["data"]["values"])
    return [row for rows in data for row in rows]


def pixels(png: bytes) -> tuple[int, int, set[bytes]]:
    """Width, height and the distinct bytes of the unfiltered image data."""
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", png[16:24])
    body, at = b"", 8
    while at < len(png):
        (length,) = struct.unpack(">I", png[at : at + 4])
        if png[at + 4 : at + 8] == b"IDAT":
            body += png[at + 8 : at + 8 + length]
        at += 12 + length
    raw = zlib.decompress(body)
    return width, height, {raw[i : i + 1] for i in range(len(raw))}


def test_a_group_has_its_charts(decode_records: list[Record]) -> None:
    wanted = ["throughput", "latency", "memory", "cache", "energy", "flops"]
    assert [name for name in plots(decode_records) if name in wanted] == wanted


def test_charts_of_a_page_are_vega_lite(decode_records: list[Record]) -> None:
    """By Altair's own check, which reports leave out; without it the definitions are the same."""
    report = build_report([*load([RESULTS / "paper"], pytest.fail), *decode_records])
    drawn: list[tuple[Callable[..., dict[str, Any]], Any]] = [(draw_panels, report.papers[0].comparison)]
    drawn += [(draw, plot) for plot in report.groups[0].plots.values()]
    for section in report.groups[:3]:
        drawn += [(draw_scatter, chart) for chart in section.scatters]
        drawn += [(draw_spread, section.spread)] if section.spread else []
    assert {make for make, _ in drawn} == {draw, draw_panels, draw_scatter, draw_spread}
    for make, chart in drawn:
        assert make(chart, validate=True) == make(chart, validate=False)


def test_altair_s_check_refuses_what_is_no_vega_lite() -> None:
    """The check that reports leave out is one."""
    with pytest.raises(SchemaValidationError):
        definition_of(lambda: alt.layer(alt.Chart().mark_bar().encode(x=alt.X("a:Q", axis="wrong"))), validate=True)


def test_predicted_peaks_stand_beside_measured_ones() -> None:
    records = load([RESULTS / "memory"], pytest.fail)
    drawn = [plot for group in group_records(records) for plot in group_plots(group) if plot.name == "memory"]
    assert len(drawn) == 6  # two scales, three ways of checkpointing
    for plot in drawn:
        measured, predicted = (
            {(p.series, p.place): p.amount for p in plot.points if p.kind == kind} for kind in (MEASURED, PREDICTED)
        )
        assert len(measured) == 5
        assert predicted == pytest.approx(measured, rel=5e-3)


def test_saved_charts_name_series_contexts_and_failures(decode_records: list[Record], tmp_path: Path) -> None:
    png, svg, _ = save(draw(plots(decode_records)["cache"]), tmp_path / "decode-cache")
    seen = texts(svg)
    for name in ("transformer", "swa 3+13", "mamba", "inter 2+11", "intra 2+11", "measured", "predicted"):
        assert name in seen
    assert [text for text in seen if re.fullmatch(r"\d+k", text)] == ["4k", "8k", "16k", "32k"]
    # A logarithmic axis from 50 MiB to 4 GiB has its ticks at 1, 2 and 5, with room below for the failures.
    assert [text for text in seen if re.fullmatch(r"[\d,]+", text)] == [
        *("20", "50", "100", "200", "500", "1,000", "2,000", "5,000")
    ]
    assert "cache [MiB]" in seen
    assert "NVIDIA H200, 1b, batch 4, bfloat16, graph" in seen
    assert sorted(text for text in seen if ":" in text) == [
        *("intra 2+11: unsupported at 16k, 32k", "swa 3+13: oom at 32k")
    ]
    width, height, levels = pixels(png.read_bytes())
    assert width > 1200
    assert height > 600
    assert len(levels) > 50


@pytest.mark.parametrize("largest", [800, 250_000, 4_000_000])
def test_ticks_are_plain_numbers(decode_records: list[Record], tmp_path: Path, largest: int) -> None:
    plot = plots(decode_records)["throughput"]
    scale = largest / max(point.amount for point in plot.points)
    points = [replace(point, amount=point.amount * scale, low=None, high=None) for point in plot.points]
    _, svg, _ = save(draw(replace(plot, points=points)), tmp_path / "chart")
    ticks = [text for text in texts(svg) if re.fullmatch(r"[\d,.]+(e\+\d+)?", text)]
    assert any(float(text.replace(",", "")) > largest / 4 for text in ticks)
    assert not any("e" in text for text in ticks)


def test_points_are_the_metrics_in_the_unit_of_the_axis(decode_records: list[Record]) -> None:
    plot = plots(decode_records)["cache"]
    drawn = draw(plot)
    rows = [row for row in values(drawn) if "amount" in row]
    for record in decode_records:
        here = [row for row in rows if (row["series"], row["place"]) == (
            record.case.model.label, record.case.workload.context)]  # fmt: skip
        expected = {PREDICTED: value(record, "predicted_cache_bytes")}
        if record.status is Status.OK:
            expected[MEASURED] = value(record, "cache_bytes")
        assert {row["kind"]: row["amount"] * MIB for row in here} == pytest.approx(expected)


def test_latency_has_its_band_and_its_floor(decode_records: list[Record]) -> None:
    drawn = draw(plots(decode_records)["latency"])
    rows = [row for row in values(drawn) if "amount" in row]
    assert {row["kind"] for row in rows} == {"measured", "floor"}
    assert all(row["low"] < row["amount"] < row["high"] for row in rows if row["kind"] == "measured")
    assert [layer["mark"]["type"] for layer in drawn["layer"]].count("area") == 1
    assert "band: 5th to 95th percentile" in drawn["title"]["subtitle"][0]


def test_a_model_keeps_its_colour_and_shape_whoever_else_is_there(decode_records: list[Record]) -> None:
    def looks(records: list[Record]) -> dict[str, tuple[str, str]]:
        drawn = draw(plots(records)["throughput"])
        encodings = next(layer["encoding"] for layer in drawn["layer"] if "shape" in layer["encoding"])
        color, shape = encodings["color"]["scale"], encodings["shape"]["scale"]
        return dict(zip(color["domain"], zip(color["range"], shape["range"], strict=True), strict=True))

    everyone = looks(decode_records)
    assert len(set(everyone.values())) == len({color for color, _ in everyone.values()}) == 5
    few = looks([record for record in decode_records if record.case.model.arch in ("inter", "mamba")])
    assert few == {name: look for name, look in everyone.items() if name in few}
    assert few["mamba"][0] == FAMILY_COLORS["mamba"]


def test_many_series_of_a_family_stay_apart() -> None:
    specs = [build_spec(name, "1b") for name in ("transformer", "swa", "mamba", "inter", "intra")]
    from hybridbench.arch.families import Options

    specs += [build_spec("inter", "1b", Options(ratio=ratio)) for ratio in ("1:1", "1:3", "1:12")]
    specs += [build_spec("intra", "1b", Options(ratio=ratio)) for ratio in ("1:1", "1:3", "1:12")]
    drawn = draw(cost_plots([(spec, arch.cost(spec, ctx)) for spec in specs for ctx in (1024, 4096)])[0])
    encodings = next(layer["encoding"] for layer in drawn["layer"] if "shape" in layer["encoding"])
    looks = list(zip(encodings["color"]["scale"]["range"], encodings["shape"]["scale"]["range"], strict=True))
    assert len(set(looks)) == len(looks) == 11


def test_one_context_is_bars(record_of: Make, tmp_path: Path) -> None:
    made = cases(Sweep("train", arch="transformer,mamba,inter", ctx="8k"), has_gpu=True)
    records = [record_of(case, 1.0 + index) for index, case in enumerate(made[:2])]
    records.append(record_of(made[2], status=Status.CRASHED, message="signal 11"))
    drawn = draw(plots(records)["latency"])
    assert [layer["mark"]["type"] for layer in drawn["layer"]] == ["bar", "text", "tick"]
    _, svg, _ = save(draw(plots(records)["latency"]), tmp_path / "bars")
    seen = texts(svg)
    for text in ("transformer", "mamba", "inter 2+11", "1.00", "2.00", "crashed", "floor", "step [s]"):
        assert text in seen
    assert "NVIDIA H200, 1b, batch 4, bfloat16, eager, context 8k" in seen


def test_failures_alone_draw_no_measured_chart(record_of: Make) -> None:
    made = cases(Sweep("decode", ctx="4k..8k"), has_gpu=True)
    names = list(plots([record_of(case, status=Status.OOM, message="no") for case in made]))
    assert names == ["flops"]


def test_cost_charts_are_of_one_convention(tmp_path: Path) -> None:
    specs = [build_spec("transformer", "1b"), build_spec("inter", "1b")]
    rows = [(spec, arch.cost(spec, ctx)) for spec in specs for ctx in (4096, 2**20)]
    made = cost_plots(rows)
    assert [plot.name for plot in made] == ["train-flops", "decode-flops", "cache"]
    assert all("convention exact" in plot.subtitle for plot in made)
    _, svg, _ = save(draw(made[2]), tmp_path / "cost")
    assert {"transformer", "inter 2+11", "4k", "1m"} <= set(texts(svg))
    with pytest.raises(ValueError, match="give rows of one convention"):
        cost_plots([*rows, (specs[0], arch.cost(specs[0], 4096, convention=Convention.PAPER))])


def test_definitions_hold_their_data_and_reach_for_nothing(decode_records: list[Record]) -> None:
    for plot in plots(decode_records).values():
        text = json.dumps({**draw(plot), "$schema": ""})
        assert "http" not in text
        assert '"url"' not in text


def test_a_folder_that_is_not_there_is_a_sentence(decode_records: list[Record], tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"cannot take a chart.*--out"):
        save(draw(plots(decode_records)["flops"]), tmp_path / "nowhere" / "chart")
