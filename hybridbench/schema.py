"""schema: the JSON Schema of records, made from the dataclasses that they are read into.

    python -m hybridbench.schema > docs/record.schema.json

A file of results holds one record a line. The schema says what each field is, what numbers it may hold and which
fields older records lack. ``Record.from_json`` checks more: that a case makes a model, and what fields mean together.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import types
import typing
from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from hybridbench.arch.block import Block
from hybridbench.arch.kinds import BLOCKS
from hybridbench.arch.model import ModelSpec
from hybridbench.plain import FREE_TEXT, LONGEST, bounds
from hybridbench.record import SCHEMA, Record

DRAFT = "https://json-schema.org/draft/2020-12/schema"
_UNWRITTEN = {ModelSpec: ("notes", "stored")}
"""Fields that are not written, by class."""


def record_schema() -> dict[str, Any]:
    """The schema of one line of a ``records-*.jsonl`` file."""
    found: dict[str, Any] = {}
    _of_class(Record, found)
    record = found.pop("Record")
    record["properties"] = {"key": {"type": "string", "pattern": "^[0-9a-f]{16}$"}, **record["properties"]}
    record["properties"]["schema"] = {"type": "integer", "minimum": 1, "maximum": SCHEMA}
    record["required"] = sorted({*record["required"], "schema"})
    return {"$schema": DRAFT, "title": "A record of hybridbench", **record, "$defs": dict(sorted(found.items()))}


def _of_class(cls: Any, found: dict[str, Any]) -> dict[str, Any]:
    """A reference to the definition of a dataclass, which is added to ``found`` with those that it needs."""
    if cls.__name__ not in found:
        found[cls.__name__] = {}  # a block may hold blocks
        fields = [one for one in dataclasses.fields(cls) if one.name not in _UNWRITTEN.get(cls, ())]
        hints = typing.get_type_hints(cls)
        body = {one.name: _of(hints[one.name], one.name, found) for one in fields}
        needed = [one.name for one in fields if _needed(one)]
        if issubclass(cls, Block):
            body = {"kind": {"const": cls.kind}, **body}
            needed = ["kind", *needed]
        about = (cls.__doc__ or "").strip().partition("\n")[0]
        found[cls.__name__] = {
            "description": about,
            "type": "object",
            "properties": body,
            "required": sorted(needed),
            "additionalProperties": False,
        }
    return {"$ref": f"#/$defs/{cls.__name__}"}


def _needed(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _of(hint: Any, name: str, found: dict[str, Any]) -> dict[str, Any]:
    """The schema of a value of the field ``name``."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return {"anyOf": [_of(one, name, found) for one in args]}
    if origin is typing.Literal:
        return {"enum": list(args)}
    if origin in (list, tuple):
        if origin is tuple and args[-1] is not Ellipsis:
            return {"type": "array", "prefixItems": [_of(one, name, found) for one in args], "items": False}
        return {"type": "array", "items": _of(args[0], name, found)}
    if origin in (dict, Mapping) or (isinstance(origin, type) and issubclass(origin, Mapping)):
        return {"type": "object", "additionalProperties": _of(args[1], name, found)}
    if isinstance(hint, type) and issubclass(hint, Block) and hint not in BLOCKS.values():
        kinds = [kind for kind in BLOCKS.values() if issubclass(kind, hint)]
        return {"anyOf": [_of_class(kind, found) for kind in sorted(kinds, key=lambda kind: kind.kind)]}
    if dataclasses.is_dataclass(hint):
        return _of_class(hint, found)
    return _scalar(hint, name)


def _scalar(hint: Any, name: str) -> dict[str, Any]:
    if hint is type(None):
        return {"type": "null"}
    if issubclass(hint, StrEnum):
        return {"enum": [one.value for one in hint]}
    if hint is bool:
        return {"type": "boolean"}
    if hint is str:
        return {"type": "string"} if name in FREE_TEXT else {"type": "string", "maxLength": LONGEST}
    least, most, above_least = bounds(name)
    kind = "integer" if hint is int else "number"
    return {"type": kind, "exclusiveMinimum" if above_least else "minimum": least, "maximum": most}


@functools.cache
def as_text() -> str:
    """The schema as it is published."""
    return json.dumps(record_schema(), indent=1) + "\n"


if __name__ == "__main__":
    import sys

    sys.stdout.write(as_text())
