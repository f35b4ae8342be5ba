"""attribution: where the time went by which a change is slower: a kernel, the gaps, the clocks or a tuning choice.

Of each side there are several traces of the same step. A kernel's time is its median over them. The first cause is the
one that added most, less the standard error of what it added. What the sides differ by is divided so that the parts
add up:

- Kernels are matched by name. Those that are left are matched by their place: what stands after the same kernel on both
  sides is the same work, though it was renamed or split. What stands there on one side only was added or removed.
- Of a kernel's added time, as much belongs to the clocks as a lower clock explains. Where the clock is unknown, four or
  more kernels that all became slower by one factor tell it.
- A kernel whose tuner chose differently is a tuning choice; what is left of its added time is the kernel's own.
- The time in which no kernel runs is the gaps' own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from statistics import median
from typing import Any

from hybridbench.units import format_seconds

CLOCK_MOVED = 0.005
"""A clock that is lower by less is the same."""
ALIKE = 4
"""So many kernels that slow down together tell a lower clock."""
LARGE = 0.01
"""Share of a step from which a kernel tells anything about clocks."""
BEYOND = 2.0
"""Standard errors by which an added time must exceed zero to be sure."""
ALL = 0.5
"""Share of a slowdown below which traces do not show it."""


class What(StrEnum):
    """What an added time belongs to."""

    KERNEL = "kernel"
    GAPS = "gaps"
    CLOCKS = "clocks"
    TUNING = "tuning"


@dataclass(frozen=True, slots=True)
class RanKernel:
    """A kernel, or on a CPU an operator, in one step.

    Args:
        launches: how often.
        seconds: the time that belongs to it, of all launches.
    """

    name: str
    launches: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Traced:
    """One trace of a step.

    Args:
        kernels: in the order in which they first ran.
        gap_s: time in which none ran; seconds.
        clock_hz: of the multiprocessors; None where it is unknown.
        tuning: what autotuners chose, by kernel.
    """

    kernels: tuple[RanKernel, ...]
    gap_s: float
    clock_hz: float | None = None
    tuning: Mapping[str, str] = field(default_factory=dict)


def traced_of(said: Mapping[str, Any]) -> Traced:
    """A trace as a side's program tells it."""
    kernels = tuple(
        RanKernel(str(name), float(launches), float(seconds)) for name, launches, seconds in said["kernels"]
    )
    return Traced(kernels, float(said["gap_s"]), said["clock_hz"], said["tuning"])


@dataclass(frozen=True, slots=True)
class Cause:
    """A part of what the sides differ by.

    Args:
        what: what it belongs to.
        name: the kernels of the change, or of the base where they are gone; empty for gaps and clocks.
        base_s, head_s: time in a step of each side; seconds.
        added_s: the part that belongs to this cause; below zero where the change is faster.
        error_s: the standard error of ``added_s``, from how much traces of one side differ; seconds.
        sentence: what happened.
    """

    what: What
    name: str
    base_s: float
    head_s: float
    added_s: float
    error_s: float
    sentence: str

    @property
    def sure(self) -> bool:
        """Whether the added time is more than noise."""
        return abs(self.added_s) > BEYOND * self.error_s

    @property
    def least_s(self) -> float:
        """The added time less its standard error; seconds."""
        return self.added_s - self.error_s


@dataclass(frozen=True, slots=True)
class Why:
    """What a slowdown is made of.

    Args:
        causes: what added most first.
        base_s, head_s: a traced step of each side; seconds. It is longer than one that nothing watches.
    """

    causes: tuple[Cause, ...]
    base_s: float
    head_s: float

    @property
    def added_s(self) -> float:
        """What a traced step of the change takes longer; seconds."""
        return self.head_s - self.base_s

    def sentence(self, change: float | None = None) -> str:
        """The first cause, with its share of all that was added.

        Args:
            change: the slowdown of the step as it was timed, a fraction; traces that show less than half are told.
        """
        if not self.causes or self.causes[0].least_s <= 0:
            return "Traces of both sides do not differ by more than their noise."
        first = self.causes[0]
        added = sum(one.added_s for one in self.causes if one.least_s > 0)
        said = f"{first.sentence}, {first.added_s / added:.0%} of the time that traces show as added"
        said += "." if first.sure else ", hardly more than their noise."
        if change is not None and self.base_s and self.added_s < ALL * change * self.base_s:
            said += f" Traced steps differ by {self.added_s / self.base_s:+.1%} only, so it may not be all."
        return said


@dataclass(frozen=True, slots=True)
class _Part:
    """A kernel or several that stand for each other: time of each side, launches and noise."""

    base: tuple[RanKernel, ...]
    head: tuple[RanKernel, ...]
    spread_s: float

    @property
    def base_s(self) -> float:
        return sum(one.seconds for one in self.base)

    @property
    def head_s(self) -> float:
        return sum(one.seconds for one in self.head)

    @property
    def name(self) -> str:
        return " + ".join(one.name for one in self.head or self.base)


def attribute(base: Sequence[Traced], head: Sequence[Traced]) -> Why:
    """What the change's step takes longer, divided.

    Args:
        base, head: traces of the same step, one or more of each side.

    Raises:
        ValueError: a side without traces.
    """
    if not base or not head:
        raise ValueError("an attribution of no traces")
    ours, theirs = _typical(head), _typical(base)
    parts = _matched(theirs, ours, _spreads(base, head))
    slower = _clock_factor(theirs, ours, parts)
    causes = []
    by_clocks = 0.0
    for part in parts:
        added = part.head_s - part.base_s
        clocks = min(max(added, 0.0), part.base_s * (slower - 1)) if part.base else 0.0
        by_clocks += clocks
        causes.append(_of_part(part, added - clocks, _retuned(part, theirs.tuning, ours.tuning)))
    gap_spread = _spread([one.gap_s for one in base], [one.gap_s for one in head])
    causes.append(_of_gaps(theirs.gap_s, ours.gap_s, gap_spread))
    if by_clocks:
        causes.append(_of_clocks(theirs, ours, slower, by_clocks))
    base_s, head_s = (sum(one.seconds for one in side.kernels) + side.gap_s for side in (theirs, ours))
    order = sorted(causes, key=lambda one: -one.least_s)
    return Why(tuple(one for one in order if one.added_s), base_s, head_s)


def _typical(traces: Sequence[Traced]) -> Traced:
    """Medians of several traces; a kernel that one of them lacks took no time there."""
    names = dict.fromkeys(one.name for trace in traces for one in trace.kernels)
    rows = [{one.name: one for one in trace.kernels} for trace in traces]

    def middle(name: str) -> RanKernel:
        seen = [row.get(name, RanKernel(name, 0, 0.0)) for row in rows]
        return RanKernel(name, median(one.launches for one in seen), median(one.seconds for one in seen))

    clocks = [one.clock_hz for one in traces if one.clock_hz]
    kernels = tuple(one for one in map(middle, names) if one.launches or one.seconds)
    return Traced(kernels, median(one.gap_s for one in traces), median(clocks) if clocks else None, traces[-1].tuning)


def _spreads(base: Sequence[Traced], head: Sequence[Traced]) -> dict[str, float]:
    """By how much each kernel's time differs between traces of one side; seconds."""
    found: dict[str, list[list[float]]] = {}
    for side, traces in enumerate((base, head)):
        for trace in traces:
            for one in trace.kernels:
                found.setdefault(one.name, [[], []])[side].append(one.seconds)
    return {name: _spread(*sides) for name, sides in found.items()}


def _spread(*sides: Sequence[float]) -> float:
    """The standard error of a difference of medians, from median absolute deviations; 0 from single traces."""
    total = 0.0
    for values in sides:
        if len(values) > 1:
            middle = median(values)
            total += (1.4826 * 1.2533 * median(abs(one - middle) for one in values)) ** 2 / len(values)
    return float(total**0.5)


def _matched(base: Traced, head: Traced, spreads: Mapping[str, float]) -> list[_Part]:
    """Kernels of both sides that stand for each other."""
    ours, theirs = ({one.name: one for one in side.kernels} for side in (head, base))
    parts = [_Part((theirs[name],), (ours[name],), spreads[name]) for name in ours if name in theirs]
    left, right = (_by_place(side.kernels, ours.keys() & theirs.keys()) for side in (base, head))
    if len(left) == len(right) == 1:  # what moved and was renamed
        right = dict(zip(left, right.values(), strict=True))
    for place in dict.fromkeys((*left, *right)):
        was, now = left.get(place, []), right.get(place, [])
        pairs = [([a], [b]) for a, b in zip(was, now, strict=True)] if len(was) == len(now) else [(was, now)]
        for a, b in pairs:
            parts.append(_Part(tuple(a), tuple(b), sum(spreads[one.name] ** 2 for one in (*a, *b)) ** 0.5))
    return parts


def _by_place(kernels: Iterable[RanKernel], common: Iterable[str]) -> dict[str, list[RanKernel]]:
    """The kernels that only one side has, by the last one before them that both have."""
    known, place = set(common), ""
    found: dict[str, list[RanKernel]] = {}
    for one in kernels:
        if one.name in known:
            place = one.name
        else:
            found.setdefault(place, []).append(one)
    return found


def _clock_factor(base: Traced, head: Traced, parts: Sequence[_Part]) -> float:
    """How much longer a kernel that waits for clocks only takes on the change; 1 where the clocks are alike."""
    if base.clock_hz and head.clock_hz:
        factor = base.clock_hz / head.clock_hz
        return factor if factor > 1 + CLOCK_MOVED else 1.0
    whole = sum(part.base_s for part in parts)
    ratios = [
        part.head_s / part.base_s
        for part in parts
        if part.base and part.head and part.base_s > LARGE * whole and _launches(part.base) == _launches(part.head)
    ]
    if len(ratios) < ALIKE:
        return 1.0
    factor = sorted(ratios)[len(ratios) // 4]  # three of four are slower by as much or more
    return factor if factor > 1 + CLOCK_MOVED else 1.0


def _launches(kernels: Iterable[RanKernel]) -> float:
    return sum(one.launches for one in kernels)


def _retuned(part: _Part, base: Mapping[str, str], head: Mapping[str, str]) -> tuple[str, str] | None:
    """What the tuner of a part's kernel chose on the base and on the change, where that differs."""
    for name in (one.name for one in part.head):
        here, there = head.get(name), base.get(name)
        if here is not None and there is not None and here != there:
            return there, here
    return None


def _of_part(part: _Part, added_s: float, retuned: tuple[str, str] | None) -> Cause:
    how = "longer" if added_s >= 0 else "less"
    times = f"{format_seconds(part.base_s)} before, {format_seconds(part.head_s)} now"
    if not part.head:
        said = f"{part.name} is gone ({format_seconds(part.base_s)})"
    elif not part.base:
        said = f"{part.name} was added ({format_seconds(part.head_s)}, launches: {_launches(part.head):g})"
    elif retuned is not None:
        said = f"{part.name} runs as '{retuned[1]}', where the base runs '{retuned[0]}' ({times})"
    elif part.name != (before := " + ".join(one.name for one in part.base)):
        said = f"{part.name}, in the place of {before}, takes {format_seconds(abs(added_s))} {how} ({times})"
    else:
        more = ""
        if _launches(part.head) != _launches(part.base):
            more = f"; launches: {_launches(part.base):g} before, {_launches(part.head):g} now"
        said = f"{part.name} takes {format_seconds(abs(added_s))} {how} ({times}{more})"
    what = What.TUNING if retuned is not None else What.KERNEL
    return Cause(what, part.name, part.base_s, part.head_s, added_s, part.spread_s, said)


def _of_gaps(base_s: float, head_s: float, spread_s: float) -> Cause:
    added = head_s - base_s
    said = f"nothing runs for {format_seconds(base_s)} of a step before, {format_seconds(head_s)} now"
    return Cause(What.GAPS, "", base_s, head_s, added, spread_s, said)


def _of_clocks(base: Traced, head: Traced, factor: float, added_s: float) -> Cause:
    if base.clock_hz and head.clock_hz:
        said = f"the clock was {base.clock_hz / 1e9:.3f} GHz before and is {head.clock_hz / 1e9:.3f} GHz now"
    else:
        said = f"kernels take {factor - 1:.1%} longer alike, as with a lower clock"
    base_s, head_s = (sum(one.seconds for one in side.kernels) for side in (base, head))
    return Cause(What.CLOCKS, "", base_s, head_s, added_s, 0.0, said)
