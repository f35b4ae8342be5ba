"""pricing: a workload on any GPU of the table: the floor of its step, and its time at a measured efficiency.

FLOPs and bytes are those of ``predict.work``. The floor is that of ``predict.floor`` at the datasheet's rates: the
dense peak of the dtype and the memory bandwidth. No step is faster than it. A caller may give the ratio of floor to
real step from a GPU that was measured (``hybridbench.efficiency`` reads it from records). Applying that ratio to
another GPU assumes that kernels of equal quality exist on both, so the result is labelled a prediction.

There is no sourced floor of energy, because datasheets do not state the least power that a working card draws. Two
figures are given instead. ``energy_at_tdp_j`` is the board power limit times the floor's time: the energy of a token on
a card that reaches its floor and draws its full limit. With measured records, the share of the limit that they drew
replaces the full limit.
"""

from __future__ import annotations

from dataclasses import dataclass

from hybridbench.arch.block import CacheBytes
from hybridbench.arch.model import ModelSpec, cache_bytes, weight_bytes
from hybridbench.arch.stored import Dtypes
from hybridbench.errors import BadInput
from hybridbench.machine import Peak
from hybridbench.predict.fit import fits
from hybridbench.predict.floor import Bound, bound, floor_s
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
        beyond: in which respects the workload is outside these records, separated by commas; empty where in none.
    """

    floor_frac: float
    power_frac: float | None
    about: str
    beyond: str


@dataclass(frozen=True)
class Price:
    """One workload of one model on one GPU. Seconds, joules and bytes are of a whole step unless the name says token.

    ``step_s``, ``step_tokens_per_s`` and ``energy_per_token_j`` are predictions from a measured efficiency; without one
    they are None. ``peak_bytes`` is None for a model without a memory formula. Caches are those of the whole batch;
    ``state_bytes`` are SSM and conv states together.
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


def price(
    spec: ModelSpec,
    workload: Workload,
    gpu: Peak,
    dtypes: Dtypes,
    efficiency: Efficiency | None = None,
) -> Price:
    """Price one step on a GPU: its floor, and with an efficiency its predicted time and energy.

    Raises:
        BadInput: the table has no peak for the dtype.
    """
    dtype, storage = dtypes.weights, dtypes.storage
    peak = gpu.flops_per_s(dtype)
    if peak is None:
        raise BadInput(f"no peak rate for dtype {dtype} on {gpu.name}: price bfloat16, float16 or float32.")
    work, tokens = phases(spec, workload, storage), workload.tokens
    least_s = floor_s(work, peak, gpu.memory_bytes_per_s)
    try:
        peak_bytes: int | None = footprint(spec, workload, storage).total
    except BadInput:
        peak_bytes = None
    cache = CacheBytes(0, 0, 0) if workload.row.trains else cache_bytes(spec, workload.context, storage)
    step_s = None if efficiency is None else least_s / efficiency.floor_frac
    drawn = None if efficiency is None else efficiency.power_frac
    return Price(
        spec=spec,
        gpu=gpu,
        workload=workload,
        dtypes=dtypes,
        flops=sum(phase.flops for phase in work),
        moved_bytes=sum(phase.moved_bytes for phase in work),
        floor_s=least_s,
        bound=bound(work, peak, gpu.memory_bytes_per_s),
        floor_tokens_per_s=tokens / least_s,
        energy_at_tdp_j=gpu.tdp_w * least_s / tokens,
        weight_bytes=weight_bytes(spec, storage),
        kv_cache_bytes=workload.batch * cache.kv,
        state_bytes=workload.batch * (cache.ssm + cache.conv),
        peak_bytes=peak_bytes,
        fits=None if peak_bytes is None else fits(peak_bytes, gpu),
        efficiency=efficiency,
        step_s=step_s,
        step_tokens_per_s=None if step_s is None else tokens / step_s,
        energy_per_token_j=None if step_s is None or drawn is None else drawn * gpu.tdp_w * step_s / tokens,
    )
