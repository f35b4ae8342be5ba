"""text: values and foreign text in a form that can be shown: short, and with nothing that a terminal obeys."""

from __future__ import annotations

import re
import reprlib
from typing import Any

LONG = 80
"""Characters of a value that an error shows."""
_values = reprlib.Repr()
_values.maxstring = _values.maxother = _values.maxlong = LONG


def shown(value: Any) -> str:
    r"""A value for an error, as Python writes it: on one line and without control characters, a long one shortened.

    >>> print(shown("a\tb"), len(shown("x" * 100_000)))
    'a\tb' 80
    """
    return _values.repr(value)


_OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]")
"""What a terminal, a browser or a file's encoding does not take as a character: control characters but for line feed
and tab, marks that reverse text, halves of surrogate pairs, and what no XML may hold."""


def is_line(text: str) -> bool:
    """Whether text is one line of characters that can be shown."""
    return "\n" not in text and _OBEYED.search(text) is None


def printable(text: str) -> str:
    r"""Text in which what cannot be shown as a character is spelled out; line feeds and tabs stay.

    >>> print(printable("\x1b[2J"))
    \x1b[2J
    """
    return _OBEYED.sub(lambda one: one[0].encode("unicode_escape", "surrogatepass").decode(), text)


def counted(count: int, what: str) -> str:
    """A count with its noun.

    >>> counted(1, "worker"), counted(1200, "case")
    ('1 worker', '1,200 cases')
    """
    return f"{count:,} {what}{'s' * (count != 1)}"
