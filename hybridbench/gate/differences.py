"""differences: what an exact check found, as a table, a sentence, JUnit XML, a step summary, annotations and JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

from hybridbench.gate.baseline import Difference, Finding, exit_of
from hybridbench.gate.exits import Exit, exit_name
from hybridbench.gate.told import ToldCase, annotation, junit_of
from hybridbench.report.render.markdown import to_markdown
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
    >>> from hybridbench.gate.baseline import not_compared
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


_LEVELS = {Finding.WITHIN_BUDGET: ("notice", ""), Finding.NOT_COMPARED: ("warning", "error")}
"""Of a finding, how an annotation and JUnit XML tell of it; an error and a failure otherwise."""
MOST_ANNOTATIONS = 10
"""GitHub shows no more of a kind in a step."""


def _named(one: Difference) -> str:
    return one.part if one.finding is Finding.NOT_COMPARED else f"{one.name}, {one.quantity}"


def _line(one: Difference) -> str:
    """A difference in a line."""
    figures = [NO_VALUE if figure is None else f"{figure:,}" for figure in (one.before, one.after)]
    size = "" if one.finding is Finding.NOT_COMPARED else f" {figures[0]} before, {figures[1]} now."
    return f"{one.finding}.{size} {one.because}".strip()


def junit(found: Sequence[Difference], compared: int) -> str:
    """JUnit XML: a test case for each difference and each part that was not compared, and one for all equal figures."""
    cases = [
        ToldCase(one.part, _named(one), _LEVELS.get(one.finding, ("", "failure"))[1], str(one.finding), _line(one))
        for one in found
    ]
    return junit_of([*cases, ToldCase("exact", "figures compared", "", "", summary(found, compared))])


def step_summary(found: Sequence[Difference], compared: int) -> str:
    """A page in GitHub Markdown for a step's summary."""
    table = difference_table(found)
    shown = f"\n{to_markdown(table)}" if table.rows else "".join(f"\n{one}  " for one in table.remarks)
    return f"## Exact figures\n\n{summary(found, compared)}\n{shown}\n"


def workflow_commands(found: Sequence[Difference]) -> list[str]:
    """Workflow commands of GitHub Actions for the first differences, and one for the number of the others."""
    lines = [
        annotation(_LEVELS.get(one.finding, ("error", ""))[0], f"{_named(one)}: {one.finding}", _line(one))
        for one in found[:MOST_ANNOTATIONS]
    ]
    more = len(found) - len(lines)
    return [*lines, annotation("notice", "Exact figures", f"{more:,} more differ.")] if more else lines


def document(found: Sequence[Difference], compared: int, code: Exit) -> str:
    """One JSON document: the exit code, what was found, and every difference.

    Args:
        code: what fails the job, by ``--fail-on``; what was found is the worst of all, whatever is to fail.
    """
    body = {"exit_code": int(code), "outcome": exit_name(exit_of(found, compared)), "compared": compared}
    return json.dumps({**body, "differences": [asdict(one) for one in found]})
