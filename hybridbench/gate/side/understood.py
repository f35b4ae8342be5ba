"""understood: a cell as this side describes it, where the change may have fields that this side does not know.

A field that is at its default in the change says nothing that an older base could do otherwise, so it is left out where
the base lacks it. What the base then makes must be the same cell in all that it knows.
"""

from __future__ import annotations

import dataclasses
import json
import typing
from collections.abc import Collection, Mapping
from typing import Any, Protocol, TypeVar

MADE = TypeVar("MADE", bound="_Described")
_ABSENT = object()


class _Described(Protocol):
    """What has JSON values."""

    def to_dict(self) -> dict[str, Any]:
        """Its JSON values."""
        ...

    @classmethod
    def from_dict(cls: type[MADE], body: dict[str, Any]) -> MADE:
        """One from its JSON values."""
        ...


def understood(kind: type[MADE], body: dict[str, Any], plain: Collection[str]) -> MADE:
    """A cell from the change's description of it.

    Args:
        kind: what this side describes such cells with.
        plain: the fields that are at their default in the change, as dotted paths.

    Raises:
        KeyError, TypeError, ValueError: this side cannot describe it.
    """
    try:
        return kind.from_dict(body)
    except (KeyError, TypeError, ValueError):
        made = kind.from_dict(_without(body, set(plain) - _known(kind)))
        asked, said = flat(body), flat(json.loads(json.dumps(made.to_dict())))
        if any(path not in plain for path in asked.keys() - said.keys()):
            raise
        if any(asked.get(path, _ABSENT) != value for path, value in said.items()):
            raise
        return made


def _known(kind: type[Any], at: str = "") -> set[str]:
    """The fields of a dataclass, and of those that it holds, as dotted paths."""
    hints, found = typing.get_type_hints(kind), set[str]()
    for one in dataclasses.fields(kind):
        path = f"{at}{one.name}"
        found.add(path)
        if isinstance(hints[one.name], type) and dataclasses.is_dataclass(hints[one.name]):
            found |= _known(hints[one.name], f"{path}.")
    return found


def _without(body: Mapping[str, Any], plain: Collection[str], at: str = "") -> dict[str, Any]:
    return {
        name: _without(value, plain, f"{at}{name}.") if isinstance(value, Mapping) else value
        for name, value in body.items()
        if f"{at}{name}" not in plain
    }


def flat(body: Mapping[str, Any], at: str = "") -> dict[str, Any]:
    """Nested values by their dotted path."""
    found: dict[str, Any] = {}
    for name, value in body.items():
        found |= flat(value, f"{at}{name}.") if isinstance(value, Mapping) and value else {f"{at}{name}": value}
    return found
