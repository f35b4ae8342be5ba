"""progress: a bar with an estimate of the time left while predictions of many rows are computed.

A few rows take no time, so the bar appears after ``SHOWN_AFTER_S``, and only on a terminal: a log needs no line for
each row. The estimate of the time left is that of measured cases.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

from rich.console import Console

from hybridbench.units import format_seconds

if TYPE_CHECKING:
    from rich.progress import Progress

Item = TypeVar("Item")
Made = TypeVar("Made")

SHOWN_AFTER_S = 2.0
_REDRAWN_AFTER_S = 0.25


def time_left(done: int, total: int, busy_s: float, elapsed_s: float, first: tuple[int, float] = (0, 0.0)) -> str:
    """The estimated time of what is left, in words: the mean time of what is done, times the number left.

    Args:
        busy_s: seconds until the latest of ``done`` had ended.
        elapsed_s: seconds until now.
        first: how many are the first of their process, which starts and compiles before them, and the seconds until
            they had ended. They are left out of the mean once the others took half as long.

    >>> time_left(1, 3, 10.0, 12.0), time_left(0, 3, 0.0, 5.0), time_left(3, 3, 30.0, 30.0)
    ('about 18.0 s left', 'time left unknown', 'took 30.0 s')
    >>> time_left(3, 5, 16.0, 16.0, (1, 10.0))
    'about 6.00 s left'
    """
    if done >= total:
        return f"took {format_seconds(busy_s)}"
    if not done:
        return "time left unknown"
    firsts, first_s = first
    others_s = busy_s - first_s
    mean_s = others_s / (done - firsts) if done > firsts and 2 * others_s >= first_s else busy_s / done
    left = busy_s + mean_s * (total - done) - elapsed_s
    return f"about {format_seconds(left)} left" if left > 0 else "longer than estimated"


def computed(
    make: Callable[[Item], Made],
    items: Sequence[Item],
    what: str,
    console: Console,
    now: Callable[[], float] = time.monotonic,
) -> list[Made]:
    """What a function makes of each item, with a bar on the console from ``SHOWN_AFTER_S`` on.

    Args:
        what: what an item is, in the plural.
        console: where the bar is shown, if it is a terminal: stderr, so that stdout stays free for results.
        now: a monotonic clock, in seconds.
    """
    if not console.is_terminal:
        return list(map(make, items))
    made: list[Made] = []
    bar: Progress | None = None
    begun = drawn = now()
    try:
        for item in items:
            made.append(make(item))
            at = now()
            if at - begun >= SHOWN_AFTER_S and at - drawn >= _REDRAWN_AFTER_S:
                drawn, bar = at, bar or _bar(what, len(items), console)
                left = time_left(len(made), len(items), at - begun, at - begun)
                bar.update(bar.task_ids[0], completed=len(made), left=left)
                bar.start()
                bar.refresh()
    finally:
        if bar is not None:
            bar.stop()
    return made


def _bar(what: str, total: int, console: Console) -> Progress:
    """A bar that is drawn when it is refreshed, and that leaves nothing behind."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn  # 0.1 s that few commands need

    bar = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TextColumn("{task.fields[left]}", markup=False),
        console=console,
        transient=True,
        auto_refresh=False,
    )
    bar.add_task(what, total=total, left="")
    return bar
