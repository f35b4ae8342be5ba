"""sampling: how often a step is run before its duration is believed.

First the step warms up until it stops getting faster: the median of its last runs is no lower than that of the runs
before them. Then it is sampled in blocks until the interval of the median is tight and the samples do not drift, or
enough samples are in, or the time is up. Time is spent by estimate: a run that would not fit into what is left is not
begun, so a step of a minute is run twice, not seven times, and its record says it has few samples.

Samples come back in the order they were taken. Whether they still drift at the end is for ``caveats`` to say, not
hidden by sorting.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from hybridbench.measure.clock import TimedStep, Timer
from hybridbench.stats import median, median_interval
from hybridbench.suite.case import Sampling
from hybridbench.units import NS_PER_S

STEADY_RUNS = 3
STEADY_WINDOW_NS = 50_000_000
STEADY_FRACTION = 0.02
BLOCKS_PER_BUDGET = 10


@dataclass(frozen=True)
class Samples:
    """What a measurement yielded.

    Attributes:
        samples_ns: duration of each timed run, in order; ns.
        runs: how often the step ran while it was sampled, untimed runs included: what an energy counter read around
            the sampling has to be divided by.
        warmup_steps: runs before the first sample.
        warmup_ns: wall time they took; ns.
        steady: whether the warm-up ended because the step no longer got faster, not because its time was up.
    """

    samples_ns: list[int]
    runs: int
    warmup_steps: int
    warmup_ns: int
    steady: bool


def measure(
    step: TimedStep,
    timer: Timer,
    sampling: Sampling,
    *,
    now: Callable[[], int] = time.perf_counter_ns,
    around: AbstractContextManager[object] | None = None,
) -> Samples:
    """Warms the step up and samples it.

    Args:
        step: one run of the work; everything it needs is allocated, captured and compiled.
        timer: the clock.
        sampling: limits of both phases and the target of the interval.
        now: wall time, for the limit of the warm-up; ns.
        around: entered after the warm-up and left after the last sample, to read clocks and energy of just that time.
    """
    start_ns = now()
    warmup_steps, estimate_ns, steady = _warm_up(step, timer, sampling, now)
    warmup_ns = now() - start_ns
    with around if around is not None else nullcontext():
        samples_ns, runs = _sample(step, timer, sampling, estimate_ns)
    return Samples(samples_ns, runs, warmup_steps, warmup_ns, steady)


def measure_parts(
    parts: Sequence[tuple[Callable[[], None], TimedStep]],
    timer: Timer,
    sampling: Sampling,
    *,
    now: Callable[[], int] = time.perf_counter_ns,
    around: AbstractContextManager[object] | None = None,
) -> list[Samples]:
    """Warms up and samples the parts of a step one after the other, each with its share of the sampling's time.

    Args:
        parts: for each, what puts it into place, which is not timed, and the work itself.
        around: entered when every part has run once, so that nothing compiles inside, and left after the last sample.
    """
    share = len(parts)
    each = dataclasses.replace(
        sampling,
        warmup_max_s=sampling.warmup_max_s / share,
        min_time_s=sampling.min_time_s / share,
        max_time_s=sampling.max_time_s / share,
    )
    for enter, step in parts:
        enter()
        step()
    taken = []
    with around if around is not None else nullcontext():
        for enter, step in parts:
            enter()
            taken.append(measure(step, timer, each, now=now))
    return taken


def relative_interval(samples_ns: Sequence[int]) -> float:
    """Half the width of the 95% interval of the median, as a fraction of the median."""
    low, high = median_interval(samples_ns)
    return (high - low) / 2 / median(samples_ns)


def drifts(samples_ns: Sequence[int], tolerance: float) -> bool:
    """Whether the last third of the samples differs from the first: by more than the tolerance, and beyond chance.

    Beyond chance means that the 95% intervals of the two medians do not overlap. Fewer than six samples say nothing.
    """
    third = len(samples_ns) // 3
    if third < 2:
        return False
    first, last = samples_ns[:third], samples_ns[-third:]
    (first_low, first_high), (last_low, last_high) = median_interval(first), median_interval(last)
    apart = last_low > first_high or first_low > last_high
    return apart and abs(median(last) - median(first)) > tolerance * median(samples_ns)


def _warm_up(step: TimedStep, timer: Timer, sampling: Sampling, now: Callable[[], int]) -> tuple[int, float, bool]:
    """Runs taken, what one run takes by now in ns, and whether it had stopped falling.

    Runs are judged in blocks of at least ``STEADY_RUNS`` and ``STEADY_WINDOW_NS``: six runs of a 10 us step would say
    nothing about a GPU whose clocks rise over milliseconds. One run longer than the whole limit ends the warm-up.
    """
    limit_ns = sampling.warmup_max_s * NS_PER_S
    start_ns = now()
    taken, estimate_ns = timer.runs(1), float(max(1, timer.sample(step, 1)[0]))
    previous_ns: float | None = None
    while True:
        affordable = int((limit_ns - (now() - start_ns)) / estimate_ns)
        missing = sampling.warmup_min_steps - taken if estimate_ns <= limit_ns else 0
        if affordable < 1 and missing < 1:
            return taken, estimate_ns, False
        wanted = max(STEADY_RUNS, missing, math.ceil(STEADY_WINDOW_NS / estimate_ns))
        count = max(1, min(wanted, affordable))
        estimate_ns = max(1.0, median(timer.sample(step, count)))
        taken += timer.runs(count)
        if count == wanted:
            if previous_ns is not None and estimate_ns >= (1 - STEADY_FRACTION) * previous_ns:
                return taken, estimate_ns, True
            previous_ns = estimate_ns


def _sample(step: TimedStep, timer: Timer, sampling: Sampling, estimate_ns: float) -> tuple[list[int], int]:
    """The samples in order, and how often the step ran for them."""
    limit_ns, least_ns = sampling.max_time_s * NS_PER_S, sampling.min_time_s * NS_PER_S
    samples_ns: list[int] = []
    runs = 0
    while True:
        spent_ns = sum(samples_ns)
        affordable = int((limit_ns - spent_ns) / estimate_ns)
        owed = sampling.min_samples - len(samples_ns) if sampling.insist else 0
        if samples_ns and affordable < 1 and owed < 1:
            return samples_ns, runs
        if spent_ns >= least_ns and samples_ns and _enough(samples_ns, sampling):
            return samples_ns, runs
        # Steps still missing for the time that a slow counter, such as energy, needs; or those the target may take.
        missing = math.ceil((least_ns - spent_ns) / estimate_ns)
        wanted = max(missing, sampling.max_samples - len(samples_ns))
        count = max(1, min(int(limit_ns / BLOCKS_PER_BUDGET / estimate_ns), affordable, wanted))
        samples_ns += timer.sample(step, count)
        runs += timer.runs(count)
        estimate_ns = max(1.0, median(samples_ns))


def _enough(samples_ns: list[int], sampling: Sampling) -> bool:
    if len(samples_ns) >= sampling.max_samples:
        return True
    if len(samples_ns) < sampling.min_samples or relative_interval(samples_ns) > sampling.target_rel_ci:
        return False
    return not drifts(samples_ns, sampling.target_rel_ci)
