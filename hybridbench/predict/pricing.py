"""pricing: a workload on any GPU of the table: the floor of its step, and its time at a measured efficiency.

FLOPs and bytes are those of ``predict.work``. The floor is that of ``predict.floor`` at the datasheet's rates: the
dense peak of the dtype and the memory bandwidth. No step is faster than it. A caller may give the ratio of floor to
real step from a GPU that was measured (``hybridbench.efficiency`` reads it from records). Applying that ratio to
another GPU assumes that kernels of equal quality exist on both, so the result is labelled a prediction.

There is no sourced floor of energy, because datasheets do not state the least power that a working card draws. Two
figures are given instead. ``energy_at_tdp_j`` is the board power limit times the floor's time: the energy of a token on
a card that reaches its floor and draws its full limit. With measured records, the share of the limit that they drew
replaces the full limit.

Of a group of GPUs, FLOPs, bytes and memory are those of one. What it exchanges with the others (``predict.group``) may
overlap with its arithmetic and its memory traffic, so the floor is the largest of the three times; without a rate of
the link, the exchange is left out of it.
"""

from __future__ import annotations

from dataclasses import dataclass

from hybridbench.arch.block import CacheBytes
from hybridbench.arch.model import ModelSpec, cache_bytes, shard, weight_bytes
from hybridbench.arch.stored import Dtypes
from hybridbench.errors import BadInput
from hybridbench.machine import Peak
from hybridbench.predict.fit import fits
from hybridbench.predict.floor import Bound, bound, floor_s
from hybridbench.predict.group import NOT_LINKED, GpuGroup, LinkBytes, link_bytes
from hybridbench.predict.memory import footprint
from hybridbench.predict.work import phases
from hybridbench.suite.workloads import Workload


@dataclass(frozen=True)
class Efficiency:
    """How close a measured GPU came to the datasheet's floor in one phase.

    Args:
        floor_frac: the floor divided by the measured step.
        power_frac: power drawn divided by the board limit; None where no energy was recorded.
        about: which records, in words.
        between: in which respects the workload lies between these records, separated by commas; empty where in none.
        beyond: in which respects the workload is outside these records, separated by commas; empty where in none.
    """

    floor_frac: float
    power_frac: float | None
    about: str
    between: str
    beyond: str


@dataclass(frozen=True)
class Price:
    """One workload of one model on one GPU. Seconds, joules and bytes are of a whole step unless the name says token.

    ``step_s``, ``step_tokens_per_s`` and ``energy_per_token_j`` are predictions from a measured efficiency; without one
    they are None. ``peak_bytes`` is None for a model without a memory formula. Caches are those of the whole batch;
    ``state_bytes`` are SSM and conv states together.

    With a ``group``, bytes and FLOPs are of one of its GPUs and of the batch that it processes; rates and energies are
    of all of them, and ``links`` and ``link_s`` say what one exchanges. ``link_s`` is None without a rate.
    """

    spec: ModelSpec
    gpu: Peak
    workload: Workload
    dtypes: Dtypes
    flops: int
    moved_bytes: int
    floor_s: float
    bound: Bound
    floor_tokens_per_s: float
    energy_at_tdp_j: float
    weight_bytes: int
    kv_cache_bytes: int
    state_bytes: int
    peak_bytes: int | None
    fits: bool | None
    efficiency: Efficiency | None
    step_s: float | None
    step_tokens_per_s: float | None
    energy_per_token_j: float | None
    group: GpuGroup | None = None
    links: LinkBytes = NOT_LINKED
    link_s: float | None = None

    @property
    def floor_gpu_tokens_per_s(self) -> float:
        """The rate at the floor, over the number of GPUs."""
        return self.floor_tokens_per_s / (self.group or GpuGroup()).gpus


def price(
    spec: ModelSpec,
    workload: Workload,
    gpu: Peak,
    dtypes: Dtypes,
    efficiency: Efficiency | None = None,
    group: GpuGroup | None = None,
    link_bytes_per_s: float | None = None,
) -> Price:
    """Price one step on a GPU: its floor, and with an efficiency its predicted time and energy.

    Args:
        group: the GPUs that share the model; the workload's batch is what each ``tp`` of them process.
        link_bytes_per_s: rate of a GPU's links in each direction, in place of the table's.

    Raises:
        BadInput: the table has no peak for the dtype, or GPUs that cannot share the model.
    """
    dtype, storage = dtypes.weights, dtypes.storage
    peak = gpu.flops_per_s(dtype)
    if peak is None:
        raise BadInput(f"no peak rate for dtype {dtype} on {gpu.name}: price bfloat16, float16 or float32.")
    shared = group or GpuGroup()
    part, links = shard(spec, shared.tp), link_bytes(spec, workload, storage, shared)
    work, tokens = phases(part, workload, storage), workload.tokens * shared.ranks
    link_rate = link_bytes_per_s or (gpu.link.bytes_per_s if gpu.link else None)
    link_s = None if link_rate is None or shared.gpus == 1 else links.sent / link_rate
    least_s = floor_s(work, peak, gpu.memory_bytes_per_s)
    sets: Bound = bound(work, peak, gpu.memory_bytes_per_s)
    if link_s is not None and link_s > least_s:
        least_s, sets = link_s, "link"
    try:
        peak_bytes: int | None = footprint(part, workload, storage, ranks=shared.ranks, tp=shared.tp).total
    except BadInput:
        peak_bytes = None
    cache = CacheBytes(0, 0, 0) if workload.row.trains else cache_bytes(part, workload.context, storage)
    step_s = None if efficiency is None else least_s / efficiency.floor_frac
    limit_w = shared.gpus * gpu.tdp_w
    drawn = None if efficiency is None else efficiency.power_frac
    return Price(
        spec=spec,
        gpu=gpu,
        workload=workload,
        dtypes=dtypes,
        flops=sum(phase.flops for phase in work),
        moved_bytes=sum(phase.moved_bytes for phase in work),
        floor_s=least_s,
        bound=sets,
        floor_tokens_per_s=tokens / least_s,
        energy_at_tdp_j=limit_w * least_s / tokens,
        weight_bytes=-(-weight_bytes(part, storage) // shared.ranks),
        kv_cache_bytes=workload.batch * cache.kv,
        state_bytes=workload.batch * (cache.ssm + cache.conv),
        peak_bytes=peak_bytes,
        fits=None if peak_bytes is None else fits(peak_bytes, gpu),
        efficiency=efficiency,
        step_s=step_s,
        step_tokens_per_s=None if step_s is None else tokens / step_s,
        energy_per_token_j=None if step_s is None or drawn is None else drawn * limit_w * step_s / tokens,
        group=group,
        links=links,
        link_s=link_s,
    )
