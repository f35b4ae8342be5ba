"""report: verdicts as a table, JUnit XML, a step summary and annotations of GitHub Actions, and JSON."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from hybridbench.gate.attribution import Why
from hybridbench.gate.calibration import Calibration
from hybridbench.gate.exits import Exit, exit_name
from hybridbench.gate.kinds import KINDS
from hybridbench.gate.told import NO_VERDICT, ToldCase, annotation, junit_of
from hybridbench.gate.verdict import CellVerdict, Word
from hybridbench.report.display import unit_for
from hybridbench.report.render.markdown import escape, to_markdown
from hybridbench.report.table import NO_VALUE, Column, Table, TableCell

_FAILS = (Word.REGRESSION, Word.WRONG)
_UNDECIDED = (Word.INCONCLUSIVE, Word.NOT_COMPARABLE, Word.NOTHING_MEASURED)
CAUSES = 5
"""Shown of each regression."""
_GOOD = (Word.PASS, Word.IMPROVEMENT, Word.SAME_CODE, Word.ACCEPTED)


def verdict_table(verdicts: Sequence[CellVerdict]) -> Table:
    """One row per cell: the change with its interval, peaks of memory, and the verdict. Reasons are footnotes."""
    peaks = [peak for one in verdicts for peak in (one.base_peak_bytes, one.head_peak_bytes)]
    unit = unit_for(peaks, "B")
    table = Table(
        "verdicts",
        [
            Column("cell", "cell", numeric=False, wraps=True),
            Column("kind", "kind", numeric=False, wide=True),
            Column("change_frac", "time [%]"),
            Column("low_frac", "from [%]"),
            Column("high_frac", "to [%]"),
            Column("margin_frac", "margin [%]"),
            Column("pairs", "pairs"),
            Column("base_peak_bytes", unit.heading("base peak")),
            Column("head_peak_bytes", unit.heading("peak")),
            Column("verdict", "verdict", numeric=False),
        ],
    )
    for one in verdicts:
        note = "" if one.word in (Word.PASS, Word.SAME_CODE) else f" {table.note(f'{one.cell}: {_reason(one)}')}"
        advisory = f", advisory {table.note(f'{one.cell}: {one.advisory}')}" if one.advisory else ""
        table.rows.append(
            [
                TableCell(one.cell, one.cell),
                TableCell(one.kind, one.kind),
                *(_percent(value, signed=True) for value in (one.change, one.low, one.high)),
                _percent(one.margin, signed=False),
                TableCell(str(one.pairs) if one.pairs else NO_VALUE, one.pairs),
                *(
                    TableCell(NO_VALUE if peak is None else unit.show(peak), peak)
                    for peak in (one.base_peak_bytes, one.head_peak_bytes)
                ),
                TableCell(f"{one.word}{note}{advisory}", str(one.word), "ok" if one.word in _GOOD else str(one.word)),
            ]
        )
    return table


def _reason(one: CellVerdict) -> str:
    return f"{one.because} {one.why}".strip()


def why_table(found: Mapping[str, Why]) -> Table:
    """A row per cause of each regression, the first one first: its times on both sides, and what it added."""
    unit = unit_for([one.head_s for why in found.values() for one in why.causes], "s")
    table = Table(
        "why",
        [
            Column("cell", "cell", numeric=False, wraps=True),
            Column("what", "what", numeric=False),
            Column("name", "kernel", numeric=False, wraps=True),
            Column("base_s", unit.heading("base")),
            Column("head_s", unit.heading("change")),
            Column("added_s", unit.heading("added")),
            Column("added_frac", "of a step [%]"),
        ],
    )
    for name, why in found.items():
        for one in [cause for cause in why.causes if cause.least_s > 0][:CAUSES]:
            table.rows.append(
                [
                    TableCell(name, name),
                    TableCell(str(one.what), str(one.what)),
                    TableCell(one.name or NO_VALUE, one.name),
                    *(TableCell(unit.show(value), value) for value in (one.base_s, one.head_s, one.added_s)),
                    _percent(one.added_s / why.base_s if why.base_s else None, signed=True),
                ]
            )
    table.remark("Times are of traced steps, each instant of which belongs to one kernel or to a gap.")
    return table


def _percent(value: float | None, *, signed: bool) -> TableCell:
    return TableCell(NO_VALUE if value is None else f"{value:{'+' if signed else ''}.2%}".removesuffix("%"), value)


def headline(verdicts: Sequence[CellVerdict]) -> str:
    """How many cells have which verdict, in a sentence.

    >>> headline([])
    'No cell was judged.'
    """
    if not verdicts:
        return "No cell was judged."
    counts = Counter(one.word for one in verdicts)
    listed = ", ".join(f"{counts[word]} {word}" for word in Word if counts[word])
    advisory = sum(bool(one.advisory) for one in verdicts)
    cells = "1 cell" if len(verdicts) == 1 else f"{len(verdicts)} cells"
    return f"{cells}: {listed}{f'; {advisory} of them advisory' if advisory else ''}."


def document(verdicts: Sequence[CellVerdict], code: Exit, outcome: Exit, more: Mapping[str, Any] | None = None) -> str:
    """One JSON document: the exit code, what was found, every verdict, and what else belongs to the check.

    Args:
        code: what fails the job, by ``--fail-on``.
        outcome: what was found, whatever is to fail.
    """
    body = {"exit_code": int(code), "outcome": exit_name(outcome), "verdicts": [asdict(one) for one in verdicts]}
    return json.dumps(body | dict(more or {}), allow_nan=False)


def junit(verdicts: Sequence[CellVerdict], revisions: Mapping[str, str] | None = None) -> str:
    """JUnit XML: a test case per cell. Wrong and slower ones are failures, what could not be judged errors.

    Advisory and new cells are skipped with their reason, since they fail no job.

    Args:
        revisions: what each side timed, by side: properties of the suite.
    """
    cases = [ToldCase(str(one.kind), one.cell, _junit_outcome(one), str(one.word), _line(one)) for one in verdicts]
    return junit_of(cases, revisions)


def _junit_outcome(one: CellVerdict) -> str:
    if one.word is Word.WRONG:
        return "failure"
    if one.word is Word.NOT_COMPARABLE:
        return "error"
    if one.advisory or one.word is Word.NEW:
        return "skipped"
    return "failure" if one.word in _FAILS else "error" if one.word in _UNDECIDED else ""


def step_summary(
    verdicts: Sequence[CellVerdict], remarks: Sequence[str] = (), why: Mapping[str, Why] | None = None
) -> str:
    """A page in GitHub Markdown for a step's summary (``$GITHUB_STEP_SUMMARY``); remarks stand below the table.

    Args:
        why: of each regression that was traced.
    """
    table = verdict_table(verdicts)
    for remark in remarks:
        table.remark(remark)
    page = f"## Performance check\n\n{headline(verdicts)}\n\n{to_markdown(table)}"
    return page + (f"\n{to_markdown(why_table(why))}" if why else "")


def junit_without_verdict(reason: str) -> str:
    """JUnit XML of a check that came to no verdict: one test case with an error that says why."""
    return junit_of([ToldCase("", NO_VERDICT, "error", NO_VERDICT, reason)])


def summary_without_verdict(reason: str) -> str:
    """The page of a check that came to no verdict: why."""
    return f"## Performance check\n\nNo verdict: {escape(' '.join(reason.split()))}\n"


def annotation_without_verdict(reason: str) -> str:
    """The workflow command of a check that came to no verdict: an error that says why."""
    return annotation("error", f"Performance check: {NO_VERDICT}", reason)


def github_annotations(verdicts: Sequence[CellVerdict]) -> list[str]:
    """Workflow commands of GitHub Actions: an error for what fails, a warning for what is undecided, a notice else.

    Cells that pass or have the same code have none.
    """
    lines = []
    for one in verdicts:
        outcome = _junit_outcome(one)
        if one.word in (Word.PASS, Word.SAME_CODE) and not one.advisory:
            continue
        level = {"failure": "error", "error": "warning"}.get(outcome, "notice")
        lines.append(annotation(level, f"{one.cell}: {one.word}", _line(one)))
    return lines


def _line(one: CellVerdict) -> str:
    """A verdict in a line."""
    size = ""
    if one.change is not None and one.low is not None and one.high is not None:
        size = f" {one.change:+.2%} ({one.low:+.2%} to {one.high:+.2%}, {one.pairs} pairs)."
    return " ".join(f"{one.word}.{size} {_reason(one)} {one.advisory}".split())


def calibration_table(found: Calibration) -> Table:
    """One row per cell: its noise, the smallest effect that it tells from none, and how often it alarms for nothing."""
    table = Table(
        "calibration",
        [
            Column("cell", "cell", numeric=False, wraps=True),
            Column("kind", "kind", numeric=False, wide=True),
            Column("pairs", "pairs"),
            Column("sd_frac", "sd [%]"),
            Column("visible_frac", "visible [%]"),
            Column("margin_frac", "margin [%]"),
            Column("false_alarms_frac", "false alarms [%]"),
        ],
    )
    for name, one in found.cells.items():
        figures = (one.sd, one.visible, KINDS[one.kind].margin, one.false_alarms)
        table.rows.append(
            [
                TableCell(name, name),
                TableCell(one.kind, one.kind),
                TableCell(str(one.pairs), one.pairs),
                *(_percent(value, signed=False) for value in figures),
            ]
        )
    table.remark("visible: the smallest slowdown that the last look tells from none, nine times in ten.")
    return table
