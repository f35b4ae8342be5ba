"""transfers: what the ranks of a case send each other in a step, and how long that takes by the rates measured.

The bytes are those of ``predict.group``, of the ranks and the decode step that a record was made with.
"""

from __future__ import annotations

from dataclasses import replace

from hybridbench.derive.floors import floor_s, measured_rates
from hybridbench.derive.kept import once
from hybridbench.derive.measured import observed, step_s
from hybridbench.predict import floor
from hybridbench.predict.group import GpuGroup, LinkBytes, link_bytes
from hybridbench.predict.work import phases
from hybridbench.record import Record
from hybridbench.stats import median
from hybridbench.suite.ops import DECODE_STEP
from hybridbench.units import NS_PER_S


@once
def links_of(record: Record) -> LinkBytes | None:
    """What each rank exchanges with the others in a step; None for a case of one rank."""
    case, seen = record.case, observed(record)
    if case.ranks == 1:
        return None
    execution, work = case.execution, case.workload
    fused = seen is not None and any(use.op == DECODE_STEP and use.backend == "fused" for use in seen.backends)
    mine = replace(work, batch=work.batch // execution.gpus)
    return link_bytes(case.model, mine, execution.storage, GpuGroup(case.ranks, execution.tp), fused=fused)


@once
def transfer_bytes(record: Record) -> float | None:
    """Bytes that each rank must send in a step; None for a case of one rank."""
    exchanged = links_of(record)
    return None if exchanged is None else exchanged.sent


@once
def transfer_s(record: Record) -> float | None:
    """The least time that a step's transfers take by the rates between its ranks, in seconds; None if unknown."""
    seen, exchanged = observed(record), links_of(record)
    if seen is None or seen.links is None or exchanged is None:
        return None
    rates = seen.links
    return (
        exchanged.gathered / rates.all_gather_bytes_per_s
        + exchanged.scattered / rates.reduce_scatter_bytes_per_s
        + exchanged.reduced_sent / rates.all_reduce_bytes_per_s
    )


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
