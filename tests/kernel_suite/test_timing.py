"""Calls are timed cold, in turn over inputs and allocations, side by side, and no longer than asked."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

from hybridbench.errors import BadInput
from hybridbench.kernel_suite import flush, timing
from hybridbench.kernel_suite.timing import Plan, Timed, interleaved, time_calls
from hybridbench.measure.clock import ScriptedTimer
from hybridbench.record import GpuState
from hybridbench.stats import median
from hybridbench.units import MIB

CPU = torch.device("cpu")
US, MS, S = 1_000, 1_000_000, 1_000_000_000
HOT = Plan(cold=False)


class Kernels:
    """A clock that only kernels move, and a log of what they were called with.

    Args:
        length_ns: how long a call of a side takes, from the side, its inputs' number and the time; ns.
        flush_ns: how long a flush takes; ns.
    """

    name, resolution_ns = "kernels", 10

    def __init__(self, length_ns: Callable[[str, int, int], int], flush_ns: int = 0) -> None:
        self.now_ns = 0
        self.log: list[str] = []
        self.held: set[str] = set()
        self._length_ns, self._flush_ns = length_ns, flush_ns

    def now(self) -> int:
        return self.now_ns

    def sleep(self, seconds: float) -> None:
        self.now_ns += round(seconds * S)

    def make(self, side: str) -> timing.Make:
        def made(number: int) -> Callable[[], object]:
            self.log.append(f"make {side}{number}")

            def call() -> None:
                self.log.append(f"{side}{number}")
                self.now_ns += self._length_ns(side, number, self.now_ns)

            return call

        return made

    def flush(self, _device: torch.device) -> Callable[[], None]:
        def run() -> None:
            self.log.append("flush")
            self.now_ns += self._flush_ns

        return run

    def sample(self, step: Callable[[], object], count: int, before: Callable[[], object]) -> list[int]:
        durations_ns = []
        for _ in range(count):
            before()
            start_ns = self.now_ns
            step()
            durations_ns.append(self.now_ns - start_ns)
        return durations_ns

    def runs(self, count: int) -> int:
        return count


def timed(kernels: Kernels, plan: Plan, *sides: str) -> list[Timed]:
    makes = [kernels.make(side) for side in sides]
    return interleaved(makes, CPU, plan, timer=kernels, now=kernels.now, sleep=kernels.sleep)


def test_samples_are_spread_over_allocations_and_calls_take_turns_over_inputs() -> None:
    kernels = Kernels(lambda side, number, _: MS + number)
    (found,) = timed(kernels, replace(HOT, rotate=2, allocations=3, max_samples=60, target_rel_ci=0), "a")
    assert [entry for entry in kernels.log if entry.startswith("make")] == [f"make a{i}" for i in range(6)]
    assert found.by_allocation == [20, 20, 20]
    for number in range(3):
        samples_ns = found.samples_ns[20 * number : 20 * number + 20]
        assert sorted(samples_ns) == [MS + 2 * number] * 10 + [MS + 2 * number + 1] * 10
        assert all(a != b for a, b in itertools.pairwise(samples_ns)), "the same inputs twice in a row"


def test_what_is_flushed_is_not_timed_and_a_flush_stands_before_each_sample(monkeypatch: Any) -> None:
    kernels = Kernels(lambda *_: MS, flush_ns=3 * MS)
    monkeypatch.setattr(timing, "Flush", kernels.flush)
    (found,) = timed(kernels, Plan(), "a")
    assert set(found.samples_ns) == {MS}
    assert (found.cold, found.calls_per_sample) == (True, 1)
    assert len(found.samples_ns) >= 30
    timed_from = len(kernels.log) - 1 - kernels.log[::-1].index("make a4")
    for previous, entry in itertools.pairwise(kernels.log[timed_from + 3 :]):
        assert (entry == "flush") != (previous == "flush")


def test_time_is_wall_time_with_flushes_in_it_and_wins_over_the_least_number(monkeypatch: Any) -> None:
    kernels = Kernels(lambda *_: MS, flush_ns=99 * MS)
    monkeypatch.setattr(timing, "Flush", kernels.flush)
    (found,) = timed(kernels, Plan(max_time_s=1.0, allocations=2, min_samples=30), "a")
    assert found.by_allocation == [5, 5]


def test_a_call_longer_than_all_time_is_sampled_once() -> None:
    kernels = Kernels(lambda *_: 10 * S)
    (found,) = timed(kernels, HOT, "a")
    assert (found.samples_ns, found.by_allocation) == ([10 * S], [1])
    assert kernels.log.count("a0") + kernels.log.count("a1") <= 2 + timing.PILOT_SAMPLES + 2


def test_sampling_ends_when_the_interval_is_tight_and_goes_on_while_samples_drift() -> None:
    steady, drifting = (Kernels(length) for length in (lambda *_: MS, lambda side, number, now: MS + now // 1000))
    (short,), (long,) = (timed(each, replace(HOT, max_time_s=2.0), "a") for each in (steady, drifting))
    assert 30 <= len(short.samples_ns) <= 60
    assert len(long.samples_ns) > 300


def test_short_hot_calls_share_a_sample_and_count_as_one_call() -> None:
    kernels = Kernels(lambda *_: 3 * US)
    (found,) = timed(kernels, HOT, "a")
    assert found.calls_per_sample == 7  # 21 us
    assert set(found.samples_ns) == {3 * US}
    assert found.resolution_ns == 2  # of 10 over 7 calls
    (long,) = timed(Kernels(lambda *_: 20 * US), HOT, "a")
    assert long.calls_per_sample == 1


def test_sides_alternate_in_short_blocks_so_that_a_drift_meets_both_alike() -> None:
    """Both slow down with time; timed one after the other, b would be 40% slower."""
    kernels = Kernels(lambda side, number, now: MS + now // 2000)
    plan = replace(HOT, max_time_s=1.0, max_samples=10_000, allocations=1, target_rel_ci=0)
    first, second = timed(kernels, plan, "a", "b")
    assert median(second.samples_ns) == pytest.approx(median(first.samples_ns), rel=0.01)
    runs = [len(list(run)) for _, run in itertools.groupby(entry[0] for entry in kernels.log if entry[0] in "ab")]
    assert len(runs) > 20
    block = timing.BLOCK_NS / MS
    assert block < max(runs[10:]) <= 2 * block, "the last of one turn is the first of the next"


def test_interleaved_sides_keep_their_own_lengths() -> None:
    kernels = Kernels(lambda side, *_: {"a": MS, "b": 3 * MS}[side])
    first, second = timed(kernels, HOT, "a", "b")
    assert (set(first.samples_ns), set(second.samples_ns)) == ({MS}, {3 * MS})


def test_the_scripted_timer_of_other_tests_drives_it_too() -> None:
    timer = ScriptedTimer(itertools.cycle([MS, 2 * MS]))
    found = time_calls(lambda _: lambda: None, CPU, replace(HOT, max_samples=10, min_samples=10), timer=timer)
    assert set(found.samples_ns) <= {MS, 2 * MS}
    assert found.timer == "scripted"


class Limited:
    """A GPU at its power limit, whose calls become slower until its clocks have settled."""

    def __init__(self, reasons: list[str]) -> None:
        self.reasons = reasons

    def state(self) -> GpuState:
        return GpuState(1e9, 1e9, 700.0, 60.0, 0, self.reasons, 0)

    def near_power_limit(self) -> bool:
        return bool(self.reasons)


@pytest.mark.parametrize("reasons", [["software power cap"], []])
def test_warm_up_goes_on_while_a_power_limit_moves_the_medians(monkeypatch: Any, reasons: list[str]) -> None:
    settle_ns = 2 * S
    kernels = Kernels(lambda side, number, now: MS + min(now, settle_ns) // 10_000)
    monkeypatch.setattr(timing.Gpu, "open", lambda _device: Limited(reasons))
    (found,) = timed(kernels, replace(HOT, max_samples=60, sustained=True), "a")
    assert not found.rested
    if reasons:
        assert settle_ns <= found.warmup_ns < settle_ns + 1 * S
        assert len(set(found.samples_ns)) == 1
        assert found.before is not None
        assert found.before.throttle_reasons == reasons
    else:
        assert found.warmup_ns < 0.5 * S


def test_the_clocks_settle_again_after_each_allocation_where_power_limits(monkeypatch: Any) -> None:
    """For 0.8 s after a pause calls take a fifth longer; no sample is of that time."""
    began: dict[int, int] = {}

    def duration(_side: str, number: int, now: int) -> int:
        since = now - began.setdefault(number // 2, now)
        return MS * 12 // 10 if since < 0.8 * S else MS

    monkeypatch.setattr(timing.Gpu, "open", lambda _device: Limited(["software power cap"]))
    (found,) = timed(Kernels(duration), replace(HOT, max_samples=60, sustained=True), "a")
    assert len(found.by_allocation) == 3
    assert set(found.samples_ns) == {MS}


class Hungry(Limited):
    """A GPU whose clocks fall once it has been busy for more than 60 of the last 100 ms.

    Its readings of power lag.
    """

    def __init__(self, lag_ns: int = 0) -> None:
        super().__init__([])
        self.lag_ns, self.busy, self.seen = lag_ns, list[tuple[int, int]](), 0

    def duration(self, _side: str, _number: int, now: int) -> int:
        self.busy = [(start, end) for start, end in self.busy if end > now - 100 * MS]
        slow = sum(end - start for start, end in self.busy) > 60 * MS
        self.busy.append((now, now + (MS * 12 // 10 if slow else MS)))
        self.seen = self.seen or now
        return self.busy[-1][1] - now

    def near_power_limit(self) -> bool:
        return bool(self.busy) and self.busy[-1][1] > self.seen + self.lag_ns


@pytest.mark.parametrize("lag_ns", [0, int(0.6 * S)])
def test_rests_keep_the_clocks_up_where_power_would_limit_them(monkeypatch: Any, lag_ns: int) -> None:
    gpu = Hungry(lag_ns)
    monkeypatch.setattr(timing.Gpu, "open", lambda _device: gpu)
    (rested,) = timed(Kernels(gpu.duration), replace(HOT, min_samples=300, max_samples=300), "a")
    assert rested.rested
    assert set(rested.samples_ns) == {MS}, "samples from before the first rest are dropped"
    assert len(rested.samples_ns) == sum(rested.by_allocation) == 300
    (sustained,) = timed(Kernels(Hungry().duration), replace(HOT, max_samples=60, sustained=True), "a")
    assert not sustained.rested
    assert median(sustained.samples_ns) > 1.1 * MS


def test_inputs_of_an_allocation_are_freed_before_the_next_is_drawn() -> None:
    alive: list[int] = []

    class Held:
        def __init__(self, number: int) -> None:
            self.number = number
            alive.append(number)

        def __call__(self) -> None:
            assert {held // 2 for held in alive} == {self.number // 2}

        def __del__(self) -> None:
            alive.remove(self.number)

    found = time_calls(Held, CPU, replace(HOT, max_samples=9, min_samples=3))
    assert len(found.by_allocation) == 3
    assert not alive


@pytest.mark.parametrize("wrong", [{"rotate": 0}, {"min_samples": 20, "max_samples": 10}, {"max_time_s": 0.0}])
def test_a_plan_that_cannot_be_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(BadInput):
        Plan(**wrong)


# Caches and memory ----------------------------------------------------------------------------------------------------


@pytest.fixture
def caches(tmp_path: Any, monkeypatch: Any) -> Iterator[Any]:
    monkeypatch.setattr(flush.os, "sched_getaffinity", lambda _: {3, 5}, raising=False)

    def write(*rows: tuple[str, str, str]) -> Any:
        for index, row in enumerate(rows):
            folder = tmp_path / "cpu3" / "cache" / f"index{index}"
            folder.mkdir(parents=True)
            for name, text in zip(("level", "type", "size"), row, strict=True):
                (folder / name).write_text(text + "\n")
        return tmp_path

    return write


def test_the_last_level_of_data_cache_is_read_from_the_system(caches: Any) -> None:
    rows = [("1", "Data", "48K"), ("1", "Instruction", "32K"), ("2", "Unified", "2048K"), ("3", "Unified", "32M")]
    assert flush.cpu_cache_bytes(caches(*rows)) == 32 * MIB


def test_a_system_that_does_not_say_has_the_default(caches: Any) -> None:
    assert flush.cpu_cache_bytes(caches(("3", "Unified", "many"))) == flush.DEFAULT_CACHE_BYTES


def test_a_cpu_s_flush_takes_data_out_of_the_cache(monkeypatch: Any) -> None:
    """Reading 1 MiB takes longer after a flush; without one it is in the second level."""
    x = torch.ones(MIB // 4)
    hot, cold = (
        time_calls(lambda _: x.sum, CPU, Plan(cold=cold, warmup_s=0.05, max_time_s=1.5)) for cold in (False, True)
    )
    assert median(cold.samples_ns) > 1.3 * median(hot.samples_ns)


def test_memory_before_each_allocation_differs_by_an_odd_amount() -> None:
    assert flush.spacers(CPU, 0) == []
    sizes = [[block.nbytes for block in flush.spacers(CPU, number)] for number in (1, 2)]
    assert sizes == [[3 * 512, 6 * MIB], [5 * 512, 10 * MIB]]
