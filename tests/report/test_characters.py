"""Plots in characters: every value at its height, letters that tell series apart, nothing wider than asked."""

from __future__ import annotations

import io
from collections.abc import Callable

import pytest
from rich.console import Console

from hybridbench.record import Record
from hybridbench.report.groups import group_records
from hybridbench.report.plots import metric_plot
from hybridbench.report.render.characters import draw


def drawn(records: list[Record], metric: str = "tokens_per_s", width: int = 80, *, color: bool = False) -> str:
    out = io.StringIO()
    console = Console(file=out, width=width, force_terminal=color, color_system="standard" if color else None)
    for group in group_records(records):
        console.print(draw(metric_plot(group, metric), width))
    return out.getvalue()


def test_every_series_has_a_letter_at_its_height(decode_records: list[Record]) -> None:
    mamba = [record for record in decode_records if record.case.model.arch in ("transformer", "mamba")]
    lines = drawn(mamba).splitlines()
    assert lines[0].startswith("Throughput, decode: NVIDIA H200")
    legend = next(line for line in lines if "t transformer" in line)
    assert "m mamba" in legend
    frame = [line for line in lines if "┤" in line or "│" in line]
    heights = {letter: [at for at, line in enumerate(frame) if letter in line] for letter in "tm"}
    assert max(heights["m"]) - min(heights["m"]) <= 1  # its speed does not depend on the context
    assert len(heights["t"]) >= 3
    assert min(heights["t"]) >= max(heights["m"])
    assert [word for word in lines[-4].split() if word.endswith("k")] == ["4k", "8k", "16k", "32k"]


def test_ticks_enclose_the_values(decode_records: list[Record]) -> None:
    from hybridbench.metrics import value

    most = max(value(record, "tokens_per_s") or 0 for record in decode_records)
    lines = drawn(decode_records).splitlines()
    ticks = [float(line.partition("┤")[0].replace(",", "")) for line in lines if "┤" in line]
    assert ticks[-1] == 0
    assert ticks[1] < most <= ticks[0]


def test_failures_are_words_below(decode_records: list[Record]) -> None:
    shown = drawn(decode_records)
    assert "oom: swa 3+13 at 32k" in shown
    assert "unsupported: intra 2+11 at 16k, intra 2+11 at 32k" in shown


def test_one_context_gives_bars_in_proportion(decode_records: list[Record]) -> None:
    at_4k = [record for record in decode_records if record.case.workload.context == 4096]
    bars = {line.split("  ")[0].strip(): line.count("█") for line in drawn(at_4k).splitlines() if "█" in line}
    assert set(bars) == {"transformer", "swa 3+13", "mamba", "inter 2+11", "intra 2+11"}
    from hybridbench.metrics import value

    speeds = {record.case.model.label: value(record, "tokens_per_s") or 0 for record in at_4k}
    longest = max(bars.values())
    for name, speed in speeds.items():
        assert bars[name] == pytest.approx(longest * speed / max(speeds.values()), abs=1)


@pytest.mark.parametrize("width", [60, 80, 200])
def test_nothing_is_wider_than_the_terminal(decode_records: list[Record], width: int) -> None:
    for color in (False, True):
        for line in drawn(decode_records, width=width).splitlines():
            assert len(line) <= width, line
        assert ("\x1b[" in drawn(decode_records, color=color)) is color


def test_values_far_apart_stand_on_a_logarithmic_axis(record_of: Callable[..., Record]) -> None:
    from hybridbench.suite.sweep import Sweep, cases

    made = [
        record_of(case, 0.0001 * 10**at)
        for at, case in enumerate(cases(Sweep("decode", arch="transformer", ctx="4k,8k,16k"), has_gpu=True))
    ]
    lines = drawn(made).splitlines()
    at = [number for number, line in enumerate(lines) if "t" in line.partition("│")[2] or "t" in line.partition("┤")[2]]
    assert len(at) == 3
    assert at[1] - at[0] == pytest.approx(at[2] - at[1], abs=1)  # a factor of ten each


def test_a_metric_without_values_says_so(decode_records: list[Record]) -> None:
    assert "no case has a value" in drawn(decode_records, "loss")
