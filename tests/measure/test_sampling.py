"""Sampling warms up until steady, stops when the median is known, and spends no more time than it was given."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hybridbench.measure.clock import ScriptedTimer, TimedStep
from hybridbench.measure.sampling import Samples, drifts, measure, measure_parts, relative_interval
from hybridbench.suite.case import Sampling

MS = 1_000_000
S = 1_000_000_000


def play(durations_ns: Iterable[int], sampling: Sampling) -> tuple[Samples, int]:
    """The measurement a script yields, and how often the step ran in all."""
    runs: list[None] = []
    timer = ScriptedTimer(durations_ns)
    samples = measure(lambda: runs.append(None), timer, sampling, now=timer.now)
    return samples, len(runs)


def noisy(centre_ns: int, spread: float, seed: int = 0) -> Iterator[int]:
    source = random.Random(seed)
    while True:
        yield round(centre_ns * (1 + spread * (2 * source.random() - 1)))


def test_a_constant_step_is_steady_after_two_blocks_and_sampled_once() -> None:
    samples, runs = play(itertools.repeat(100 * MS), Sampling())
    assert samples.steady
    # One run, then two blocks of three that agree; then one block of a tenth of the time, which is tight.
    assert (samples.warmup_steps, samples.warmup_ns) == (7, 700 * MS)
    assert samples.samples_ns == [100 * MS] * 5
    assert runs == samples.warmup_steps + samples.runs


def test_sampling_goes_on_while_samples_drift() -> None:
    """Ten samples of which the last five are 3% slower: their interval is tight, and what comes next is not known."""
    settled = [10 * MS] * 11
    story = itertools.chain(settled, [10 * MS] * 5, itertools.repeat(10 * MS * 103 // 100))
    samples, _ = play(story, Sampling(max_time_s=1, warmup_min_steps=2))
    assert samples.samples_ns[:10] == [10 * MS] * 5 + [10 * MS * 103 // 100] * 5
    assert relative_interval(samples.samples_ns[:10]) < 0.02
    assert len(samples.samples_ns) == 19, "a second block"
    assert not drifts(samples.samples_ns, 0.02)


def test_warm_up_outlasts_a_step_that_still_gets_faster() -> None:
    falling = [round(200 * MS * 0.97**i) for i in range(20)]
    steady_ns = 100 * MS
    samples, _ = play(itertools.chain(falling, itertools.repeat(steady_ns)), Sampling(warmup_max_s=60))
    assert samples.steady
    assert samples.warmup_steps > len(falling)
    assert set(samples.samples_ns) == {steady_ns}


def test_warm_up_of_a_short_step_lasts_long_enough_to_mean_something() -> None:
    samples, _ = play(itertools.repeat(MS // 100), Sampling())
    assert samples.steady
    assert samples.warmup_ns >= 100 * MS


def test_warm_up_gives_up_when_its_time_is_over() -> None:
    forever_falling = (max(1, round(100 * MS * 0.9**i)) for i in itertools.count())
    samples, _ = play(
        itertools.chain(itertools.islice(forever_falling, 60), itertools.repeat(MS)), Sampling(warmup_max_s=0.5)
    )
    assert not samples.steady
    assert samples.warmup_ns <= 0.5 * S


def test_a_block_cut_short_by_the_time_is_not_called_steady() -> None:
    samples, _ = play(itertools.repeat(100 * MS), Sampling(warmup_max_s=0.5))
    assert (samples.warmup_steps, samples.steady) == (5, False)


def test_warm_up_takes_its_least_number_of_steps_even_over_its_time() -> None:
    samples, _ = play(itertools.repeat(2 * S), Sampling(warmup_max_s=3, warmup_min_steps=4))
    assert samples.warmup_steps == 4
    assert not samples.steady


def test_the_least_number_of_warm_up_steps_counts_even_if_they_are_steady_before() -> None:
    samples, _ = play(itertools.repeat(100 * MS), Sampling(warmup_min_steps=12))
    assert samples.warmup_steps >= 12


def test_a_step_of_a_minute_runs_twice() -> None:
    samples, runs = play(itertools.repeat(60 * S), Sampling())
    assert samples.samples_ns == [60 * S]
    assert (runs, samples.warmup_steps, samples.steady) == (2, 1, False)


def test_a_first_run_that_compiles_does_not_use_up_the_samples() -> None:
    samples, _ = play(itertools.chain([40 * S], itertools.repeat(10 * MS)), Sampling())
    assert len(samples.samples_ns) >= 5
    assert set(samples.samples_ns) == {10 * MS}


def test_fewer_than_the_least_samples_when_each_is_long() -> None:
    samples, _ = play(itertools.repeat(2 * S), Sampling(max_time_s=5, min_samples=5))
    assert samples.samples_ns == [2 * S, 2 * S]


def test_sampling_ends_early_once_the_interval_is_tight() -> None:
    tight, _ = play(noisy(50 * MS, 0.005), Sampling(max_time_s=30))
    loose, _ = play(noisy(50 * MS, 0.5), Sampling(max_time_s=30))
    assert relative_interval(tight.samples_ns) <= 0.02
    assert len(tight.samples_ns) < 100
    assert len(loose.samples_ns) == 200  # as many as allowed


def test_the_last_block_is_cut_to_the_time_that_is_left() -> None:
    samples, _ = play(noisy(70 * MS, 0.01), Sampling(target_rel_ci=1e-9))
    assert 4.9 * S <= sum(samples.samples_ns) <= 5 * S  # in blocks of seven there would be 5.39


def test_the_least_number_of_samples_comes_before_a_tight_interval() -> None:
    samples, _ = play(itertools.repeat(900 * MS), Sampling(max_time_s=10, min_samples=8))
    assert len(samples.samples_ns) == 8


def test_samples_stay_in_the_order_they_were_taken() -> None:
    warm_up = [100 * MS] * 7
    drifting = [100 * MS + i * MS for i in range(40)]
    samples, _ = play([*warm_up, *drifting], Sampling(max_time_s=3, target_rel_ci=0.001))
    assert samples.samples_ns == drifting[: len(samples.samples_ns)]
    assert len(samples.samples_ns) > 20


def test_around_encloses_the_samples_and_nothing_else() -> None:
    timer = ScriptedTimer(itertools.repeat(100 * MS))
    times: list[int] = []

    @contextmanager
    def around() -> Iterator[None]:
        times.append(timer.now())
        yield
        times.append(timer.now())

    samples = measure(lambda: None, timer, Sampling(), now=timer.now, around=around())
    assert times == [samples.warmup_ns, samples.warmup_ns + sum(samples.samples_ns)]


class LeadIn(ScriptedTimer):
    """Runs one step untimed before each block of several, as the CUDA timer does."""

    def sample(self, step: TimedStep, count: int) -> list[int]:
        for _ in range(self.runs(count) - count):
            step()
        return super().sample(step, count)

    def runs(self, count: int) -> int:
        return count + (count > 1)


def test_what_comes_between_blocks_is_no_sample_and_frames_them() -> None:
    """The samples of a step are the same without it; it is called before the first block and after the last."""
    sampling = Sampling(max_time_s=1.0, min_time_s=1.0, max_samples=10**6)
    events: list[str] = []
    plain, timer = (ScriptedTimer(itertools.repeat(10_000_000)) for _ in range(2))
    expected = measure(lambda: None, plain, sampling, now=plain.now)

    @contextmanager
    def around() -> Iterator[None]:
        events.clear()
        yield

    found = measure(
        lambda: events.append("step"),
        timer,
        sampling,
        now=timer.now,
        around=around(),
        between=lambda: events.append("between"),
    )
    assert found == expected
    assert events[0] == events[-1] == "between"
    blocks = [len(list(run)) for name, run in itertools.groupby(events) if name == "step"]
    assert sum(blocks) == len(found.samples_ns)
    assert len(blocks) == events.count("between") - 1 >= 5


def test_runs_count_the_untimed_ones() -> None:
    ran: list[None] = []
    timer = LeadIn(noisy(100 * MS, 0.3))
    samples = measure(lambda: ran.append(None), timer, Sampling(), now=timer.now)
    assert samples.runs > len(samples.samples_ns)
    assert samples.warmup_steps + samples.runs == len(ran)


@settings(deadline=None)  # how long an example takes depends on what else runs
@given(
    step_ns=st.integers(MS, 20 * S),
    spread=st.floats(0, 0.2),
    max_time_s=st.floats(0.1, 20),
    warmup_max_s=st.floats(0.1, 5),
    min_samples=st.integers(1, 10),
)
def test_no_setting_runs_far_over_its_time_or_yields_nothing(
    step_ns: int, spread: float, max_time_s: float, warmup_max_s: float, min_samples: int
) -> None:
    sampling = Sampling(warmup_max_s=warmup_max_s, min_samples=min_samples, max_time_s=max_time_s)
    samples, _ = play(noisy(step_ns, spread), sampling)
    longest_ns = step_ns * (1 + spread) + 1
    assert 1 <= len(samples.samples_ns) <= sampling.max_samples
    # A block is begun by estimate, so what it takes may exceed the estimate by the spread.
    assert sum(samples.samples_ns) <= max(max_time_s * S * (1 + spread) / (1 - spread), longest_ns)
    assert samples.warmup_ns <= warmup_max_s * S * (1 + spread) / (1 - spread) + 2 * longest_ns


def test_relative_interval_is_half_the_width_over_the_median() -> None:
    # Five samples: the interval is their range.
    assert relative_interval([90, 100, 100, 100, 120]) == pytest.approx(15 / 100)


def test_short_steps_are_sampled_for_the_least_time_beyond_the_most_samples() -> None:
    # 2 ms steps, tight from the start: the interval is content after one block, an energy counter is not.
    timer = ScriptedTimer(itertools.repeat(2_000_000))
    sampling = Sampling(max_samples=50, min_time_s=1.1, max_time_s=5.0)
    samples = measure(lambda: None, timer, sampling, now=timer.now)
    assert 1.1e9 <= sum(samples.samples_ns) <= 1.7e9


def test_the_most_time_wins_over_the_least() -> None:
    timer = ScriptedTimer(itertools.repeat(100_000_000))
    sampling = Sampling(min_time_s=9.0, max_time_s=0.5)
    assert sum(measure(lambda: None, timer, sampling, now=timer.now).samples_ns) <= 0.5e9


def test_samples_that_are_insisted_on_come_whatever_they_take() -> None:
    timer = ScriptedTimer(itertools.repeat(100_000_000))
    sampling = Sampling(min_samples=12, max_time_s=0.3, insist=True)
    assert len(measure(lambda: None, timer, sampling, now=timer.now).samples_ns) == 12


def test_parts_run_once_untimed_and_share_the_time() -> None:
    log: list[str] = []

    @contextmanager
    def around() -> Iterator[None]:
        log.append("in")
        yield
        log.append("out")

    def part(name: str) -> tuple[TimedStep, TimedStep]:
        return lambda: log.append(f"enter {name}"), lambda: log.append(name)

    timer = ScriptedTimer(itertools.repeat(100 * MS))
    limits = Sampling(warmup_max_s=4.0, max_time_s=1.0, target_rel_ci=0)
    first, second = measure_parts([part("a"), part("b")], timer, limits, now=timer.now, around=around())
    # Half the second each, in steps of 100 ms.
    assert [len(samples.samples_ns) for samples in (first, second)] == [5, 5]
    assert log[:5] == ["enter a", "a", "enter b", "b", "in"]
    assert log[5:].count("enter a") == log[5:].count("enter b") == 1
    assert log[5] == "enter a"
    runs = {samples.warmup_steps + samples.runs for samples in (first, second)}
    assert {log.count("a") - 1, log.count("b") - 1} == runs
    assert log[-1] == "out"
