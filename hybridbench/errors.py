"""errors: every failure hybridbench raises on purpose; each message ends with the way out.

HybridbenchError            anything below; the command line prints it without a traceback
├── BadInput                the person asked for something impossible (exit code 2)
│   ├── BadPattern          a layer string that does not parse; shows a caret under the place
│   └── Blocked             something a person can remove stands in the way; recorded as a status, and tried again
├── BadResults              a results file that cannot be read as records (exit code 2)
├── NotComparable           two results whose conditions differ, so that no ratio of them means anything (exit code 4)
├── NothingCompared         two results without a cell in common (exit code 6)
├── Unsupported             this kernel, device or combination cannot run here; recorded as a status
├── WrongResult             a kernel or model disagrees with its reference; it has no speed
│   └── DeviceFault         it also broke the device: the process must end
└── WorkerDied              worker processes do not start, so nothing more can be measured
"""

from __future__ import annotations

import difflib
import os
import re
import sys
from collections.abc import Iterable
from pathlib import Path

from hybridbench.text import LONG, is_line, shown


class HybridbenchError(Exception):
    """Base of all errors raised on purpose; its text is a sentence a person can act on."""

    exit_code = 1


class BadInput(HybridbenchError):
    """A request that cannot be met as typed; the text holds the offending value and what is accepted."""

    exit_code = 2


class BadPattern(BadInput):
    """A layer pattern that does not parse.

    Args:
        pattern: the string as typed.
        at: index of the first character that is wrong.
        problem: what is wrong there and what would be accepted.
    """

    def __init__(self, pattern: str, at: int, problem: str) -> None:
        self.pattern = pattern
        self.at = at
        super().__init__(f"pattern does not parse: {problem}\n  {pattern}\n  {' ' * at}^")


class BadResults(HybridbenchError):
    """A results file that is empty, not ours, or written by a newer schema."""

    exit_code = 2


class NotComparable(HybridbenchError):
    """Results that differ in conditions which decide speeds; the text names the fields."""

    exit_code = 4


class NothingCompared(HybridbenchError):
    """Results that have no cell in common, so that nothing was compared."""

    exit_code = 6


class Blocked(BadInput):
    """Something stands in the way that a person can remove, such as a full disk; then the same case can run."""


class Unsupported(HybridbenchError):
    """What was asked for cannot run here; the text says why and what would make it run."""


class WrongResult(HybridbenchError):
    """A fast implementation disagrees with its plain reference beyond the stated bound."""


class DeviceFault(WrongResult):
    """A kernel failed in a way that leaves the device unusable, such as an illegal address: its process must end."""


class WorkerDied(HybridbenchError):
    """No worker process can be started; the records written before stay."""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> BadInput:
    """A ``BadInput`` for a name that is not in a table, with the nearest one that is.

    >>> str(unknown_name("arch", "intr", ["inter", "intra", "mamba"]))
    "unknown arch 'intr': did you mean 'intra'? Known: inter, intra, mamba."
    """
    names = list(known)
    near = nearest_name(name, names) if len(name) <= LONG else None
    hint = f": did you mean '{near}'?" if near else "."
    typed = f"'{name}'" if is_line(name) and len(name) <= LONG else shown(name)
    return BadInput(f"unknown {kind} {typed}{hint} Known: {', '.join(names)}.")


_SYNONYMS = {"gpu": "cuda", "nvidia": "cuda", "half": "float16", "single": "float32", "double": "float64"}
"""What people type for a name that is spelled otherwise here."""


def nearest_name(name: str, known: Iterable[str]) -> str | None:
    """The known name that was probably meant; None if there is none.

    A number is another one only if a single digit of it was mistyped, left out or doubled.

    >>> nearest_name("gpu", ["cpu", "cuda"]), nearest_name("float8", ["float64"]), nearest_name("h20", ["h200"])
    ('cuda', None, 'h200')
    """
    by_lower = {known_name.lower(): known_name for known_name in known}
    typed = name.lower()
    if typed in _SYNONYMS and _SYNONYMS[typed] in by_lower:
        return by_lower[_SYNONYMS[typed]]
    near = difflib.get_close_matches(typed, by_lower, n=len(by_lower) or 1, cutoff=0.5)
    return next((by_lower[one] for one in near if _same_number(typed, one)), None)


def _same_number(typed: str, known: str) -> bool:
    """Whether the digits of two names are the same but for one."""
    short, long = sorted((re.sub(r"\D", "", typed), re.sub(r"\D", "", known)), key=len)
    rests = [[number[:place] + number[place + 1 :] for place in range(len(number))] for number in (short, long)]
    return short == long or short in rests[1] or (len(short) == len(long) and not set(rests[0]).isdisjoint(rests[1]))


def reason(exc: BaseException) -> str:
    """An error in one line: its first; for a compiler, which prints source code first, its last or its cause."""
    lines = str(exc).strip().splitlines() or ["no message"]
    if not lines[0].startswith("at "):
        return lines[0]
    if lines[-1].strip(" ^"):
        return lines[-1]
    return f"{lines[-2].strip()}: {reason(exc.__cause__)}" if exc.__cause__ and len(lines) > 1 else lines[0]


def portable(stack: str) -> str:
    """A traceback with paths relative to their package, so that records do not contain this machine's folders."""
    roots = {str(Path(__file__).parents[1]), *(str(Path(folder).resolve()) for folder in sys.path)} - {"/"}
    for root in sorted(roots, key=len, reverse=True):
        stack = stack.replace(f'"{root}{os.sep}', '"')
    return stack


def ran_out_of_memory(exc: BaseException) -> bool:
    """Whether a library says that a GPU's memory is used up by an error of its own, and not by PyTorch's."""
    return any(words in str(exc) for words in ("out of memory", "ALLOC_FAILED"))


def described(exc: BaseException) -> str:
    """Type and reason of an error that was not raised on purpose."""
    return f"{type(exc).__name__}: {reason(exc)}"
