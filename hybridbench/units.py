"""units: the only conversions between SI data and what people type and read.

Typed: ``4k`` is 4096 tokens, ``1m`` is 1048576. A range is a list of parts, each a number or an interval:

    4k            one value                      4k..128k      doubling: 4k 8k 16k 32k 64k 128k
    4k,16k        two values                     4k..32k+4k    steps of 4k
                                                 1k..1m*4      factors of 4

Read: three significant digits, with the unit in the heading where there is one.
"""

from __future__ import annotations

import functools
import itertools
import math
import re
from collections.abc import Sized

from hybridbench.errors import BadInput

KIB, MIB, GIB = 1024, 1024**2, 1024**3
NS_PER_S = 1_000_000_000

_SUFFIX = {"": 1, "k": 1024, "m": 1024**2, "g": 1024**3}
_NUMBER = re.compile(r"^(\d+)([kmg]?)$", re.IGNORECASE)
_INTERVAL = re.compile(r"^(?P<low>[^.+*]+)\.\.(?P<high>[^.+*]+?)(?:(?P<op>[+*])(?P<step>[^.+*]+))?$")
_ACCEPTED = "accepted are 4k, 4k,16k, 4k..128k (doubling), 4k..32k+4k and 1k..1m*4; 4k is 4096"
_MAX_VALUES = 10_000
_LARGEST = 1024**4
_MAX_DIGITS = 12


def whole(text: str) -> int | None:
    """The whole number that digits are; None for other text, and for more digits than anything that is asked for has.

    >>> whole("12"), whole("1.5"), whole("9" * 5000)
    (12, None, None)
    """
    return int(text) if text.isdecimal() and len(text) <= _MAX_DIGITS else None


def parse_count(text: str, what: str = "count") -> int:
    """A positive whole number with an optional k, m or g (powers of 1024).

    >>> parse_count("4k")
    4096

    Raises:
        BadInput: zero, negative, fractional, absurdly large or no number at all.
    """
    match = _NUMBER.match(text.strip())
    if match is None:
        raise BadInput(f"{what} '{text}' is not a positive whole number: {_ACCEPTED}.")
    if len(match[1]) > _MAX_DIGITS:
        raise BadInput(f"{what} '{text}' has more than {_MAX_DIGITS} digits: {_ACCEPTED}.")
    value = int(match[1]) * _SUFFIX[match[2].lower()]
    if value > _LARGEST:
        raise BadInput(f"{what} '{text}' is more than 1024g: {_ACCEPTED}.")
    if value == 0:
        raise BadInput(f"{what} '{text}' is zero: give 1 or more; {_ACCEPTED}.")
    return value


def parse_range(text: str, what: str = "count") -> tuple[int, ...]:
    """The values a range names, in the order typed, each once.

    >>> parse_range("1k..4k,10")
    (1024, 2048, 4096, 10)

    Raises:
        BadInput: an empty part, a bad number, an interval that runs backwards, a step that does not advance.
    """
    values: list[int] = []
    for part in text.split(","):
        if not part.strip():
            raise BadInput(f"{what} '{text}' has an empty part: {_ACCEPTED}.")
        values.extend(_parse_part(part.strip(), text, what))
        if len(values) > _MAX_VALUES:
            raise BadInput(f"{what} '{text}' names more than {_MAX_VALUES} values: take a larger step.")
    return tuple(dict.fromkeys(values))


def check_rows(*lists: Sized, most: int = 100_000) -> None:
    """Check that a product of lists is short enough to be computed and read.

    >>> check_rows(range(3), range(4))

    Raises:
        BadInput: it has more than ``most`` rows; the text has their number.
    """
    rows = math.prod(len(values) for values in lists)
    if rows > most:
        raise BadInput(f"that makes {rows:,} rows, more than {most:,}: name fewer models, contexts or batches.")


def _parse_part(part: str, text: str, what: str) -> list[int]:
    if ".." not in part:
        return [parse_count(part, what)]
    match = _INTERVAL.match(part)
    if match is None:
        raise BadInput(f"{what} '{text}' is not a range: {_ACCEPTED}.")
    low, high = parse_count(match["low"], what), parse_count(match["high"], what)
    if low > high:
        raise BadInput(f"{what} '{part}' runs backwards: write {match['high']}..{match['low']}.")
    step = parse_count(match["step"], f"{what} step") if match["step"] else 2
    if match["op"] == "+":
        count = (high - low) // step + 1
        if count > _MAX_VALUES:
            raise BadInput(f"{what} '{text}' names {count} values, more than {_MAX_VALUES}: take a larger step.")
        return list(range(low, high + 1, step))
    if step < 2:
        raise BadInput(f"{what} '{part}' never ends with a factor of 1: take 2 or more.")
    values = []
    value = low
    while value <= high:
        values.append(value)
        value *= step
    return values


def format_tokens(count: int) -> str:
    """A token count as people type it: exact multiples of 1024 get a suffix.

    >>> format_tokens(131072), format_tokens(1000), format_tokens(1048576)
    ('128k', '1000', '1m')
    """
    for suffix, size in (("g", GIB), ("m", MIB), ("k", KIB)):
        if count >= size and count % size == 0:
            return f"{count // size}{suffix}"
    return str(count)


@functools.lru_cache(maxsize=4096)  # rows of a long table differ in few of their numbers
def format_number(value: float | None, digits: int = 3) -> str:
    """``digits`` significant digits, whole numbers in full, an exponent only below 1e-4 and from 1e7 on.

    >>> format_number(0.012345), format_number(1234.5), format_number(9.996), format_number(None)
    ('0.0123', '1,234', '10.0', 'unknown')
    """
    if value is None:
        return "unknown"
    if value == 0:
        return "0"
    if not math.isfinite(value):
        raise ValueError(f"{value} is not a number to show: unknown is None")
    scientific = f"{value:.{digits - 1}e}"
    magnitude = int(scientific.partition("e")[2])  # of the rounded value: 9.996 shows as 10.0, not 10.00
    if magnitude < -4 or abs(value) >= 1e7:
        return scientific
    return f"{value:,.{max(0, digits - 1 - magnitude)}f}"


def format_seconds(seconds: float | None) -> str:
    """A duration with the unit that keeps it readable: ns, us, ms, s, min or h.

    >>> format_seconds(0.00123), format_seconds(90), format_seconds(None)
    ('1.23 ms', '1.50 min', 'unknown')
    """
    if seconds is None:
        return "unknown"
    return _in_unit(seconds, ((1e-9, "ns"), (1e-6, "us"), (1e-3, "ms"), (1, "s"), (60, "min"), (3600, "h")))


def format_bytes(count: float | None) -> str:
    """Bytes with a binary unit.

    >>> format_bytes(268435456), format_bytes(512)
    ('256 MiB', '512 B')
    """
    if count is None:
        return "unknown"
    return _in_unit(count, ((1, "B"), (KIB, "KiB"), (MIB, "MiB"), (GIB, "GiB"), (1024**4, "TiB")))


def format_params(count: int) -> str:
    """A number of parameters as model cards write it.

    >>> format_params(1_235_814_400), format_params(1_837_184)
    ('1.24 B', '1.84 M')
    """
    return format_si(count).replace("G", "B")


def format_si(value: float | None, unit: str = "") -> str:
    """A quantity with a decimal prefix.

    >>> format_si(61.03e12, "FLOP"), format_si(973_078_528)
    ('61.0 TFLOP', '973 M')
    """
    if value is None:
        return "unknown"
    prefixes = ((1, ""), (1e3, "k"), (1e6, "M"), (1e9, "G"), (1e12, "T"), (1e15, "P"), (1e18, "E"))
    return _in_unit(value, tuple((size, prefix + unit) for size, prefix in prefixes)).rstrip()


def _in_unit(value: float, units: tuple[tuple[float, str], ...]) -> str:
    """A value in the smallest unit in which its rounded number is below one of the next unit: 59.99 s is 1.00 min."""
    for (size, unit), (following, _) in itertools.pairwise(units):
        figure = format_number(value / size)
        if abs(float(figure.replace(",", ""))) * size < following:
            return f"{figure} {unit}"
    size, unit = units[-1]
    return f"{format_number(value / size)} {unit}"
