"""Errors are sentences with the offending value and the way out, and exit codes tell mistakes from failures."""

from __future__ import annotations

import pytest

from hybridbench import errors
from hybridbench.errors import (
    BadInput,
    BadPattern,
    BadResults,
    HybridbenchError,
    Unsupported,
    WorkerDied,
    WrongResult,
    described,
)


@pytest.mark.parametrize(
    ("error", "code"),
    [(BadInput, 2), (BadPattern, 2), (BadResults, 2), (Unsupported, 1), (WrongResult, 1), (WorkerDied, 1)],
)
def test_exit_codes(error: type[HybridbenchError], code: int) -> None:
    assert issubclass(error, HybridbenchError)
    assert error.exit_code == code


def test_the_docstring_draws_every_error_there_is() -> None:
    assert errors.__doc__ is not None
    for name, value in vars(errors).items():
        if isinstance(value, type) and issubclass(value, HybridbenchError):
            assert name in errors.__doc__


def test_a_bad_pattern_points() -> None:
    error = BadPattern("M-Q-", 2, "'Q' is no layer.")
    assert str(error) == "pattern does not parse: 'Q' is no layer.\n  M-Q-\n    ^"
    assert error.pattern == "M-Q-"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("intr", "unknown arch 'intr': did you mean 'intra'? Known: inter, intra, mamba."),
        ("mambo", "unknown arch 'mambo': did you mean 'mamba'? Known: inter, intra, mamba."),
        ("xyz", "unknown arch 'xyz'. Known: inter, intra, mamba."),
        ("", "unknown arch ''. Known: inter, intra, mamba."),
    ],
)
def test_unknown_names(name: str, text: str) -> None:
    error = errors.unknown_name("arch", name, iter(["inter", "intra", "mamba"]))
    assert isinstance(error, BadInput)
    assert str(error) == text


@pytest.mark.parametrize(
    ("typed", "known", "meant"),
    [
        ("gpu", ("cpu", "cuda"), "cuda"),
        ("float8", ("float64", "float32", "bfloat16", "float16"), None),
        ("fp16", ("float64", "float32", "bfloat16", "float16"), "float16"),
        ("bf16", ("float64", "float32", "bfloat16", "float16"), "bfloat16"),
        ("double", ("float64", "float32"), "float64"),
        ("mamba-2", ("mamba1", "mamba2", "mamba3"), "mamba2"),
        ("nemotron-h-9b", ("nemotron-h-8b", "nemotron-h-47b"), "nemotron-h-8b"),
        ("rtx-409", ("rtx-3090", "rtx-4090"), "rtx-4090"),
        ("b100", ("b200", "h100", "a100"), "h100"),
    ],
)
def test_a_hint_changes_at_most_one_digit(typed: str, known: tuple[str, ...], meant: str | None) -> None:
    assert errors.nearest_name(typed, known) == meant


PLACE = "at 17:13:\n    v = tl.arange(0, BLOCK)\n    blocks = tl.cdiv(V, BLOCK)\n             ^"


def caused(text: str, cause: BaseException | None) -> RuntimeError:
    error = RuntimeError(text)
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("first\nsecond"), "ValueError: first"),
        (ValueError(""), "ValueError: no message"),
        (caused(PLACE + "\nname 'V' is not defined", None), "RuntimeError: name 'V' is not defined"),
        (caused(PLACE, TypeError("no tensors")), "RuntimeError: blocks = tl.cdiv(V, BLOCK): no tensors"),
        (caused(PLACE, None), "RuntimeError: at 17:13:"),
    ],
)
def test_one_line_says_why(error: Exception, said: str) -> None:
    assert described(error) == said
