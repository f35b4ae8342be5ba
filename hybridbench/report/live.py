"""live: progress while a sweep runs: the current case, the results so far, and an estimate of the time left.

On a terminal, a table grows above a progress bar. Elsewhere each finished case is one line, so that a log stays
readable. The estimate is the mean time of the finished cases times the number of cases left, without the first of each
process, which waits for imports and compilation. It is good only if the cases are alike, and there is none before the
first case has finished.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn
from rich.table import Table
from rich.text import Text

from hybridbench.derive.doubts import problems
from hybridbench.metrics import value
from hybridbench.record import Record, Status
from hybridbench.report.measured import INVALID
from hybridbench.report.progress import time_left
from hybridbench.report.render.terminal import verdict_style
from hybridbench.units import format_number, format_seconds

_TABLE_ROWS = 15


class _Named(Protocol):
    @property
    def label(self) -> str: ...


@dataclass(frozen=True)
class Shown:
    """How finished cases of a kind are shown.

    Args:
        headings: of two numbers.
        row: the label of a record's case, the two numbers and the verdict, as shown.
        said: the two numbers in words.
    """

    headings: tuple[str, str]
    row: Callable[[Any], tuple[str, str, str, str]]
    said: str


class LiveSweep:
    """Context manager that shows a sweep's progress while it runs.

    Args:
        total: the number of cases in the sweep.
        console: where to show it: stderr, so that stdout stays free for results.
        now: a monotonic clock, in seconds.
        shown: how a finished case is shown; None is that of a whole model's.
    """

    def __init__(
        self, total: int, console: Console, now: Callable[[], float] = time.monotonic, shown: Shown | None = None
    ) -> None:
        self._total = total
        self._shown = shown or Shown(("tokens/s", "step"), _row, "{} tokens/s, {} a step")
        self._console = console
        self._now = now
        self._begun = now()
        self._busy_s = 0.0
        self._done = 0
        self._begun_cases = 0
        self._first: tuple[int, float] | None = None
        self._rows: list[tuple[str, str, str, str]] = []
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TextColumn("{task.fields[left]}", markup=False),
            console=console,
        )
        self._task = self._progress.add_task("starting", total=total, left="")
        self._live = Live(
            console=console, get_renderable=self.shown, refresh_per_second=4, transient=True, redirect_stdout=False
        )

    def __enter__(self) -> LiveSweep:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live.is_started:
            self._live.stop()

    def started(self, case: _Named) -> None:
        """Show that a case begins."""
        self._begun_cases += 1
        self._progress.update(self._task, description=case.label)

    def phase(self, case: _Named, name: str) -> None:
        """Show what a case is at."""
        self._progress.update(self._task, description=f"{case.label}: {name}")

    def finished(self, record: Any) -> None:
        """Show the result of a case, whether it ended ok or not."""
        self._done += 1
        self._busy_s = self._now() - self._begun
        firsts = max(1, self._begun_cases) if self._first is None else self._first[0]
        if self._done <= firsts:
            self._first = firsts, self._busy_s
        row = self._shown.row(record)
        self._rows.append(row)
        self._progress.update(self._task, completed=self._done)
        if not self._live.is_started:
            label, rate, step, verdict = row
            line = f"{self._done}/{self._total} {label}: {verdict}"
            if record.status is Status.OK:
                line += f", {self._shown.said.format(rate, step)}"
            elif record.message:
                line += f", {' '.join(record.message.split())}"
            self._console.print(Text(f"{line} ({self.left()})"), soft_wrap=True)

    def left(self) -> str:
        """The estimated time of the remaining cases, in words."""
        return time_left(self._done, self._total, self._busy_s, self._now() - self._begun, self._first or (0, 0.0))

    def shown(self) -> RenderableType:
        """The current display of a terminal: the latest finished cases and the bar."""
        table = Table(box=None, pad_edge=False)
        table.add_column("case", no_wrap=True)
        for heading in self._shown.headings:
            table.add_column(heading, justify="right")
        table.add_column("status")
        # Only the latest rows: a live display that is taller than the screen cannot be redrawn.
        for label, rate, step, verdict in self._rows[-_TABLE_ROWS:]:
            table.add_row(Text(label), rate, step, Text(verdict, style=verdict_style(verdict)))
        self._progress.update(self._task, left=self.left())
        return Group(table, self._progress) if self._rows else self._progress


def _row(record: Record) -> tuple[str, str, str, str]:
    """Label, throughput, step and verdict of a finished case, as shown."""
    verdict = INVALID if problems(record) else record.status.value.replace("_", " ")
    if record.status is not Status.OK:
        return record.case.label, "-", "-", verdict
    return (
        record.case.label,
        format_number(value(record, "tokens_per_s")),
        format_seconds(value(record, "step_s")),
        verdict,
    )
