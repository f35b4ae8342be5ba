"""Searches find a boundary and a crossing that is known, in few trials, and say what they had when they are stopped."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from hybridbench.arch.families import build_spec
from hybridbench.arch.stored import Dtypes
from hybridbench.errors import HybridbenchError
from hybridbench.machine import find_gpu
from hybridbench.predict.fit import largest_fit
from hybridbench.record import Record, Status
from hybridbench.searches import Measure, Stopped, Verified, measure_crossing, verify_fit
from hybridbench.store import load
from hybridbench.suite.case import Case, Execution
from hybridbench.suite.workloads import DECODE, TRAIN

RESULTS = Path(__file__).parents[1] / "results" / "nvidia-h200" / "efficiency"
(SAMPLE, *_) = load([RESULTS], lambda _text: None)
SPEC, H200 = build_spec("inter", "1b"), find_gpu("h200")
EXECUTION = Execution("cuda", "bfloat16", "eager")


def ended(case: Case, status: Status, peak: int = 0, samples_ns: Sequence[int] = (1,)) -> Record:
    """A record of a case that ended somehow."""
    assert SAMPLE.observed is not None
    memory = replace(SAMPLE.observed.memory, peak_allocated_bytes=peak)
    observed = replace(SAMPLE.observed, memory=memory, samples_ns=list(samples_ns), parts=[])
    ok = status is Status.OK
    return replace(
        SAMPLE, case=case, status=status, observed=observed if ok else None, message=None if ok else "no reason"
    )


def each(outcome: Callable[[Case], Record], given: list[Case] | None = None) -> Measure:
    """Measures cases by a rule, the last one first."""

    def measure(cases: Sequence[Case]) -> list[Record]:
        if given is not None:
            given.extend(cases)
        return [outcome(case) for case in reversed(cases)]

    return measure


@pytest.mark.parametrize("truth", [1, 11, 12, 40])
def test_the_largest_batch_that_ran_is_found_wherever_it_is(truth: int) -> None:
    def outcome(case: Case) -> Record:
        batch = case.workload.batch
        return ended(case, Status.OK, peak=batch << 33) if batch <= truth else ended(case, Status.OOM)

    given: list[Case] = []
    said: list[str] = []
    fit = largest_fit(SPEC, H200, TRAIN, Dtypes.of("bfloat16"), context=8192)
    found = verify_fit(fit, EXECUTION, each(outcome, given), limit_s=60.0, tell=said.append)
    assert found == Verified(truth, truth + 1, truth << 33, len(given))
    assert len({case.key for case in given}) == len(given) == len(said), "no case twice"
    assert all(case.sampling.probes and case.limit_s == 60.0 for case in given)
    assert said[-1].endswith(("runs", "does not fit"))


def test_nothing_that_runs_is_a_boundary_too() -> None:
    fit = largest_fit(SPEC, H200, TRAIN, Dtypes.of("bfloat16"), context=8192)
    found = verify_fit(fit, EXECUTION, each(lambda case: ended(case, Status.OOM)), limit_s=60.0)
    assert found is not None
    assert (found.fits, found.fails, found.peak_bytes) == (0, 1, None)


def test_a_fit_without_limit_is_not_tried() -> None:
    fit = largest_fit(build_spec("mamba", "1b"), H200, DECODE, Dtypes.of("bfloat16"), batch=1)
    assert fit.unlimited
    assert verify_fit(fit, EXECUTION, each(lambda case: pytest.fail(case.label)), limit_s=60.0) is None


@pytest.mark.parametrize("after", [0, 1, 2])
def test_a_stopped_search_has_what_trials_had_shown(after: int) -> None:
    given: list[Case] = []

    def outcome(case: Case) -> Record:
        if len(given) > after:
            raise KeyboardInterrupt
        return ended(case, Status.OK, peak=7)

    fit = largest_fit(SPEC, H200, TRAIN, Dtypes.of("bfloat16"), context=8192)
    with pytest.raises(Stopped) as stopped:
        verify_fit(fit, EXECUTION, each(outcome, given), limit_s=60.0)
    largest = max((case.workload.batch for case in given[:after]), default=0)
    assert stopped.value.found == (Verified(largest, None, 7, after, stopped=True) if after else None)


def test_a_trial_that_says_nothing_about_memory_ends_the_search() -> None:
    fit = largest_fit(SPEC, H200, TRAIN, Dtypes.of("bfloat16"), context=8192)
    with pytest.raises(HybridbenchError, match="ended as timed out, which says nothing about memory: no reason"):
        verify_fit(fit, EXECUTION, each(lambda case: ended(case, Status.TIMED_OUT)), limit_s=60.0)


PAIR = build_spec("transformer", "1b"), build_spec("mamba", "1b")


def crossing_at(context: int, given: list[Case]) -> Measure:
    """Steps of which one grows with the context, and overtakes the other there."""

    def outcome(case: Case) -> Record:
        ns = 1000 * (case.workload.context if case.model.arch == "transformer" else context)
        return ended(case, Status.OK, samples_ns=[ns - 5, ns, ns + 5] * 5)

    return each(outcome, given)


def test_a_crossing_lies_between_the_ends_that_are_found() -> None:
    given: list[Case] = []
    found = measure_crossing(
        PAIR,
        DECODE,
        EXECUTION,
        crossing_at(10_000, given),
        batch=4,
        first=1024,
        last=131_072,
        max_time_s=2.0,
        trials=20,
    )
    assert found.device == SAMPLE.environment.device
    assert found.search.interval is not None
    low, high = found.search.interval
    assert low < 10_000 < high < 1.1 * low
    assert [case.model.arch for case in given[:2]] == ["transformer", "mamba"], "one after the other at each context"
    assert {(case.workload.kind, case.workload.batch) for case in given} == {(DECODE, 4)}
    assert all(case.sampling.insist and case.sampling.warmup_max_s == 2.0 for case in given)


def test_steps_that_do_not_cross_have_no_interval() -> None:
    found = measure_crossing(
        PAIR, DECODE, EXECUTION, crossing_at(100, []), batch=1, first=1024, last=4096, max_time_s=2.0, trials=9
    )
    assert found.search.interval is None
    assert len(found.search.seen) == 2


def test_a_step_without_a_time_ends_the_search() -> None:
    with pytest.raises(HybridbenchError, match="ended as oom, so nothing can be compared there: no reason"):
        measure_crossing(
            PAIR,
            DECODE,
            EXECUTION,
            each(lambda case: ended(case, Status.OOM)),
            batch=1,
            first=1024,
            last=4096,
            max_time_s=2.0,
            trials=9,
        )
