"""transfers: what the ranks of a case must send each other in a step, and how long that takes by the rates measured.

    FSDP2             every weight gathered before its forward and again before its backward, but for the embedding and
                      the norms, which are gathered once; every gradient reduced and scattered in float32
    tensor parallel   an all-reduce of the stream after each sublayer; in training one of its gradient too, and those of
                      the loss's input and of the head's gradient; else the gathered logits

Bytes are what each rank sends by the ring algorithms, the least that any can do without help by a switch: (n - 1)/n of
what is gathered or scattered, and twice that of an all-reduce, of n ranks. Left out is what is thousands of times less:
the float32 parameters of Mamba-2, the squares of its norm, and gradients of shared KV heads and groups.
"""

from __future__ import annotations

from hybridbench.arch import model as arch
from hybridbench.arch.terms import FLOAT
from hybridbench.derive.floors import floor_s, measured_rates
from hybridbench.derive.kept import once
from hybridbench.derive.measured import observed, step_s
from hybridbench.predict import floor
from hybridbench.predict.work import phases
from hybridbench.record import Record
from hybridbench.stats import median
from hybridbench.suite.workloads import DECODE
from hybridbench.units import NS_PER_S


def _share(record: Record) -> float:
    ranks = record.case.ranks
    return (ranks - 1) / ranks


@once
def gathered_bytes(record: Record) -> float | None:
    """Bytes that each rank sends to gather weights, or logits; None for a case of one rank."""
    case = record.case
    if case.ranks == 1:
        return None
    size = case.execution.storage.weight_bytes
    model, work = case.model, case.workload
    if case.execution.gpus > 1:
        root = (model.vocab_size + len(model.layers) + 1) * model.d_model * size
        return _share(record) * (2 * arch.weight_bytes(model, case.execution.storage) - root)
    if work.row.trains:
        return 0.0
    heads = sum(one.tokens if one.kind == DECODE else 1 for one in work.passes)
    return _share(record) * heads * work.batch * model.vocab_size * size


@once
def scattered_bytes(record: Record) -> float | None:
    """Bytes that each rank sends to reduce and scatter gradients; None for a case of one rank."""
    case = record.case
    if case.ranks == 1:
        return None
    return _share(record) * arch.params(case.model) * FLOAT if case.execution.gpus > 1 else 0.0


@once
def all_reduced_bytes(record: Record) -> float | None:
    """Bytes that each rank sends in all-reduces; None for a case of one rank."""
    case = record.case
    if case.ranks == 1:
        return None
    if case.execution.tp == 1:
        return 0.0
    model, work, size = case.model, case.workload, case.execution.storage.weight_bytes
    stream = work.batch * model.d_model * size * sum(one.tokens for one in work.passes)
    sums = len(model.layers) * stream
    if work.row.trains:
        sums = 2 * sums + stream + model.vocab_size * model.d_model * size
    return 2 * _share(record) * sums


@once
def transfer_bytes(record: Record) -> float | None:
    """Bytes that each rank must send in a step; None for a case of one rank."""
    parts = gathered_bytes(record), scattered_bytes(record), all_reduced_bytes(record)
    return None if parts[0] is None else sum(part or 0.0 for part in parts)


@once
def transfer_s(record: Record) -> float | None:
    """The least time that a step's transfers take by the rates between its ranks, in seconds; None if unknown."""
    seen = observed(record)
    if seen is None or seen.links is None or transfer_bytes(record) is None:
        return None
    links = seen.links
    sent = (
        (gathered_bytes(record), links.all_gather_bytes_per_s),
        (scattered_bytes(record), links.reduce_scatter_bytes_per_s),
        (all_reduced_bytes(record), links.all_reduce_bytes_per_s),
    )
    return sum((amount or 0.0) / rate for amount, rate in sent)


@once
def exposed_s(record: Record) -> float | None:
    """How long a step waits for transfers: its median less that of the same step without them; seconds."""
    seen, step = observed(record), step_s(record)
    if seen is None or not seen.silent_ns or step is None:
        return None
    return max(0.0, step - median(seen.silent_ns) / NS_PER_S)


@once
def scaling_floor_frac(record: Record) -> float | None:
    """The best scaling efficiency of a step by the rates measured with it: its floor on one device over the number of
    ranks times its floor there, which is the longer of a rank's work and of its transfers.
    """
    rates, mine, sent = measured_rates(record), floor_s(record), transfer_s(record)
    if rates is None or mine is None or sent is None:
        return None
    case = record.case
    whole = phases(case.model, case.workload, case.execution.storage)
    alone = floor.floor_s(whole, rates.matmul_flops_per_s, rates.read_bytes_per_s)
    return alone / (case.ranks * max(mine, sent))
