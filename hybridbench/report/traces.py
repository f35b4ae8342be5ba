"""traces: time by class of operation of the cases that were traced: a table, a stacked chart and sentences by group.

Traces are grouped as records are. Their times are longer than those of steps that nobody profiles, so shares are shown.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from hybridbench.record.traced import GAPS, Trace, TraceRecord
from hybridbench.report.chart import StackedBars, Strip
from hybridbench.report.display import unit_for
from hybridbench.report.groups import Group, file_stem, group_records
from hybridbench.report.places import CONTEXT
from hybridbench.report.table import NO_VALUE, Column, Table, TableCell
from hybridbench.units import format_number, format_seconds

ABOUT = (
    "Shares of a profiled step, which takes longer than one that nobody profiles. Every instant belongs to one class "
    "or to a gap, so they add up to 100%."
)
_SAID = 2
"""Classes that a sentence names."""


@dataclass(frozen=True)
class TraceSection:
    """What a report says about the traces of one group.

    Attributes:
        traces: those that are shown.
        stem: the file name of its table and its chart, without the ending.
    """

    group: Group
    traces: tuple[TraceRecord, ...]
    sentences: tuple[str, ...]
    table: Table
    stack: StackedBars
    stem: str


def trace_sections(traces: Sequence[TraceRecord]) -> list[TraceSection]:
    """A section for each group of comparable traces; of a case that was traced again, the latest one counts."""
    bare = [trace.bare for trace in traces]
    seen = {id(record): trace for record, trace in zip(bare, traces, strict=True)}
    groups = group_records(bare)
    found = []
    taken: set[str] = set()
    for group in groups:
        stem = f"{file_stem(group, groups)}-classes"
        while stem in taken:
            stem += "-more"
        taken.add(stem)
        found.append(_section(group, {id(record): seen[id(record)] for record in group.records}, stem))
    return found


def _section(group: Group, seen: dict[int, TraceRecord], stem: str) -> TraceSection:
    rows = [
        (series.name, place, seen[id(record)].observed)
        for series in group.series
        for place, record in series.cells.items()
    ]
    classes = _classes(trace for _, _, trace in rows)
    several = len(group.places) > 1
    named = [(f"{name}, {group.place_label(place)}" if several else name, trace) for name, place, trace in rows]
    whole = "" if several else f", {'context' if group.axis == CONTEXT else 'batch'} {group.place_label(rows[0][1])}"
    return TraceSection(
        group,
        tuple(seen.values()),
        tuple(_sentence(name, trace) for name, trace in named),
        _table(group, rows, classes),
        StackedBars(
            title=f"Time of a step by class of operation, {group.workload}",
            subtitle=f"{group.subtitle}{whole}, profiled",
            bars=tuple(name for name, _ in named),
            strips=tuple(
                Strip(name, one, trace.shares[one], trace.parts_s[one])
                for name, trace in named
                for one in classes
                if trace.shares.get(one)
            ),
            classes=tuple(classes),
        ),
        stem,
    )


def _classes(traces: Iterable[Trace]) -> list[str]:
    """The classes of some traces, the one with the largest share of all first, and gaps last."""
    shares: dict[str, float] = {}
    for trace in traces:
        for name, share in trace.shares.items():
            shares[name] = shares.get(name, 0.0) + share
    return sorted(shares, key=lambda name: (name == GAPS, -shares[name]))


def _sentence(name: str, trace: Trace) -> str:
    shares = trace.shares
    largest = [(one, share) for one, share in shares.items() if one != GAPS][:_SAID]
    said = " and ".join(f"{one} {format_number(100 * share)}%" for one, share in largest) or "nothing ran"
    return (
        f"{name}: {said} of a profiled step of {format_seconds(trace.step_s)} in {trace.launches:,.0f} launches; "
        f"{GAPS} {format_number(100 * shares[GAPS])}%."
    )


def _table(group: Group, rows: Sequence[tuple[str, int, Trace]], classes: Sequence[str]) -> Table:
    unit = unit_for([trace.step_s for _, _, trace in rows], "s")
    table = Table(
        "time of a step by class of operation",
        [
            Column("model", "model", numeric=False),
            Column(group.axis, "ctx" if group.axis == CONTEXT else "batch"),
            Column("step_s", unit.heading("profiled step")),
            Column("launches", "launches"),
            *(Column(f"{name.replace(' ', '_')}_frac", f"{name} [%]") for name in classes),
        ],
        group.title,
    )
    for name, place, trace in rows:
        shares = [trace.shares.get(one) for one in classes]
        table.rows.append(
            [
                TableCell(name, name),
                TableCell(group.place_label(place), place),
                TableCell(unit.show(trace.step_s), trace.step_s),
                TableCell(f"{trace.launches:,.0f}", trace.launches),
                *(TableCell(NO_VALUE if one is None else format_number(100 * one), one) for one in shares),
            ]
        )
    table.remark(ABOUT)
    return table


def plain(traces: Sequence[TraceRecord]) -> list[dict[str, object]]:
    """Traces as plain values: the case, and per class the seconds and the share of a step."""
    return [
        {
            "key": trace.case.key,
            "run_id": trace.run_id,
            "started_at": trace.started_at,
            "case": trace.case.label,
            "workload": trace.case.workload.kind,
            "context": trace.case.workload.context,
            "batch": trace.case.workload.batch,
            "device": trace.environment.device,
            "step_s": trace.observed.step_s,
            "launches": trace.observed.launches,
            "classes": {
                name: {"seconds": seconds, "share_frac": trace.observed.shares[name]}
                for name, seconds in trace.observed.parts_s.items()
            },
        }
        for trace in traces
    ]
