"""arguments: the parser and the types of numbers that programs run by ``python -m`` share."""

from __future__ import annotations

import argparse
import math
from typing import NoReturn

from typing_extensions import override


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one sentence, without the usage before it."""

    @override
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}; see {self.prog} --help.\n")


def positive(text: str) -> int:
    """A whole number of 1 or more."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number of 1 or more")
    return int(text)


def seconds(text: str) -> float:
    """A number of seconds, 0 or more."""
    value = _number(text)
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a number of seconds, 0 or more")
    return value


def above_zero(text: str) -> float:
    """A number above 0."""
    value = _number(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a number above 0")
    return value


def _number(text: str) -> float:
    """NaN, which no bound holds for, where it is none."""
    try:
        return float(text)
    except ValueError:
        return math.nan
