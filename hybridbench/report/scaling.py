"""scaling: what several GPUs give over one: throughput of each GPU beside that of one alone, measured and at the floor.

A case of several ranks is compared with the case of one rank that differs in nothing else, if there is a record of it
on the same machine: with the same batch in all (strong scaling), and, in training, with the same batch on each GPU
(weak scaling). The best that the machine allows follows from the rates measured beside the case.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from hybridbench.metrics import value
from hybridbench.record import Record, Status
from hybridbench.report.display import unit_for
from hybridbench.report.part import ReportPart
from hybridbench.report.table import NO_VALUE, Column, Table, TableCell
from hybridbench.suite.case import Case, Execution, spread_text
from hybridbench.units import format_number, format_tokens

TITLE = "scaling over several GPUs"
_METRICS = (
    ("step_s", "step"),
    ("gpu_tokens_per_s", "throughput per GPU"),
    ("exposed_s", "exposed transfers"),
    ("transfer_s", "transfers, predicted"),
    ("rank_peak_bytes", "peak of a rank"),
    ("predicted_peak_bytes", "peak, predicted"),
)


def scaling_parts(records: Sequence[Record]) -> list[ReportPart]:
    """A section with the table of ``scaling_table``; none if no case ran on several ranks."""
    table = scaling_table(records)
    if table is None:
        return []
    sentence = (
        "Efficiency is the throughput of each GPU over that of one GPU alone: with the same batch in all, or with the "
        "same batch on each. At the floor it is the best that the rates measured with it allow. Exposed is what "
        "a step waits for: its time less that of the same step without transfers."
    )
    return [ReportPart(TITLE, [*scaling_sentences(records), sentence], [table])]


def scaling_sentences(records: Sequence[Record]) -> list[str]:
    """A sentence for each kind of work, scale and option: what each GPU gives of one alone, and what a step waits for.

    Cases without a case of one rank to compare with are left out.
    """
    alone = _alone(records)
    groups: dict[tuple[str, str, str], list[tuple[float, float | None, float | None]]] = {}
    for record in _of_several(records):
        strong, _ = efficiencies(record, alone)
        if strong is not None:
            exposed, step = value(record, "exposed_s"), value(record, "step_s")
            waiting = None if exposed is None or not step else exposed / step
            case = record.case
            name = (case.workload.kind, case.model.scale, _option(case.execution))
            groups.setdefault(name, []).append((strong, value(record, "scaling_floor_frac"), waiting))
    made = []
    for (kind, scale, option), found in groups.items():
        sentence = (
            f"{kind} at {scale}, {option}: each GPU gives {_percents([one for one, _, _ in found])} of what one alone "
            "gives with the same batch"
        )
        floors = [floor for _, floor, _ in found if floor is not None]
        waits = [wait for _, _, wait in found if wait is not None]
        sentence += f" (at the floor {_percents(floors)})" if floors else ""
        sentence += f"; {_percents(waits)} of a step is spent waiting for transfers" if waits else ""
        made.append(f"{sentence}.")
    return made


def _percents(fractions: Sequence[float]) -> str:
    low, high = (format_number(100 * one, 3) for one in (min(fractions), max(fractions)))
    return f"{low}%" if low == high else f"{low} to {high}%"


def _of_several(records: Sequence[Record]) -> list[Record]:
    return [record for record in records if record.status is Status.OK and record.case.ranks > 1]


def _alone(records: Sequence[Record]) -> dict[tuple[str, str], Record]:
    return {_key(record.case, record): record for record in records if record.case.ranks == 1}


def scaling_table(records: Sequence[Record]) -> Table | None:
    """A row for each case of several ranks that has a time; None if there is none."""
    found, alone = _of_several(records), _alone(records)
    if not found:
        return None
    units = {name: unit_for([value(record, name) for record in found], unit) for name, unit in _UNITS.items()}
    units |= dict.fromkeys(("exposed_s", "transfer_s"), units["step_s"])
    units["predicted_peak_bytes"] = units["rank_peak_bytes"]
    table = Table(
        TITLE,
        [
            Column("model", "model", numeric=False),
            Column("workload", "work", numeric=False),
            Column("ctx", "ctx"),
            Column("batch", "batch"),
            Column("ranks", "option", numeric=False),
            *(Column(name, units[name].heading(title)) for name, title in _METRICS),
            Column("strong_frac", "same batch [%]"),
            Column("weak_frac", "batch per GPU [%]"),
            Column("scaling_floor_frac", "at the floor [%]"),
        ],
    )
    for record in found:
        case = record.case
        row = [
            TableCell(f"{case.model.label} {case.model.scale}", case.model.label),
            TableCell(case.workload.kind, case.workload.kind),
            TableCell(format_tokens(case.workload.context), case.workload.context),
            TableCell(str(case.workload.batch), case.workload.batch),
            TableCell(_option(case.execution), spread_text(case.execution)),
        ]
        for name, _ in _METRICS:
            number = value(record, name)
            row.append(TableCell(units[name].show(number), number))
        for number in (*efficiencies(record, alone), value(record, "scaling_floor_frac")):
            row.append(TableCell(NO_VALUE if number is None else f"{100 * number:.3g}", number))
        table.rows.append(row)
    return table


def _option(execution: Execution) -> str:
    """What asks for several ranks: ``--gpus 2``."""
    return f"--gpus {execution.gpus}" if execution.gpus > 1 else f"--tp {execution.tp}"


def efficiencies(record: Record, alone: Mapping[tuple[str, str], Record]) -> tuple[float | None, float | None]:
    """Strong and weak scaling efficiency of a case; None where there is no record to compare with, or no such batch.

    Args:
        alone: records of one rank by ``_key``.
    """
    each, case = value(record, "gpu_tokens_per_s"), record.case
    per_gpu = case.workload.batch // case.execution.gpus

    def against(batch: int) -> float | None:
        workload = replace(case.workload, batch=batch)
        one = replace(case, workload=workload, execution=replace(case.execution, gpus=1, tp=1))
        other = alone.get(_key(one, record))
        rate = value(other, "tokens_per_s") if other is not None else None
        return each / rate if each is not None and rate else None

    return against(case.workload.batch), against(per_gpu) if case.execution.gpus > 1 else None


def _key(case: Case, record: Record) -> tuple[str, str]:
    """A case on the machine of a record."""
    return case.key, record.environment.device


_UNITS = {"step_s": "s", "gpu_tokens_per_s": "tokens/s", "rank_peak_bytes": "B"}
