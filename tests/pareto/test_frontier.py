"""What is on a frontier, by brute force and by hand: ties within the noise, the point that beats another."""

from __future__ import annotations

import itertools
import random
from typing import Any

import pytest

from hybridbench.arch.families import build_spec
from hybridbench.pareto.frontier import FrontierPoint, Placed, placed
from hybridbench.pareto.quality import SCORES, Quality

SPEC = build_spec("mamba", "tiny")


def point(name: str, cost: float, value: float, score: str = "dclm_nll", **more: Any) -> FrontierPoint:
    return FrontierPoint(name, cost, Quality(SPEC, SCORES[score], value, **more))


def verdicts(points: list[FrontierPoint], cheaper: str = "lower", noise_frac: float = 0.0) -> dict[str, str | None]:
    found = placed(points, cheaper, noise_frac)
    return {one.point.name: one.beaten_by.name if one.beaten_by else None for one in found}


def test_without_noise_it_is_the_textbook_frontier() -> None:
    draw = random.Random(7)
    for _ in range(50):
        points = [point(str(i), draw.randint(1, 12), draw.randint(1, 12) / 100, "bits_per_byte") for i in range(9)]
        found = placed(points, "lower", 0.0)
        for one in found:
            cost, value = one.point.cost, one.point.quality.value
            beaten = [
                other
                for other in points
                if other.cost <= cost
                and other.quality.value <= value
                and (other.cost < cost or other.quality.value < value)
            ]
            assert (one.beaten_by is None) == (not beaten)
            assert one.beaten_by is None or one.beaten_by in beaten


@pytest.mark.parametrize(("gap", "tied"), [(0.0012, True), (0.0014, False)])
def test_losses_that_seeds_cannot_tell_apart_tie(gap: float, tied: bool) -> None:
    found = verdicts([point("cheap", 1.0, 2.7 + gap), point("dear", 2.0, 2.7)])
    assert found == {"cheap": None, "dear": "cheap" if tied else None}


def test_a_given_deviation_and_more_seeds_replace_the_usual_noise() -> None:
    wide = [point("cheap", 1.0, 2.72, std=0.03), point("dear", 2.0, 2.7, std=0.03)]
    assert verdicts(wide) == {"cheap": None, "dear": "cheap"}
    many = [point("cheap", 1.0, 2.72, std=0.03, seeds=9), point("dear", 2.0, 2.7, std=0.03, seeds=9)]
    assert verdicts(many) == {"cheap": None, "dear": None}


def test_higher_may_be_better_in_cost_and_in_quality() -> None:
    points = [point("slow", 10, 0.6, "accuracy"), point("fast", 20, 0.5, "accuracy"), point("bad", 9, 0.4, "accuracy")]
    assert verdicts(points, "higher") == {"slow": None, "fast": None, "bad": "slow"}


def test_costs_within_their_noise_tie_and_the_better_stack_beats() -> None:
    points = [point("a", 100, 2.70), point("b", 99, 2.72), point("c", 97, 2.74)]
    assert verdicts(points, "lower", 0.02) == {"a": None, "b": "a", "c": None}


def test_ties_of_the_frontier_are_named() -> None:
    found = placed([point("a", 100, 2.7000), point("b", 100, 2.7005)], "lower", 0.0)
    assert [[tie.name for tie in one.ties] for one in found] == [["b"], ["a"]]


def test_no_set_of_points_has_an_empty_frontier_and_beaters_stand_on_it_where_one_does() -> None:
    draw = random.Random(3)
    for _ in range(200):
        points = [point(str(i), draw.uniform(1, 1.2), 2.7 + draw.uniform(0, 0.006)) for i in range(7)]
        found = placed(points, "lower", 0.02)
        front = [one.point for one in found if one.beaten_by is None]
        assert front
        for one in found:
            beaters = [best for best in front if one.beaten_by and _beats(best, one)]
            assert not beaters or one.beaten_by in beaters


def _beats(one: FrontierPoint, other: Placed) -> bool:
    """By the definition: cheaper by over 2% or better by 0.0013 nats, and neither the other way round."""
    gap, ratio = other.point.quality.value - one.quality.value, other.point.cost / one.cost
    certain = ratio > 1.02 or gap >= 0.0013
    return certain and ratio >= 1 / 1.02 and gap > -0.0013


def test_orders_do_not_matter() -> None:
    points = [point("a", 1, 2.74), point("b", 2, 2.71), point("c", 3, 2.72), point("d", 4, 2.70)]
    for order in itertools.permutations(points):
        assert verdicts(list(order)) == {"a": None, "b": None, "c": "b", "d": None}
