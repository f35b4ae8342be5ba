"""The published schema of records: it is the dataclasses', holds the committed records, and refuses damaged ones."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hybridbench.arch.kinds import BLOCKS
from hybridbench.record import SCHEMA
from hybridbench.schema import as_text, record_schema

jsonschema = pytest.importorskip("jsonschema")

ROOT = Path(__file__).parents[1]
PUBLISHED = ROOT / "docs/record.schema.json"
VALIDATOR = jsonschema.Draft202012Validator(record_schema())


def bodies(path: Path) -> list[dict[str, Any]]:
    """Three records of a file, with two of their samples each: a sample is like the next."""
    found = []
    for line in path.read_text().splitlines()[:3]:
        body = json.loads(line)
        seen = body["observed"] or {"samples_ns": []}
        for part in (seen, *seen.get("parts", ())):
            part["samples_ns"] = part["samples_ns"][:2]
        found.append(body)
    return found


def test_the_published_schema_is_the_generated_one() -> None:
    """After a change of the record: python -m hybridbench.schema > docs/record.schema.json."""
    assert PUBLISHED.read_text(encoding="utf-8") == as_text()
    jsonschema.Draft202012Validator.check_schema(json.loads(as_text()))


def test_committed_records_of_every_version_fit_it() -> None:
    seen = set()
    for path in (ROOT / "results").rglob("records-*.jsonl"):
        for body in bodies(path):
            VALIDATOR.validate(body)
            seen.add(body["schema"])
    assert {4, 5, 6} <= seen


def test_every_kind_of_block_is_defined() -> None:
    named = [body["properties"].get("kind", {}) for body in record_schema()["$defs"].values()]
    kinds = {name["const"] for name in named if "const" in name}
    assert kinds == set(BLOCKS)


def _set(*place: str | int, to: Any) -> Callable[[dict[str, Any]], None]:
    def change(body: dict[str, Any]) -> None:
        inner: Any = body
        for name in place[:-1]:
            inner = inner[name]
        inner[place[-1]] = to

    return change


WRONG = {
    "no case": lambda body: body.pop("case"),
    "an unknown field": _set("speed", to=3),
    "an unknown field within": _set("observed", "memory", "heap_bytes", to=3),
    "an unknown status": _set("status", to="fine"),
    "negative bytes": _set("observed", "memory", "weights_bytes", to=-1),
    "a context of nothing": _set("case", "workload", "context", to=0),
    "text for a number": _set("observed", "build_ns", to="long"),
    "a newer schema": _set("schema", to=SCHEMA + 1),
    "an unknown caveat": _set("caveats", to=["odd"]),
    "no kind of block": _set("case", "model", "blocks", to={"M": {"kind": "mamba9"}}),
    "another key": _set("key", to="abc"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_a_record_cannot_be_does_not_fit(name: str) -> None:
    path = next((ROOT / "results/nvidia-h200/at-size").glob("records-*.jsonl"))
    body = next(one for one in bodies(path) if one["observed"])
    VALIDATOR.validate(body)
    changed = copy.deepcopy(body)
    WRONG[name](changed)
    assert not VALIDATOR.is_valid(changed)
