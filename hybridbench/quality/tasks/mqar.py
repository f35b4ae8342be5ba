"""mqar: multi-query associative recall: pairs of key and value first, then some keys again, each to be answered.

    pairs        rest of the sequence
    k1 v1 k2 v2  .. k2 .. .. k1 ..        at each key that comes again its value is asked

Each key comes again once, ``2 g`` tokens into the rest, where the gaps g of a sequence differ and follow a power law
p(g) ~ (g + 1)^(a - 1). All other tokens of the rest are random. This is the generator of HazyResearch/zoology
(``multiquery_ar.py``, arXiv 2312.04927 and 2402.18668), with a = 0.01.
"""

from __future__ import annotations

import numpy as np

from hybridbench.quality.tasks.examples import IGNORED, ExamplePart, Examples, distinct

POWER = 0.01


def mqar(part: ExamplePart, vocabulary: int, rng: np.random.Generator, training: bool) -> Examples:  # noqa: ARG001
    """Examples with ``part.pairs`` pairs; keys lie in the first half of the vocabulary, values in the second."""
    rows, pairs, length = part.examples, part.pairs, part.length
    half, before = vocabulary // 2, 2 * part.pairs
    key_NP = 1 + distinct(rng, rows, pairs, half - 1)
    value_NP = half + distinct(rng, rows, pairs, vocabulary - half)
    token_NT = rng.integers(0, vocabulary, (rows, length))
    token_NT[:, 0:before:2], token_NT[:, 1:before:2] = key_NP, value_NP
    place_NP = before + 2 * _gaps(rng, rows, pairs, (length - before) // 2)
    target_NT = np.full((rows, length), IGNORED, np.int64)
    np.put_along_axis(token_NT, place_NP, key_NP, 1)
    np.put_along_axis(target_NT, place_NP, value_NP, 1)
    return Examples(token_NT, target_NT)


def _gaps(
    rng: np.random.Generator, rows: int, count: int, space: int
) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
    """Different gaps, drawn one after the other by the power law: the largest of log p plus Gumbel noise."""
    log_p = (POWER - 1) * np.log(np.arange(1, space + 1))
    return np.argsort(-(log_p + rng.gumbel(size=(rows, space))), 1)[:, :count]
