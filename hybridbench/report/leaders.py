"""leaders: which model of a group is fastest where, by how much beyond what noise, what sets its floor, and its memory.

    ctx  fastest  times the next        next        throughput [tokens/s]  of floor [%]  floor set by
     4k  mamba    1.052 (1.052..1.052)  inter 2+11                  4,699          70.3  memory bandwidth
    32k  mamba    1.181 (1.181..1.182)  inter 2+11                  4,704          70.3  memory bandwidth

A lead is a ratio of medians. Its interval is the widest that the 95% intervals of both medians allow; where it holds 1,
the two are tied. It knows the noise within a process and not that between processes, which ``compare`` adds.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from hybridbench.derive.doubts import doubts, problems
from hybridbench.derive.floors import floor_set_by
from hybridbench.metrics import METRICS, value
from hybridbench.record import Caveat, Record, Status
from hybridbench.report.display import unit_for
from hybridbench.report.groups import Group
from hybridbench.report.places import CONTEXT
from hybridbench.report.table import NO_VALUE, Column, Table, TableCell
from hybridbench.units import format_number

DENYING = (
    Caveat.UNSTEADY,
    Caveat.FEW_SAMPLES,
    Caveat.SHARED_GPU,
    Caveat.SHARED_CPU,
    Caveat.SHORT_STEP,
    Caveat.RECOMPILED,
)
"""Caveats with which a median is not reproducible, so that no difference between two medians can be claimed."""
_DIGITS = 4
"""Digits of a ratio: a graphed step is known to 0.1%."""
_SHOWN = ("tokens_per_s", "floor_frac", "peak_allocated_bytes")
"""What is told of the fastest."""
SET_BY = {"memory": "memory bandwidth", "compute": "arithmetic"}


@dataclass(frozen=True)
class Lead:
    """How many times as fast one case is as another, by medians, and the least and the most that intervals allow."""

    times: float
    low: float
    high: float

    @property
    def tie(self) -> bool:
        """Whether the range holds 1."""
        return self.low <= 1 <= self.high

    @property
    def words(self) -> str:
        """The ratio with its range."""
        times, low, high = (format_number(one, _DIGITS) for one in (self.times, self.low, self.high))
        return f"{times} ({low}..{high})"


@dataclass(frozen=True)
class Ranking:
    """The believed cases of one context (or batch), the fastest first: the name of each series and its record."""

    at: int
    cases: tuple[tuple[str, Record], ...]

    @property
    def denied(self) -> tuple[str, ...]:
        """The series whose median is not reproducible."""
        return tuple(name for name, record in self.cases if set(doubts(record)) & set(DENYING))

    @property
    def fastest(self) -> tuple[str, ...]:
        """The fastest series, and those that are tied with it."""
        best = self.cases[0][1]
        tied = [name for name, record in self.cases[1:] if (lead := lead_of(best, record)) is None or lead.tie]
        return (self.cases[0][0], *tied)


def believed(group: Group) -> list[Ranking]:
    """The places of a group with the cases that have a speed which nothing contradicts."""
    found: dict[int, list[tuple[str, Record]]] = {}
    for series in group.series:
        for at, record in series.cells.items():
            if record.status is Status.OK and not problems(record):
                found.setdefault(at, []).append((series.name, record))
    return [
        Ranking(at, tuple(sorted(cases, key=lambda case: -(value(case[1], "tokens_per_s") or 0.0))))
        for at, cases in sorted(found.items())
    ]


def lead_of(best: Record, other: Record) -> Lead | None:
    """How many times as fast the first case is; None where a time is unknown."""
    ours = [value(best, name) for name in ("tokens_per_s", "step_s", "step_low_s", "step_high_s")]
    theirs = [value(other, name) for name in ("tokens_per_s", "step_s", "step_low_s", "step_high_s")]
    rate, step, low, high = ours
    slow_rate, slow_step, slow_low, slow_high = theirs
    if not (rate and step and low and high and slow_rate and slow_step and slow_low and slow_high):
        return None
    times = rate / slow_rate
    scale = times / (slow_step / step)  # steps of several batches process different numbers of tokens
    return Lead(times, scale * slow_low / high, scale * slow_high / low)


def changes(group: Group, places: Sequence[Ranking]) -> list[str]:
    """Sentences on which model is fastest along the axis, and where that changes; none for one place alone."""
    rivals = [place for place in places if len(place.cases) > 1]
    claimed = [place for place in rivals if not place.denied]
    if len(rivals) < 2 or not claimed:
        return []
    spans: list[tuple[tuple[str, ...], list[int]]] = []
    for place in claimed:
        if spans and set(spans[-1][0]) == set(place.fastest):
            spans[-1][1].append(place.at)
        else:
            spans.append((place.fastest, [place.at]))
    axis = "context" if group.axis == CONTEXT else "batch"
    among = [place.at for place in rivals]
    if len(spans) == 1 and len(spans[0][0]) == 1 and len(claimed) > 1 and _unbroken(spans[0][1], among):
        sentences = [f"{spans[0][0][0]} is fastest at every {axis} {_span(group, spans[0][1], among)}."]
    else:
        parts = [f"{_tied(names)} {_span(group, at, among)}" for names, at in spans]
        sentences = [f"Fastest by {axis}: {'; '.join(parts)}."]
    unclaimed = [place.at for place in rivals if place.denied]
    if unclaimed:
        sentences.append(
            f"No model is called fastest at {axis} {', '.join(map(group.place_label, unclaimed))}: medians there are "
            "not reproducible."
        )
    return sentences


def _tied(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]} (a tie)"


def _span(group: Group, at: Sequence[int], among: Sequence[int]) -> str:
    """Some places in words: from the first to the last, or each where one of all places in between is not theirs."""
    names = [group.place_label(place) for place in at]
    if len(names) > 1 and _unbroken(at, among):
        return f"from {names[0]} to {names[-1]}"
    return f"at {', '.join(names)}"


def _unbroken(at: Sequence[int], among: Sequence[int]) -> bool:
    return [place for place in among if at[0] <= place <= at[-1]] == list(at)


def limits(cases: Iterable[tuple[str, Record]]) -> list[str]:
    """A sentence on what sets the floors of some cases, and which share of them they reach."""
    shares: dict[str, list[tuple[str, float]]] = {}
    for name, record in cases:
        bound, share = floor_set_by(record), value(record, "floor_frac")
        if bound is not None and share is not None:
            shares.setdefault(SET_BY[bound], []).append((name, 100 * share))
    if not shares:
        return []
    parts = []
    for set_by, reached in shares.items():
        least, most = min(share for _, share in reached), max(share for _, share in reached)
        some = format_number(least) + (f" to {format_number(most)}" if len(reached) > 1 else "")
        who = "all" if len(shares) == 1 and len(reached) > 1 else ", ".join(name for name, _ in reached)
        parts.append(f"{set_by} ({who} {'reach' if len(reached) > 1 else 'reaches'} {some}% of the speed it allows)")
    sentences = [f"What sets the floor there: {'; '.join(parts)}."]
    slow = [name for reached in shares.values() for name, share in reached if share < 50]
    if slow:
        sentences.append(
            f"Less than half of it: {', '.join(slow)}. Launches or slow kernels take the rest; hybridbench trace shows "
            "which."
        )
    else:
        sentences.append("hybridbench trace shows where the rest goes.")
    return sentences


def memory(cases: Sequence[tuple[str, Record]]) -> list[str]:
    """A sentence on the peak of memory of some cases, from the least to the most."""
    peaks = [(name, peak) for name, record in cases if (peak := value(record, "peak_allocated_bytes"))]
    if not peaks:
        return []
    peaks.sort(key=lambda one: one[1])
    shown_in = unit_for([peak for _, peak in peaks], "B")
    ends = [f"{shown_in.show(peak)} {shown_in.label} ({name})" for name, peak in (peaks[0], peaks[-1])]
    return [f"Peak memory there: {' to '.join(ends[: len(peaks)])}."]


def leaders_table(group: Group) -> Table | None:
    """A row per context (or batch) with its fastest model; None where no place has two models to compare.

    Where the group shows several runs side by side there is none: a lead is one within a run.
    """
    places = [place for place in believed(group) if len(place.cases) > 1]
    if not places or len({series.run for series in group.series}) > 1:
        return None
    firsts = [place.cases[0][1] for place in places]
    shown = [name for name in _SHOWN if any(value(record, name) is not None for record in firsts)]
    units = {name: unit_for([value(record, name) for record in firsts], METRICS[name].unit) for name in shown}
    table = Table(
        "leaders by " + ("context" if group.axis == CONTEXT else "batch"),
        [
            Column(group.axis, "ctx" if group.axis == CONTEXT else "batch"),
            Column("fastest", "fastest", numeric=False),
            Column("lead", "times the next", numeric=False),
            Column("next", "next", numeric=False),
            *(Column(name, units[name].heading(METRICS[name].title)) for name in shown),
            Column("set_by", "floor set by", numeric=False),
        ],
        group.title,
    )
    for place in places:
        (name, best), (second, runner_up) = place.cases[:2]
        lead, bound = lead_of(best, runner_up), floor_set_by(best)
        words = NO_VALUE if lead is None else lead.words + (" tie" if lead.tie else "")
        if place.denied:
            mark = table.note(f"not claimed: medians that are not reproducible: {', '.join(place.denied)}")
            words = f"{words} {mark}"
        table.rows.append(
            [
                TableCell(group.place_label(place.at), place.at),
                TableCell(name, name),
                TableCell(words, lead.times if lead else None),
                TableCell(second, second),
                *(TableCell(units[one].show(value(best, one)), value(best, one)) for one in shown),
                TableCell(SET_BY[bound] if bound else "unknown", bound),
            ]
        )
    table.remark(
        "in brackets the widest range that the 95% intervals of both medians allow; it knows the noise within a "
        "process, not that between processes"
    )
    return table
