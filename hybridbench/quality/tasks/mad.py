"""mad: the six tasks of mechanistic architecture design (arXiv 2403.17844), at their base settings.

The rules are those of athms/mad-lab (``mad/data/instances.py``, ``configs/tasks``). In the three recall tasks a model
learns every next token and is judged on values of keys that came before; the last token of a sequence is only asked
for. In the others the same is learned and judged. One thing differs: the pair that a fuzzy recall ends with always
occurs before, which there fails when the pair is due after the last one that fits.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np

from hybridbench.quality.tasks.examples import IGNORED, ExamplePart, Examples, Ids

MAP_SEED = 12345
"""Of the one map from keys to values that memorisation asks for."""
COPIED = 16
"""Tokens that selective copying hides among blanks."""
MOTIF = 3
"""Tokens of the longest key and the longest value of fuzzy recall."""


def in_context_recall(
    part: ExamplePart,
    vocabulary: int,
    rng: np.random.Generator,
    training: bool,
    *,
    noise: float = 0.0,
    noise_ids: int = 0,
) -> Examples:
    """Pairs of key and value; a key that comes again has the same value.

    Args:
        noise: the share of pairs that are two noise tokens instead.
        noise_ids: how many ids of the vocabulary, its last, are noise.
    """
    rows, pairs = part.examples, part.length // 2
    known = vocabulary - noise_ids
    keys = known // 2
    value_NK = rng.integers(keys, known, (rows, keys))
    key_NP = rng.integers(0, keys, (rows, pairs))
    noisy_NP = rng.random((rows, pairs)) < noise
    row = np.arange(rows)
    noisy_NP[row, rng.integers(0, pairs - 1, rows)] = noisy_NP[:, -1] = False
    present_NK = np.zeros((rows, keys), bool)
    again_NP = np.zeros((rows, pairs), bool)
    for place in range(pairs - 1):
        key = key_NP[:, place]
        again_NP[:, place] = present_NK[row, key]
        present_NK[row, key] |= ~noisy_NP[:, place]
    key_NP[:, -1] = np.where(present_NK, rng.random((rows, keys)), -1.0).argmax(1)
    again_NP[:, -1] = True
    told_NP2 = np.stack((key_NP, np.take_along_axis(value_NK, key_NP, 1)), -1)
    if noise_ids:
        told_NP2 = np.where(noisy_NP[..., None], rng.integers(known, vocabulary, told_NP2.shape), told_NP2)
    token_NT = told_NP2.reshape(rows, -1)
    asked_NT = np.full_like(token_NT, IGNORED)
    asked_NT[:, 1::2] = np.where(again_NP & ~noisy_NP, told_NP2[..., 1], IGNORED)
    return _shifted(token_NT, asked_NT, training)


def noisy_recall(part: ExamplePart, vocabulary: int, rng: np.random.Generator, training: bool) -> Examples:
    """``in_context_recall`` with a fifth of the pairs replaced by noise from half of the vocabulary."""
    return in_context_recall(part, vocabulary, rng, training, noise=0.2, noise_ids=vocabulary // 2)


def fuzzy_recall(part: ExamplePart, vocabulary: int, rng: np.random.Generator, training: bool) -> Examples:
    """In-context recall of keys and values that are 1 to 3 different tokens; judged on keys of 3.

    The last id pads sequences at their front to one length.
    """
    draw = random.Random(int(rng.integers(2**62)))
    rows = [_fuzzy(part.length, vocabulary, draw, training) for _ in range(part.examples)]
    token_NT, asked_NT = (np.array(side, np.int64) for side in zip(*rows, strict=True))
    return _shifted(token_NT, asked_NT, training)


def _fuzzy(length: int, vocabulary: int, draw: random.Random, training: bool) -> tuple[list[int], list[int]]:
    """Tokens and what is asked at each of them, ``length + 1`` of both."""
    pad = vocabulary - 1
    keys, values = range(pad // 2), range(pad // 2, pad)

    def motif(ids: Sequence[int], shortest: int) -> tuple[int, ...]:
        return tuple(draw.sample(ids, draw.randint(shortest, MOTIF)))

    shortest = 1 if training else MOTIF
    probe = motif(keys, shortest)
    known = {probe: motif(values, 1)}
    last = [*probe, *known[probe]]
    most = length - len(last) - 2 * MOTIF
    due = draw.randrange(max(1, min(most, length - 2 * len(last))))
    tokens: list[int] = []
    asked: list[int] = []
    seen: set[tuple[int, ...]] = set()
    while len(tokens) < most:
        key = probe if len(tokens) >= due and probe not in seen else motif(keys, shortest)
        value = known.setdefault(key, motif(values, 1))
        tokens += [*key, *value]
        asked += [*[IGNORED] * len(key), *(value if key in seen else [IGNORED] * len(value))]
        seen.add(key)
    if probe not in seen:  # it was due in what the last pair took
        return _fuzzy(length, vocabulary, draw, training)
    tokens += last
    asked += [*[IGNORED] * len(probe), *known[probe]]
    front = length + 1 - len(tokens)
    return [pad] * front + tokens, [IGNORED] * front + asked


def _shifted(token_NT: Ids, asked_NT: Ids, training: bool) -> Examples:
    """Each token is asked for at the one before it."""
    return Examples(token_NT[:, :-1], (token_NT if training else asked_NT)[:, 1:])


def memorisation(part: ExamplePart, vocabulary: int, rng: np.random.Generator, training: bool) -> Examples:  # noqa: ARG001
    """Keys, each followed by the last id, at which its value is asked: the same in every sequence."""
    asking = vocabulary - 1
    values = fixed_map(asking)
    key_NP = rng.integers(0, len(values), (part.examples, part.length // 2))
    asked_NP2 = np.stack((np.full_like(key_NP, IGNORED), values[key_NP]), -1)
    token_NP2 = np.stack((key_NP, np.full_like(key_NP, asking)), -1)
    return Examples(token_NP2.reshape(part.examples, -1), asked_NP2.reshape(part.examples, -1))


def fixed_map(ids: int) -> Ids:
    """The value of each key: a lasting draw without repetition from the upper half of ``ids``."""
    keys = ids // 2
    return keys + np.random.default_rng(MAP_SEED).permutation(ids - keys)[:keys]


def selective_copying(part: ExamplePart, vocabulary: int, rng: np.random.Generator, training: bool) -> Examples:  # noqa: ARG001
    """16 tokens among blanks, then a mark and 16 blanks, at which the tokens are asked for in order."""
    rows, length = part.examples, part.length
    mark, blank = vocabulary - 1, vocabulary - 2
    copied_NC = rng.integers(0, blank, (rows, COPIED))
    blanks = length - 2 * COPIED - 1
    slot_NB = rng.integers(0, COPIED, (rows, blanks))  # the token that each blank stands before
    before_NC = (slot_NB[:, None, :] <= np.arange(COPIED)[None, :, None]).sum(-1)
    token_NT = np.full((rows, length), blank, np.int64)
    np.put_along_axis(token_NT, before_NC + np.arange(COPIED), copied_NC, 1)
    token_NT[:, -COPIED - 1] = mark
    target_NT = np.full((rows, length), IGNORED, np.int64)
    target_NT[:, -COPIED:] = copied_NC
    return Examples(token_NT, target_NT)


def compression(part: ExamplePart, vocabulary: int, rng: np.random.Generator, training: bool) -> Examples:  # noqa: ARG001
    """Random tokens and a mark: all of them are asked for, of what the model has at the mark."""
    token_NT = rng.integers(0, vocabulary - 1, (part.examples, part.length))
    token_NT[:, -1] = vocabulary - 1
    return Examples(token_NT, token_NT.copy())
