"""bisect: the first commit that made a cell slow, found by judging revisions against the good one.

The bad revision is judged first: it must be slower. Then the middle one of those that may be the first slow one, and so
on, each by the judge of ``check`` against the good revision, with the same fixed margin. What is undecided is measured
once more. A revision that stays undecided, does not start, lacks the cell or is wrong is skipped, and the next one is
taken from another place. Last, the commit that was found is judged against its parent alone.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from hashlib import sha256
from itertools import groupby
from json import dumps
from pathlib import Path
from typing import Any

from hybridbench.errors import BadInput, HybridbenchError
from hybridbench.files import CONFIG_BYTES, Damaged, Missing, from_json, read_text
from hybridbench.gate.cells import CheckCell
from hybridbench.gate.exits import Exit
from hybridbench.gate.revisions import Commit
from hybridbench.gate.verdict import CellVerdict, Word
from hybridbench.plain import from_plain, to_plain

SCHEMA = 1
REPEATS = 1
"""How often an undecided revision is measured again before it is skipped."""
_FAST = (Word.PASS, Word.IMPROVEMENT, Word.SAME_CODE)


class Answer(StrEnum):
    """What one revision is, against the good one."""

    FAST = "as fast"
    SLOW = "slower"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class JudgedRevision:
    """One revision that was judged.

    Args:
        commit: the full hash of the revision.
        base: of what it was judged against.
        answer: what it is.
        because: why it was skipped; empty where it was not.
        verdicts: of the cells that were timed.
    """

    commit: str
    base: str
    answer: Answer
    because: str = ""
    verdicts: tuple[CellVerdict, ...] = ()


class OutOfTime(HybridbenchError):
    """The budget ended before a revision was judged; the text says how to go on."""

    exit_code = int(Exit.INCONCLUSIVE)


Measure = Callable[[str, str, Sequence[CheckCell]], Sequence[CellVerdict]]
"""The verdicts of cells on a commit (second) against another one (first).

It raises ``BadInput`` where a side does not start or neither side has a person's kernel, and ``OutOfTime``.
"""


@dataclass
class Bisection:
    """A bisect as far as it has come.

    Args:
        good: the full hash of the good revision.
        commits: those after it up to the bad one, in order.
        steps: what was judged, in order.
    """

    good: str
    commits: list[Commit]
    steps: list[JudgedRevision] = field(default_factory=list)

    def answers(self) -> dict[str, Answer]:
        """What each revision is against the good one, by its hash."""
        return {one.commit: one.answer for one in self.steps if one.base == self.good}

    def suspects(self) -> list[Commit]:
        """The commits that may be the first slow one: those after the last fast one, up to the first slow one."""
        said = [self.answers().get(one.name) for one in self.commits]
        end = said.index(Answer.SLOW) if Answer.SLOW in said else len(said) - 1
        start = max((at + 1 for at in range(end) if said[at] is Answer.FAST), default=0)
        return self.commits[start : end + 1]

    def following(self) -> Commit | None:
        """The revision to judge next; None where nothing is left to judge.

        It is the middle one of the suspects. Neighbours of a skipped revision are often skipped too, so after one it is
        the middle of the longer stretch that lies before all skipped ones or after them, and of one between them only
        where there is no other.
        """
        answers = self.answers()
        suspects = self.suspects()[:-1]
        stretches = [
            [at for at, _ in group]
            for known, group in groupby(enumerate(suspects), lambda one: one[1].name in answers)
            if not known
        ]
        outer = [one for one in stretches if one[0] == 0 or one[-1] == len(suspects) - 1]
        longest = max(outer or stretches, key=len, default=[])
        return suspects[longest[(len(longest) - 1) // 2]] if longest else None

    def step_of(self, commit: str, base: str) -> JudgedRevision | None:
        """The step that judged one commit against another one."""
        return next((one for one in self.steps if (one.commit, one.base) == (commit, base)), None)


def most_steps(count: int) -> int:
    """How many revisions are judged if none is skipped, of so many after the good one, with the last step."""
    return 1 + math.ceil(math.log2(count)) + (count > 1)


@dataclass(frozen=True, slots=True)
class BisectResult:
    """What a bisect came to.

    Args:
        suspects: the first slow commit alone, or all that may be it, in order.
        slow: the step of the first slow revision against the good one; None where the bad one is not slower.
        before: the step of the last fast one; None where that is the good one.
        alone: the step of the first slow commit against its parent; None where there is none.
        bad: the step of the bad revision.
    """

    suspects: list[Commit]
    slow: JudgedRevision | None
    before: JudgedRevision | None
    alone: JudgedRevision | None
    bad: JudgedRevision


def walk_through(
    walk: Bisection,
    cells: Sequence[CheckCell],
    measure: Measure,
    parent_of: Callable[[str], str],
    keep: Callable[[Bisection], None] = lambda _walk: None,
    said: Callable[[JudgedRevision], None] = lambda _step: None,
) -> BisectResult:
    """Judge revisions until the first slow one is known, or all that is left was skipped.

    Args:
        walk: as far as it has come; steps are added to it.
        cells: what is timed; after the bad revision only those that are slower there.
        parent_of: the first parent of a commit.
        keep: called after each step, to store the walk.
        said: called with each step that was just judged.

    Raises:
        BadInput: the good or the bad revision does not start, or neither has a kernel.
        OutOfTime: the budget ended.
    """

    def judged(commit: str, base: str, which: Sequence[CheckCell], *, must: bool = False) -> JudgedRevision:
        known = walk.step_of(commit, base)
        if known is not None:
            return known
        step = _judged(commit, base, which, measure, must)
        walk.steps.append(step)
        keep(walk)
        said(step)
        return step

    last = walk.commits[-1].name
    walk.steps = [one for one in walk.steps if one.commit != last or one.answer is Answer.SLOW]
    bad = judged(last, walk.good, cells, must=True)
    if bad.answer is not Answer.SLOW:
        return BisectResult([], None, None, None, bad)
    slower = {one.cell for one in bad.verdicts if one.word is Word.REGRESSION}
    followed = [cell for cell in cells if cell.name in slower]
    while (following := walk.following()) is not None:
        judged(following.name, walk.good, followed)
    suspects = walk.suspects()
    first, slow = suspects[0], walk.step_of(suspects[-1].name, walk.good)
    at = walk.commits.index(first)
    before = walk.step_of(walk.commits[at - 1].name, walk.good) if at else None
    alone = None
    if len(suspects) == 1 and at:
        alone = judged(first.name, parent_of(first.name), followed)
    return BisectResult(suspects, slow, before, alone, bad)


def _judged(commit: str, base: str, cells: Sequence[CheckCell], measure: Measure, must: bool) -> JudgedRevision:
    """One step; what is undecided is measured again.

    Args:
        must: whether a revision that cannot be measured is an error.
    """
    verdicts: Sequence[CellVerdict] = ()
    for _ in range(1 + REPEATS):
        try:
            verdicts = measure(base, commit, cells)
        except BadInput as exc:
            if must:
                raise
            return JudgedRevision(commit, base, Answer.SKIPPED, " ".join(str(exc).split()))
        if any(one.word is Word.REGRESSION for one in verdicts):
            return JudgedRevision(commit, base, Answer.SLOW, "", tuple(verdicts))
        if verdicts and all(one.word in _FAST for one in verdicts):
            return JudgedRevision(commit, base, Answer.FAST, "", tuple(verdicts))
        if not any(one.word not in _FAST and one.pairs for one in verdicts):
            break  # it gave no times, and would not the next time
    because = "; ".join(f"{one.cell}: {one.word}. {one.because}" for one in verdicts if one.word not in _FAST)
    return JudgedRevision(commit, base, Answer.SKIPPED, because or "Nothing was measured.", tuple(verdicts))


def key_of(good: str, bad: str, cells: Sequence[CheckCell], machine: str) -> str:
    """What tells one bisect on one machine from another, as twelve digits: their progress must not be mixed."""
    asked = [[cell.name, cell.kind, cell.base, cell.head] for cell in cells]
    text = dumps([good, bad, asked, machine], sort_keys=True)
    return sha256(text.encode()).hexdigest()[:12]


def write_progress(walk: Bisection, key: str, path: Path) -> None:
    """Store the steps of a walk. The file is whole at any moment.

    Raises:
        BadInput: it cannot be written.
    """
    body = {"schema": SCHEMA, "bisect": key, "steps": [to_plain(one) for one in walk.steps]}
    new = path.with_name(f"{path.name}.new")
    try:
        new.write_text(dumps(body, indent=1) + "\n", encoding="utf-8")
        os.replace(new, path)
    except OSError as exc:
        raise BadInput(f"{path} cannot be written ({exc.strerror}): make room, or give --progress FILE.") from exc


def read_progress(walk: Bisection, key: str, path: Path) -> None:
    """Add to a walk the steps that were stored; none where there is no file.

    Raises:
        BadInput: the file cannot be read as the progress of this bisect.
    """
    try:
        body = from_json(read_text(path, CONFIG_BYTES))
        if not isinstance(body, dict) or body.get("schema") != SCHEMA or body.get("bisect") != key:
            raise Damaged("is not the progress of this bisect on this machine")
        steps = [_step(one) for one in body["steps"]]
        if not {one.commit for one in steps} <= {one.name for one in walk.commits}:
            raise Damaged("has commits of another history")
        walk.steps += steps
    except Missing:
        return
    except Damaged as exc:
        raise BadInput(f"{path} {exc}: remove it, or name another file with --progress.") from exc
    except (KeyError, TypeError, ValueError, AttributeError) as exc:
        raise BadInput(
            f"{path} has steps that are not whole: remove it, or name another file with --progress."
        ) from exc


def _step(body: Mapping[str, Any]) -> JudgedRevision:
    verdicts = tuple(from_plain(CellVerdict, one) for one in body["verdicts"])
    return JudgedRevision(body["commit"], body["base"], Answer(body["answer"]), str(body["because"]), verdicts)
