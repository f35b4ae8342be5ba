"""ranks: what concerns cases of several ranks: rates of one GPU, transfers between them, and the memory of each."""

from __future__ import annotations

from hybridbench.derive import measured, transfers
from hybridbench.metrics.metric import Metric
from hybridbench.record import Record
from hybridbench.stats import median


def _of_each(record: Record) -> float | None:
    total = measured.per_step(lambda one: one.case.workload.tokens)(record)
    return None if total is None or record.case.ranks == 1 else total / record.case.ranks


def _largest_peak(record: Record) -> float | None:
    seen = measured.observed(record)
    peaks = [rank.memory.peak_allocated_bytes for rank in seen.ranks] if seen else []
    return max((peak for peak in peaks if peak is not None), default=None)


def _slowest(record: Record) -> float | None:
    """The largest of the ranks' own medians over the smallest."""
    seen = measured.observed(record)
    medians = [median(rank.samples_ns) for rank in seen.ranks if rank.samples_ns] if seen else []
    return max(medians) / min(medians) if medians else None


RANKS: tuple[Metric, ...] = (
    Metric(
        "gpu_tokens_per_s",
        "tokens/s",
        "higher",
        "throughput per GPU",
        "throughput / ranks, of a case on several",
        _of_each,
    ),
    Metric(
        "exposed_s",
        "s",
        "lower",
        "exposed transfers",
        "median step - median of the same step without transfers between its ranks, not below 0",
        transfers.exposed_s,
    ),
    Metric(
        "exposed_frac",
        "frac",
        "lower",
        "of step exposed",
        "exposed transfers / median step",
        measured.ratio(transfers.exposed_s, measured.step_s),
    ),
    Metric(
        "transfer_bytes",
        "B",
        None,
        "sent by each rank, predicted",
        "bytes that each rank must send in a step: weights gathered, gradients scattered, sums of sublayers",
        transfers.transfer_bytes,
    ),
    Metric(
        "transfer_s",
        "s",
        None,
        "transfers, predicted",
        "those bytes over the rates between the ranks, which are measured in the same processes",
        transfers.transfer_s,
    ),
    Metric(
        "scaling_floor_frac",
        "frac",
        None,
        "scaling at the floor",
        "floor of the whole step on one device / (ranks * the longer of a rank's floor and its predicted transfers)",
        transfers.scaling_floor_frac,
    ),
    Metric(
        "slowest_rank_ratio",
        "",
        None,
        "slowest / fastest rank",
        "the largest of the ranks' own median steps / the smallest",
        _slowest,
    ),
    Metric(
        "rank_peak_bytes",
        "B",
        "lower",
        "peak of a rank",
        "the largest of the peaks of allocated bytes of the ranks",
        _largest_peak,
    ),
)
