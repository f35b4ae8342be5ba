"""Any number in a record may be damaged: the record is refused, or every metric of it is a number that can be shown."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hybridbench.derive.doubts import doubts, problems
from hybridbench.errors import BadResults
from hybridbench.metrics import METRICS
from hybridbench.record import Record
from hybridbench.units import format_number

STORED = Path(__file__).parents[1] / "results/nvidia-h200"
WHOLE = {
    "decode": STORED / "lightning-rwkv7/records-20261128T211403Z-rest.jsonl",
    "train": STORED / "at-size/records-20261128T174807Z-631-d78f.jsonl",
}
"""Records with every part: ceilings, energy, counts, and a check at their size."""
EXTREMES = (0, 1, 1e-320, 1e-17, 1e24, 10**24, -1)


def body_of(path: Path) -> dict[str, Any]:
    """The first record of a file that observed something, with few samples."""
    bodies = map(json.loads, path.read_text().splitlines())
    body: dict[str, Any] = next(body for body in bodies if body["observed"])
    body["observed"]["samples_ns"] = body["observed"]["samples_ns"][:3]
    return body


def numbers(part: Any) -> Iterator[tuple[Any, Any]]:
    """Every place of a number, in what was observed."""
    for key, value in part.items() if isinstance(part, dict) else enumerate(part):
        if isinstance(value, dict | list):
            yield from numbers(value)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield part, key


@pytest.mark.slow
@pytest.mark.parametrize("kind", WHOLE)
def test_no_damaged_number_makes_a_figure_that_cannot_be_shown(kind: str) -> None:
    body = body_of(WHOLE[kind])
    assert all(body["observed"][part] for part in ("ceilings", "energy", "counts", "sized"))
    refused = read = 0
    for part, key in list(numbers(body["observed"])):
        right = part[key]
        for wrong in EXTREMES:
            part[key] = wrong
            try:
                record = Record.from_json(json.dumps(body))
            except BadResults:
                refused += 1
                continue
            read += 1
            problems(record)
            doubts(record)
            for name, metric in METRICS.items():
                found = metric.compute(record)
                assert found is None or math.isfinite(found), (key, wrong, name, found)
                format_number(found)
        part[key] = right
    assert refused > 30
    assert read > 30
