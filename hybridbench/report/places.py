"""places: what stands along the axis of a chart or table, and how a place on it is written."""

from __future__ import annotations

import re

from hybridbench.units import format_tokens

CONTEXT, BATCH, SCALE = "context", "batch", "scale"

AXIS_TITLES = {CONTEXT: "context [tokens]", BATCH: "batch [sequences]", SCALE: "scale [parameters]"}

_SIZES = {"m": 10**6, "b": 10**9}


def place_text(axis: str, place: int) -> str:
    """A place as a user types it.

    >>> place_text("context", 4096), place_text("batch", 64), place_text("scale", 350_000_000)
    ('4k', '64', '350m')
    """
    if axis == CONTEXT:
        return format_tokens(place)
    if axis == SCALE:
        letter, size = ("b", _SIZES["b"]) if place % _SIZES["b"] == 0 else ("m", _SIZES["m"])
        return f"{place // size}{letter}"
    return str(place)


def scale_place(name: str) -> int | None:
    """The parameters that a scale's name says; None where it says none.

    >>> scale_place("350m"), scale_place("1b"), scale_place("tiny")
    (350000000, 1000000000, None)
    """
    match = re.fullmatch(r"(\d+)([mb])", name)
    return int(match[1]) * _SIZES[match[2]] if match else None
