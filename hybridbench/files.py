"""files: how files that people hand over are read, within limits.

Size, encoding, levels and digits have limits, and values that no computation survives are refused.

    body = from_json(read_text(path, CONFIG_BYTES))

A file may be cut short by a crash, edited by hand, or no regular file (``/dev/zero``, a FIFO). What cannot be used is a
``Damaged`` whose text is the end of a sentence that begins with the file's name, such as "is larger than 16 MiB".
"""

from __future__ import annotations

import codecs
import json
import math
import os
import re
import stat
import tomllib
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from hybridbench.text import shown

MIB = 1 << 20
CONFIG_BYTES, SUITE_BYTES, LINE_BYTES, RECORDS_BYTES = 16 * MIB, MIB, 64 * MIB, 1024 * MIB
"""The most that is read of a model's configuration, a suite, one line of records, and a file of records. A record of
200 samples has 20 KB."""
NESTING = 64
"""Levels of lists and tables within each other. Records have 8, and functions that go through values call themselves at
each level."""
DIGITS = 40
"""Digits of a whole number. The largest known to stand in files has 31: transformers writes 10^30 for "no limit"."""


class Damaged(ValueError):
    """What is wrong with a file or with a line of one, as the end of a sentence that begins with its name."""


class Missing(Damaged):
    """There is no such file."""


class NotJson(Damaged):
    """The text is not JSON: it may be cut short, or something else. Lines and columns count from 1."""

    def __init__(self, problem: str, line: int, column: int) -> None:
        self.problem, self.line, self.column = problem, line, column
        super().__init__(f"is not JSON at line {line}, column {column} ({problem})")


def read_text(path: Path, most: int) -> str:
    """The text of a file in UTF-8, without a byte-order mark.

    Args:
        most: bytes.

    Raises:
        Damaged: it cannot be read, is larger than ``most``, or is not UTF-8. ``Missing`` if there is none.
    """
    try:
        with _opened(path) as file:
            content = file.read(most + 1)
    except FileNotFoundError as exc:
        raise Missing(f"cannot be read ({exc.strerror})") from exc
    except Damaged:
        raise
    except (OSError, ValueError) as exc:  # ValueError: a NUL in the path
        raise Damaged(f"cannot be read ({getattr(exc, 'strerror', None) or exc})") from exc
    if len(content) > most:
        raise Damaged(f"is larger than {most // MIB} MiB")
    return decoded(content.removeprefix(codecs.BOM_UTF8))


def _opened(path: Path) -> BinaryIO:
    """A regular file, opened to be read.

    Raises:
        Damaged: it is no regular file: one that nobody writes to (a FIFO) would block, a device may have no end.
        OSError: it cannot be opened.
    """

    def regular(name: str, flags: int) -> int:
        number = os.open(name, flags | os.O_NONBLOCK)  # does not wait until somebody writes to a FIFO
        mode = os.fstat(number).st_mode
        if stat.S_ISREG(mode) or stat.S_ISDIR(mode):  # open itself refuses a folder
            return number
        os.close(number)
        raise Damaged("is no regular file: write what it gives to a file, and name that")

    return open(path, "rb", opener=regular)


def decoded(content: bytes) -> str:
    """Bytes as text.

    Raises:
        Damaged: they are not UTF-8; the text names UTF-16 where they begin with its mark.
    """
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise Damaged("is not text in UTF-8 but in UTF-16: save it as UTF-8")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as exc:
        raise Damaged(f"is not text in UTF-8 (byte {exc.start + 1:,})") from exc


def read_lines(path: Path) -> Iterator[bytes]:
    """The lines of a file of records, without their line feeds and a byte-order mark.

    Raises:
        Damaged: the file cannot be read, or it or one line is larger than is read.
    """
    try:
        with _opened(path) as file:
            left, first = RECORDS_BYTES, True
            while line := file.readline(LINE_BYTES + 1):
                left -= len(line)
                if len(line) > LINE_BYTES:
                    raise Damaged(f"has a line of more than {LINE_BYTES // MIB} MiB: it is no results file")
                if left < 0:
                    raise Damaged(f"is larger than {RECORDS_BYTES // MIB:,} MiB: split it into several files")
                text = line.removeprefix(codecs.BOM_UTF8) if first else line
                yield text.removesuffix(b"\n")
                first = False
    except (OSError, ValueError) as exc:
        if isinstance(exc, Damaged):
            raise
        raise Damaged(f"cannot be read ({getattr(exc, 'strerror', None) or exc}): check its permissions") from exc


def from_json(text: str, endless: Collection[str] = ()) -> Any:
    """The value of a JSON document. NUL bytes at its end, the usual trace of a power cut, are passed over.

    Args:
        text: the document.
        endless: names of fields that may hold infinity, by itself or in a list.

    Raises:
        NotJson: it does not parse.
        Damaged: a value that no computation survives (not a number, infinite, more than ``DIGITS`` digits), a key given
            twice with different values, or more than ``NESTING`` levels. The text names its place.
    """
    try:
        value = json.loads(text.rstrip("\0"), parse_int=_whole, object_pairs_hook=_table)
    except json.JSONDecodeError as exc:
        raise NotJson(exc.msg, exc.lineno, exc.colno) from exc
    except RecursionError as exc:
        raise Damaged(_TOO_DEEP) from exc
    _check(value, endless)
    return value


def from_toml(text: str) -> dict[str, Any]:
    """The tables and keys at the top of a TOML document.

    Raises:
        Damaged: it does not parse, has what ``from_json`` refuses, or ends in NUL bytes. Unlike a JSON document, a TOML
            document that was cut short can still parse, so that nobody would see what is missing.
    """
    if text.endswith("\0"):
        raise Damaged("ends in NUL bytes, as after a power cut, and may be cut short: write it again")
    try:
        value = tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        raise Damaged(f"is not TOML: {_one_line(exc)}") from exc
    except RecursionError as exc:
        raise Damaged(_TOO_DEEP) from exc
    except ValueError as exc:  # Python turns no more than 4,300 digits into a number
        raise Damaged(_at_line(text, re.compile(r"[\d_]{4000,}"), _one_line(exc))) from exc
    _check(value)
    return value


_TOO_DEEP = f"has more than {NESTING} levels of lists and tables within each other"


def _one_line(exc: Exception) -> str:
    return str(exc).splitlines()[0] if str(exc) else type(exc).__name__


def _at_line(text: str, pattern: re.Pattern[str], otherwise: str) -> str:
    """A sentence about the first line on which a number is too long."""
    found = pattern.search(text)
    if found is None:
        return otherwise
    number = text.count("\n", 0, found.start()) + 1
    return f"has a number of {len(found[0]):,} digits at line {number} ({shown(text.splitlines()[number - 1])})"


@dataclass(frozen=True)
class _Unusable:
    """Stands for a value until it is known where in the document it is."""

    why: str


def _whole(text: str) -> int | _Unusable:
    digits = len(text.lstrip("-"))
    unusable = f"as a number of {digits:,} digits, where at most {DIGITS} can be used"
    return int(text) if digits <= DIGITS else _Unusable(unusable)


def _table(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object; a key that is given twice has no value unless both are equal."""
    table = dict(pairs)
    if len(table) < len(pairs):
        for name, value in pairs:
            if not _same(table[name], value):
                table[name] = _Unusable(f"given twice, as {shown(value)} and as {shown(table[name])}")
    return table


def _same(one: Any, other: Any) -> bool:
    return isinstance(one, _Unusable) or (type(one) is type(other) and bool(one == other))


def _check(document: Any, endless: Collection[str] = ()) -> None:
    """Raise ``Damaged`` for the first value that cannot be used, with the keys that lead to it."""
    if _is_usable(document):
        return
    left: list[tuple[Any, str, int]] = [(document, "", 1)]
    while left:
        value, place, level = left.pop()
        if isinstance(value, dict | list):
            if level > NESTING:
                raise Damaged(_TOO_DEEP)
            inner = value.items() if isinstance(value, dict) else ((f"[{at}]", part) for at, part in enumerate(value))
            dot = "." if isinstance(value, dict) and place else ""
            left += [(part, f"{place}{dot}{name}", level + 1) for name, part in inner]
        elif value == math.inf and place.partition("[")[0].rpartition(".")[2] in endless:
            continue
        elif (wrong := _unusable(value)) is not None:
            raise Damaged(f"has {shown_place(place)} {wrong}")


_TOO_LARGE = 10**DIGITS


def _is_usable(document: Any) -> bool:
    """Whether every value can be used, level by level, without the places that only a message needs."""
    level = [document]
    for _ in range(NESTING):
        inner: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                inner += value.values()
            elif isinstance(value, list):
                inner += value
            elif _unusable(value) is not None:
                return False
        if not inner:
            return True
        level = inner
    return False


def _unusable(value: Any) -> str | None:
    """Why a value cannot be used, as the end of a sentence that begins with its place; None if it can."""
    if isinstance(value, _Unusable):
        return value.why
    if isinstance(value, float) and not math.isfinite(value):
        return f"as {value}, which is no number to compute with"
    if type(value) is int and abs(value) >= _TOO_LARGE:
        return f"as a number of more than {DIGITS} digits"
    return None


def shown_place(place: str) -> str:
    """A place in a document for a sentence; a long one is cut in the middle."""
    return shown(place)[1:-1] if place else "its value"
