"""line: one line of JSON, as records of every kind are stored, and what is said of a line that is none."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, cast

from hybridbench.errors import BadInput, BadResults
from hybridbench.files import Damaged, NotJson, from_json
from hybridbench.plain import to_plain
from hybridbench.text import shown

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


class Line:
    """What records of every kind share: they are a line of JSON, and say when they began. They are dataclasses."""

    case: Any
    started_at: str

    def to_json(self) -> str:
        """One line of JSON with the key of the case in front, for people who grep."""
        return as_line(cast("DataclassInstance", self), self.case.key)

    @property
    def started(self) -> datetime:
        """When the case began; a time without a zone is one of UTC.

        Raises:
            ValueError: ``started_at`` is no time.
        """
        return time_of(self.started_at)


def as_line(record: DataclassInstance, key: str) -> str:
    """A record as one line of JSON, with the key of its case in front."""
    body = {"key": key, **{f.name: to_plain(getattr(record, f.name)) for f in dataclasses.fields(record)}}
    return json.dumps(body, separators=(",", ":"), allow_nan=False)


def body_of(line: str, newest: int, *fields: str) -> dict[str, Any]:
    """The fields of a record's line, without its key.

    Args:
        newest: the newest schema of its kind that this version reads.
        fields: that a record of its kind has, beside ``schema``.

    Raises:
        BadResults: not JSON, not such a record, or from a newer schema.
    """
    try:
        body = from_json(line)
    except NotJson as exc:
        raise BadResults(f"not a JSON line ({exc.problem} at column {exc.column}): {line[:60]!r}") from exc
    except Damaged as exc:
        raise BadResults(f"the line {exc}: it was damaged or edited.") from exc
    if not isinstance(body, dict) or not {"schema", *fields} <= body.keys():
        named = " and ".join(f"'{name}'" for name in ("schema", *fields))
        raise BadResults(f"the line is JSON but not a hybridbench record: it has no {named}.")
    schema = body["schema"]
    if type(schema) is not int or schema < 1:
        raise BadResults(
            f"the record has schema {shown(schema)}, where a whole number from 1 to {newest} is expected: "
            "it was edited."
        )
    if schema > newest:
        raise BadResults(f"the record has schema {schema}, this hybridbench reads up to {newest}: upgrade hybridbench.")
    body.pop("key", None)
    return body


@contextlib.contextmanager
def stating_fields() -> Iterator[None]:
    """What goes wrong while fields are read becomes a ``BadResults`` that says which."""
    try:
        yield
    except KeyError as exc:
        raise BadResults(f"the record lacks or misstates a field (it has no {exc}): it was cut or edited.") from exc
    except (TypeError, ValueError, AttributeError, OverflowError, BadInput) as exc:
        raise BadResults(f"the record lacks or misstates a field ({exc}): it was cut or edited.") from exc


def time_of(started_at: str) -> datetime:
    """The time that a record states; one without a zone is of UTC.

    Raises:
        ValueError: it is no time, which the text says.
    """
    try:
        time = datetime.fromisoformat(started_at)
    except ValueError as exc:
        raise ValueError(f"started_at is {shown(started_at)}, which is no time") from exc
    return time if time.tzinfo else time.replace(tzinfo=UTC)
