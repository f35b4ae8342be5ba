"""bisected: what a bisect came to: a table of the revisions, a conclusion in lines, and a JSON document."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

from hybridbench.gate.bisect import Answer, Bisection, BisectResult, JudgedRevision
from hybridbench.gate.verdict import CellVerdict, Word
from hybridbench.report.table import NO_VALUE, Column, Table, TableCell

TOUCHED = 20
"""Files of a commit that are listed."""


def sized(one: CellVerdict) -> str:
    """A cell with its ratio and interval."""
    if one.change is None or one.low is None or one.high is None:
        return f"{one.cell} {one.word}"
    return f"{one.cell} {one.change:+.2%} ({one.low:+.2%} to {one.high:+.2%})"


def _slow(step: JudgedRevision | None) -> list[CellVerdict]:
    return [] if step is None else [one for one in step.verdicts if one.word is Word.REGRESSION]


def document(found: BisectResult, walk: Bisection, files: Sequence[str], remark: str) -> str:
    """One JSON document.

    Args:
        files: what the first slow commit touched.
        remark: a sentence about the timing.
    """
    named = found.suspects[0] if len(found.suspects) == 1 else None
    subjects = {one.name: one.subject for one in walk.commits}
    body = {
        "good": walk.good,
        "bad": walk.commits[-1].name,
        "first_slow": asdict(named) | {"touched": list(files)} if named else None,
        "suspects": [asdict(one) for one in found.suspects],
        "against_good": [asdict(one) for one in _slow(found.slow)],
        "against_parent": [asdict(one) for one in found.alone.verdicts] if found.alone else None,
        "steps": [asdict(one) | {"subject": subjects[one.commit]} for one in walk.steps],
        "remarks": [remark],
    }
    return json.dumps(body, allow_nan=False)


def conclusion(found: BisectResult, files: Sequence[str]) -> list[str]:
    """What was found, in lines: the first slow commit with its ratios and what it touched, or what may be it."""
    if not found.suspects:
        return ["The bad revision could not be judged, so nothing was searched for."]
    if len(found.suspects) > 1:
        listed = [f"  {one.short} {one.subject}" for one in found.suspects]
        return [f"The first slow commit is one of these {len(listed)}; all but the last were skipped:", *listed]
    commit = found.suspects[0]
    lines = [f"first slow commit: {commit.short} {commit.subject} ({commit.date})"]
    lines += [f"  {sized(one)} against the good revision{_until(found, one)}" for one in _slow(found.slow)]
    if found.alone is not None:
        against = "; ".join(map(sized, found.alone.verdicts)) or found.alone.because
        lines.append(f"  {against} against its parent alone")
        if found.alone.answer is not Answer.SLOW:
            lines.append("  By itself it is not slower beyond the margin: earlier commits brought a part of the loss.")
    lines += ["touched:", *(f"  {name}" for name in files[:TOUCHED])]
    if len(files) > TOUCHED:
        lines.append(f"  and {len(files) - TOUCHED} more: git show --stat {commit.short}")
    return lines


def _until(found: BisectResult, cell: CellVerdict) -> str:
    """What a cell was before the first slow commit, for the end of a line."""
    earlier = [one for one in found.before.verdicts if one.cell == cell.cell] if found.before else []
    return "".join(f"; before it {one.change:+.2%}" for one in earlier if one.change is not None)


def walk_table(walk: Bisection) -> Table:
    """A row per cell of each revision that was judged, in the order of the history."""
    names = {one.cell for step in walk.steps for one in step.verdicts}
    one_cell = len(names) == 1
    cell = [] if one_cell else [Column("cell", "cell", numeric=False, wraps=True)]
    figures = [("change_frac", "time [%]"), ("low_frac", "from [%]"), ("high_frac", "to [%]"), ("pairs", "pairs")]
    table = Table(
        "revisions against the good one",
        [
            Column("commit", "commit", numeric=False),
            Column("subject", "subject", numeric=False, wraps=True),
            *cell,
            *(Column(key, heading) for key, heading in figures),
            Column("answer", "answer", numeric=False),
        ],
        about=min(names) if one_cell else "",
    )
    order = {one.name: at for at, one in enumerate(walk.commits)}
    for step in sorted(walk.steps, key=lambda one: (order[one.commit], one.base != walk.good)):
        commit = walk.commits[order[step.commit]]
        note = f" {table.note(f'{commit.short}: {step.because}')}" if step.because else ""
        against = "" if step.base == walk.good else ", against its parent"
        for one in step.verdicts or (None,):
            table.rows.append(
                [
                    TableCell(commit.short, commit.name),
                    TableCell(commit.subject, commit.subject),
                    *([] if one_cell else [TableCell(one.cell if one else NO_VALUE)]),
                    *(_percent(value) for value in ((one.change, one.low, one.high) if one else (None,) * 3)),
                    TableCell(str(one.pairs) if one else NO_VALUE, one.pairs if one else None),
                    TableCell(f"{step.answer}{against}{note}", str(step.answer)),
                ]
            )
    return table


def _percent(value: float | None) -> TableCell:
    return TableCell(NO_VALUE if value is None else f"{100 * value:+.2f}", value)
