"""report: records of kernels as tables, charts and rows, before a format is chosen."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from hybridbench.errors import BadResults, unknown_name
from hybridbench.kernel_suite.cell import BACKWARD, DIRECTIONS, sizes_text
from hybridbench.kernel_suite.figures import FIGURES, floor_frac, median_s, speedup, work_bytes
from hybridbench.kernel_suite.noise import CellNoise, noise_of
from hybridbench.kernel_suite.noise_table import noise_table
from hybridbench.kernel_suite.record import KernelRecord
from hybridbench.operations.operation import PLAIN
from hybridbench.record import Caveat, Status, power_limit_text, said_of, unexplained
from hybridbench.report.chart import Failure, Plot, Point
from hybridbench.report.display import unit_for
from hybridbench.report.leaders import Lead
from hybridbench.report.part import ReportPart
from hybridbench.report.table import NO_VALUE, Column, Table, TableCell
from hybridbench.store import machine_of
from hybridbench.units import format_number

WORDS = {"forward": "forward", BACKWARD: "forward and backward"}
OF_GPUS = ("blocks_per_sm", "peak_allocated_bytes")
SHOWN = ("median_s", "half_interval_frac", "flops_per_s", "bytes_per_s", "floor_s", "floor_frac", *OF_GPUS)
WIDE = ("half_interval_frac", "floor_s", *OF_GPUS)


@dataclass(frozen=True)
class Kernel:
    """What a series of a chart is of: a backend, which has no family."""

    arch: str = ""


@dataclass(frozen=True)
class KernelReport:
    """The whole report.

    Attributes:
        tables: by file name, without the ending.
        plots: by file name, without the ending.
        over: for each record, the one that its speed-up is over.
        noise: of cells that several processes timed.
    """

    records: tuple[KernelRecord, ...]
    tables: dict[str, Table]
    plots: dict[str, Plot]
    over: dict[int, KernelRecord]
    noise: tuple[CellNoise, ...] = ()


def build(records: Sequence[KernelRecord], over: str | None = None, every: Sequence[KernelRecord] = ()) -> KernelReport:
    """Build the report.

    Args:
        every: records of all processes, from which the noise between them follows.
        over: the backend that speed-ups are over; None is the reference where it was timed, else the first.

    Raises:
        BadResults: there are no records.
        BadInput: no record is of the backend ``over``.
    """
    if not records:
        raise BadResults("there is no record of a kernel to report: time some with 'hybridbench kernels' first.")
    known = list(dict.fromkeys(record.case.backend for record in records))
    if over is not None and over not in known:
        raise unknown_name("backend to compare with", over, known)
    base = _bases(records, over)
    tables: dict[str, Table] = {}
    plots: dict[str, Plot] = {}
    groups: dict[tuple[object, ...], list[KernelRecord]] = {}
    for record in records:
        groups.setdefault(_group(record), []).append(record)
    by_direction = sorted(groups.values(), key=lambda group: DIRECTIONS.index(group[0].case.direction))
    for number, group in enumerate(by_direction, start=1):
        name = f"kernels-{group[0].case.direction}" + (f"-{number}" if len(groups) > len(DIRECTIONS) else "")
        tables[name] = _table(group, base, over)
        plots |= {f"{name}-{key}": plot for key, plot in _plots(group).items()}
    noise = noise_of(every)
    if noise:
        tables["kernels-noise"] = noise_table(noise)
    return KernelReport(tuple(records), tables, plots, base, tuple(noise))


def as_part(report: KernelReport) -> ReportPart:
    """The report as a section of a report of models, whose file in Markdown is ``kernels.md``."""
    bad = Counter(one.status.value.replace("_", " ") for one in report.records if one.status is not Status.OK)
    ends = f", {', '.join(f'{count} {word}' for word, count in bad.items())}" if bad else ""
    total = len(report.records)
    sentences = [f"{total - bad.total()} of {total} operations were timed{ends}."]
    return ReportPart(
        "Kernels, timed by themselves",
        [*sentences, *_fastest(report.records)],
        list(report.tables.values()),
        list(report.plots.values()),
        "kernels.md",
    )


def _fastest(records: Iterable[KernelRecord]) -> list[str]:
    """For each operation, direction and kind of cache, which backend is fastest at the largest problem with rivals."""
    largest: dict[tuple[object, ...], list[KernelRecord]] = {}
    works: dict[tuple[object, ...], list[KernelRecord]] = {}
    for record in records:
        if record.status is Status.OK:
            works.setdefault(_work(record), []).append(record)
    for rivals in works.values():
        key = (*_group(rivals[0]), rivals[0].case.op)
        if len(rivals) > 1 and (key not in largest or work_bytes(rivals[0]) > work_bytes(largest[key][0])):
            largest[key] = rivals
    found = []
    for rivals in largest.values():
        first, second = sorted(rivals, key=lambda record: median_s(record) or math.inf)[:2]
        times, share = speedup(first, second), floor_frac(first)
        cell = first.case
        by = "" if times is None else f", {format_number(times.times)} times as fast as {second.case.backend}"
        tie = ", a tie by the 95% intervals" if times is not None and times.tie else ""
        near = "" if share is None else f", at {format_number(100 * share)}% of its floor"
        where = f"{cell.op}, {about(first)}, {sizes_text(cell.problem, ('row',))}"
        found.append(f"{where}: {cell.backend} is fastest{by}{tie}{near}.")
    return found


def _group(record: KernelRecord) -> tuple[object, ...]:
    cell = record.case
    return cell.direction, cell.problem.dtype, cell.sampling.cold, machine_of(record)


def _work(record: KernelRecord) -> tuple[object, ...]:
    return *_group(record), record.case.op, replace(record.case.problem, training=False)


def _bases(records: Iterable[KernelRecord], over: str | None) -> dict[int, KernelRecord]:
    """For each record (by identity), the record of the same work that its speed-up is over."""
    alike: dict[tuple[object, ...], list[KernelRecord]] = {}
    for record in records:
        alike.setdefault(_work(record), []).append(record)
    found: dict[int, KernelRecord] = {}
    for group in alike.values():
        timed = [record for record in group if record.status is Status.OK]
        named = [record for record in timed if record.case.backend == (over or PLAIN)]
        base = named[:1] or ([] if over else timed[:1])
        for record in timed:
            if base and record is not base[0]:
                found[id(record)] = base[0]
    return found


def about(record: KernelRecord) -> str:
    """What all numbers of a table describe."""
    cell = record.case
    where = record.environment.device if record.environment.device_kind == "cuda" else record.environment.cpu
    return f"{WORDS[cell.direction]}, {cell.problem.dtype}, {'cold' if cell.sampling.cold else 'hot'} cache, {where}"


def _table(group: Sequence[KernelRecord], base: dict[int, KernelRecord], over: str | None) -> Table:
    units = {name: unit_for((FIGURES[name].compute(record) for record in group), FIGURES[name].unit) for name in SHOWN}
    columns = [
        Column("op", "operation", numeric=False, once=True),
        Column("problem", "problem", numeric=False, wraps=True, once=True),
        Column("backend", "backend", numeric=False),
        *(Column(name, units[name].heading(FIGURES[name].heading), wide=name in WIDE) for name in SHOWN),
        Column("speedup", f"speed-up over {over or 'reference'}"),
        Column("status", "status", numeric=False),
        Column("models", "models", numeric=False, wide=True, wraps=True),
    ]
    table = Table("kernels", columns, about=about(group[0]))
    for record in group:
        cell = record.case
        numbers = []
        for name in SHOWN:
            value = FIGURES[name].compute(record)
            failed = record.status is not Status.OK
            numbers.append(TableCell(NO_VALUE if failed else units[name].show(value), None if failed else value))
        times = speedup(record, base.get(id(record)))
        table.rows.append(
            [
                TableCell(cell.op, cell.op),
                TableCell(sizes_text(cell.problem, ("row",)), sizes_text(cell.problem)),
                TableCell(cell.backend, cell.backend),
                *numbers,
                TableCell(_times_text(times), None if times is None else times.times),
                _status(record, table),
                TableCell(", ".join(cell.models) or NO_VALUE, "; ".join(cell.models)),
            ]
        )
    bases = {record.case.backend for record in base.values() if any(record is one for one in group)}
    for other in sorted(bases - {over or PLAIN}):
        table.remark(f"Where the {PLAIN} has no time, speed-ups are over {other}, the first that has one.")
    seen = [record.observed for record in group if record.observed is not None and not record.observed.rested]
    limited = power_limit_text([(one.gpu_before, one.gpu_after) for one in seen])
    if limited is not None:
        table.remark(limited)
    return table


def _times_text(times: Lead | None) -> str:
    if times is None:
        return NO_VALUE
    return f"{format_number(times.times)} (tie)" if times.tie else format_number(times.times)


def _status(record: KernelRecord, table: Table) -> TableCell:
    word = record.status.value.replace("_", " ")
    marks = [table.note(sentence) for sentence in notes(record)]
    return TableCell(f"{word} {' '.join(marks)}".strip(), word, word=word)


def notes(record: KernelRecord) -> list[str]:
    """What a reader must know of a record: why it has no time, what it was compared with, and each caveat."""
    found = [] if record.message is None else [f"{record.case.backend}: {_one_line(record)}"]
    agreed = record.observed.agreement if record.observed else None
    for caveat in caveats_of(record):
        if caveat is Caveat.NOT_CHECKED and agreed is not None:
            found.append(f"not checked at this size: {agreed.why_not}")
        else:
            found.append(said_of(caveat))
    if agreed is not None and agreed.against not in (None, "the reference"):
        found.append(f"compared with {agreed.against}, since the whole reference was too long or too large")
    if agreed is not None and agreed.why_unguarded is not None:
        found.append(f"writes outside its outputs would not show: {agreed.why_unguarded}")
    if record.observed is not None and record.observed.rested:
        found.append(
            "timed with rests, which keep the GPU below its power limit; back to back (--sustained) it is slower"
        )
    if record.observed is not None and record.observed.why_apart is not None:
        found.append(f"timed by itself, not in turns with the other backends: {record.observed.why_apart}")
    return found


def caveats_of(record: KernelRecord) -> list[Caveat]:
    """The caveats of a record, without those that its GPU's power limit explains."""
    seen = record.observed
    return record.caveats if seen is None else unexplained(record.caveats, seen.gpu_before, seen.gpu_after)


LAST_LINES = 3


def _one_line(record: KernelRecord) -> str:
    """The message; of a person's own kernel that raised, with the last lines of its traceback."""
    text = " ".join((record.message or "").split())
    if record.status is not Status.CRASHED or not record.case.user_kernel or not record.traceback:
        return text
    last = [line.strip() for line in record.traceback.strip().splitlines()[-LAST_LINES:]]
    return f"{text} ({' | '.join(last)})"


def _plots(group: Sequence[KernelRecord]) -> dict[str, Plot]:
    """For each operation: time against length, where there are several, and the share of the floor."""
    found: dict[str, Plot] = {}
    families: dict[tuple[object, ...], list[KernelRecord]] = {}
    for record in group:
        cell = record.case
        families.setdefault((cell.op, replace(cell.problem, length=0)), []).append(record)
    taken: dict[str, int] = {}
    for (op, _), records in families.items():
        lengths = {record.case.problem.length for record in records}
        taken[str(op)] = taken.get(str(op), 0) + 1
        stem = f"{op}-{taken[str(op)]}" if taken[str(op)] > 1 else str(op)
        if len(lengths) > 1:
            found[f"{stem}-time"] = _plot(records, "time", "time of a call", "s")
        if any(floor_frac(record) for record in records):
            found[f"{stem}-floor"] = _plot(records, "floor", "share of the floor", "frac")
    return found


def _plot(records: Sequence[KernelRecord], name: str, quantity: str, unit: str) -> Plot:
    cell = records[0].case
    points, failures = [], []
    for record in records:
        place, series = max(1, record.case.problem.length), record.case.backend
        amount = median_s(record) if name == "time" else floor_frac(record)
        if amount is None:
            failures.append(Failure(series, place, record.status.value.replace("_", " ")))
        else:
            points.append(Point(series, place, amount))
    return Plot(
        name=name,
        title=f"{cell.op}: {quantity}",
        subtitle=f"{about(records[0])}; {sizes_text(replace(cell.problem, length=0), ('row',))}",
        quantity=quantity,
        unit=unit,
        axis="context",
        models={record.case.backend: Kernel() for record in records},
        points=points,
        failures=failures,
    )


def rows(report: KernelReport) -> list[dict[str, object]]:
    """Every record as plain values: its identity, every figure in SI, and how it ended."""
    found: list[dict[str, object]] = []
    for record in report.records:
        cell, seen = record.case, record.observed
        base = report.over.get(id(record))
        times = speedup(record, base)
        agreed = seen.agreement if seen else None
        found.append(
            {
                "key": cell.key,
                "run_id": record.run_id,
                "started_at": record.started_at,
                "op": cell.op,
                "backend": cell.backend,
                "ran": seen.ran if seen else None,
                "package": seen.package if seen else None,
                "version": seen.version if seen else None,
                "direction": cell.direction,
                "dtype": cell.problem.dtype,
                "device": record.environment.device,
                "cold": cell.sampling.cold,
                "graph": seen.graph if seen else None,
                "turns": seen.turns if seen else [],
                "why_apart": seen.why_apart if seen else None,
                "rested": seen.rested if seen else None,
                "problem": sizes_text(cell.problem),
                "models": list(cell.models),
                **{name: figure.compute(record) for name, figure in FIGURES.items()},
                "speedup": times.times if times else None,
                "speedup_low": times.low if times else None,
                "speedup_high": times.high if times else None,
                "speedup_over": base.case.backend if base else None,
                "checked_against": agreed.against if agreed else None,
                "error": agreed.error if agreed else None,
                "bound": agreed.bound if agreed else None,
                "guarded": agreed.guarded if agreed else None,
                "status": record.status.value,
                "message": record.message,
                "caveats": [caveat.value for caveat in caveats_of(record)],
            }
        )
    return found
