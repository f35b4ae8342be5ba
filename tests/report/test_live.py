"""Progress on a scripted clock: a line per case in a log, a table and an honest estimate on a terminal."""

from __future__ import annotations

import io
from collections.abc import Callable

import pytest
from rich.console import Console

from hybridbench.record import Record, Status
from hybridbench.report.live import LiveSweep
from hybridbench.report.progress import computed
from hybridbench.suite.sweep import Sweep, cases

Make = Callable[..., Record]


class Clock:
    def __init__(self) -> None:
        self.time = 100.0

    def __call__(self) -> float:
        return self.time


def test_a_log_has_one_line_per_finished_case(record_of: Make) -> None:
    fine, failed, fast = cases(Sweep("decode", arch="transformer", ctx="4k,8k,16k"), has_gpu=True)
    clock, out = Clock(), io.StringIO()
    with LiveSweep(3, Console(file=out, width=40), clock) as live:
        for case, record in (
            (fine, record_of(fine, 0.002)),
            (failed, record_of(failed, status=Status.TIMED_OUT, message="no answer\nin 600 s")),
            (fast, record_of(fast, 0.0001)),
        ):
            live.started(case)
            clock.time += 10
            live.finished(record)
    assert out.getvalue().splitlines() == [
        "1/3 decode transformer 1b ctx 4k b4: ok, 2,000 tokens/s, 2.00 ms a step (about 20.0 s left)",
        "2/3 decode transformer 1b ctx 8k b4: timed out, no answer in 600 s (about 10.0 s left)",
        "3/3 decode transformer 1b ctx 16k b4: invalid, 40,000 tokens/s, 100 us a step (took 30.0 s)",
    ]


def test_the_estimate_counts_down_within_a_case_and_is_not_made_up(record_of: Make) -> None:
    (case,) = cases(Sweep("decode", arch="transformer", ctx="4k"), has_gpu=True)
    clock = Clock()
    live = LiveSweep(4, Console(file=io.StringIO()), clock)
    assert live.left() == "time left unknown"
    clock.time += 8
    live.finished(record_of(case))
    assert live.left() == "about 24.0 s left"
    clock.time += 3
    assert live.left() == "about 21.0 s left"
    clock.time += 100
    assert live.left() == "longer than estimated"


TOOK_S = [16.5, 8.1, 7.8, 3.5, 5.8, 2.7, 2.6, 2.0, 1.9, 2.7, 2.2, 2.1, 1.9, 1.9, 3.4, 1.8, 1.8, 1.9, 3.6, 1.8]
"""Of quickstart's cases on an H200."""


def test_the_first_case_of_a_process_is_no_measure_of_the_others(record_of: Make) -> None:
    (case,) = cases(Sweep("decode", arch="transformer", ctx="4k"), has_gpu=True)
    clock = Clock()
    live = LiveSweep(len(TOOK_S), Console(file=io.StringIO()), clock)
    ratios = []
    for number, took_s in enumerate(TOOK_S[:-1], start=1):
        live.started(case)
        clock.time += took_s
        live.finished(record_of(case))
        said = live.left().split()
        ratios.append(float(said[1]) * {"s": 1, "min": 60}[said[2]] / sum(TOOK_S[number:]))
    assert max(ratios[2:]) < 3.2, "with the first it is 4.2: training comes first, and takes longest"
    assert ratios[-1] < 2.0


def test_the_first_cases_of_several_processes_end_together(record_of: Make) -> None:
    (case,) = cases(Sweep("decode", arch="transformer", ctx="4k"), has_gpu=True)
    clock = Clock()
    live = LiveSweep(12, Console(file=io.StringIO()), clock)
    for _ in range(4):
        live.started(case)
    for round_s in (20, 10):
        clock.time += round_s
        for _ in range(4):
            live.finished(record_of(case))
            live.started(case)
    assert live.left() == "about 10.0 s left"


def test_a_terminal_shows_the_table_and_the_bar(record_of: Make) -> None:
    made = cases(Sweep("decode", ctx="4k..128k"), has_gpu=True)
    out = io.StringIO()
    console = Console(file=out, width=100, force_terminal=True, color_system="standard")
    with LiveSweep(len(made), console, Clock()) as live:
        for case in made[:20]:
            live.started(case)
            live.finished(record_of(case, 0.01))
        live.started(made[20])
        console.print(live.shown())
    text = out.getvalue()
    assert "20/30" in text
    assert made[20].label in text
    assert made[19].label in text
    assert "\x1b[32mok" in text
    assert out.getvalue().endswith("\x1b[2K") or "\x1b[?25h" in text


def test_a_failure_inside_leaves_the_terminal_as_it_was() -> None:
    out = io.StringIO()
    console = Console(file=out, width=100, force_terminal=True)
    try:
        with LiveSweep(1, console):
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass
    assert out.getvalue().count("\x1b[?25l") == out.getvalue().count("\x1b[?25h") == 1


def _slowly(clock: Clock, console: Console, seconds: float, stop_at: int = 99) -> list[int]:
    def make(item: int) -> int:
        if item == stop_at:
            raise KeyboardInterrupt
        clock.time += seconds
        return 2 * item

    return computed(make, range(10), "rows", console, clock)


def test_predictions_show_a_bar_with_an_estimate_after_two_seconds() -> None:
    out = io.StringIO()
    assert _slowly(Clock(), Console(file=out, width=80, force_terminal=True), 1) == list(range(0, 20, 2))
    shown = out.getvalue()
    assert "2/10" in shown
    assert "about 8.00 s left" in shown
    assert " 1/10" not in shown, "the bar came before two seconds had passed"
    assert "about 1.00 s left" in shown
    assert shown.endswith("\x1b[2K"), "the bar stays on the screen"


def test_predictions_of_a_moment_and_those_in_a_log_show_nothing() -> None:
    for terminal, seconds in ((True, 0.19), (False, 60)):
        out = io.StringIO()
        assert len(_slowly(Clock(), Console(file=out, force_terminal=terminal), seconds)) == 10
        assert not out.getvalue()


def test_ctrl_c_takes_the_bar_away() -> None:
    out = io.StringIO()
    with pytest.raises(KeyboardInterrupt):
        _slowly(Clock(), Console(file=out, width=80, force_terminal=True), 1, stop_at=5)
    assert "5/10" in out.getvalue()
    assert out.getvalue().endswith("\x1b[2K")
