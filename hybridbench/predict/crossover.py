"""crossover: the contexts at which one model overtakes another, solved exactly from formulas or searched for in steps.

Every figure here is a piecewise polynomial of the context, of degree two at most. A piece ends where a window becomes
full; a piece of the floor of a decode step also ends where its limit changes between memory and arithmetic. On a piece
the difference of two models has one extremum at most, so it is monotone on either side and whole numbers are bisected.
The answer is exact: it has every crossing, and every range on which both are equal.

A measured step has no formula and has noise. There a context is decided when the 95% intervals of both medians do not
overlap, and the search halves what lies between the last context decided for one and the first decided for the other.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction

from hybridbench.arch import model as arch
from hybridbench.arch.block import Storage
from hybridbench.arch.model import ModelSpec
from hybridbench.errors import BadInput, unknown_name
from hybridbench.machine import Peak
from hybridbench.predict.floor import floor_s, times_s
from hybridbench.predict.work import Phase, phases
from hybridbench.suite.workloads import DECODE, PREFILL, TRAIN, Workload

CURVES = ("cache", "decode-floor", "decode-flops", "flops", "prefill-flops")
"""Figures whose crossings can be solved for. ``flops`` are those of training on one sequence."""
WORKLOAD_OF = {"decode-floor": DECODE, "decode-flops": DECODE, "flops": TRAIN, "prefill-flops": PREFILL}
"""The workload whose measured step stands for a curve; cache bytes are exact and need no measuring."""
LAST_CONTEXT = 1 << 24
"""The longest context at which a crossing is looked for, unless a caller says otherwise."""

Curve = Callable[[int], int | Fraction]
"""A figure by context, in exact numbers: crossings are decided by signs."""


@dataclass(frozen=True)
class Stretch:
    """Contexts ``first`` to ``last`` over which the same model, 0 or 1, has ``less``; None where both are equal."""

    first: int
    last: int
    less: int | None


@dataclass(frozen=True)
class Lines:
    """A figure of a model: its curve, and the contexts behind which it may bend."""

    at: Curve
    bends: tuple[int, ...]


def lines(
    spec: ModelSpec,
    curve: str,
    *,
    batch: int = 1,
    storage: Storage | None = None,
    gpu: Peak | None = None,
    dtype: str = "bfloat16",
    last: int = LAST_CONTEXT,
) -> Lines:
    """A figure of a model by context.

    ``decode-floor`` is the floor in seconds as an exact fraction; the others are whole numbers.

    Raises:
        BadInput: an unknown curve, a floor without a GPU, or a dtype without a peak.
    """
    if curve not in CURVES:
        raise unknown_name("metric to cross", curve, CURVES)
    storage = storage or Storage()
    bends = _bends(spec)
    if curve == "cache":
        return Lines(lambda context: arch.cache_bytes(spec, context, storage).total, bends)
    if curve == "flops":
        return Lines(lambda context: arch.train_flops(spec, context).total, bends)
    if curve == "prefill-flops":
        return Lines(lambda context: arch.prefill_flops(spec, context).total, bends)
    if curve == "decode-flops":
        return Lines(lambda context: arch.decode_flops(spec, context).total, bends)
    if gpu is None:
        raise BadInput("a decode floor is a time on a GPU: name one with --gpu.")
    peak = gpu.flops_per_s(dtype)
    if peak is None:
        raise BadInput(f"no peak rate for dtype {dtype} on {gpu.name}: take bfloat16, float16 or float32.")
    rates = Fraction(peak), Fraction(gpu.memory_bytes_per_s)

    def step(context: int) -> tuple[Phase, ...]:
        return phases(spec, Workload(DECODE, context, batch), storage)

    def alone(which: int) -> Lines:
        """The time of arithmetic (0) or memory (1) alone."""
        return Lines(lambda context: times_s(step(context)[0], *rates)[which], bends)

    turns = [stretch.last for stretch in stretches(alone(0), alone(1), last)]
    return Lines(lambda context: floor_s(step(context), *rates), tuple(sorted({*bends, *turns})))


def _bends(spec: ModelSpec) -> tuple[int, ...]:
    """The contexts at which a window becomes full: beyond them the keys seen and the cached tokens no longer grow."""
    spans = {mixer.span for _, mixer in arch.mixers(spec)}
    return tuple(sorted({max(1, span + shift) for span in spans if span is not None for shift in (-1, 0, 1)}))


def stretches(one: Lines, other: Lines, last: int = LAST_CONTEXT) -> list[Stretch]:
    """The contexts from 1 to ``last`` in stretches, on each of which the same figure is less, or both are equal."""

    def difference(context: int) -> int | Fraction:
        return one.at(context) - other.at(context)

    inner = sorted({bend for bend in (*one.bends, *other.bends) if 1 <= bend < last})
    edges = [0, *inner, last]
    found: list[Stretch] = []
    for low, high in itertools.pairwise(edges):
        for first, final in _monotone(difference, low + 1, high):
            _append(found, _decided(difference, first, final))
    return found


def _monotone(difference: Curve, first: int, last: int) -> list[tuple[int, int]]:
    """One or two ranges on which a line or parabola is monotone: split where its steps change sign."""
    if last - first < 2:
        return [(first, last)]

    def rises(at: int) -> bool:
        return difference(at + 1) > difference(at)

    rising = rises(first)
    if rises(last - 1) == rising:
        return [(first, last)]
    turn = _first_true(lambda at: rises(at) != rising, first, last - 1)
    return [(first, turn), (turn + 1, last)]


def _decided(difference: Curve, first: int, last: int) -> list[Stretch]:
    """The stretches of a range on which the difference is monotone."""
    start, end = _sign(difference(first)), _sign(difference(last))
    if start == end:
        return [Stretch(first, last, _less(start))]
    found, at = [], first
    step = 1 if end > start else -1
    sign = start

    def beyond(context: int) -> bool:
        """Whether the next sign, or the one after it, has begun."""
        return step * _sign(difference(context)) > step * sign

    while sign != end:
        following = _first_true(beyond, at, last)
        found.append(Stretch(at, following - 1, _less(sign)))
        at, sign = following, _sign(difference(following))
    return [*found, Stretch(at, last, _less(end))]


def _first_true(holds: Callable[[int], bool], first: int, last: int) -> int:
    """The first value at which ``holds`` is true; it must be true from some value on and at ``last``."""
    low, high = first, last
    while low < high:
        middle = (low + high) // 2
        if holds(middle):
            high = middle
        else:
            low = middle + 1
    return low


def _sign(value: int | Fraction) -> int:
    return (value > 0) - (value < 0)


def _less(sign: int) -> int | None:
    return None if sign == 0 else 0 if sign < 0 else 1


def _append(found: list[Stretch], more: Iterable[Stretch]) -> None:
    """Append stretches; one that continues the last is merged with it."""
    for stretch in more:
        if found and found[-1].less == stretch.less:
            found[-1] = Stretch(found[-1].first, stretch.last, stretch.less)
        else:
            found.append(stretch)


# Measured.


Interval = tuple[float, float]
"""The 95% interval of a median."""


@dataclass(frozen=True)
class MeasuredContext:
    """Both models measured at one context, as intervals of their medians."""

    context: int
    intervals: tuple[Interval, Interval]

    @property
    def less(self) -> int | None:
        """The model, 0 or 1, that is surely faster; None where the intervals overlap."""
        (low_one, high_one), (low_other, high_other) = self.intervals
        return 0 if high_one < low_other else 1 if high_other < low_one else None


@dataclass(frozen=True)
class Search:
    """What a search over measured contexts found.

    Args:
        seen: every context measured, in order.
        interval: the last context decided for one model and the first decided for the other: the crossing lies
            between; None where no two contexts are decided differently.
    """

    seen: tuple[MeasuredContext, ...]
    interval: tuple[int, int] | None


def search(
    measure: Callable[[int], tuple[Interval, Interval]],
    first: int,
    last: int,
    *,
    resolution: float = 0.05,
    grain: int = 64,
    trials: int = 12,
) -> Search:
    """The interval of contexts in which the faster of two measured models changes.

    Both ends are measured first. If different models are faster there, the search halves the gap between the ends (at
    the geometric middle). It stops when the ends are within ``resolution`` of each other, when only undecided contexts
    are left between them, or when all trials are used. Of several crossings it finds one.

    Args:
        measure: the intervals of both models' steps at a context.
        grain: contexts are multiples of it.
        trials: the most contexts to measure.
    """
    seen: dict[int, MeasuredContext] = {}

    def look(context: int) -> MeasuredContext:
        if context not in seen:
            seen[context] = MeasuredContext(context, measure(context))
        return seen[context]

    low, high = look(first), look(last)
    if low.less is None or high.less is None or low.less == high.less:
        return Search(_ordered(seen), None)
    # Undecided contexts lie between the two ends, and each end moves inwards independently.
    inside: list[int] = []
    while len(seen) < trials:
        gaps = _gaps([low.context, *sorted(inside), high.context], resolution, grain)
        if not gaps:
            break
        left, right = gaps[0]
        middle = look(_between(left, right, grain))
        if middle.less == low.less:
            low = middle
        elif middle.less == high.less:
            high = middle
        else:
            inside.append(middle.context)
        inside = [context for context in inside if low.context < context < high.context]
    return Search(_ordered(seen), (low.context, high.context))


def _gaps(places: Sequence[int], resolution: float, grain: int) -> list[tuple[int, int]]:
    """The outermost gaps between an end and what is inside that are still worth halving, the widest first."""
    pairs = {(places[0], places[1]), (places[-2], places[-1])}
    wide = [(a, b) for a, b in pairs if b / a > 1 + resolution and a < _between(a, b, grain) < b]
    return sorted(wide, key=lambda pair: pair[0] / pair[1])


def _between(low: int, high: int, grain: int) -> int:
    """The geometric middle, rounded to the grain."""
    middle = math.sqrt(low * high)
    return max(grain, round(middle / grain) * grain)


def _ordered(seen: dict[int, MeasuredContext]) -> tuple[MeasuredContext, ...]:
    return tuple(seen[context] for context in sorted(seen))
