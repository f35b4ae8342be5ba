"""findings: sentences about a group of records: which model is fastest, by how much, and how near its floor."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from hybridbench.derive.doubts import doubts
from hybridbench.metrics import value
from hybridbench.record import Caveat, Record, Status
from hybridbench.report.groups import Group
from hybridbench.report.leaders import DENYING, believed, changes, lead_of, limits, memory
from hybridbench.report.places import CONTEXT
from hybridbench.units import format_number


def findings(group: Group) -> list[str]:
    """Sentences about a group: how its cases ended, which model is fastest, and how near its floor it is.

    Models are compared at the largest context (or batch) at which several have a valid speed. Where the group shows
    several runs side by side, each has sentences of its own: they compare models within one run.
    """
    runs = dict.fromkeys(series.run for series in group.series)
    if len(runs) > 1:
        parts = {run: replace(group, series=tuple(one for one in group.series if one.run == run)) for run in runs}
        return [f"{run}: {' '.join(_findings(part))}" for run, part in parts.items()]
    return _findings(group)


def _findings(group: Group) -> list[str]:
    ends = Counter(record.status for record in group.records)
    total = sum(ends.values())
    bad = [f"{count} {status.value.replace('_', ' ')}" for status, count in ends.items() if status is not Status.OK]
    sentences = []
    if bad:
        sentences.append(f"{ends[Status.OK]} of {total} cases ended ok, {', '.join(bad)}.")
    places = believed(group)
    invalid = ends[Status.OK] - sum(len(one.cases) for one in places)
    if invalid:
        sentences.append(f"Marked invalid, because the measurement contradicts what must hold: {invalid}.")
    if not places:
        return [*sentences, "No case has a speed."]
    most = [one for one in places if len(one.cases) > 1] or places
    place, here = most[-1].at, most[-1].cases
    name, best = here[0]
    rate = value(best, "tokens_per_s")
    where = f"At context {group.place_label(place)}" if group.axis == CONTEXT else f"At batch {place}"
    if len(here) == 1:
        sentences.append(f"{where} {name} makes {format_number(rate)} tokens/s.")
    else:
        sentences += _lead(where, here)
    sentences += _unequal(here)
    share = value(best, "floor_frac")
    if share is None:
        sentences.append("The machine's peaks are unknown, so there is no floor to compare with.")
    else:
        sentences.append(f"{name} reaches {format_number(100 * share)}% of the speed its floor allows.")
    return [*sentences, *limits(here), *memory(here), *changes(group, places)]


def _lead(where: str, here: Sequence[tuple[str, Record]]) -> list[str]:
    """By how much the fastest model leads, unless its caveats or those of its rivals deny that.

    Args:
        where: the context or batch, in words.
        here: names and records of two or more models there, fastest first.
    """
    (name, best), (second, runner_up) = here[:2]
    other, slower = next((pair for pair in here[1:] if pair[1].case.model.arch == "transformer"), here[-1])
    rate, slow_rate = value(best, "tokens_per_s"), value(slower, "tokens_per_s")
    marked = {
        model: ", ".join(caveat.value.replace("_", " ") for caveat in found)
        for model, record in ((name, best), (second, runner_up), (other, slower))
        if (found := [caveat for caveat in doubts(record) if caveat in DENYING])
    }
    if marked:
        return [
            f"{where} {name} has the highest median with {format_number(rate)} tokens/s, and {other} has "
            f"{format_number(slow_rate)}. No difference is claimed: "
            + "; ".join(f"{model} is marked {words}" for model, words in marked.items())
            + "."
        ]
    times = format_number(rate / slow_rate) if rate and slow_rate else "unknown"
    sentences = [
        f"{where} {name} is fastest with {format_number(rate)} tokens/s, {times} times {other} with "
        f"{format_number(slow_rate)}."
    ]
    lead = lead_of(best, runner_up)
    if lead is None or lead.tie:
        sentences.append(f"Its lead over {second} is within the 95% intervals of the medians.")
    elif second != other:
        sentences.append(
            f"It leads {second} by {lead.words} times, in brackets what the 95% intervals of the medians allow."
        )
    return sentences


UNEQUAL = {
    Caveat.NOT_CHECKED: "was not checked at this size",
    Caveat.BEYOND_LIMIT: "ran a kernel beyond the sizes at which it is correct",
    Caveat.PLAIN_PYTORCH: "ran an operation as plain PyTorch, because no kernel supports it",
}
"""Caveats that make a comparison with other models unfair, and their words in a finding."""


def _unequal(here: Sequence[tuple[str, Record]]) -> list[str]:
    """A sentence for each caveat that makes a comparison of models unfair, with the models that have it."""
    sentences = []
    for caveat, what in UNEQUAL.items():
        names = [name for name, record in here if caveat in doubts(record)]
        if names:
            sentences.append(f"{', '.join(names)} {what}: not comparable with the others.")
    return sentences
