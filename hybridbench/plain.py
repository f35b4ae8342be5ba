"""plain: dataclasses as plain JSON values and back, and which values their fields may have.

    from_plain(Memory, to_plain(memory)) == memory
    check_values(record)        # ValueError: observed.parameters: -5, where a number from 0 to 1e+24 is expected

What a worker of this program says needs no check. What was read from a file does: each field has its type, each number
is one that the unit in the field's name allows, and each name is a line of text.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import types
import typing
from collections.abc import Collection, Mapping
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, runtime_checkable

from hybridbench.text import is_line, shown

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


@runtime_checkable
class _Written(Protocol):
    """A class that knows its own plain form."""

    def to_dict(self) -> dict[str, Any]: ...


def to_plain(value: Any) -> Any:
    """A dataclass tree as JSON-ready dicts, lists and scalars."""
    if isinstance(value, _Written):
        return value.to_dict()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {k: to_plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(v) for v in value]
    if isinstance(value, StrEnum):
        return value.value
    return value


_T = TypeVar("_T", bound="DataclassInstance")


class Misfit(ValueError):
    """A value that does not fit its field; ``within`` adds the fields that lead to it."""

    def __init__(self, problem: str, place: str = "") -> None:
        self.problem, self.place = problem, place
        super().__init__(f"{place}: {problem}" if place else problem)

    def within(self, name: str) -> Misfit:
        """A copy of the error that also names the field, or the place in a list (``[3]``), that it is in."""
        dot = "." if self.place and not self.place.startswith("[") else ""
        return Misfit(self.problem, f"{name}{dot}{self.place}")


def from_plain(cls: type[_T], body: dict[str, Any]) -> _T:
    """A dataclass from the dict ``to_plain`` made of it.

    Raises:
        TypeError, Misfit: a missing field; an unknown or ill-typed one.
    """
    if not isinstance(body, dict):
        raise Misfit(f"expected the fields of {cls.__name__}, not {shown(body)}")
    hints = _hints(cls)
    unknown = set(body) - {f.name for f in dataclasses.fields(cls)}
    if unknown:
        raise Misfit(f"unknown field {shown(min(unknown))}")
    made, name = {}, ""
    try:
        for name, value in body.items():
            made[name] = _typed(hints[name], value)
    except Misfit as exc:
        raise exc.within(name) from exc
    return cls(**made)


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def _typed(hint: Any, value: Any) -> Any:
    """A plain value converted to a field's type.

    Raises:
        Misfit: the value does not fit the type.
    """
    if isinstance(hint, type):
        return _typed_scalar(hint, value)
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        options = [option for option in typing.get_args(hint) if option is not type(None)]
        return None if value is None else _typed(options[0], value)
    if origin is list:
        return _typed_list(hint, value)
    if origin is dict:
        return _typed_dict(hint, value)
    return value


def _typed_list(hint: Any, value: Any) -> list[Any]:
    (inner,) = typing.get_args(hint)
    if not isinstance(value, list):
        raise Misfit(f"expected a list, not {shown(value)}")
    made: list[Any] = []
    try:
        for item in value:
            made.append(_typed(inner, item))
    except Misfit as exc:
        raise exc.within(f"[{len(made)}]") from exc
    return made


def _typed_dict(hint: Any, value: Any) -> dict[Any, Any]:
    of_key, of_value = typing.get_args(hint)
    if not isinstance(value, dict):
        raise Misfit(f"expected a table, not {shown(value)}")
    made = {}
    for key, item in value.items():
        typed = _typed(of_key, key)
        try:
            made[typed] = _typed(of_value, item)
        except Misfit as exc:
            raise exc.within(shown(key)[1:-1]) from exc
    return made


def _typed_scalar(hint: type, value: Any) -> Any:
    if isinstance(value, hint) and not (isinstance(value, bool) and hint is not bool):
        return value
    if dataclasses.is_dataclass(hint):
        return from_plain(hint, value)
    if issubclass(hint, StrEnum):
        if value in list(hint):
            return hint(value)
        raise Misfit(f"{shown(value)} is not a valid {hint.__name__}")
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    raise Misfit(f"expected {hint.__name__}, not {shown(value)}")


FREE_TEXT = ("message", "traceback", "error")
"""Fields of what some program said: of any length, on any number of lines."""
LONGEST = 10_000
"""Characters of any other text. Names of compiled kernels have up to some 2,000."""
LARGEST = 1e24
"""Of any number: the product of twelve of them is still a float."""
_LEAST = {"_per_s": 1.0, "window_s": 1e-9, "bound": 1e-18}
"""By the end of a field's name, of what is divided by: no machine has less than 1 per second, no clock shows less than
a nanosecond, and no dtype has a relative error below that of float64.
"""
UNKNOWN_IS_ZERO = {"unknown_is_zero": True}
"""The metadata of a field of one class that may be 0 where fields of its name may not."""
_ABOVE_ZERO = ("context", "batch", "steps_per_sample", "gpus", "tp")
_SIGNED = ("loss", "temperature_c", "found", "due")
_COUNTS = ("context", "batch", "prompt", "tokens")
"""Counts of tokens and sequences, of which a person cannot ask for more than ``LARGEST_COUNT`` either."""
LARGEST_COUNT = 1024**4


def check_values(value: DataclassInstance) -> None:
    """Check the type and the value of every field of a dataclass, and of those within it.

    Raises:
        Misfit: one cannot be right; the text begins with the fields that lead to it.
    """
    hints = _hints(type(value))
    for field in dataclasses.fields(value):
        name = "" if field.metadata == UNKNOWN_IS_ZERO else field.name
        try:
            _check(hints[field.name], getattr(value, field.name), name)
        except Misfit as exc:
            raise exc.within(field.name) from exc


def _check(hint: Any, value: Any, name: str) -> None:
    """Check one value of the field ``name``."""
    if isinstance(hint, type):
        _check_one(hint, value, name)
        return
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is not None or type(None) not in args:
            _check(next(option for option in args if option is not type(None)), value, name)
    elif origin in (list, tuple):
        _check_items(origin, args, value, name)
    elif origin in (dict, Mapping):
        if not isinstance(value, Mapping):
            raise Misfit(f"expected a table, not {shown(value)}")
        for key, item in value.items():
            _check(args[0], key, "")
            try:
                _check(args[1], item, name)
            except Misfit as exc:
                raise exc.within(shown(key)[1:-1]) from exc


def _check_items(origin: type[list[Any]] | type[tuple[Any, ...]], args: tuple[Any, ...], value: Any, name: str) -> None:
    if not isinstance(value, origin):
        raise Misfit(f"expected a list, not {shown(value)}")
    if origin is tuple and args[-1] is not Ellipsis and len(args) != len(value):
        raise Misfit(f"expected {len(args)} values, not {shown(value)}")
    same = origin is list or args[-1] is Ellipsis
    if same and _are_numbers(args[0], value, name):
        return
    at = 0
    try:
        for at, item in enumerate(value):
            _check(args[0] if same else args[at], item, name)
    except Misfit as exc:
        raise exc.within(f"[{at}]") from exc


_NUMBERS: dict[Any, tuple[type, ...]] = {int: (int,), float: (int, float)}


def _are_numbers(hint: Any, values: Collection[Any], name: str) -> bool:
    """Whether every value is a number that ``_check`` lets pass; lists of samples are most of what a record holds."""
    least, most, above_least = bounds(name)
    if hint not in _NUMBERS or above_least:
        return False
    kinds = _NUMBERS[hint]
    return all(type(value) in kinds and least <= value <= most for value in values)


def _check_one(hint: type, value: Any, name: str) -> None:
    if isinstance(value, bool) and hint is not bool:
        raise Misfit(f"expected {hint.__name__}, not {value}")
    if not isinstance(value, (int, float) if hint is float else hint):
        raise Misfit(f"expected {hint.__name__}, not {shown(value)}")
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        check_values(value)
    elif isinstance(value, str) and name not in FREE_TEXT:
        _check_line(value)
    elif isinstance(value, int | float):
        _check_number(value, name)


def _check_line(text: str) -> None:
    if len(text) > LONGEST:
        raise Misfit(f"{shown(text)} has {len(text):,} characters, where at most {LONGEST:,} are expected")
    if not is_line(text):
        raise Misfit(f"{shown(text)} holds control characters, where a line of text is expected")


@functools.cache
def bounds(name: str) -> tuple[float, float, bool]:
    """The least and the most that a number in the field ``name`` may be, and whether it must be above the least."""
    least = next((least for end, least in _LEAST.items() if name.endswith(end)), 0.0)
    most = LARGEST_COUNT if name in _COUNTS else LARGEST
    return (-most if name in _SIGNED else least), most, name in _ABOVE_ZERO


def _check_number(number: float, name: str) -> None:
    """Check that a number is one that its field's name allows."""
    least, most, above_least = bounds(name)
    if not math.isfinite(number) or not least <= number <= most or (number == least and above_least):
        above = "above 0" if above_least else f"from {least:g}"
        raise Misfit(f"{shown(number)}, where a number {above} to {most:g} is expected")
