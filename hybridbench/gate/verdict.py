"""verdict: what is said of one cell, in one word, with its figures and the reason."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum


class Word(StrEnum):
    """The word of a verdict."""

    PASS = "pass"
    IMPROVEMENT = "improvement"
    REGRESSION = "regression"
    ACCEPTED = "accepted"
    """A regression that the file of accepted ones allows."""
    INCONCLUSIVE = "inconclusive"
    SAME_CODE = "same code"
    """A kernel whose machine code, launch and tuning are those of the base."""
    NEW = "new"
    """The base does not have this cell."""
    WRONG = "wrong"
    """It disagrees with its reference: there is no verdict on its speed."""
    NOT_COMPARABLE = "not comparable"
    NOTHING_MEASURED = "nothing measured"


@dataclass(frozen=True, slots=True)
class CellVerdict:
    """One cell's verdict.

    Args:
        cell: its name.
        kind: a name in ``kinds.KINDS``.
        word: what is said of it.
        because: why, in a sentence.
        change: (head - base) / base of its time, as estimated; None where nothing was estimated.
        low, high: bounds of ``change``.
        margin: the slowdown of this kind of cell that counts; a fraction.
        pairs: how many were judged.
        base_peak_bytes, head_peak_bytes: peaks of allocated device memory.
        advisory: why it fails no job; empty where it may.
        why: of a regression, what its time was added to, in a sentence; empty where it was not traced.
    """

    cell: str
    kind: str
    word: Word
    because: str
    change: float | None = None
    low: float | None = None
    high: float | None = None
    margin: float | None = None
    pairs: int = 0
    base_peak_bytes: int | None = None
    head_peak_bytes: int | None = None
    advisory: str = ""
    why: str = ""


def as_change(log_ratio: float) -> float | None:
    """A log ratio as a fraction of the base; None for NaN and infinities."""
    return math.expm1(log_ratio) if math.isfinite(log_ratio) else None
