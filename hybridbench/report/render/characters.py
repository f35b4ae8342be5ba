"""characters: a plot drawn with the characters of a terminal, by plotext.

A series is a line in a colour with a letter at every place, so that it can be told without colours too; the legend is
below. Places are spaced by powers of two. Values whose largest is ten times the smallest are spaced by powers of ten.
"""

from __future__ import annotations

import itertools
import math
import string
from collections.abc import Mapping, Sequence

import plotext
from rich.console import Group as Lines
from rich.console import RenderableType
from rich.text import Text

from hybridbench.report.chart import MEASURED, Kin, Plot
from hybridbench.report.display import ShownUnit, unit_for
from hybridbench.report.places import place_text

HEIGHT = 18
_MOST_WIDE = 100
_TICKS = 5
_APART = 10.0
"""The largest over the smallest value from which on the axis is logarithmic."""
_FAMILY_COLORS = {"transformer": "blue", "swa": "cyan", "mamba": "green", "inter": "red", "intra": "magenta"}
_OTHER_COLORS = ("yellow", "white", "blue+", "green+", "red+")
_RICH = {"blue+": "bright_blue", "green+": "bright_green", "red+": "bright_red"}


def draw(plot: Plot, width: int) -> RenderableType:
    """A plot as lines of text for a terminal ``width`` characters wide: lines over several places, bars over one."""
    title = Text(f"{plot.title}: {plot.subtitle}", style="bold")
    if not plot.points:
        return Lines(title, Text("no case has a value"), *_failures(plot))
    measured = [point.amount for point in plot.points if point.kind == MEASURED]
    shown = unit_for(measured or [point.amount for point in plot.points], plot.unit)
    letters, colors = _letters(plot.models), _colors(plot.models)
    several = len({point.place for point in plot.points}) > 1
    body = _lines(plot, shown, letters, colors, width) if several else _bars(plot, shown, colors, width)
    return Lines(title, Text(shown.heading(plot.quantity)), *body, *_failures(plot), Text())


def _lines(
    plot: Plot, shown: ShownUnit, letters: Mapping[str, str], colors: Mapping[str, str], width: int
) -> list[Text]:
    places = sorted({point.place for point in plot.points})
    amounts = [point.amount / shown.size for point in plot.points]
    logarithmic = min(amounts) > 0 and max(amounts) >= _APART * min(amounts)
    at = math.log10 if logarithmic else float
    ticks = _powers(min(amounts), max(amounts)) if logarithmic else _round_ticks(max(amounts))
    plotext.clear_figure()
    plotext.limit_size(False, False)
    plotext.theme("clear")
    plotext.plot_size(min(width, _MOST_WIDE), HEIGHT)
    for name, kind in itertools.product(plot.models, reversed(plot.kinds)):
        found = sorted(
            (p.place, p.amount / shown.size) for p in plot.points if (p.series, p.kind) == (name, _of(plot, kind))
        )
        if not found:
            continue
        xs, ys = [math.log2(place) for place, _ in found], [at(amount) for _, amount in found]
        if _of(plot, kind) == MEASURED:
            plotext.plot(xs, ys, marker="braille", color=colors[name])
            plotext.scatter(xs, ys, marker=letters[name], color=colors[name])
        else:
            plotext.plot(xs, ys, marker=".", color=colors[name])
    plotext.xticks([math.log2(place) for place in places], [_place(plot, place) for place in places])
    plotext.yticks([at(tick) for tick in ticks], [f"{tick:,.10g}" for tick in ticks])
    plotext.ylim(at(min(*ticks, *amounts)), at(max(*ticks, *amounts)))
    plotext.xlabel(plot.axis)
    drawn = Text.from_ansi(plotext.build())
    plotext.clear_figure()
    drawn.rstrip()
    legend = Text("  ").join(
        Text(f"{letters[name]} {name}", style=_RICH.get(colors[name], colors[name])) for name in plot.models
    )
    if any(point.kind != MEASURED for point in plot.points):
        legend.append(f"   dots: {plot.kinds[1]}")
    return [drawn, legend]


def _of(plot: Plot, kind: str) -> str:
    """The kind of the points that a plot calls ``kind``."""
    return MEASURED if kind == plot.kinds[0] else "predicted"


def _bars(plot: Plot, shown: ShownUnit, colors: Mapping[str, str], width: int) -> list[Text]:
    points = [point for point in plot.points if point.kind == MEASURED] or plot.points
    names = max(len(point.series) for point in points)
    texts = [shown.show(point.amount) for point in points]
    room = max(10, min(width, _MOST_WIDE) - names - max(map(len, texts)) - 4)
    most = max(point.amount for point in points)
    made = []
    for point, text in zip(points, texts, strict=True):
        line = Text(f"{point.series:<{names}}  ")
        line.append(
            "█" * max(1, round(room * point.amount / most)), style=_RICH.get(colors[point.series], colors[point.series])
        )
        made.append(line.append(f" {text}"))
    return [Text(f"{plot.axis} {_place(plot, points[0].place)}"), *made]


def _failures(plot: Plot) -> list[Text]:
    words: dict[str, list[str]] = {}
    for failure in plot.failures:
        words.setdefault(failure.word, []).append(f"{failure.series} at {_place(plot, failure.place)}")
    return [Text(f"{word}: {', '.join(cases)}") for word, cases in words.items()]


def _place(plot: Plot, place: int) -> str:
    return place_text(plot.axis, place)


def _letters(models: Mapping[str, Kin]) -> dict[str, str]:
    """A letter for each series: the first of its name that no other has, else any that is left."""
    taken: dict[str, str] = {}
    for name in models:
        wanted = [one for one in f"{name.lower()}{string.ascii_lowercase}{string.ascii_uppercase}" if one.isalpha()]
        taken[name] = next((one for one in wanted if one.isascii() and one not in taken.values()), "*")
    return taken


def _colors(models: Mapping[str, Kin]) -> dict[str, str]:
    """A colour for each series: its family's own for the family's first, another for the others."""
    others, seen = itertools.cycle(_OTHER_COLORS), set[str]()
    found = {}
    for name, model in models.items():
        own = model.arch in _FAMILY_COLORS and model.arch not in seen
        found[name] = _FAMILY_COLORS[model.arch] if own else next(others)
        seen.add(model.arch)
    return found


def _round_ticks(most: float) -> list[float]:
    """Round values from 0 to at least ``most``.

    >>> _round_ticks(4704)
    [0.0, 1000.0, 2000.0, 3000.0, 4000.0, 5000.0]
    """
    rough = most / _TICKS
    power = 10.0 ** math.floor(math.log10(rough)) if rough > 0 else 1.0
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough * 0.999)
    return [round(step * number, 12) for number in range(math.ceil(most / step - 1e-9) + 1)]


def _powers(least: float, most: float) -> Sequence[float]:
    """The values 1, 2 and 5 times a power of ten that enclose two values.

    >>> _powers(3.0, 40.0)
    [2.0, 5.0, 10.0, 20.0, 50.0]
    """
    low, high = math.floor(math.log10(least)), math.ceil(math.log10(most))
    whole = [10.0**power for power in range(low, high + 1)]
    close = math.log10(most / least) < 2.5
    fine = [factor * one for one in whole for factor in (1, 2, 5)] if close else whole
    below = max((one for one in fine if one <= least * 1.0000001), default=fine[0])
    above = min((one for one in fine if one >= most * 0.9999999), default=fine[-1])
    return [round(one, 12) for one in fine if below <= one <= above]
