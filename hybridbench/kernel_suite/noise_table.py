"""noise_table: the noise of cells between processes as a table and as plain rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hybridbench.kernel_suite.cell import sizes_text
from hybridbench.kernel_suite.noise import QUIET_FRAC, CellNoise
from hybridbench.report.display import unit_for
from hybridbench.report.table import Column, Table, TableCell
from hybridbench.stats import median
from hybridbench.units import format_number


def noise_table(found: Sequence[CellNoise]) -> Table:
    """A row per cell: its median over processes, the spread between and within them, and the likely reasons."""
    unit = unit_for((median(one.medians_s) for one in found), "s")
    devices = dict.fromkeys(one.first.environment.device for one in found)
    table = Table(
        "noise between processes",
        [
            Column("op", "operation", numeric=False, once=True),
            Column("problem", "problem", numeric=False, wraps=True, once=True),
            Column("backend", "backend", numeric=False),
            Column("direction", "direction", numeric=False),
            Column("processes", "processes"),
            Column("median_s", unit.heading("median")),
            Column("between_frac", "between [%]"),
            Column("within_frac", "within [%]"),
            Column("reasons", "likely reason", numeric=False, wraps=True),
        ],
        about=f"standard deviation of a process's median, and spread of samples in one; {' and '.join(devices)}",
    )
    for one in found:
        cell, middle = one.cell, median(one.medians_s)
        table.rows.append(
            [
                TableCell(cell.op, cell.op),
                TableCell(sizes_text(cell.problem, ("row",)), sizes_text(cell.problem)),
                TableCell(cell.backend, cell.backend),
                TableCell(cell.direction, cell.direction),
                TableCell(str(len(one.medians_s)), len(one.medians_s)),
                TableCell(unit.show(middle), middle),
                TableCell(_percent(one.between_frac), one.between_frac),
                TableCell(_percent(one.within_frac), one.within_frac),
                TableCell("; ".join(one.reasons) or "-", "; ".join(one.reasons)),
            ]
        )
    for sentence in summary(found):
        table.remark(sentence)
    return table


def summary(found: Sequence[CellNoise]) -> list[str]:
    """How many cells are quiet, of all and of those that fill the GPU."""
    quiet = sum(one.quiet for one in found)
    said = [f"{quiet} of {len(found)} cells differ by at most {100 * QUIET_FRAC:g}% between processes."]
    full = [one for one in found if one.fills]
    if full:
        said.append(f"Of those with a block for every SM, {sum(one.quiet for one in full)} of {len(full)}.")
    return said


def noise_rows(found: Sequence[CellNoise]) -> list[dict[str, Any]]:
    """Each cell as plain values in SI."""
    return [
        {
            "key": one.cell.key,
            "op": one.cell.op,
            "problem": sizes_text(one.cell.problem),
            "dtype": one.cell.problem.dtype,
            "backend": one.cell.backend,
            "direction": one.cell.direction,
            "device": one.first.environment.device,
            "processes": len(one.medians_s),
            "medians_s": list(one.medians_s),
            "between_frac": one.between_frac,
            "within_frac": one.within_frac,
            "quiet": one.quiet,
            "fills_gpu": one.fills,
            "reasons": list(one.reasons),
        }
        for one in found
    ]


def _percent(fraction: float) -> str:
    return format_number(100 * fraction, 2)
