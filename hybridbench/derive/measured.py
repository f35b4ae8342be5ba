"""measured: numbers that follow from what was observed alone.

A record that is not ok has none of them: neither a failed case nor a case with wrong results has a speed.
"""

from __future__ import annotations

from collections.abc import Callable

from hybridbench.derive.kept import once
from hybridbench.record import CacheObserved, Memory, Observed, Part, Record, Status
from hybridbench.stats import median, sum_between, sum_error
from hybridbench.suite.workloads import PREFILL
from hybridbench.units import NS_PER_S

Number = Callable[[Record], float | None]
"""A function that computes one number of a record; None where it is unknown or meaningless."""
Judge = Callable[[list[float]], float]
"""A function that summarizes samples in one number, such as their median."""


def observed(record: Record) -> Observed | None:
    """What was observed of a case that ended ok; None of any other."""
    return record.observed if record.status is Status.OK else None


def samples_s(record: Record) -> list[float]:
    """Seconds of each sample of a whole step; empty for a generation that was timed in parts."""
    seen = observed(record)
    return [sample / NS_PER_S for sample in seen.samples_ns] if seen else []


def of_samples(judge: Judge) -> Number:
    """The number that ``judge`` computes from the samples of a whole step."""

    def compute(record: Record) -> float | None:
        samples = samples_s(record)
        return judge(samples) if samples else None

    return compute


def parts(record: Record) -> list[Part]:
    """The parts of a generation that was timed at several contexts; empty for any other step."""
    seen = observed(record)
    return seen.parts if seen else []


def prefill_part_s(record: Record, judge: Judge = median) -> float | None:
    """Seconds of the prefill of an integrated generation, by ``judge`` of its samples."""
    prefills = [part for part in parts(record) if part.depth is None]
    return judge([sample / NS_PER_S for sample in prefills[0].samples_ns]) if prefills else None


def depth_points(record: Record, judge: Judge = median) -> list[tuple[int, float]]:
    """Context and step time (seconds) of each timed point of an integrated generation."""
    return [
        (part.depth, judge([sample / NS_PER_S for sample in part.samples_ns]))
        for part in parts(record)
        if part.depth is not None
    ]


def of_step(judge: Judge) -> Number:
    """The time of a step by ``judge`` of its samples; of an integrated generation, the sum over its parts.

    That sum has the prefill once, and one decode step at each context from the first new token's to the last one's.
    """
    of_whole = of_samples(judge)

    def compute(record: Record) -> float | None:
        prefill_s = prefill_part_s(record, judge)
        return of_whole(record) if prefill_s is None else prefill_s + sum_between(depth_points(record, judge))

    return compute


def integration_frac(record: Record) -> float | None:
    """The error estimate of an integrated generation, as a fraction of its time."""
    step = step_s(record)
    return sum_error(depth_points(record)) / step if parts(record) and step else None


def sample_count(record: Record) -> float | None:
    """How many steps, or parts of one, were timed."""
    timed = [len(part.samples_ns) for part in parts(record)] or [len(samples_s(record))]
    return float(sum(timed)) if sum(timed) else None


step_s = once(of_step(median))
"""Seconds of the median step."""


def ttft_s(record: Record) -> float | None:
    """Seconds until the prompts' first new token is known: a prefill's step, or the prefill part of a generation."""
    return step_s(record) if record.case.workload.row.passes == (PREFILL,) else prefill_part_s(record)


def per_step(amount: Number) -> Number:
    """The amount of one step divided by the seconds of the median step."""

    def compute(record: Record) -> float | None:
        step = step_s(record)
        done = amount(record)
        return done / step if step and done is not None else None

    return compute


def token_s(record: Record) -> float | None:
    """Seconds of the median step for each new token of a sequence; None where no token is decoded."""
    step, work = step_s(record), record.case.workload
    if step is None or not work.row.decodes:
        return None
    return step * work.batch / work.tokens


def of_memory(part: Callable[[Memory], float | None]) -> Number:
    """A number taken from what was observed of the device's memory."""

    def compute(record: Record) -> float | None:
        seen = observed(record)
        return part(seen.memory) if seen else None

    return compute


def activations_bytes(memory: Memory) -> float | None:
    """The allocator's peak less what is kept from step to step, in bytes."""
    if memory.peak_allocated_bytes is None:
        return None
    lasting = (memory.weights_bytes, memory.gradients_bytes, memory.optimizer_bytes, memory.cache_bytes)
    return memory.peak_allocated_bytes - sum(part or 0 for part in lasting)


def energy_per_token_j(record: Record) -> float | None:
    """Joules over the sampled window, per token processed in it."""
    seen = observed(record)
    if seen is None or seen.energy is None or not seen.energy.steps:
        return None
    return seen.energy.energy_j / (seen.energy.steps * record.case.workload.tokens)


def power_w(record: Record) -> float | None:
    """Mean power over the sampled window, in watts."""
    seen = observed(record)
    return seen.energy.energy_j / seen.energy.window_s if seen and seen.energy and seen.energy.window_s else None


def compile_s(seen: Observed) -> float | None:
    """Seconds in Triton's compiler, added up over threads, and in its autotuners."""
    if seen.compiled is None:
        return None
    return sum(kernel.compile_ns + kernel.tune_ns for kernel in seen.compiled) / NS_PER_S


def counted_flops(counter: str) -> Number:
    """FLOPs of a step as the named public counter counts them."""

    def compute(record: Record) -> float | None:
        seen = observed(record)
        return next((count.flops for count in seen.counts if count.counter == counter), None) if seen else None

    return compute


def ratio(above: Number, below: Number) -> Number:
    """One number divided by another; None where either is unknown or the second is 0."""

    def compute(record: Record) -> float | None:
        top, bottom = above(record), below(record)
        return top / bottom if top is not None and bottom else None

    return compute


def of_cache_held(part: Callable[[CacheObserved], float]) -> Number:
    """A number taken from the bytes that the caches' tensors take."""

    def compute(record: Record) -> float | None:
        seen = observed(record)
        return part(seen.cache) if seen and seen.cache else None

    return compute


def of_observed(part: Callable[[Observed], float | None]) -> Number:
    """A number taken from what was observed."""

    def compute(record: Record) -> float | None:
        seen = observed(record)
        return part(seen) if seen else None

    return compute
