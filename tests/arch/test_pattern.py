"""Layer strings, ratios and positions are read as written, and refused in a sentence that shows the place."""

from __future__ import annotations

import itertools

import pytest

from hybridbench.arch.pattern import count_for_ratio, nearest_count, parse_pattern, parse_positions, parse_ratio, spread
from hybridbench.errors import BadInput, BadPattern


@pytest.mark.parametrize(
    ("text", "layers"),
    [
        ("M-*-", ["M", "-", "*", "-"]),
        ("  M - *\tE S -", ["M", "-", "*", "E", "S", "-"]),
        ("(*&M)-", ["(*&M)", "-"]),
        ("( S & M )E(M&M)(*&S)", ["(S&M)", "E", "(M&M)", "(*&S)"]),
        ("M", ["M"]),
        ("m3 GKRCLA Z", ["m", "3", "G", "K", "R", "C", "L", "A", "Z"]),
        ("M+M*+|M+", ["M", "-", "M", "*", "-", "M", "-"]),
        ("S' (S&m)'- Z''", ["S'", "(S&m)'", "-", "Z''"]),
    ],
)
def test_patterns(text: str, layers: list[str]) -> None:
    assert list(parse_pattern(text)) == layers


@pytest.mark.parametrize(
    ("text", "column", "said"),
    [
        ("M-Q-", 2, "'Q' is no layer"),
        ("M- e-", 3, "'e' is no layer"),
        ("M- '-", 3, "''' is no layer"),
        ("M-/M", 2, "'/' opens layers for multi-token prediction"),
        ("M-)", 2, "')' is no layer"),
        ("M-&M", 2, "'&' is no layer"),
        ("M-(*&M", 2, "not closed"),
        ("M-(", 2, "not closed"),
        ("(*M)-", 2, "'M' where '&' belongs"),
        ("M-( - & M)", 4, "'-' where a mixer (M, m, 3, G, K, L, 7, * or S) belongs"),
        ("(*&E)-", 3, "'E' where a mixer"),
        ("(*&&M)-", 3, "'&' where a mixer"),
        ("(*&M&M)-", 4, "'&' where ')' belongs"),
        ("((*&M)&M)", 1, "'(' where a mixer"),
        ("", 0, "empty"),
        ("   ", 0, "empty"),
        ("-E-", 0, "no layer mixes positions"),
    ],
)
def test_a_caret_stands_under_the_mistake(text: str, column: int, said: str) -> None:
    with pytest.raises(BadPattern) as caught:
        parse_pattern(text)
    sentence, shown, caret = str(caught.value).split("\n")
    assert said in sentence
    assert shown == f"  {text or ' '}"
    assert caret == " " * (2 + column) + "^"


@pytest.mark.parametrize(
    ("text", "ratio"),
    [("1:5", (1, 5)), (" 2 : 11 ", (2, 11)), ("1:0", (1, 0)), ("0:1", (0, 1)), ("2:10", (1, 5)), ("0:7", (0, 1))],
)
def test_ratios_come_in_lowest_terms(text: str, ratio: tuple[int, int]) -> None:
    assert parse_ratio(text) == ratio


@pytest.mark.parametrize("text", ["1", "1:2:3", "", ":", "1:", "-1:5", "1:0.5", "a:b", "1/5"])
def test_bad_ratios(text: str) -> None:
    with pytest.raises(BadInput, match="is not two whole numbers: write attention:SSM blocks, such as 1:5") as caught:
        parse_ratio(text)
    assert f"'{text}'" in str(caught.value)


def test_a_ratio_of_nothing() -> None:
    with pytest.raises(BadInput, match=r"ratio '0:0' names no block at all: give 1:5, 1:0 or 0:1"):
        parse_ratio("0:0")


@pytest.mark.parametrize(
    ("ratio", "layers", "count"),
    [
        # The paper's stacks: inter and intra at 1B and 350M, SWA at 1B.
        *[((1, 1), 14, 7), ((1, 3), 13, 3), ((1, 5), 13, 2), ((1, 12), 13, 1)],
        *[((1, 1), 12, 6), ((1, 3), 11, 3), ((1, 5), 11, 2), ((1, 12), 11, 1), ((1, 5), 22, 4), ((1, 5), 6, 1)],
        *[((1, 1), 13, 7), ((1, 1), 11, 6)],
        *[((1, 1), 16, 8), ((1, 3), 16, 4), ((1, 5), 16, 3), ((1, 15), 16, 1), ((0, 1), 16, 0), ((1, 0), 16, 16)],
    ],
)
def test_counts_are_the_papers(ratio: tuple[int, int], layers: int, count: int) -> None:
    assert count_for_ratio(ratio, layers) == nearest_count(ratio, layers) == count


def test_counts_are_nearest() -> None:
    for share, rest, layers in itertools.product(range(1, 8), range(1, 14), range(1, 30)):
        count = nearest_count((share, rest), layers)
        best = min(abs(n * (share + rest) - layers * share) for n in range(layers + 1))
        assert abs(count * (share + rest) - layers * share) == best


@pytest.mark.parametrize(
    ("ratio", "said"),
    [
        ((1, 100), "ratio 1:100 does not fit 13 blocks: the first side would get none; the nearest that fits is 1:12"),
        ((100, 1), "ratio 100:1 does not fit 13 blocks: the second side would get none; the nearest that fits is 12:1"),
    ],
)
def test_a_ratio_that_leaves_a_side_nothing(ratio: tuple[int, int], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        count_for_ratio(ratio, 13)


def test_spread_places_every_count() -> None:
    for layers in range(1, 60):
        for count in range(layers + 1):
            places = spread(count, layers)
            assert len(places) == count
            assert list(places) == sorted(set(places))
            assert set(places) <= set(range(1, layers + 1))
            assert 1 not in places or count == layers, (count, layers)


def test_spread_is_even() -> None:
    for layers in range(2, 60):
        for count in range(2, layers):
            gaps = [after - before for before, after in itertools.pairwise(spread(count, layers))]
            assert max(gaps) - min(gaps) <= 1, (count, layers)


@pytest.mark.parametrize(
    ("count", "layers", "places"),
    [
        # Sets of tables 17 that an even spread does reproduce.
        (7, 14, (2, 4, 6, 8, 10, 12, 14)),
        (6, 12, (2, 4, 6, 8, 10, 12)),
        (1, 13, (7,)),
        (1, 11, (6,)),
        (2, 11, (4, 7)),  # the paper chose 4, 8: no closed form gives all of its sets
    ],
)
def test_spread_examples(count: int, layers: int, places: tuple[int, ...]) -> None:
    assert spread(count, layers) == places


@pytest.mark.parametrize(("count", "layers"), [(-1, 4), (5, 4)])
def test_spread_of_the_impossible(count: int, layers: int) -> None:
    with pytest.raises(ValueError, match=f"{count} of {layers} blocks"):
        spread(count, layers)


@pytest.mark.parametrize(("text", "positions"), [("4,8", (4, 8)), (" 8 ,4", (4, 8)), ("1", (1,))])
def test_positions(text: str, positions: tuple[int, ...]) -> None:
    assert parse_positions(text) == positions


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("0,4", r"positions '0,4' are not 1-based block numbers: write 4,8"),
        ("4,,8", r"positions '4,,8' are not 1-based"),
        ("-4", r"positions '-4' are not 1-based"),
        ("4.5", r"positions '4.5' are not 1-based"),
        ("four", r"positions 'four' are not 1-based"),
        ("4,4", r"positions '4,4' name a block twice: give each once"),
        ("4,14", r"position 14 is beyond the 13 blocks of this model: give 1 to 13"),
    ],
)
def test_bad_positions(text: str, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        parse_positions(text, layers=13)
