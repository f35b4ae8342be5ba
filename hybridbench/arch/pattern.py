"""pattern: layer strings: one letter per sublayer, as in Megatron-LM's hybrid patterns, and their ratios and places.

``arch.kinds`` says what each letter is; ``(*&M)`` is two mixers in parallel.

A quote after a layer marks another shape of its kind, as imported models may have: ``S'``. Spaces are ignored, and so
is ``|``, which Megatron-LM puts between pipeline stages; ``+`` means ``-``. The paper's 1B inter model is
``M-M-M-*-M-M-M-*-M-M-M-M-M-``.
"""

from __future__ import annotations

import math

from hybridbench.arch.kinds import BLOCK_LETTERS, BRANCHES, FEED_FORWARD
from hybridbench.errors import BadInput, BadPattern
from hybridbench.units import whole


def parse_pattern(text: str) -> tuple[str, ...]:
    """The sublayers of a layer string, parallel blocks as one symbol such as ``(*&M)``.

    >>> parse_pattern("M- (*&M)-")
    ('M', '-', '(*&M)', '-')

    Raises:
        BadPattern: an unknown letter, an unclosed or malformed parallel block, or nothing at all.
    """
    layers: list[str] = []
    at = 0
    while at < len(text):
        char = text[at]
        if char.isspace() or char == "|":
            at += 1
        elif char in BLOCK_LETTERS or char == "+":
            layers.append(char.replace("+", "-"))
            at += 1
        elif char == "(":
            symbol, at = _parse_parallel(text, at)
            layers.append(symbol)
        elif char == "'" and at and not text[at - 1].isspace() and text[at - 1] != "|":
            layers[-1] += char
            at += 1
        elif char == "/":
            raise BadPattern(text, at, "'/' opens layers for multi-token prediction, which are no part of the model.")
        else:
            raise BadPattern(text, at, f"'{char}' is no layer: use {' '.join(BLOCK_LETTERS)} or (*&M).")
    if not layers:
        raise BadPattern(text or " ", 0, "it is empty: name at least one layer, such as M-*-.")
    if all(layer[0] in FEED_FORWARD for layer in layers):
        raise BadPattern(text, 0, "no layer mixes positions: add M, *, S or another mixer.")
    return tuple(layers)


def _parse_parallel(text: str, start: int) -> tuple[str, int]:
    """The symbol of the parallel block that opens at ``start``, and the index after it."""
    expected = ("mixer", "&", "mixer", ")")
    found: list[str] = []
    at = start + 1
    while len(found) < len(expected):
        if at >= len(text):
            raise BadPattern(text, start, "this parallel block is not closed: write (*&M).")
        char, want = text[at], expected[len(found)]
        at += 1
        if char.isspace():
            continue
        if char != want and not (want == "mixer" and char in BRANCHES):
            wanted = f"a mixer ({', '.join(BRANCHES[:-1])} or {BRANCHES[-1]})" if want == "mixer" else f"'{want}'"
            raise BadPattern(text, at - 1, f"'{char}' where {wanted} belongs: write (*&M).")
        found.append(char)
    return "(" + "".join(found), at


def parse_ratio(text: str) -> tuple[int, int]:
    """``attention : SSM`` blocks (global : window for swa, hybrid : Mamba for intra), in lowest terms.

    >>> parse_ratio("1:5"), parse_ratio("2:10")
    ((1, 5), (1, 5))

    Raises:
        BadInput: not two whole numbers, or both zero.
    """
    first, _, second = text.partition(":")
    attention, ssm = whole(first.strip()), whole(second.strip())
    if attention is None or ssm is None:
        raise BadInput(f"ratio '{text}' is not two whole numbers: write attention:SSM blocks, such as 1:5.")
    if attention == ssm == 0:
        raise BadInput(f"ratio '{text}' names no block at all: give 1:5, 1:0 or 0:1.")
    divisor = math.gcd(attention, ssm)
    return attention // divisor, ssm // divisor


def nearest_count(ratio: tuple[int, int], layers: int) -> int:
    """How many of ``layers`` blocks the first side of a ratio takes, to the nearest whole block, halves up.

    The paper rounds up too: its intra-layer 1:1 stacks are 6 of 11 and 7 of 13 blocks.
    """
    share, rest = ratio
    return (2 * layers * share + share + rest) // (2 * (share + rest))


def count_for_ratio(ratio: tuple[int, int], layers: int) -> int:
    """``nearest_count``, checked: each side of the ratio that is not 0 gets a block.

    Raises:
        BadInput: a side would get none.
    """
    share, rest = ratio
    count = nearest_count(ratio, layers)
    if (share and not count) or (rest and count == layers):
        edge = f"1:{layers - 1}" if not count else f"{layers - 1}:1"
        side = "first" if not count else "second"
        raise BadInput(
            f"ratio {share}:{rest} does not fit {layers} blocks: the {side} side would get none; "
            f"the nearest that fits is {edge}."
        )
    return count


def spread(count: int, layers: int) -> tuple[int, ...]:
    """``count`` 1-based positions spread evenly over ``layers`` blocks, never the first one unless all are taken.

    Sparse sets stand at the fractions i/(count + 1) of the stack, as the paper's chosen sets nearly do; dense sets
    divide the places from 2 on, which gives its alternating 1:1 stacks.

    >>> spread(1, 13), spread(3, 11), spread(7, 14)
    ((7,), (3, 6, 8), (2, 4, 6, 8, 10, 12, 14))
    """
    if not 0 <= count <= layers:
        raise ValueError(f"{count} of {layers} blocks")
    if count == layers:
        return tuple(range(1, layers + 1))
    if 2 * count >= layers:
        return tuple(2 + (2 * i + 1) * (layers - 1) // (2 * count) for i in range(count))
    return tuple(max(2, (2 * (i + 1) * layers + count + 1) // (2 * (count + 1))) for i in range(count))


def parse_positions(text: str, layers: int | None = None) -> tuple[int, ...]:
    """1-based block positions such as ``4,8``, in order, each once.

    Raises:
        BadInput: not whole numbers, below 1, twice, or beyond ``layers``.
    """
    blocks = [whole(part.strip()) for part in text.split(",")]
    positions = tuple(sorted(block for block in blocks if block))
    if len(positions) < len(blocks):
        raise BadInput(f"positions '{text}' are not 1-based block numbers: write 4,8.")
    if len(set(positions)) < len(positions):
        raise BadInput(f"positions '{text}' name a block twice: give each once.")
    if layers is not None and positions[-1] > layers:
        raise BadInput(f"position {positions[-1]} is beyond the {layers} blocks of this model: give 1 to {layers}.")
    return positions
