"""timing: how long one call of an operation takes, with as little of the host, the cache and the clocks as possible.

Medians of fresh processes differ more by how a kernel is timed than by the kernel. So:

- a call that the host launches slower than the GPU runs it is replayed from a CUDA graph (``replayed``);
- something larger than the last cache passes through it before each call (``flush``), outside what is timed;
- calls take turns over several sets of inputs, and samples are spread over several allocations of all of them, because
  some addresses are faster than others;
- where a power limit would move the clocks, blocks are short and rests follow them (``pace``). Without rests
  (``sustained``) warm-up goes on until the clocks have settled: a GPU that comes from a pause draws too much, then
  lowers its clocks by a fifth for most of a second (H200, products and attention), so each allocation is warmed up;
- warm-up is the same work, and tuning happens in it;
- several sides alternate in short blocks, first to last and back, so that a drift meets all of them alike.

On a GPU everything runs on one stream of its own, drawing of inputs included, since a backward runs on the stream of
its forward.

    timed = time_calls(lambda i: partial(torch.relu, torch.randn(4096, device="cuda")), torch.device("cuda"), Plan())
    median(timed.samples_ns), timed.graph
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial

import torch

from hybridbench.errors import BadInput, reason
from hybridbench.kernel_suite.flush import Flush, spacers
from hybridbench.kernel_suite.pace import BLOCK_NS, Pace
from hybridbench.kernel_suite.replayed import SAMPLES_PER_GRAPH, Replayed, launch_bound, samples_of
from hybridbench.kernel_suite.warming import warm_up
from hybridbench.measure.clock import TimedStep, Timer, nothing, timer_for
from hybridbench.measure.cpu import CpuWatch
from hybridbench.measure.nvml import Gpu
from hybridbench.measure.sampling import drifts, relative_interval
from hybridbench.record import GpuState
from hybridbench.stats import median
from hybridbench.units import NS_PER_S

Make = Callable[[int], Callable[[], object]]
"""Draws inputs number i in fresh memory and returns the call bound to them."""

LEAD_NS = 5_000_000
"""Wall time of the calls after a rest that are not samples: the first ones after it run at other clocks."""
SHORT_CALL_NS = 20_000
"""A hot call below it shares a sample with others."""
PILOT_SAMPLES = 5
"""Samples from which the calls of a sample are determined, where the first is not far above ``SHORT_CALL_NS``."""
FAR_ABOVE = 10
"""A first sample so many times as long needs no others: a step of a model takes milliseconds."""


@dataclass(frozen=True)
class Plan:
    """How to time one operation.

    Attributes:
        cold: flush the last cache before each call: a GPU's L2, a CPU's last level.
        graph: replay a CUDA graph; None: where a call is launch-bound. A CPU has none.
        allocations: fresh sets of memory, over which samples are spread.
        rotate: input sets in each allocation, over which calls take turns.
        warmup_s: the least wall time of the warm-up; seconds.
        min_samples, max_samples: of one side.
        max_time_s: wall time of one side's sampling, flushes included; seconds. It wins over ``min_samples``.
        target_rel_ci: sampling ends when half the 95% interval of the median is this fraction of it.
        sustained: calls run back to back, also where power limits the clocks; else rests keep the clocks up there.
    """

    cold: bool = True
    graph: bool | None = None
    allocations: int = 3
    rotate: int = 2
    warmup_s: float = 0.3
    min_samples: int = 30
    max_samples: int = 1000
    max_time_s: float = 1.0
    target_rel_ci: float = 0.005
    sustained: bool = False

    def __post_init__(self) -> None:
        if min(self.allocations, self.rotate, self.min_samples, self.max_samples) < 1:
            raise BadInput("a plan needs 1 or more of allocations, of input sets to rotate over and of samples.")
        if self.max_samples < self.min_samples:
            raise BadInput(f"at most {self.max_samples} samples are fewer than the {self.min_samples} at least.")
        if not (self.max_time_s > 0 and self.warmup_s >= 0 and self.target_rel_ci >= 0):
            raise BadInput("a plan needs a positive max_time_s, and no negative warmup_s or target_rel_ci.")


@dataclass(frozen=True)
class Timed:
    """What timing one side yielded.

    Attributes:
        samples_ns: of one call, in order; ns.
        by_allocation: how many samples each allocation gave, in order. Allocations that time did not allow are left
            out.
        calls_per_sample: a sample is the mean of so many calls.
        graph: whether calls were replayed from a CUDA graph.
        cold: whether the cache was flushed before each sample.
        warmup_ns: wall time from the first call to the first sample, compilation and tuning included; ns.
        timer: the clock's name.
        before, after: the GPU before the first and after the last sample; None without NVML.
        resolution_ns: of one call: the clock's over the calls of a sample, rounded up; ns.
        not_captured: why a call runs eagerly that a graph should replay; None where it is as asked.
        rested: whether rests between blocks kept the GPU below its power limit.
        waited_frac: share of the time that threads waited for a processor, on a CPU, from the first warm-up to the last
            sample of all sides.
        canary_ns: how long a fixed loop took between samples of all sides, on a CPU.
    """

    samples_ns: list[int]
    by_allocation: list[int]
    calls_per_sample: int
    graph: bool
    cold: bool
    warmup_ns: int
    timer: str
    before: GpuState | None
    after: GpuState | None
    resolution_ns: int = 1
    not_captured: str | None = None
    rested: bool = False
    waited_frac: float | None = None
    canary_ns: list[int] = field(default_factory=list)


def time_calls(
    make: Make,
    device: torch.device,
    plan: Plan,
    *,
    timer: Timer | None = None,
    now: Callable[[], int] = time.perf_counter_ns,
) -> Timed:
    """Times one operation.

    Args:
        make: draws inputs number i in fresh memory and returns the call bound to them. It is called
            ``rotate`` x ``allocations`` times; what it returned before is freed between allocations.
        timer: the clock of calls that are not replayed; None takes the device's.
        now: wall time; ns.
    """
    return interleaved([make], device, plan, timer=timer, now=now)[0]


def interleaved(
    makes: Sequence[Make],
    device: torch.device,
    plan: Plan,
    *,
    timer: Timer | None = None,
    now: Callable[[], int] = time.perf_counter_ns,
    sleep: Callable[[float], None] = time.sleep,
) -> list[Timed]:
    """Times several operations in alternating short blocks; their inputs are in memory at the same time.

    Args:
        makes: one for each side, as in ``time_calls``.
        sleep: waits for so many seconds.

    Returns:
        One result for each side, in order.
    """
    clock, gpu = timer or timer_for(device), Gpu.open(device)
    before = after = None
    warmup_ns, hot = 0, False
    pace = Pace(gpu, sustained=plan.sustained, now=now, sleep=sleep)
    cpu = CpuWatch() if device.type == "cpu" else None
    with own_stream(device), cpu or nullcontext():
        flush = Flush(device) if plan.cold else None
        sides = [Sampler(make, device, plan, flush, clock, now) for make in makes]
        for number in range(plan.allocations):
            start_ns = now()
            spaced = spacers(device, number)
            for side in sides:
                side.allocate(number)
            if number == 0 or hot:
                heated = gpu if plan.sustained else None
                hot = warm_up(sides, 0.0 if number else plan.warmup_s, plan.target_rel_ci, heated, now)
            pace.begins()
            if number == 0:
                warmup_ns = now() - start_ns
                before = gpu.state() if gpu else None
            _sample(sides, number, pace, cpu or nothing, steady=not hot)
            for side in sides:
                side.free()
            del spaced
            if all(side.out_of_time() for side in sides):
                break
        after = gpu.state() if gpu else None
    waited_frac, canary_ns = (cpu.waited_frac, cpu.canary_ns) if cpu else (None, [])
    return [
        replace(side.timed(warmup_ns, before, after), rested=pace.resting, waited_frac=waited_frac, canary_ns=canary_ns)
        for side in sides
    ]


@contextmanager
def own_stream(device: torch.device) -> Iterator[None]:
    """Inside, work is enqueued on a stream of its own; it waits for what was enqueued before. Nothing on a CPU."""
    if device.type != "cuda":
        yield
        return
    with torch.cuda.device(device):
        stream = torch.cuda.Stream(device)
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(stream):
            yield
        torch.cuda.current_stream(device).wait_stream(stream)


class Sampler:
    """One operation: its calls in the current allocation, and its samples in all of them.

    Args:
        before: runs before each sample, which is then of one call, and is not part of it.
        now: wall time; ns.
    """

    def __init__(
        self,
        make: Make,
        device: torch.device,
        plan: Plan,
        before: TimedStep | None,
        clock: Timer,
        now: Callable[[], int],
    ) -> None:
        self._make, self._device, self._plan = make, device, plan
        self._before, self._clock, self._now = before, clock, now
        self._calls: list[TimedStep] = []
        self._take: Callable[[int], list[int]] | None = None
        self._graph = plan.graph if device.type == "cuda" else False
        self._per_sample: int | None = 1 if before else None
        self._not_captured: str | None = None
        self._samples_per_graph = SAMPLES_PER_GRAPH
        self._spent_ns = 0
        self._wall_ns = 1.0  # a sample takes so long with everything around it
        self._samples_ns: list[int] = []
        self._by_allocation: list[int] = []

    @property
    def replays(self) -> bool | None:
        """Whether calls are replayed from a graph; None before the first allocation, where the plan leaves it open."""
        return self._graph

    def allocate(self, number: int) -> None:
        """Draws the inputs of an allocation and runs each call once: pages are touched, kernels compiled and tuned."""
        rotate = self._plan.rotate
        self._calls = [self._make(number * rotate + i) for i in range(rotate)]
        for call in self._calls:
            call()
        self._wait()
        self._by_allocation.append(0)
        if self._graph is None:
            self._graph = launch_bound(self._calls[0], self._device)
        if self._graph and number == 0:
            self._samples_per_graph = samples_of(self._one_call_ns(), rotate)
        if self._per_sample is None:
            take = self._prepared(1)
            pilot = take(1)
            if pilot[0] < FAR_ABOVE * SHORT_CALL_NS:
                pilot = take(PILOT_SAMPLES)
            self._per_sample = math.ceil(SHORT_CALL_NS / max(1.0, median(pilot)))
        self._take = self._prepared(self._per_sample)
        self.block(window_ns=0, most=1)

    def free(self) -> None:
        """Lets go of the inputs and of the graph that holds their addresses."""
        self._wait()
        self._calls, self._take = [], None

    def block(self, window_ns: float, most: int) -> list[int]:
        """Samples for about a window of wall time, one to ``most``; ns."""
        assert self._take is not None, "an allocation comes first"
        count = max(1, min(most, int(window_ns / self._wall_ns)))
        start_ns = self._now()
        samples_ns = self._take(count)
        self._wall_ns = max(1.0, (self._now() - start_ns) / count)
        return samples_ns

    def fits(self, window_ns: float) -> bool:
        """Whether a sample takes no longer than this."""
        return self._wall_ns <= window_ns

    def add_block(self, number: int, *, steady: bool = True) -> bool:
        """Adds a block to the samples, unless this allocation, of that number, has enough; whether it was added.

        Args:
            steady: the clocks are. Where power limits them they wander by some percent for seconds, which the interval
                of a few samples does not show, so that sampling goes on for all of its time.
        """
        plan, share = self._plan, (number + 1) / self._plan.allocations
        taken, here = len(self._samples_ns), self._by_allocation[-1]
        most = math.ceil(plan.max_samples * share) - taken
        left_ns = plan.max_time_s * NS_PER_S * share - self._spent_ns
        if here and not self.fits(left_ns):
            return False
        enough = steady and here and taken >= plan.min_samples * share and self._tight(self._samples_ns[-here:])
        if most < 1 or enough:
            return False
        start_ns = self._now()
        block = self.block(min(BLOCK_NS, left_ns), most)
        self._spent_ns += self._now() - start_ns
        self._samples_ns += block
        self._by_allocation[-1] += len(block)
        return True

    def forget(self) -> None:
        """Drops the samples taken so far and their time; allocations before this one count as empty."""
        self._samples_ns, self._by_allocation, self._spent_ns = [], [0] * len(self._by_allocation), 0

    def out_of_time(self) -> bool:
        """Whether another sample would not fit into the plan's time."""
        return not self.fits(self._plan.max_time_s * NS_PER_S - self._spent_ns)

    def timed(self, warmup_ns: int, before: GpuState | None, after: GpuState | None) -> Timed:
        """The result."""
        calls, replays = self._per_sample or 1, bool(self._graph)
        return Timed(
            samples_ns=self._samples_ns,
            by_allocation=self._by_allocation,
            calls_per_sample=calls,
            graph=replays,
            cold=self._plan.cold,
            warmup_ns=warmup_ns,
            timer=self._clock.name,
            before=before,
            after=after,
            resolution_ns=math.ceil(self._clock.resolution_ns / calls),
            not_captured=self._not_captured,
        )

    def _tight(self, samples_ns: list[int]) -> bool:
        """Whether samples of one allocation give the median of all allocations' the interval that is aimed at."""
        target = self._plan.target_rel_ci
        return relative_interval(samples_ns) <= target * math.sqrt(self._plan.allocations) and not drifts(
            samples_ns, target
        )

    def _prepared(self, per_sample: int) -> Callable[[int], list[int]]:
        if self._graph:
            try:
                graph = Replayed(self._calls, per_sample, self._before, self._device, self._samples_per_graph)
            except torch.OutOfMemoryError:
                raise
            except RuntimeError as error:
                if self._samples_ns:
                    raise  # earlier allocations were replayed, and a mixture of both would be neither
                self._graph, self._not_captured = False, reason(error)
                self._wait()
            else:
                return graph.sample
        return self._eager(per_sample)

    def _eager(self, per_sample: int) -> Callable[[int], list[int]]:
        calls, at = self._calls, 0

        def step() -> None:
            nonlocal at
            for _ in range(per_sample):
                calls[at]()
                at = (at + 1) % len(calls)

        def take(count: int) -> list[int]:
            durations_ns = self._clock.sample(step, count, before=self._before or nothing)
            return [round(duration_ns / per_sample) for duration_ns in durations_ns]

        return take

    def _one_call_ns(self) -> int:
        """Wall time of one call that the host launches and waits for; ns."""
        start_ns = self._now()
        self._calls[0]()
        self._wait()
        return self._now() - start_ns

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


def _sample(sides: Sequence[Sampler], number: int, pace: Pace, between: Callable[[], None], *, steady: bool) -> None:
    """Blocks of the sides in turn, first to last and back, until all have their share of this allocation."""
    turn = list(sides)
    while turn:
        between()
        if pace.begins():
            for side in sides:
                side.forget()
            turn = list(sides)
        turn = [side for side in turn if pace.rested(partial(_block, side, number, lead=pace.resting, steady=steady))]
        turn.reverse()


def _block(side: Sampler, number: int, *, lead: bool, steady: bool) -> bool:
    """A block of one side, after calls that are not samples where it ``lead``s in; whether one was added."""
    if lead:
        side.block(LEAD_NS, LEAD_NS)
    return side.add_block(number, steady=steady)
