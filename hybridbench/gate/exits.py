"""exits: the exit code of a check, from the verdicts of its cells and from what is to fail a job.

| code | meaning |
|---|---|
| 0 | everything that was judged passed |
| 1 | a regression |
| 2 | the command could not be understood |
| 3 | a cell is inconclusive |
| 4 | a cell could not be compared, or vanished |
| 5 | a kernel is wrong |
| 6 | nothing was measured |
| 130 | interrupted |
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import IntEnum

from hybridbench.errors import BadInput, unknown_name
from hybridbench.gate.verdict import CellVerdict, Word


class Exit(IntEnum):
    """Exit codes of a check."""

    PASS = 0
    REGRESSION = 1
    USAGE = 2
    INCONCLUSIVE = 3
    NOT_COMPARABLE = 4
    INCORRECT = 5
    NOTHING_MEASURED = 6
    INTERRUPTED = 130


WORST_FIRST = (
    Exit.INCORRECT,
    Exit.REGRESSION,
    Exit.NOT_COMPARABLE,
    Exit.NOTHING_MEASURED,
    Exit.INCONCLUSIVE,
)
"""Of several, the first wins. These are what ``--fail-on`` can name."""

_CODES = {
    Word.REGRESSION: Exit.REGRESSION,
    Word.INCONCLUSIVE: Exit.INCONCLUSIVE,
    Word.NOT_COMPARABLE: Exit.NOT_COMPARABLE,
    Word.WRONG: Exit.INCORRECT,
    Word.NOTHING_MEASURED: Exit.NOTHING_MEASURED,
}
_JUDGED = (Word.PASS, Word.IMPROVEMENT, Word.ACCEPTED, Word.SAME_CODE, Word.REGRESSION)


def exit_name(code: Exit) -> str:
    """The name of a code for ``--fail-on``, such as ``not-comparable``."""
    return code.name.lower().replace("_", "-")


def worst(codes: Iterable[Exit], fail_on: Sequence[Exit] = WORST_FIRST) -> Exit:
    """The worst of some codes, of those that are to fail a job; 0 where there is none."""
    there = set(codes)
    return next((code for code in WORST_FIRST if code in there and code in fail_on), Exit.PASS)


def exit_of(verdicts: Sequence[CellVerdict], fail_on: Sequence[Exit] = WORST_FIRST, *, all_first: bool = False) -> Exit:
    """The exit code of a check.

    Advisory cells fail nothing, unless they are wrong or could not be compared. A check in which no cell that counts
    was judged has measured nothing.

    Args:
        all_first: every cell is the first of a person's own kernel, which was found right and has nothing to be
            compared with: that is no failure.
    """
    if all_first:
        return Exit.PASS
    counted = [one for one in verdicts if not one.advisory or one.word in (Word.WRONG, Word.NOT_COMPARABLE)]
    codes = {_CODES.get(one.word, Exit.PASS) for one in counted}
    if not any(one.word in _JUDGED or one.word is Word.INCONCLUSIVE for one in counted):
        codes.add(Exit.NOTHING_MEASURED)
    return worst(codes, fail_on)


def parse_fail_on(text: str | None) -> tuple[Exit, ...]:
    """``--fail-on``: names with commas between them; all of them where it is left out, none for ``none``.

    Raises:
        BadInput: an empty part, or an unknown name.
    """
    if text is None:
        return WORST_FIRST
    if text.strip().lower() == "none":
        return ()
    known = {exit_name(code): code for code in WORST_FIRST}
    parts = [part.strip().lower() for part in text.split(",")]
    if not all(parts):
        raise BadInput(f"--fail-on '{text}' has an empty part: write names with single commas between them.")
    if "none" in parts:
        raise BadInput(f"--fail-on '{text}': none says that nothing fails, so leave it or all others out.")
    for part in parts:
        if part not in known:
            raise unknown_name("outcome", part, [*known, "none"])
    return tuple(code for code in WORST_FIRST if exit_name(code) in parts)
