"""differences: what an exact check found, as a table, a sentence and one JSON document."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

from hybridbench.gate.baseline import Difference, Finding, exit_of
from hybridbench.gate.exits import Exit, exit_name
from hybridbench.report.table import NO_VALUE, Column, Table, TableCell


def difference_table(found: Sequence[Difference]) -> Table:
    """One row per figure that differs: where, before, after and by how much. Parts not compared are remarks."""
    table = Table(
        "exact figures that differ",
        [
            Column("model", "name", numeric=False),
            Column("quantity", "quantity", numeric=False),
            Column("before", "before"),
            Column("after", "after"),
            Column("change_frac", "change [%]"),
            Column("finding", "finding", numeric=False),
        ],
    )
    for one in found:
        if one.finding is Finding.NOT_COMPARED:
            table.remark(f"{one.part}: not compared. {one.because}")
            continue
        change = one.after / one.before - 1 if one.before and one.after is not None else None
        note = f" {table.note(one.because)}" if one.because else ""
        table.rows.append(
            [
                TableCell(one.name, one.name),
                TableCell(one.quantity, one.quantity),
                *(
                    TableCell(NO_VALUE if figure is None else f"{figure:,}", figure)
                    for figure in (one.before, one.after)
                ),
                TableCell(NO_VALUE if change is None else f"{change:+.3%}".removesuffix("%"), change),
                TableCell(
                    f"{one.finding}{note}", str(one.finding), "ok" if one.finding is Finding.WITHIN_BUDGET else "wrong"
                ),
            ]
        )
    return table


def summary(found: Sequence[Difference], compared: int) -> str:
    """How many figures were compared, and how many are not equal, in a sentence.

    >>> summary([], 1674)
    '1,674 figures compared, all equal.'
    >>> summary([not_compared("steps", "Its torch is another one.")], 1674)
    '1,674 figures compared, all of them equal; not compared: steps.'
    """
    unequal = sum(one.finding is not Finding.NOT_COMPARED for one in found)
    parts = [one.part for one in found if one.finding is Finding.NOT_COMPARED]
    left_out = f"; not compared: {', '.join(parts)}" if parts else ""
    if not compared:
        return f"No figure was compared{left_out}."
    if unequal:
        meant = "if they are meant, write them with --update"
        return f"{compared:,} figures compared, {unequal:,} not equal{left_out}; {meant}."
    return f"{compared:,} figures compared, {'all of them' if parts else 'all'} equal{left_out}."


def document(found: Sequence[Difference], compared: int, code: Exit) -> str:
    """One JSON document: the exit code, what was found, and every difference.

    Args:
        code: what fails the job, by ``--fail-on``; what was found is the worst of all, whatever is to fail.
    """
    body = {"exit_code": int(code), "outcome": exit_name(exit_of(found, compared)), "compared": compared}
    return json.dumps({**body, "differences": [asdict(one) for one in found]})
