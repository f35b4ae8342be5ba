"""solvers: answers of synthetic tasks by plain reading, token by token, without any of the generators' arithmetic."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

IGNORED = -100
Answers = list[int]


def recalled(tokens: Sequence[int], pairs: int) -> Answers:
    """MQAR: the value of each key that comes again after the pairs; keys that come by chance are not asked for."""
    told = {tokens[2 * place]: tokens[2 * place + 1] for place in range(pairs)}
    return [IGNORED] * (2 * pairs) + [told.get(token, IGNORED) for token in tokens[2 * pairs :]]


def recalled_pairs(tokens: Sequence[int], keys: int, known: int) -> Answers:
    """Keys below ``keys``, values below ``known``: a value after a key that came before is asked for."""
    seen: dict[int, int] = {}
    found: Answers = []
    for token, after in itertools.zip_longest(tokens, tokens[1:]):
        found.append(IGNORED)
        if token < keys:
            if token in seen:
                found[-1] = seen[token]
            if after is not None:
                assert keys <= after < known
                assert seen.setdefault(token, after) == after
    return found


def recalled_motifs(tokens: Sequence[int], keys: int, pad: int) -> Answers:
    """Runs of key tokens, each followed by a run of value tokens: the value of a run that came before is asked for.

    The last value ends outside ``tokens``; it came before in any case.
    """
    begin = next(place for place, token in enumerate(tokens) if token != pad)
    assert pad not in tokens[begin:]
    runs = [list(run) for _, run in itertools.groupby(tokens[begin:], lambda token: token < keys)]
    seen: dict[tuple[int, ...], list[int]] = {}
    found: Answers = [IGNORED] * begin
    for key, value in itertools.zip_longest(runs[::2], runs[1::2], fillvalue=[]):
        known = seen.get(tuple(key))
        last = len(found) + len(key) + len(value) == len(tokens)
        if not last:
            assert known in (None, value)
            seen[tuple(key)] = value
        elif known is not None:
            assert known[: len(value)] == value
        said = known if known is not None else [IGNORED] * (len(value) + 1)
        found += [IGNORED] * (len(key) - 1)  # what comes after a key's last token is its value's first
        found += said[: len(value) + 1] if last else [*said[: len(value)], IGNORED]
    return found[: len(tokens)]


def copied(tokens: Sequence[int], mark: int, blank: int) -> Answers:
    """What is no blank before the mark, in order, at the blanks after it."""
    place = tokens.index(mark)
    assert set(tokens[place + 1 :]) == {blank}
    assert tokens[place - 1] != blank  # blanks stand before a token, never behind the last
    hidden = [token for token in tokens[:place] if token != blank]
    return [IGNORED] * (place + 1) + hidden


def odd(tokens: Sequence[int]) -> Answers:
    """Whether the ones up to each bit are odd, counted anew each time."""
    return [list(tokens[: place + 1]).count(1) % 2 for place in range(len(tokens))]


def moved(tokens: Sequence[int]) -> Answers:
    """The permutation that five things have undergone, by moving the things."""
    elements = sorted(itertools.permutations(range(5)))
    things = list("abcde")
    found = []
    for token in tokens:
        goes = elements[token]
        after = [""] * 5
        for place, thing in enumerate(things):
            after[goes[place]] = thing
        things = after
        found.append(elements.index(tuple(things.index(thing) for thing in "abcde")))
    return found
