"""kept: what was computed of a record, kept for as long as the record is there.

A report asks for the same numbers of a record for a dozen tables, charts and sentences. A record never changes, so each
number is computed once.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from typing import Any, TypeVar

from hybridbench.record import Record

Value = TypeVar("Value")

_of_record: dict[int, dict[Callable[[Record], Any], Any]] = {}
"""By the identity of a record that is there: what each function found."""


def once(compute: Callable[[Record], Value]) -> Callable[[Record], Value]:
    """A function of a record that is computed once per record. What it returns must not be changed."""

    @functools.wraps(compute)
    def kept(record: Record) -> Value:
        found = _of_record.get(id(record))
        if found is None:
            found = _of_record[id(record)] = {}
            weakref.finalize(record, _of_record.pop, id(record), None).atexit = False
        if compute not in found:
            found[compute] = compute(record)
        value: Value = found[compute]
        return value

    return kept
