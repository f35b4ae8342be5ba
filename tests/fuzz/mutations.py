"""Realistic damage to JSON values, to bytes and to options, drawn from a seeded generator."""

from __future__ import annotations

import json
import random
from typing import Any

NUMBERS: tuple[Any, ...] = (
    *(0, -0.0, -1, 1, 2, 3, 7, 64, 2**31, 2**63, -(2**63), 10**24, 10**400, 0.5, 1e-320, 1e308, -1e308),
    *(float("nan"), float("inf"), float("-inf")),
)
TEXTS = (
    *(
        "",
        " ",
        "x",
        "x" * 100_000,
        "\x00",
        "\x1b[2J\x1b]0;t\x07",
        "\ud800",
        "\ufffe",
        "\u202eabc",
        "a\nb",
        "[red]x[/red]",
    ),
    *(
        "<script>",
        "| a | b |",
        "../..",
        "/dev/zero",
        "%s%n",
        "{}",
        "é",
        "\U0001f600",
        "M-" * 3000,
        "nan",
        "1e999",
        "none",
    ),
)


def value(rng: random.Random) -> Any:
    """Anything that JSON holds, and numbers that only Python's JSON does."""
    kind = rng.randrange(8)
    if kind < 3:
        return rng.choice(NUMBERS)
    if kind < 5:
        return rng.choice(TEXTS)
    if kind == 5:
        return rng.choice((None, True, False, [], {}, [[]], [None], {"": ""}))
    if kind == 6:
        deep: Any = rng.choice(NUMBERS)
        for _ in range(rng.choice((1, 5, 70, 500))):
            deep = [deep] if rng.random() < 0.5 else {"a": deep}
        return deep
    return [rng.choice(NUMBERS) for _ in range(rng.randrange(5))]


def places(tree: Any) -> list[tuple[Any, Any]]:
    """Every container with each of its keys or indices."""
    found, left = [], [tree]
    while left:
        part = left.pop()
        keys = list(part) if isinstance(part, dict) else range(len(part)) if isinstance(part, list) else ()
        for key in keys:
            found.append((part, key))
            left.append(part[key])
    return found


def damaged_tree(tree: Any, rng: random.Random) -> Any:
    """A tree with one to three fields dropped, changed, swapped, renamed or added."""
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        known = places(tree)
        if not known:
            return value(rng)
        part, key = rng.choice(known)
        kind = rng.randrange(8)
        if kind == 0:
            del part[key]
        elif kind == 1 and isinstance(part, dict):
            part[rng.choice(TEXTS)] = part.pop(key)
        elif kind == 2:
            other, place = rng.choice(known)
            part[key] = json.loads(json.dumps(other[place])) if place in other or isinstance(other, list) else None
        elif kind == 3 and isinstance(part[key], int | float):
            part[key] = part[key] * rng.choice((-1, 0, 2, 1000, 1e9, 0.5))
        elif kind == 4 and isinstance(part[key], str):
            part[key] = part[key] + rng.choice(TEXTS)
        else:
            part[key] = value(rng)
    return tree


def damaged_bytes(content: bytes, rng: random.Random) -> bytes:
    """Bytes cut short, flipped, doubled, padded or put in another encoding; most often as they are."""
    kind = rng.randrange(16)
    if kind == 0:
        return content[: rng.randrange(len(content) + 1)]
    if kind == 1:
        return content[: rng.randrange(len(content) + 1)] + b"\0" * rng.choice((1, 512, 4096))
    if kind == 2 and content:
        flipped = bytearray(content)
        for _ in range(rng.choice((1, 3, 20))):
            flipped[rng.randrange(len(flipped))] ^= 1 << rng.randrange(8)
        return bytes(flipped)
    if kind == 3:
        return b"\xef\xbb\xbf" + content
    if kind == 4:
        return content.decode("utf-8", "replace").encode("utf-16")
    if kind == 5:  # a key given twice
        at = content.find(b'":', rng.randrange(len(content) + 1))
        start = content.rfind(b'"', 0, max(at, 0))
        return content if start < 0 else content[:start] + content[start : at + 2] + b"1," + content[start:]
    if kind == 6:
        return content + rng.choice((b"\0", b"}", b"\n\n", b"\xff", content))
    return content


def text_of(tree: Any, rng: random.Random) -> bytes:
    """A tree as JSON, at times as other programs write it."""
    indent = rng.choice((None, None, None, 2))
    return json.dumps(tree, ensure_ascii=rng.random() < 0.8, indent=indent).encode("utf-8", "surrogatepass")
