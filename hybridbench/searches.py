"""searches: what only trials can find: the true boundary of a fit, and the context at which measured steps cross.

A search decides which cases to run and what their records mean. The caller passes the function that runs them, so that
a search is tested without a process and without a GPU:

    verify_fit(fit, execution, lambda cases: run_sweep(cases, writer), limit_s=600.0)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from hybridbench import units
from hybridbench.arch.model import ModelSpec
from hybridbench.errors import HybridbenchError
from hybridbench.metrics import value
from hybridbench.predict.crossover import Interval, Search, search
from hybridbench.predict.fit import LARGEST_BATCH, LONGEST_CONTEXT, Fit, find_boundary
from hybridbench.record import Record, Status
from hybridbench.suite.case import Case, Execution, Sampling
from hybridbench.suite.workloads import Workload

PROBE = Sampling(warmup_max_s=0.0, warmup_min_steps=1, min_samples=1, max_samples=1, max_time_s=1.0, insist=True)
"""One step and one sample: a trial only asks whether the case runs."""
CONTEXT_RESOLUTION = 0.01
"""Relative gap between the longest context that ran and the shortest that did not at which a search ends."""

Measure = Callable[[Sequence[Case]], list[Record]]
"""Runs cases and returns their records, in any order."""
Tell = Callable[[str], object]


@dataclass(frozen=True)
class Verified:
    """What trials on a GPU found: the largest value that ran, the smallest that did not, and the peak of the former.

    Attributes:
        stopped: Ctrl-C ended the trials before the boundary was found.
    """

    fits: int
    fails: int | None
    peak_bytes: int | None
    trials: int
    stopped: bool = False


class Stopped(KeyboardInterrupt):
    """Ctrl-C during the trials of a fit.

    Attributes:
        found: the result so far; None before the first trial ended.
    """

    def __init__(self, found: Verified | None) -> None:
        super().__init__()
        self.found = found


def verify_fit(
    fit: Fit, execution: Execution, measure: Measure, *, limit_s: float, tell: Tell = lambda _line: None
) -> Verified | None:
    """The true boundary of one fit, by bisection from the prediction on; None for a fit without a limit.

    Args:
        limit_s: the longest time of one trial; seconds.
        tell: called with a line of text after each trial.

    Raises:
        HybridbenchError: a trial ended in a way that says nothing about memory.
        Stopped: by Ctrl-C, with the result so far.
    """
    if fit.unlimited:
        return None
    of_context = fit.solved == "context"
    ran: dict[int, bool] = {}
    peaks: dict[int, int | None] = {}

    def trial(size: int) -> bool:
        work = replace(fit.workload, context=size) if of_context else replace(fit.workload, batch=size)
        case = Case(fit.spec, work, execution, sampling=PROBE, limit_s=limit_s)
        (record,) = measure([case])
        if record.status not in (Status.OK, Status.OOM):
            raise HybridbenchError(f"{_ended(record)}, which says nothing about memory: {record.message}")
        peaks[size] = record.observed.memory.peak_allocated_bytes if record.observed else None
        ran[size] = record.observed is not None
        tell(f"{case.label}: {'runs' if ran[size] else 'does not fit'}")
        return ran[size]

    guess: int = getattr(fit.workload, fit.solved)
    try:
        worked, failed = find_boundary(
            trial,
            guess,
            step=max(1, 2 ** max(0, guess.bit_length() - 8)) if of_context else 1,
            resolution=CONTEXT_RESOLUTION if of_context else 0.0,
            end=LONGEST_CONTEXT if of_context else LARGEST_BATCH,
        )
    except KeyboardInterrupt:
        worked = max((size for size, ok in ran.items() if ok), default=0)
        failed = min((size for size, ok in ran.items() if not ok), default=None)
        seen = Verified(worked, failed, peaks.get(worked), len(ran), stopped=True)
        raise Stopped(seen if ran else None) from None
    return Verified(worked, failed, peaks.get(worked), len(ran))


@dataclass(frozen=True)
class MeasuredCrossing:
    """A measured crossing, and the device it was measured on."""

    search: Search
    device: str


def measure_crossing(
    pair: tuple[ModelSpec, ModelSpec],
    kind: str,
    execution: Execution,
    measure: Measure,
    *,
    batch: int,
    first: int,
    last: int,
    max_time_s: float,
    trials: int,
    tell: Tell = lambda _line: None,
) -> MeasuredCrossing:
    """The interval of contexts in which the faster of two models' measured steps changes.

    At each context both steps are measured one after the other, so that drift between contexts does not matter.

    Args:
        kind: the workload whose step is measured.
        first, last: where to search.
        max_time_s: sampled time of a step; seconds.
        trials: the most contexts to measure.
        tell: called with a line of text after each step.

    Raises:
        HybridbenchError: a step did not run or was not timed.
    """
    # One sample has an interval of no width, and two of those never overlap.
    sampling = Sampling(max_time_s=max_time_s, warmup_max_s=min(Sampling.warmup_max_s, max_time_s), insist=True)
    devices: list[str] = []

    def steps(context: int) -> tuple[Interval, Interval]:
        cases = [Case(spec, Workload(kind, context, batch), execution, sampling=sampling) for spec in pair]
        by_key = {record.case.key: record for record in measure(cases)}
        found = [by_key[case.key] for case in cases]
        devices.append(found[0].environment.device)
        one, other = (_interval(record, tell) for record in found)
        return one, other

    return MeasuredCrossing(search(steps, first, last, trials=trials), devices[0])


def _interval(record: Record, tell: Tell) -> Interval:
    """The 95% interval of a step's median; seconds."""
    low, high = value(record, "step_low_s"), value(record, "step_high_s")
    if record.status is not Status.OK or low is None or high is None:
        raise HybridbenchError(f"{_ended(record)}, so nothing can be compared there: {record.message}")
    tell(f"{record.case.label}: {units.format_seconds(low)} to {units.format_seconds(high)}")
    return low, high


def _ended(record: Record) -> str:
    return f"{record.case.label} ended as {record.status.value.replace('_', ' ')}"
