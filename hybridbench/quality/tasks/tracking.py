"""tracking: what a state must follow step by step: the parity of bits, and the product of permutations of five things.

Both are asked for at every position. Parity is the smaller of two groups; S5 is the smallest group of permutations that
is not solvable, so that no fixed number of blocks of attention or of diagonal recurrences computes its products (arXiv
2404.08819; 2411.12537 for recurrences whose eigenvalues lie in [0, 1], which cannot do parity either).
"""

from __future__ import annotations

import functools
import itertools

import numpy as np

from hybridbench.quality.tasks.examples import IGNORED, ExamplePart, Examples, Ids


def parity(part: ExamplePart, vocabulary: int, rng: np.random.Generator, training: bool) -> Examples:  # noqa: ARG001
    """Bits, and at each whether the ones so far are odd."""
    token_NT = rng.integers(0, 2, (part.examples, part.length))
    return _from(part, token_NT, token_NT.cumsum(1) % 2)


def s5(part: ExamplePart, vocabulary: int, rng: np.random.Generator, training: bool) -> Examples:  # noqa: ARG001
    """Permutations, and at each the product of all so far: each is applied after those before it."""
    products = _products()
    token_NT = rng.integers(0, len(products), (part.examples, part.length))
    target_NT = token_NT.copy()
    for place in range(1, part.length):
        target_NT[:, place] = products[target_NT[:, place - 1], token_NT[:, place]]
    return _from(part, token_NT, target_NT)


PERMUTATIONS = tuple(itertools.permutations(range(5)))
"""The 120 elements of S5 by their ids: where each of five places goes."""


@functools.cache
def _products() -> Ids:
    """The id of the permutation that does the first (row) and then the second (column)."""
    ids = {element: number for number, element in enumerate(PERMUTATIONS)}
    made = [[ids[tuple(second[place] for place in first)] for second in PERMUTATIONS] for first in PERMUTATIONS]
    return np.array(made, np.int64)


def _from(part: ExamplePart, token_NT: Ids, target_NT: Ids) -> Examples:
    target_NT[:, : part.first] = IGNORED
    return Examples(token_NT, target_NT)
