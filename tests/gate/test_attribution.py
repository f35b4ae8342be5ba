"""Attribution on planted cases: what was planted is named first, and the parts add up."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

import pytest

from hybridbench.gate.attribution import Cause, RanKernel, Traced, What, Why, attribute

TRACES = 7
NOISE = 0.01
"""Standard deviation of a kernel's time between traces; the gaps' is five times as much."""
CASES = 60
"""Of each sort."""


def step(draw: random.Random) -> Traced:
    """A step of 4 to 30 kernels whose times go over two orders of magnitude."""
    names = [f"_kernel_{place}" for place in range(draw.randint(4, 30))]
    kernels = tuple(RanKernel(name, draw.choice((1, 1, 2, 12)), 1e-6 * 10 ** draw.uniform(0, 2)) for name in names)
    whole = sum(one.seconds for one in kernels)
    return Traced(kernels, draw.uniform(0.01, 0.2) * whole, 1.98e9, {"_kernel_0": "BLOCK: 64"})


def traces(draw: random.Random, truth: Traced) -> list[Traced]:
    """Traces of a step in noise; now and then another process takes one of its kernels twice as long."""

    def seen() -> Traced:
        factor = [draw.gauss(1, NOISE) * (2 if draw.random() < 0.01 else 1) for _ in truth.kernels]
        kernels = tuple(replace(one, seconds=one.seconds * by) for one, by in zip(truth.kernels, factor, strict=True))
        clock = None if truth.clock_hz is None else truth.clock_hz * draw.gauss(1, 0.001)
        return replace(truth, kernels=kernels, gap_s=truth.gap_s * draw.gauss(1, 5 * NOISE), clock_hz=clock)

    return [seen() for _ in range(TRACES)]


def added(draw: random.Random, base: Traced) -> float:
    """What is planted: 3 to 15% of the step; seconds."""
    return draw.uniform(0.03, 0.15) * (sum(one.seconds for one in base.kernels) + base.gap_s)


Planted = tuple[Traced, Callable[[Cause], bool]]


def slowed(draw: random.Random, base: Traced) -> Planted:
    at = draw.randrange(len(base.kernels))
    kernels = list(base.kernels)
    kernels[at] = replace(kernels[at], seconds=kernels[at].seconds + added(draw, base))
    name = kernels[at].name
    return replace(base, kernels=tuple(kernels)), lambda one: one.what is What.KERNEL and one.name == name


def renamed(draw: random.Random, base: Traced) -> Planted:
    at = draw.randrange(len(base.kernels))
    kernels = list(base.kernels)
    kernels[at] = replace(kernels[at], name="_other", seconds=kernels[at].seconds + added(draw, base))
    return replace(base, kernels=tuple(kernels)), lambda one: one.what is What.KERNEL and one.name == "_other"


def split(draw: random.Random, base: Traced) -> Planted:
    at = draw.randrange(len(base.kernels))
    whole = base.kernels[at].seconds + added(draw, base)
    pieces = (RanKernel("_first", 1, 0.4 * whole), RanKernel("_second", 1, 0.6 * whole))
    kernels = (*base.kernels[:at], *pieces, *base.kernels[at + 1 :])
    before = base.kernels[at].name

    def names(one: Cause) -> bool:
        return one.what is What.KERNEL and one.name == "_first + _second" and before in one.sentence

    return replace(base, kernels=kernels), names


def one_more(draw: random.Random, base: Traced) -> Planted:
    at = draw.randrange(len(base.kernels) + 1)
    kernels = (*base.kernels[:at], RanKernel("_added", 1, added(draw, base)), *base.kernels[at:])
    return replace(base, kernels=kernels), lambda one: one.what is What.KERNEL and one.name == "_added"


def more_launches(draw: random.Random, base: Traced) -> Planted:
    at = draw.randrange(len(base.kernels))
    kernels = list(base.kernels)
    old = kernels[at]
    kernels[at] = RanKernel(old.name, old.launches + 1, old.seconds + added(draw, base))

    def names(one: Cause) -> bool:
        return one.name == old.name and f"launches: {old.launches} before, {old.launches + 1} now" in one.sentence

    return replace(base, kernels=tuple(kernels)), names


def gaps(draw: random.Random, base: Traced) -> Planted:
    return replace(base, gap_s=base.gap_s + added(draw, base)), lambda one: one.what is What.GAPS


def clocks(draw: random.Random, base: Traced) -> Planted:
    """A lower clock slows what waits for it, which is three kernels of four, and not what waits for memory."""
    factor = draw.uniform(1.04, 1.15)
    kernels = tuple(one if draw.random() < 0.25 else replace(one, seconds=one.seconds * factor) for one in base.kernels)
    assert base.clock_hz is not None
    return replace(base, kernels=kernels, clock_hz=base.clock_hz / factor), lambda one: one.what is What.CLOCKS


def tuning(draw: random.Random, base: Traced) -> Planted:
    first = replace(base.kernels[0], seconds=base.kernels[0].seconds + added(draw, base))
    change = replace(base, kernels=(first, *base.kernels[1:]), tuning={"_kernel_0": "BLOCK: 128"})

    def names(one: Cause) -> bool:
        return one.what is What.TUNING and one.name == "_kernel_0" and "BLOCK: 128" in one.sentence

    return change, names


@pytest.mark.parametrize(
    "plant", [slowed, renamed, split, one_more, more_launches, gaps, clocks, tuning], ids=lambda one: one.__name__
)
def test_what_was_planted_is_named_first_in_nine_of_ten(plant: Callable[[random.Random, Traced], Planted]) -> None:
    draw = random.Random(plant.__name__)
    found = 0
    for _ in range(CASES):
        base = step(draw)
        change, names = plant(draw, base)
        why = attribute(traces(draw, base), traces(draw, change))
        found += bool(why.causes) and names(why.causes[0])
        assert sum(one.added_s for one in why.causes) == pytest.approx(why.added_s)
    assert found >= 0.9 * CASES, f"{found} of {CASES}"


def test_without_noise_the_added_time_is_exact() -> None:
    base = Traced((RanKernel("a", 2, 1e-3), RanKernel("b", 1, 2e-3)), 1e-4)
    change = Traced((RanKernel("a", 2, 1.3e-3), RanKernel("b", 1, 2e-3)), 1e-4)
    why = attribute([base], [change])
    (first,) = why.causes
    assert (first.what, first.name) == (What.KERNEL, "a")
    assert first.added_s == pytest.approx(3e-4) == pytest.approx(why.added_s)
    assert "100% of the time" in why.sentence(0.1)
    assert "differ by +9.7% only, so it may not be all" in why.sentence(0.3)


def test_a_kernel_slower_than_its_clock_explains_is_named_beside_the_clock() -> None:
    base = Traced((RanKernel("a", 1, 1e-3), RanKernel("b", 1, 1e-3)), 0.0, 2e9)
    change = Traced((RanKernel("a", 1, 1.5e-3), RanKernel("b", 1, 1.1e-3)), 0.0, 2e9 / 1.1)
    causes = attribute([base], [change]).causes
    assert [(one.what, one.name) for one in causes] == [(What.KERNEL, "a"), (What.CLOCKS, "")]
    assert [one.added_s for one in causes] == [pytest.approx(4e-4), pytest.approx(2e-4)]


def test_kernels_that_slow_down_alike_tell_a_clock_that_nothing_reads() -> None:
    kernels = tuple(RanKernel(name, 1, 1e-3) for name in "abcdef")
    slower = tuple(replace(one, seconds=1.05e-3) for one in kernels)
    why = attribute([Traced(kernels, 0.0)], [Traced(slower, 0.0)])
    assert why.causes[0].what is What.CLOCKS
    assert "5.0% longer alike" in why.sentence()
    one_slower = (slower[0], *kernels[1:])
    assert attribute([Traced(kernels, 0.0)], [Traced(one_slower, 0.0)]).causes[0].name == "a"


def test_what_moved_is_the_same_kernel() -> None:
    base = Traced((RanKernel("a", 1, 1e-3), RanKernel("b", 1, 2e-3), RanKernel("c", 1, 1e-3)), 0.0)
    change = Traced((RanKernel("b", 1, 2e-3), RanKernel("c", 1, 1e-3), RanKernel("a", 1, 1e-3)), 0.0)
    assert attribute([base], [change]).causes == ()


def test_equal_traces_blame_nothing() -> None:
    draw = random.Random(1)
    for _ in range(20):
        base = step(draw)
        why = attribute(traces(draw, base), traces(draw, base))
        assert isinstance(why, Why)
        assert sum(one.sure and one.added_s > 0 for one in why.causes) <= len(why.causes) / 2
    assert attribute([base], [base]).sentence() == "Traces of both sides do not differ by more than their noise."
    with pytest.raises(ValueError, match="no traces"):
        attribute([], [base])
