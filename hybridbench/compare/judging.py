"""judging: the verdict of each pair, their order, and what a comparison means for an exit code.

The rule of ``--fail-above``: a cell fails if its whole interval is beyond the limit, that is, if even the least change
that its interval allows is worse than the limit; or if it worked in the base and does not work now.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from hybridbench.compare.cell import OK, ComparedCell, ComparedMetric
from hybridbench.compare.interval import FEWEST, Ratio, enough, ratio_of
from hybridbench.compare.pairing import CellPair, pair
from hybridbench.compare.sides import CROSSINGS, ComparedSide
from hybridbench.errors import NotComparable, NothingCompared


class Verdict(StrEnum):
    """What a row says; in the order of a table."""

    BROKE = "broke"
    FIXED = "fixed"
    INCOMPARABLE = "not comparable"
    FAILS = "fails in both"
    WORSE = "worse"
    BETTER = "better"
    DOUBTFUL = "doubtful"
    FEW = "few samples"
    NOISE = "within noise"
    SAME = "same"
    UNKNOWN = "unknown"
    GONE = "only in the base"
    NEW = "new"


CERTAIN = (Verdict.WORSE, Verdict.BETTER)
ORDER: dict[Verdict, int] = {
    verdict: place
    for place, verdicts in enumerate(
        (
            (Verdict.BROKE,),
            (Verdict.FIXED,),
            (Verdict.INCOMPARABLE,),
            (Verdict.FAILS,),
            CERTAIN,
            (Verdict.DOUBTFUL,),
            (Verdict.FEW,),
            (Verdict.NOISE, Verdict.SAME),
            (Verdict.UNKNOWN,),
            (Verdict.GONE,),
            (Verdict.NEW,),
        )
    )
    for verdict in verdicts
}


@dataclass(frozen=True)
class JudgedPair:
    """One pair with its verdict.

    Args:
        ratio: the other side's amount over the base's; None without one.
        reasons: why the verdict is not one of time: messages of failures, fields that differ, doubts.
        failed: whether ``--fail-above`` fails it.
    """

    pair: CellPair
    verdict: Verdict
    ratio: Ratio | None
    reasons: tuple[str, ...] = ()
    failed: bool = False


@dataclass(frozen=True)
class Comparison:
    """Everything that is shown of a comparison.

    Args:
        across: names in ``CROSSINGS``.
        rows: by importance: failures, then certain changes, the largest first, then the rest.
        judged: how many intervals hold together.
        limit_frac: of ``--fail-above``; None without it.
    """

    sides: tuple[ComparedSide, ...]
    asked: ComparedMetric
    across: tuple[str, ...]
    rows: tuple[JudgedPair, ...]
    judged: int
    limit_frac: float | None = None

    @property
    def exit_code(self) -> int:
        """1 if ``--fail-above`` fails a cell; 4 if cells were not comparable, or if under ``--fail-above`` some of the
        base are gone; 6 if no cell got a ratio; else 0.
        """
        if any(row.failed for row in self.rows):
            return 1
        verdicts = {row.verdict for row in self.rows}
        if Verdict.INCOMPARABLE in verdicts or (self.limit_frac is not None and Verdict.GONE in verdicts):
            return NotComparable.exit_code
        return 0 if any(row.ratio for row in self.rows) else NothingCompared.exit_code


def compare(
    sides: Sequence[ComparedSide],
    asked: ComparedMetric,
    across: Sequence[str],
    crossed: frozenset[str],
    limit_frac: float | None = None,
) -> Comparison:
    """Compare every side with the first.

    Args:
        sides: two or more.
        asked: the metric of their cells.
        across: names in ``CROSSINGS``, and ``crossed``, their fields.
        limit_frac: the change for the worse beyond which a certain one fails; None if none does.

    Raises:
        NotComparable: nothing is comparable, because conditions differ that are not crossed.
        NothingCompared: no cell is in the base and in another side.
    """
    base, *others = sides
    pairs = [found for other in others for found in pair(base, other, crossed)]
    _check(pairs, sides)
    judged = sum(_is_judged(found) for found in pairs)
    rows = [_row(found, asked, judged, limit_frac) for found in pairs]
    return Comparison(tuple(sides), asked, tuple(across), tuple(sorted(rows, key=_importance)), judged, limit_frac)


def _check(pairs: Sequence[CellPair], sides: Sequence[ComparedSide]) -> None:
    both = [found for found in pairs if found.base and found.other]
    if any(not found.differing for found in both):
        return
    if both:
        fields = {name: values for found in reversed(both) for name, values in found.differing.items()}
        raise NotComparable(
            f"{sides[0].title} and {' and '.join(side.title for side in sides[1:])} are not comparable: "
            f"{differing_words(fields)}. {_way_out(fields)}"
        )
    names = " and ".join(dict.fromkeys(f"{side.title} ({len(side.cells)} records)" for side in sides))
    raise NothingCompared(f"{names} have no cell in common: measure the same cases for both, or name other results.")


def differing_words(fields: dict[str, tuple[str, str]]) -> str:
    """The fields that differ, each with both values; of packages, those that differ."""
    return ", ".join(f"{name} {_both(name, *values)}" for name, values in fields.items())


def _both(name: str, ours: str, theirs: str) -> str:
    if name == "packages":
        left, right = set(ours.split()) - set(theirs.split()), set(theirs.split()) - set(ours.split())
        return " / ".join(" ".join(sorted(only)) or "none of these" for only in (left, right))
    return f"{ours or 'none'} / {theirs or 'none'}"


def _way_out(fields: dict[str, tuple[str, str]]) -> str:
    """How the fields may be crossed, or that they may not."""
    needed: list[str] = []
    for name in fields:
        if not any(name in CROSSINGS[known] for known in needed):
            needed += [crossing for crossing, names in CROSSINGS.items() if name in names][:1]
    if all(any(name in CROSSINGS[known] for known in needed) for name in fields):
        return f"Measure both alike, or compare across it with {' '.join(f'--across {name}' for name in needed)}."
    return "Measure both alike."


def _is_judged(found: CellPair) -> bool:
    """Whether a pair gets an interval that may be wrong by chance."""
    if not (found.base and found.other) or found.differing:
        return False
    ratio = ratio_of(found.base, found.other)
    return ratio is not None and ratio.judged and (found.base.samples is not None or found.other.samples is not None)


def _row(found: CellPair, asked: ComparedMetric, judged: int, limit_frac: float | None) -> JudgedPair:
    if found.base is None or found.other is None:
        return JudgedPair(found, Verdict.GONE if found.other is None else Verdict.NEW, None, _failures(found))
    if found.differing:
        return JudgedPair(found, Verdict.INCOMPARABLE, None, (f"not comparable: {differing_words(found.differing)}",))
    if not (found.base.ok and found.other.ok):
        verdict = _of_failures(found.base, found.other)
        failed = limit_frac is not None and verdict is Verdict.BROKE
        return JudgedPair(found, verdict, None, _failures(found), failed)
    ratio = ratio_of(found.base, found.other, max(judged, 1))
    verdict = _of_ratio(found, ratio, asked)
    failed = limit_frac is not None and verdict is Verdict.WORSE and _beyond(ratio, asked, limit_frac)
    return JudgedPair(found, verdict, ratio, _reasons(found, verdict, asked), failed)


def _of_failures(base: ComparedCell, other: ComparedCell) -> Verdict:
    if base.ok:
        return Verdict.BROKE
    return Verdict.FIXED if other.ok else Verdict.FAILS


def _of_ratio(found: CellPair, ratio: Ratio | None, asked: ComparedMetric) -> Verdict:
    if ratio is None or found.base is None or found.other is None:
        return Verdict.UNKNOWN
    if found.base.doubts or found.other.doubts:
        return Verdict.DOUBTFUL
    if ratio.low is None or ratio.high is None:
        return Verdict.FEW
    if ratio.low <= 1 <= ratio.high:
        return Verdict.SAME if ratio.low == ratio.high else Verdict.NOISE
    return Verdict.WORSE if (ratio.low > 1) == (asked.better == "lower") else Verdict.BETTER


def _beyond(ratio: Ratio | None, asked: ComparedMetric, limit_frac: float) -> bool:
    """Whether the end of the interval that is nearer to no change is worse than the limit."""
    if ratio is None or ratio.low is None or ratio.high is None:
        return False
    return (ratio.low if asked.better == "lower" else 1 / ratio.high) > 1 + limit_frac


def _failures(found: CellPair) -> tuple[str, ...]:
    cells = [(cell, letter) for cell, letter in ((found.base, "A"), (found.other, found.side)) if cell is not None]
    return tuple(
        f"{cell.status} in {letter}: {' '.join((cell.message or 'no reason was recorded').split())}"
        for cell, letter in cells
        if cell.status != OK
    )


def _reasons(found: CellPair, verdict: Verdict, asked: ComparedMetric) -> tuple[str, ...]:
    sides = [(cell, letter) for cell, letter in ((found.base, "A"), (found.other, found.side)) if cell is not None]
    if verdict is Verdict.DOUBTFUL:
        by_doubt: dict[str, list[str]] = {}
        for cell, letter in sides:
            for doubt in cell.doubts:
                by_doubt.setdefault(doubt, []).append(letter)
        return tuple(f"doubtful in {' and '.join(letters)}: {doubt}" for doubt, letters in by_doubt.items())
    if verdict is Verdict.FEW:
        letters = " and ".join(letter for cell, letter in sides if not enough(cell))
        return (f"few samples in {letters}: an interval needs {FEWEST}, raise --min-samples",)
    if verdict is Verdict.UNKNOWN:
        letters = " and ".join(letter for cell, letter in sides if cell.amount is None)
        return (f"{asked.title} is unknown in {letters}",) if letters else (f"{asked.title} is zero",)
    return ()


def _importance(row: JudgedPair) -> tuple[int, float]:
    """Failures first, then the largest certain change: by the end of the interval that is nearer to no change."""
    return ORDER[row.verdict], -_certain_change(row)


def _certain_change(row: JudgedPair) -> float:
    ratio = row.ratio
    if ratio is None or ratio.low is None or ratio.high is None or row.verdict not in CERTAIN:
        return 0.0
    return ratio.low if ratio.low > 1 else 1 / ratio.high
