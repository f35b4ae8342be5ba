"""accepted: the file of regressions that were accepted, each with its size, a reason and an end date.

[[accepted]]
cell = "swiglu 4x8k"
slowdown = 0.03                 # a fraction: what is slower than this is a regression still
reason = "right for odd widths now"
until = 2026-12-31              # the last day on which it is accepted
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from hybridbench.errors import BadInput
from hybridbench.gate.entries import read_entries


@dataclass(frozen=True, slots=True)
class Accepted:
    """One entry.

    Args:
        cell: the name of a cell.
        slowdown: the largest that is accepted; a fraction of the base's time, above 0, such as 0.03 or 2.0.
        reason: why.
        until: the last day.
    """

    cell: str
    slowdown: float
    reason: str
    until: datetime.date


_NAMES = tuple(field.name for field in fields(Accepted))


def read_accepted(path: Path) -> list[Accepted]:
    """All entries of a file.

    Raises:
        BadInput: no such file, no TOML, or an entry that is not whole; the text names the entry.
    """
    found = [_entry(path, number, one) for number, one in enumerate(read_entries(path, "accepted"), start=1)]
    twice = {one.cell for one in found if [other.cell for other in found].count(one.cell) > 1}
    if twice:
        raise BadInput(f"{path} accepts {sorted(twice)[0]} twice: keep one entry for each cell.")
    return found


def still(accepted: Sequence[Accepted], today: datetime.date) -> tuple[list[Accepted], list[str]]:
    """The entries that hold on a day, and a sentence about each that has ended."""
    ended = [
        f"Accepted until {one.until} and no longer: {one.cell} ({one.reason})." for one in accepted if one.until < today
    ]
    return [one for one in accepted if one.until >= today], ended


def _entry(path: Path, number: int, body: Any) -> Accepted:
    where = f"{path}, accepted entry {number}"
    if not isinstance(body, dict) or set(body) != set(_NAMES):
        raise BadInput(f"{where} must have exactly {', '.join(_NAMES)}.")
    for name in ("cell", "reason"):
        if not isinstance(body[name], str) or not body[name].strip():
            raise BadInput(f"{where}: {name} must be a text that is not empty.")
    size = body["slowdown"]
    if isinstance(size, bool) or not isinstance(size, int | float) or not (math.isfinite(size) and size > 0):
        raise BadInput(f"{where}: slowdown {size} must be a number above 0, such as 0.03, or 2.0 for +200%.")
    if type(body["until"]) is not datetime.date:
        raise BadInput(f"{where}: until '{body['until']}' must be a date, such as 2026-12-31 without quotes.")
    return Accepted(body["cell"], float(size), body["reason"], body["until"])
