"""tables: the TOML of suites of either kind: the keys at the top, a suite's name, and tables whose values have types.

body = top(Path("suites/smoke.toml"), "sweep")
values = checked(body["sweep"][0], {"ctx": (str,), "seed": (int,)}, "suites/smoke.toml: [[sweep]] 1", ("ctx",))
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hybridbench.errors import BadInput, unknown_name
from hybridbench.files import SUITE_BYTES, Damaged, Missing, from_toml, read_text
from hybridbench.text import is_line, shown

Types = Mapping[str, tuple[type, ...]]
"""What each key of a table may hold."""

_WORDS = {str: "text", int: "a whole number", float: "a number", bool: "true or false", dict: "a table", list: "a list"}
_NAME = 100
"""Characters of a suite's name. A folder's may have 255 bytes, and a time follows it."""


@contextmanager
def within(place: str | None) -> Iterator[None]:
    """Inside, bad input names the table of a suite that it came from; ``place`` is None where that is no file's."""
    try:
        yield
    except BadInput as exc:
        if place is None:
            raise
        raise BadInput(f"{place}: {exc}") from exc


def top(path: Path, kind: str) -> dict[str, Any]:
    """The tables and keys at the top of a suite's file; under ``kind`` at least one table.

    Args:
        kind: the name of its tables: ``sweep`` or ``kernels``.

    Raises:
        BadInput: no such file, not TOML, an unknown key at the top (named), or no table of that kind.
    """
    try:
        body = from_toml(read_text(path, SUITE_BYTES))
    except Missing as exc:
        example = "suites/kernels.toml" if kind == "kernels" else "suites/smoke.toml"
        raise BadInput(f"no suite at {path}: give the path of a TOML file such as {example}.") from exc
    except Damaged as exc:
        raise BadInput(f"{path} cannot be read as a suite: it {exc}.") from exc
    for key in body:
        if key not in ("name", "defaults", kind):
            raise BadInput(f"{path}: unknown key {shown(key)} at the top: known are name, [defaults] and [[{kind}]].")
    tables = body.get(kind, [])
    if not isinstance(tables, list) or not tables or not all(isinstance(table, dict) for table in tables):
        raise BadInput(f"{path} has no [[{kind}]] table: a suite needs at least one.")
    return body


def name_of(body: Mapping[str, Any], path: Path) -> str:
    """The name of a suite, by default that of its file.

    Raises:
        BadInput: it is not text that a folder can be named after.
    """
    name = body.get("name", path.stem)
    if not isinstance(name, str):
        raise BadInput(f"{path}: name is {shown(name)}, not text.")
    if not name or Path(name).name != name or not is_line(name) or len(name) > _NAME:
        raise BadInput(f"{path}: name is {shown(name)}, but a folder is named after it: give one short word.")
    return name


def checked(table: Any, types: Types, where: str, numbers: Iterable[str] = ()) -> dict[str, Any]:
    """A table's values, with lists and plain numbers turned into the text that a person would type.

    Args:
        types: of every key that there is. A list is turned into text where only text may stand.
        where: the file and the table, for errors.
        numbers: keys of text that may be a plain whole number.

    Raises:
        BadInput: not a table, an unknown key (with the nearest known one), an empty list, or a value of another type.
    """
    if not isinstance(table, dict):
        raise BadInput(f"{where} is {shown(table)}, not a table.")
    values: dict[str, Any] = {}
    for key, value in table.items():
        if key not in types:
            raise BadInput(f"{where}: {unknown_name('key', key, types)}")
        if isinstance(value, list) and not value:
            raise BadInput(f"{where}: {key} is an empty list: give at least one value, or leave it out.")
        if key in numbers and isinstance(value, int) and not isinstance(value, bool):
            value = str(value)
        if isinstance(value, list) and types[key] == (str,):
            value = ",".join(str(item) for item in value)
        if not isinstance(value, types[key]) or (isinstance(value, bool) and bool not in types[key]):
            wanted = " or ".join(_WORDS[kind] for kind in types[key])
            raise BadInput(f"{where}: {key} is {shown(value)}, where {wanted} is expected.")
        values[key] = value
    return values
