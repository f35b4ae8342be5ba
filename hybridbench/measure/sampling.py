"""sampling: how often a step runs: a warm-up, then samples until their median is known closely enough.

First the step warms up until it stops getting faster: the median of its last runs is not lower than that of the runs
before them. Then it is sampled in blocks until the interval of the median is tight and the samples do not drift, until
there are enough samples, or until the time is up. A run that is not expected to fit into the remaining time is not
started, so a step of a minute is run twice, not seven times, and its record says that it has few samples.

Samples are returned in the order they were taken, so that ``caveats`` can tell whether they still drift at the end.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from hybridbench.measure.clock import TimedStep, Timer, nothing
from hybridbench.stats import median, median_interval
from hybridbench.suite.case import Sampling
from hybridbench.units import NS_PER_S

STEADY_RUNS = 3
STEADY_WINDOW_NS = 50_000_000
STEADY_FRACTION = 0.02
BLOCKS_PER_BUDGET = 10


@dataclass(frozen=True)
class Samples:
    """The result of a measurement.

    Attributes:
        samples_ns: duration of each timed run, in order; ns.
        runs: how often the step ran during the sampling, untimed runs included. Divide the energy of the sampling by
            this number.
        warmup_steps: runs before the first sample.
        warmup_ns: wall time of the warm-up; ns.
        steady: True if the warm-up ended because the step no longer got faster, False if its time was up.
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
    between: Callable[[], None] = nothing,
) -> Samples:
    """Warms the step up and samples it.

    Args:
        step: one run of the work. Everything that it needs must be allocated, captured and compiled.
        timer: the clock.
        sampling: the limits of both phases, and the target for the interval.
        now: wall time, for the limit of the warm-up; ns.
        around: entered after the warm-up and left after the last sample, to read clocks and energy of the sampling
            only.
        between: called before the first block of samples and after each.
    """
    start_ns = now()
    warmup_steps, estimate_ns, steady = _warm_up(step, timer, sampling, now)
    warmup_ns = now() - start_ns
    with around if around is not None else nullcontext():
        samples_ns, runs = _sample(step, timer, sampling, estimate_ns, between)
    return Samples(samples_ns, runs, warmup_steps, warmup_ns, steady)


def measure_parts(
    parts: Sequence[tuple[TimedStep, TimedStep]],
    timer: Timer,
    sampling: Sampling,
    *,
    now: Callable[[], int] = time.perf_counter_ns,
    around: AbstractContextManager[object] | None = None,
    between: Callable[[], None] = nothing,
) -> list[Samples]:
    """Warms up and samples the parts of a step one after the other, each with its share of the sampling's time.

    Args:
        parts: for each part an untimed function that prepares it, and the timed work itself.
        around: entered once every part has run, so that nothing compiles inside, and left after the last sample.
        between: called before the first block of samples of each part and after each block.
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
            taken.append(measure(step, timer, each, now=now, between=between))
    return taken


def relative_interval(samples_ns: Sequence[int]) -> float:
    """Half the width of the 95% interval of the median, as a fraction of the median."""
    low, high = median_interval(samples_ns)
    return (high - low) / 2 / median(samples_ns)


def drifts(samples_ns: Sequence[int], tolerance: float) -> bool:
    """Whether the medians of the first and the last third of the samples differ by more than the tolerance.

    Their 95% intervals must not overlap either. Fewer than six samples never drift.
    """
    third = len(samples_ns) // 3
    if third < 2:
        return False
    first, last = samples_ns[:third], samples_ns[-third:]
    (first_low, first_high), (last_low, last_high) = median_interval(first), median_interval(last)
    apart = last_low > first_high or first_low > last_high
    return apart and abs(median(last) - median(first)) > tolerance * median(samples_ns)


def _warm_up(step: TimedStep, timer: Timer, sampling: Sampling, now: Callable[[], int]) -> tuple[int, float, bool]:
    """The number of runs, the latest duration of one run in ns, and whether it had stopped falling.

    Runs are judged in blocks of at least ``STEADY_RUNS`` runs and ``STEADY_WINDOW_NS``: six runs of a 10 us step would
    say nothing about a GPU whose clocks rise over milliseconds. One run longer than the whole limit ends the warm-up.
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


def _sample(
    step: TimedStep, timer: Timer, sampling: Sampling, estimate_ns: float, between: Callable[[], None]
) -> tuple[list[int], int]:
    """The samples in order, and how often the step ran, untimed runs included."""
    limit_ns, least_ns = sampling.max_time_s * NS_PER_S, sampling.min_time_s * NS_PER_S
    samples_ns: list[int] = []
    runs = 0
    while True:
        between()
        spent_ns = sum(samples_ns)
        affordable = int((limit_ns - spent_ns) / estimate_ns)
        owed = sampling.min_samples - len(samples_ns) if sampling.insist else 0
        if samples_ns and affordable < 1 and owed < 1:
            return samples_ns, runs
        if spent_ns >= least_ns and samples_ns and _enough(samples_ns, sampling):
            return samples_ns, runs
        # The steps still needed to fill the time that a slow counter, such as energy, needs, or to reach the target.
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
