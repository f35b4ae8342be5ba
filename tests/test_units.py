"""What people type becomes whole numbers or a sentence that helps; what they read has three digits and a unit."""

from __future__ import annotations

import pytest

from hybridbench.errors import BadInput
from hybridbench.units import (
    format_bytes,
    format_number,
    format_seconds,
    format_si,
    format_tokens,
    parse_count,
    parse_range,
)

K = 1024


@pytest.mark.parametrize(
    ("text", "value"), [("1", 1), ("4k", 4096), (" 4K ", 4096), ("1m", K**2), ("2G", 2 * K**3), ("007", 7)]
)
def test_counts(text: str, value: int) -> None:
    assert parse_count(text) == value


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "context '' is not a positive whole number"),
        ("-4", "context '-4' is not a positive whole number"),
        ("1.5k", "context '1.5k' is not a positive whole number"),
        ("four", "context 'four' is not a positive whole number"),
        ("4kb", "context '4kb' is not a positive whole number"),
        ("4 k", "context '4 k' is not a positive whole number"),
        ("k", "context 'k' is not a positive whole number"),
        ("1e3", "context '1e3' is not a positive whole number"),
        ("0", "context '0' is zero: give 1 or more"),
        ("0k", "context '0k' is zero: give 1 or more"),
        ("9" * 5000, "9' has more than 12 digits"),
    ],
    ids=lambda value: value if len(value) < 20 else "",
)
def test_bad_counts(text: str, said: str) -> None:
    with pytest.raises(BadInput) as caught:
        parse_count(text, "context")
    assert said in str(caught.value)
    assert "accepted are 4k, 4k,16k, 4k..128k (doubling), 4k..32k+4k and 1k..1m*4; 4k is 4096." in str(caught.value)


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("4k", [4 * K]),
        ("4k,16k", [4 * K, 16 * K]),
        ("4k..128k", [4 * K, 8 * K, 16 * K, 32 * K, 64 * K, 128 * K]),
        ("3..20", [3, 6, 12]),
        ("4k..32k+4k", [4 * K * i for i in range(1, 9)]),
        ("1..10+4", [1, 5, 9]),
        ("1k..1m*4", [K, 4 * K, 16 * K, 64 * K, 256 * K, K**2]),
        ("1..100*10", [1, 10, 100]),
        ("5..5", [5]),
        ("5..5+100", [5]),
        (" 1 .. 4 , 10 ", [1, 2, 4, 10]),
        ("8..16 + 8", [8, 16]),
        ("16,1..4,2", [16, 1, 2, 4]),
        ("1..10000+1", list(range(1, 10_001))),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_ranges(text: str, values: list[int]) -> None:
    assert list(parse_range(text)) == values


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("32k..4k", "batch '32k..4k' runs backwards: write 4k..32k."),
        ("8..4+2", "batch '8..4+2' runs backwards: write 4..8."),
        ("0..4", "batch '0' is zero"),
        ("1..0", "batch '0' is zero"),
        ("-1..4", "batch '-1' is not a positive whole number"),
        ("1..x", "batch 'x' is not a positive whole number"),
        ("1.5..3", "batch '1.5..3' is not a range"),
        ("..4", "batch '..4' is not a range"),
        ("4..", "batch '4..' is not a range"),
        ("1..2..3", "batch '1..2..3' is not a range"),
        ("1..8+", "batch '1..8+' is not a range"),
        ("1..8*2*2", "batch '1..8*2*2' is not a range"),
        ("1..8+0", "batch step '0' is zero"),
        ("1..8*0", "batch step '0' is zero"),
        ("1..8*1", "batch '1..8*1' never ends with a factor of 1: take 2 or more."),
        ("1..8+x", "batch step 'x' is not a positive whole number"),
        ("", "batch '' has an empty part"),
        ("4,,8", "batch '4,,8' has an empty part"),
        ("4,", "batch '4,' has an empty part"),
        ("4 8", "batch '4 8' is not a positive whole number"),
        ("1..1g+1", "batch '1..1g+1' names 1073741824 values, more than 10000: take a larger step."),
        ("1..9000+1,1..9000+1", "batch '1..9000+1,1..9000+1' names more than 10000 values: take a larger step."),
    ],
)
def test_bad_ranges(text: str, said: str) -> None:
    with pytest.raises(BadInput) as caught:
        parse_range(text, "batch")
    assert said in str(caught.value)
    assert str(caught.value).endswith(".")


@pytest.mark.parametrize("count", [1, 1000, K, 3 * K, K**2, 5 * K**2, K**3, 1536, K**2 + K])
def test_tokens_are_shown_as_they_are_typed(count: int) -> None:
    assert parse_count(format_tokens(count)) == count


def test_tokens() -> None:
    assert [format_tokens(n) for n in (0, 1023, 4096, 131_072, K**2, K**3)] == ["0", "1023", "4k", "128k", "1m", "1g"]


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "unknown"),
        (0, "0"),
        (5, "5.00"),
        (61.03, "61.0"),
        (-61.03, "-61.0"),
        (999.4, "999"),
        (1234.5, "1,234"),
        (9_999_999, "9,999,999"),
        (1e7, "1.00e+07"),
        (0.012345, "0.0123"),
        (0.0001, "0.000100"),
        (0.00009994, "9.99e-05"),
        # Rounding that carries into the next digit drops a decimal with it.
        (999.6, "1,000"),
        (999.96, "1,000"),
        (99.96, "100"),
        (9.996, "10.0"),
        (-9.996, "-10.0"),
        (0.9996, "1.00"),
        (0.09996, "0.100"),
        (0.000099996, "0.000100"),
    ],
)
def test_numbers_have_three_digits(value: float | None, shown: str) -> None:
    assert format_number(value) == shown


def test_every_number_below_a_thousand_shows_exactly_three_digits() -> None:
    for i in range(1, 60_000):
        for value in (i / 100, i / 10_000):
            if value < 999.5:
                figure = format_number(value)
                digits = figure.replace(".", "").lstrip("0")
                assert len(digits) == 3, (value, figure)
                assert abs(float(figure) - value) <= value * 0.00501


def test_more_digits() -> None:
    assert format_number(61.03, digits=5) == "61.030"
    assert format_number(99.9996, digits=5) == "100.00"


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
def test_unknown_is_none_never_infinity(value: float) -> None:
    with pytest.raises(ValueError, match="is not a number to show: unknown is None"):
        format_number(value)


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (None, "unknown"),
        (0, "0 ns"),
        (2e-9, "2.00 ns"),
        (999e-9, "999 ns"),
        (999.96e-9, "1.00 us"),
        (1e-6, "1.00 us"),
        (0.00123, "1.23 ms"),
        (0.9999, "1.00 s"),
        (59.94, "59.9 s"),
        (59.99, "1.00 min"),
        (90, "1.50 min"),
        (3599.9, "1.00 h"),
        (3600, "1.00 h"),
        (-0.5, "-500 ms"),
        (360_000, "100 h"),
    ],
)
def test_seconds(seconds: float | None, shown: str) -> None:
    assert format_seconds(seconds) == shown


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        (None, "unknown"),
        (0, "0 B"),
        (512, "512 B"),
        (1023, "1,023 B"),
        (1024, "1.00 KiB"),
        (K**2 - 1, "1.00 MiB"),
        (1023.4 * K, "1,023 KiB"),
        (268_435_456, "256 MiB"),
        (K**3 - 1, "1.00 GiB"),
        (1.5 * K**4, "1.50 TiB"),
        (2 * K**5, "2,048 TiB"),
        (-3 * K, "-3.00 KiB"),
    ],
)
def test_bytes(count: float | None, shown: str) -> None:
    assert format_bytes(count) == shown


@pytest.mark.parametrize(
    ("value", "unit", "shown"),
    [
        (None, "FLOP", "unknown"),
        (0, "FLOP", "0 FLOP"),
        (0.5, "", "0.500"),
        (999.4, "", "999"),
        (999.6, "W", "1.00 kW"),
        (973_078_528, "", "973 M"),
        (61.03e12, "FLOP", "61.0 TFLOP"),
        (999.96e9, "FLOP", "1.00 TFLOP"),
        (4.47e20, "FLOP", "447 EFLOP"),
        (1e22, "FLOP", "10,000 EFLOP"),
    ],
)
def test_si(value: float | None, unit: str, shown: str) -> None:
    assert format_si(value, unit) == shown
