"""examples: what a task gives a model to read and asks of it, as arrays, and how sets of them are described."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

IGNORED = -100
"""In targets: nothing is asked at this position."""

Ids = NDArray[np.int64]


@dataclass(frozen=True)
class Examples:
    """Sequences with their answers.

    Args:
        token_NT: what is read.
        target_NT: what must be said after reading each token; ``IGNORED`` where anything may be.
    """

    token_NT: Ids
    target_NT: Ids


@dataclass(frozen=True)
class ExamplePart:
    """Examples of one size.

    Args:
        length: tokens of a sequence.
        examples: how many.
        pairs: key and value pairs, of recall.
        first: the first position (from 0) at which a model is judged.
    """

    length: int
    examples: int
    pairs: int = 0
    first: int = 0

    @property
    def label(self) -> str:
        """A few words for a heading.

        >>> ExamplePart(64, 1000, pairs=4).label, ExamplePart(128, 10, first=64).label, ExamplePart(40, 10).label
        ('64x4', '65-128', '40')
        """
        if self.pairs:
            return f"{self.length}x{self.pairs}"
        return f"{self.first + 1}-{self.length}" if self.first else str(self.length)


def distinct(rng: np.random.Generator, rows: int, count: int, choices: int) -> Ids:
    """``count`` different numbers below ``choices`` in each row (rows, count), in random order: Floyd's algorithm."""
    found = np.full((rows, count), -1, np.int64)
    for place, top in enumerate(range(choices - count, choices)):
        drawn = rng.integers(0, top + 1, rows)
        taken = (found[:, :place] == drawn[:, None]).any(1)
        found[:, place] = np.where(taken, top, drawn)
    return rng.permuted(found, axis=1)
