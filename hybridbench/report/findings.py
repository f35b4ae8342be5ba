"""findings: sentences about a group of records: which model is fastest, by how much, and how near its floor."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from hybridbench.derive.doubts import doubts, problems
from hybridbench.metrics import value
from hybridbench.record import Caveat, Record, Status
from hybridbench.report.groups import CONTEXT, Group
from hybridbench.units import format_number


def findings(group: Group) -> list[str]:
    """Sentences about a group: how its cases ended, which model is fastest, and how near its floor it is.

    Models are compared at the largest context (or batch) at which several have a valid speed.
    """
    ends = Counter(record.status for record in group.records)
    total = sum(ends.values())
    bad = [f"{count} {status.value.replace('_', ' ')}" for status, count in ends.items() if status is not Status.OK]
    sentences = []
    if bad:
        sentences.append(f"{ends[Status.OK]} of {total} cases ended ok, {', '.join(bad)}.")
    believed = [
        (place, series.name, record)
        for series in group.series
        for place, record in series.cells.items()
        if record.status is Status.OK and not problems(record)
    ]
    invalid = ends[Status.OK] - len(believed)
    if invalid:
        sentences.append(f"Marked invalid, because the measurement contradicts what must hold: {invalid}.")
    if not believed:
        return [*sentences, "No case has a speed."]
    rivals = Counter(place for place, _, _ in believed)
    place = max([place for place, count in rivals.items() if count > 1] or rivals)
    here = [(name, record) for at, name, record in believed if at == place]
    here.sort(key=lambda pair: -(value(pair[1], "tokens_per_s") or 0.0))
    name, best = here[0]
    rate = value(best, "tokens_per_s")
    where = f"At context {group.place_label(place)}" if group.axis == CONTEXT else f"At batch {place}"
    if len(here) == 1:
        sentences.append(f"{where} {name} makes {format_number(rate)} tokens/s.")
    else:
        other, slower = next((pair for pair in here[1:] if pair[0] == "transformer"), here[-1])
        slow_rate = value(slower, "tokens_per_s")
        times = format_number(rate / slow_rate) if rate and slow_rate else "unknown"
        sentences.append(
            f"{where} {name} is fastest with {format_number(rate)} tokens/s, {times} times {other} with "
            f"{format_number(slow_rate)}."
        )
        if (value(here[1][1], "step_low_s") or 0.0) <= (value(best, "step_high_s") or 0.0):
            sentences.append(f"Its lead over {here[1][0]} is within the 95% intervals of the medians.")
    sentences += _unequal(here)
    share = value(best, "floor_frac")
    if share is None:
        sentences.append("The machine's peaks are unknown, so there is no floor to compare with.")
    else:
        sentences.append(f"{name} reaches {format_number(100 * share)}% of the speed its floor allows.")
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
