"""metrics: every reportable number, one entry each: a name, a unit, a direction, and a pure function of a record.

Three kinds of numbers meet here. Measured ones come from the record alone. Predicted ones are what ``predict`` makes of
the case alone, in the ``exact`` convention of ``arch.block`` unless the name says otherwise. Judged ones compare the
two with what the machine can do: its datasheet's peaks, which are None for a machine nobody wrote down, and the
ceilings measured beside the case, which make the floor (the datasheet does where a record carries none).

    floor_s      no step can be faster (``predict.floor``)
    mfu_frac     model FLOPs per second over the peak         what the arithmetic units did for the model
    hfu_frac     hardware FLOPs per second over the peak      what they did in all: whole tiles, chunked scan, recompute
    mbu_frac     must-move bytes per second over bandwidth    what the memory did for the model

Values are SI; None is unknown. A record that is not ok has no measured value: neither a failed case nor one with wrong
results has a speed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from hybridbench.arch import model as arch
from hybridbench.arch.block import CacheBytes, Convention
from hybridbench.errors import BadInput
from hybridbench.machine import Peak, find_peak
from hybridbench.operations.beyond import ran_beyond
from hybridbench.predict.floor import floor_s
from hybridbench.predict.memory import footprint
from hybridbench.predict.work import in_every_convention, phases, step_bytes, step_flops
from hybridbench.record import BackendUse, CacheObserved, Caveat, Ceilings, Memory, Observed, Part, Record, Status
from hybridbench.stats import median, median_interval, quantile, sum_between, sum_error
from hybridbench.suite.case import COMPILE, EAGER, GRAPH
from hybridbench.units import NS_PER_S

Better = Literal["higher", "lower"]


@dataclass(frozen=True)
class Metric:
    """One reportable number.

    Args:
        name: as in data; its suffix names the unit.
        unit: SI: ``s tokens/s FLOP FLOP/s B B/s J W``, ``frac`` for a fraction, empty for a count.
        better: which direction is an improvement, None where neither is.
        title: as in a heading, without the unit.
        formula: what is computed, in one line.
        compute: the value of a record in ``unit``; None where it is unknown or means nothing.
    """

    name: str
    unit: str
    better: Better | None
    title: str
    formula: str
    compute: Callable[[Record], float | None]


# Measured.


def _observed(record: Record) -> Observed | None:
    return record.observed if record.status is Status.OK else None


def _samples_s(record: Record) -> list[float]:
    seen = _observed(record)
    return [sample / NS_PER_S for sample in seen.samples_ns] if seen else []


def _of_samples(judge: Callable[[list[float]], float]) -> Callable[[Record], float | None]:
    def compute(record: Record) -> float | None:
        samples = _samples_s(record)
        return judge(samples) if samples else None

    return compute


def _parts(record: Record) -> list[Part]:
    seen = _observed(record)
    return seen.parts if seen else []


Judge = Callable[[list[float]], float]


def _prefill_part_s(record: Record, judge: Judge = median) -> float | None:
    """What the prefill of an integrated generation took, as ``judge`` sees its samples."""
    prefills = [part for part in _parts(record) if part.depth is None]
    return judge([sample / NS_PER_S for sample in prefills[0].samples_ns]) if prefills else None


def _depth_points(record: Record, judge: Judge = median) -> list[tuple[int, float]]:
    """Depth and step time of each depth of an integrated generation; seconds."""
    return [
        (part.depth, judge([sample / NS_PER_S for sample in part.samples_ns]))
        for part in _parts(record)
        if part.depth is not None
    ]


def _of_step(judge: Judge) -> Callable[[Record], float | None]:
    """What ``judge`` makes of the samples of a step; of an integrated generation, of its parts, which are added up.

    The prefill counts once, and a decode step for each depth from the first token's to the last one's.
    """
    of_samples = _of_samples(judge)

    def compute(record: Record) -> float | None:
        prefill_s = _prefill_part_s(record, judge)
        return of_samples(record) if prefill_s is None else prefill_s + sum_between(_depth_points(record, judge))

    return compute


def _integration_frac(record: Record) -> float | None:
    """The error estimate of an integrated generation over its time."""
    step = _step_s(record)
    return sum_error(_depth_points(record)) / step if _parts(record) and step else None


def _samples(record: Record) -> float | None:
    timed = [len(part.samples_ns) for part in _parts(record)] or [len(_samples_s(record))]
    return float(sum(timed)) if sum(timed) else None


_step_s = _of_step(median)


def _per_step(amount: Callable[[Record], float | None]) -> Callable[[Record], float | None]:
    """An amount of one step, per second of the median step."""

    def compute(record: Record) -> float | None:
        step = _step_s(record)
        done = amount(record)
        return done / step if step and done is not None else None

    return compute


def _token_s(record: Record) -> float | None:
    step, work = _step_s(record), record.case.workload
    if step is None or not work.row.decodes:
        return None
    return step * work.batch / work.tokens


def _memory(part: Callable[[Memory], float | None]) -> Callable[[Record], float | None]:
    def compute(record: Record) -> float | None:
        seen = _observed(record)
        return part(seen.memory) if seen else None

    return compute


def _activations(memory: Memory) -> float | None:
    if memory.peak_allocated_bytes is None:
        return None
    lasting = (memory.weights_bytes, memory.gradients_bytes, memory.optimizer_bytes, memory.cache_bytes)
    return memory.peak_allocated_bytes - sum(part or 0 for part in lasting)


def _energy_per_token(record: Record) -> float | None:
    seen = _observed(record)
    if seen is None or seen.energy is None or not seen.energy.steps:
        return None
    return seen.energy.energy_j / (seen.energy.steps * record.case.workload.tokens)


def _power(record: Record) -> float | None:
    seen = _observed(record)
    return seen.energy.energy_j / seen.energy.window_s if seen and seen.energy and seen.energy.window_s else None


def _counted(counter: str) -> Callable[[Record], float | None]:
    def compute(record: Record) -> float | None:
        seen = _observed(record)
        return next((count.flops for count in seen.counts if count.counter == counter), None) if seen else None

    return compute


def _ratio(
    above: Callable[[Record], float | None], below: Callable[[Record], float | None]
) -> Callable[[Record], float | None]:
    def compute(record: Record) -> float | None:
        top, bottom = above(record), below(record)
        return top / bottom if top is not None and bottom else None

    return compute


def _quantile(q: float) -> Callable[[Record], float | None]:
    return _of_samples(lambda xs: quantile(xs, q))


def _held(part: Callable[[CacheObserved], float]) -> Callable[[Record], float | None]:
    """Bytes seen in the caches."""

    def compute(record: Record) -> float | None:
        seen = _observed(record)
        return part(seen.cache) if seen and seen.cache else None

    return compute


def _seen(value: Callable[[Observed], float | None]) -> Callable[[Record], float | None]:
    def compute(record: Record) -> float | None:
        seen = _observed(record)
        return value(seen) if seen else None

    return compute


# Predicted.


def cache_capacity(record: Record) -> int:
    """Tokens each sequence's cache has room for: as observed, else what the workload needs; 0 in training."""
    work = record.case.workload
    if record.observed is not None and record.observed.cache is not None:
        return record.observed.cache.tokens
    return work.cache_tokens


def predicted_cache(record: Record) -> CacheBytes | None:
    """Bytes the caches of the whole batch must take for the tokens they have room for; None in training."""
    case = record.case
    if case.workload.row.trains:
        return None
    return case.workload.batch * arch.cache_bytes(case.model, cache_capacity(record), case.execution.storage)


def _predicted_peak(record: Record) -> float | None:
    """The predicted peak of a case on a GPU; None where there is no formula.

    Training compiled layer by layer keeps what eager training keeps (on an H200 within 0.07% at 1b).
    """
    case, work = record.case, record.case.workload
    execution = case.execution
    modes = (EAGER, GRAPH, COMPILE) if work.row.trains else (EAGER, GRAPH)
    if execution.device != "cuda" or execution.mode not in modes:
        return None
    try:
        return footprint(case.model, work, execution.storage, execution.checkpoint, graph=execution.mode == GRAPH).total
    except BadInput:
        return None


def _flops(record: Record, convention: Convention = Convention.EXACT) -> int:
    """FLOPs of a step."""
    return step_flops(record.case.model, record.case.workload, convention)


def _model_flops(record: Record) -> float:
    return _flops(record)


def _stepped_flops(record: Record) -> float:
    """Model FLOPs of what the operator counter runs: a step, of a generation its prefill and one decode step."""
    return sum(step_flops(record.case.model, work) for work in record.case.workload.first_steps)


def _traced_flops(record: Record) -> float:
    """Model FLOPs of what the tracing counter traces: one forward, of a generation its prefill."""
    first = record.case.workload.first_steps[0]
    return step_flops(record.case.model, first) / (3 if first.row.trains else 1)


def _other_flops(convention: Convention) -> Callable[[Record], float | None]:
    def compute(record: Record) -> float | None:
        if not in_every_convention(record.case.workload):
            return None
        try:
            return _flops(record, convention)
        except BadInput:  # the paper has no formula for what it does not compare
            return None

    return compute


_hardware_flops = _other_flops(Convention.HARDWARE)


def _must_move(record: Record) -> float:
    return step_bytes(record.case.model, record.case.workload, record.case.execution.storage)


def _cache(part: Callable[[CacheBytes], float]) -> Callable[[Record], float | None]:
    def compute(record: Record) -> float | None:
        cache = predicted_cache(record)
        return None if cache is None else part(cache)

    return compute


# Judged.


def peak_of(record: Record) -> Peak | None:
    """The peaks of the GPU a record was made on; None for a CPU and for a GPU that is not in the table."""
    return find_peak(record.environment.device) if record.environment.device_kind == "cuda" else None


def peak_flops_per_s(record: Record) -> float | None:
    """The most FLOP/s the device does with tensors of the case's dtype."""
    peak = peak_of(record)
    return None if peak is None else peak.flops_per_s(record.case.execution.dtype)


def peak_bytes_per_s(record: Record) -> float | None:
    """The device's memory bandwidth."""
    peak = peak_of(record)
    return None if peak is None else peak.memory_bytes_per_s


def _ceilings(record: Record) -> Ceilings | None:
    seen = _observed(record)
    return None if seen is None else seen.ceilings


def _ceiling(part: Callable[[Ceilings], float | None]) -> Callable[[Record], float | None]:
    """One measured rate, where the record carries them."""

    def compute(record: Record) -> float | None:
        ceilings = _ceilings(record)
        return None if ceilings is None else part(ceilings)

    return compute


def _floor_from(record: Record, flops_rate: float | None, bytes_rate: float | None) -> float | None:
    if flops_rate is None or bytes_rate is None:
        return None
    case = record.case
    return floor_s(phases(case.model, case.workload, case.execution.storage), flops_rate, bytes_rate)


def datasheet_floor_s(record: Record) -> float | None:
    """The floor of a step by the rates of the datasheet; None for a machine that nobody wrote down."""
    return _floor_from(record, peak_flops_per_s(record), peak_bytes_per_s(record))


def _floor_s(record: Record) -> float | None:
    ceilings = _ceilings(record)
    if ceilings is None:
        return datasheet_floor_s(record)
    return _floor_from(record, ceilings.matmul_flops_per_s, ceilings.read_bytes_per_s)


_achieved_flops = _per_step(_model_flops)
_achieved_hardware_flops = _per_step(_hardware_flops)
_achieved_bytes = _per_step(_must_move)

_sustained_flops = _ceiling(lambda ceilings: ceilings.sustained_matmul_flops_per_s)


def _achieved_of_sequences(record: Record) -> float | None:
    """Model FLOPs per second where products are large: over whole sequences."""
    return None if record.case.workload.row.decodes else _achieved_flops(record)


_STEP = "step: a training step, a prefill, one decode step, or a whole generation"

METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric(
            "step_s",
            "s",
            "lower",
            "step",
            f"median of the samples ({_STEP}); of a generation timed at depths, the median prefill plus the medians "
            "of its decode steps, added up over all depths by the trapezoid rule",
            _step_s,
        ),
        Metric(
            "step_low_s",
            "s",
            None,
            "step, low",
            "lower end of the 95% interval of the median, from order statistics; at depths, added up likewise",
            _of_step(lambda xs: median_interval(xs)[0]),
        ),
        Metric(
            "step_high_s",
            "s",
            None,
            "step, high",
            "upper end of the 95% interval of the median, from order statistics; at depths, added up likewise",
            _of_step(lambda xs: median_interval(xs)[1]),
        ),
        *(
            Metric(
                f"step_p{percent:02d}_s",
                "s",
                "lower",
                f"step p{percent}",
                f"quantile {percent / 100:.2f} of the samples, linear between order statistics",
                _quantile(percent / 100),
            )
            for percent in (5, 95, 99)
        ),
        Metric("samples", "", None, "samples", "number of timed steps", _samples),
        Metric(
            "prefill_part_s",
            "s",
            "lower",
            "prefill in it",
            "median prefill of a generation timed at depths, a part of its step",
            _prefill_part_s,
        ),
        Metric(
            "integration_frac",
            "frac",
            "lower",
            "integration error",
            "of a generation timed at depths: what leaving out every other depth changes, over its step",
            _integration_frac,
        ),
        Metric(
            "tokens_per_s",
            "tokens/s",
            "higher",
            "throughput",
            "tokens of the whole batch / median step; processed tokens in train and prefill, new ones otherwise",
            _per_step(lambda record: record.case.workload.tokens),
        ),
        Metric(
            "token_s",
            "s",
            "lower",
            "time per token",
            "median step / new tokens of each sequence: the inter-token latency; a generation's includes its prefill",
            _token_s,
        ),
        Metric("model_flops", "FLOP", None, "model FLOPs", "FLOPs of a step, convention exact", _model_flops),
        Metric(
            "model_flops_per_token",
            "FLOP",
            "lower",
            "model FLOPs per token",
            "FLOPs of a step / tokens of the batch, convention exact",
            lambda record: _flops(record) / record.case.workload.tokens,
        ),
        Metric(
            "paper_flops",
            "FLOP",
            None,
            "FLOPs, paper",
            "FLOPs of a step, convention paper: without embedding and head; none for a generation",
            _other_flops(Convention.PAPER),
        ),
        Metric(
            "hardware_flops",
            "FLOP",
            None,
            "FLOPs, hardware",
            "FLOPs of a step, convention hardware: whole tiles, chunked scan, recompute; none for a generation",
            _hardware_flops,
        ),
        Metric(
            "torch_flops",
            "FLOP",
            None,
            "FLOPs counted by torch",
            "FlopCounterMode over one step, of a generation over its prefill and one decode step; operators without a "
            "formula count as nothing",
            _counted("torch"),
        ),
        Metric(
            "torch_ratio",
            "",
            None,
            "torch / model",
            "FLOPs counted by torch / model FLOPs of the same work",
            _ratio(_counted("torch"), _stepped_flops),
        ),
        Metric(
            "fvcore_flops",
            "FLOP",
            None,
            "FLOPs counted by fvcore",
            "fvcore over one forward, of a generation over its prefill, a multiply-add as 2; operators without a "
            "handle count as nothing",
            _counted("fvcore"),
        ),
        Metric(
            "fvcore_ratio",
            "",
            None,
            "fvcore / model forward",
            "FLOPs counted by fvcore / model FLOPs of the same forward",
            _ratio(_counted("fvcore"), _traced_flops),
        ),
        Metric(
            "must_move_bytes",
            "B",
            None,
            "must-move bytes",
            "least bytes a step moves: decode weights, embedding rows and caches; prefill weights and caches; "
            "train weights once",
            _must_move,
        ),
        Metric("model_flops_per_s", "FLOP/s", "higher", "model FLOP/s", "model FLOPs / median step", _achieved_flops),
        Metric(
            "must_move_bytes_per_s", "B/s", "higher", "must-move B/s", "must-move bytes / median step", _achieved_bytes
        ),
        Metric(
            "mfu_frac",
            "frac",
            "higher",
            "MFU",
            "model FLOPs (exact) / median step / dense peak of the dtype",
            _ratio(_achieved_flops, peak_flops_per_s),
        ),
        Metric(
            "hfu_frac",
            "frac",
            None,
            "HFU",
            "FLOPs of the hardware convention / median step / dense peak of the dtype",
            _ratio(_achieved_hardware_flops, peak_flops_per_s),
        ),
        Metric(
            "mbu_frac",
            "frac",
            "higher",
            "MBU",
            "must-move bytes / median step / memory bandwidth",
            _ratio(_achieved_bytes, peak_bytes_per_s),
        ),
        Metric(
            "floor_s",
            "s",
            None,
            "floor",
            "max(must-move bytes / read bandwidth, model FLOPs / rate of a large product), as measured in the same "
            "process, else by the datasheet; a generation's is that of its prefill plus that of its decoding",
            _floor_s,
        ),
        Metric(
            "ceiling_flops_per_s",
            "FLOP/s",
            None,
            "product, measured",
            "rate of a large matrix product in the case's dtype, measured in the same process",
            _ceiling(lambda ceilings: ceilings.matmul_flops_per_s),
        ),
        Metric(
            "sustained_flops_per_s",
            "FLOP/s",
            None,
            "product, sustained",
            "rate of a large matrix product in the case's dtype after a second of them, measured in the same process; "
            "none on a CPU",
            _sustained_flops,
        ),
        Metric(
            "sustained_frac",
            "frac",
            "higher",
            "of sustained product",
            "model FLOPs (exact) / median step / sustained rate of a large matrix product; of train and prefill",
            _ratio(_achieved_of_sequences, _sustained_flops),
        ),
        Metric(
            "ceiling_bytes_per_s",
            "B/s",
            None,
            "memory read, measured",
            "bandwidth of reading memory, measured in the same process",
            _ceiling(lambda ceilings: ceilings.read_bytes_per_s),
        ),
        Metric(
            "floor_frac",
            "frac",
            "higher",
            "of floor",
            "floor / median step; above 1 what must move fitted a cache, or something is wrong",
            _ratio(_floor_s, _step_s),
        ),
        Metric(
            "predicted_params",
            "",
            None,
            "parameters, predicted",
            "closed form, the tied embedding once",
            lambda record: arch.params(record.case.model),
        ),
        Metric("params", "", None, "parameters", "elements of the built model", _seen(lambda seen: seen.parameters)),
        Metric(
            "predicted_weights_bytes",
            "B",
            None,
            "weights, predicted",
            "parameters times bytes per element",
            lambda record: arch.weight_bytes(record.case.model, record.case.execution.storage),
        ),
        Metric(
            "weights_bytes",
            "B",
            "lower",
            "weights",
            "bytes of parameters and buffers",
            _memory(lambda memory: memory.weights_bytes),
        ),
        Metric(
            "predicted_cache_bytes",
            "B",
            None,
            "cache, predicted",
            "closed form for the whole batch and the tokens the cache has room for",
            _cache(lambda cache: cache.total),
        ),
        Metric(
            "predicted_kv_cache_bytes",
            "B",
            None,
            "KV cache, predicted",
            "its keys and values",
            _cache(lambda cache: cache.kv),
        ),
        Metric(
            "predicted_ssm_state_bytes",
            "B",
            None,
            "SSM state, predicted",
            "its SSM states",
            _cache(lambda cache: cache.ssm),
        ),
        Metric(
            "predicted_conv_state_bytes",
            "B",
            None,
            "conv state, predicted",
            "its conv states",
            _cache(lambda cache: cache.conv),
        ),
        Metric(
            "cache_bytes",
            "B",
            "lower",
            "cache",
            "bytes of all tensors in the caches of the whole batch",
            _held(lambda cache: cache.kv_cache_bytes + cache.ssm_state_bytes + cache.conv_state_bytes),
        ),
        Metric(
            "kv_cache_bytes",
            "B",
            "lower",
            "KV cache",
            "its keys and values",
            _held(lambda cache: cache.kv_cache_bytes),
        ),
        Metric(
            "ssm_state_bytes",
            "B",
            "lower",
            "SSM state",
            "its SSM states",
            _held(lambda cache: cache.ssm_state_bytes),
        ),
        Metric(
            "conv_state_bytes",
            "B",
            "lower",
            "conv state",
            "its conv states",
            _held(lambda cache: cache.conv_state_bytes),
        ),
        Metric(
            "gradients_bytes",
            "B",
            "lower",
            "gradients",
            "bytes of all gradients",
            _memory(lambda memory: memory.gradients_bytes),
        ),
        Metric(
            "optimizer_bytes",
            "B",
            "lower",
            "optimizer",
            "bytes of the optimizer's state",
            _memory(lambda memory: memory.optimizer_bytes),
        ),
        Metric(
            "predicted_peak_bytes",
            "B",
            None,
            "peak, predicted",
            "closed form of the allocator's peak: weights, gradients, optimizer, activations, head, cache, workspaces; "
            "none for a generation, a compiled prefill or decode step, or a CPU",
            _predicted_peak,
        ),
        Metric(
            "peak_allocated_bytes",
            "B",
            "lower",
            "peak memory",
            "the allocator's peak of allocated bytes",
            _memory(lambda memory: memory.peak_allocated_bytes),
        ),
        Metric(
            "peak_reserved_bytes",
            "B",
            "lower",
            "peak reserved",
            "the allocator's peak of reserved bytes",
            _memory(lambda memory: memory.peak_reserved_bytes),
        ),
        Metric(
            "activations_bytes",
            "B",
            "lower",
            "activations and workspace",
            "peak allocated - weights - gradients - optimizer - cache",
            _memory(_activations),
        ),
        Metric(
            "energy_per_token_j",
            "J",
            "lower",
            "energy per token",
            "energy counter over the sampled window / (steps in it * tokens), idle power included",
            _energy_per_token,
        ),
        Metric("power_w", "W", None, "power", "energy counter over the sampled window / its length", _power),
        Metric("loss", "", None, "loss", "as the last training step reported it", _seen(lambda seen: seen.loss)),
        Metric(
            "build_s",
            "s",
            "lower",
            "build",
            "wall time to build the model",
            _seen(lambda seen: seen.build_ns / NS_PER_S),
        ),
        Metric(
            "prepare_s",
            "s",
            "lower",
            "prepare",
            "wall time to fill caches, compile and capture",
            _seen(lambda seen: seen.prepare_ns / NS_PER_S),
        ),
        Metric(
            "check_s",
            "s",
            "lower",
            "check at size",
            "of that, wall time to compare the work with itself at its own size",
            _seen(lambda seen: None if seen.check_ns is None else seen.check_ns / NS_PER_S),
        ),
        Metric(
            "check_share",
            "",
            "lower",
            "error / bound",
            "the error of the comparison at size that came closest to its bound, as a share of it",
            _seen(lambda seen: max((check.error / check.bound for check in seen.sized), default=None)),
        ),
    )
}


def value(record: Record, name: str) -> float | None:
    """One metric of a record."""
    return METRICS[name].compute(record)


def problems(record: Record) -> list[str]:
    """Contradictions between what was observed and what must hold; a record with any is not to be believed.

    Empty for a record that is not ok: it claims nothing.
    """
    seen = _observed(record)
    if seen is None:
        return []
    found = []
    # The datasheet's floor: a small model's weights may sit in a cache faster than the memory that was measured.
    least_s, step_s = datasheet_floor_s(record), _step_s(record)
    if least_s is not None and step_s is not None and least_s > step_s:
        share = least_s / step_s
        found.append(f"faster than the floor ({share:.3g} times): the clock, the work or the prediction is wrong")
    utilisation = value(record, "mfu_frac")
    if utilisation is not None and utilisation > 1:
        found.append(f"MFU is {utilisation:.3g}: more model FLOPs than the peak allows")
    pairs = [("parameters", arch.params(record.case.model), seen.parameters)]
    cache = predicted_cache(record)
    if seen.cache is not None and cache is not None:
        pairs += [
            ("KV cache bytes", cache.kv, seen.cache.kv_cache_bytes),
            ("SSM state bytes", cache.ssm, seen.cache.ssm_state_bytes),
            ("conv state bytes", cache.conv, seen.cache.conv_state_bytes),
        ]
    found += [f"{what}: {built:,} observed, {wanted:,} predicted" for what, wanted, built in pairs if built != wanted]
    found += [
        f"{use.op} ran on {use.ran} where {use.asked} was asked for"
        for use in seen.backends
        if use.asked not in ("auto", use.backend)
    ]
    return found


PLAIN = ("reference", "chunked", "sdpa-math")
"""Backends that are plain PyTorch, operator by operator."""


def doubts(record: Record) -> list[Caveat]:
    """The caveats of a record: those found while it was measured, and what is known of its kernels by now.

    A record from before results were checked at the size that is timed may be of kernels beyond what they are right on
    (``limits``): they were timed while they computed something else. And on a GPU, where other models have kernels,
    what ran as plain PyTorch because no kernel could is no equal of theirs.
    """
    seen = _observed(record)
    if seen is None:
        return record.caveats
    found = set[Caveat]()
    if not seen.sized and ran_beyond(record.case, [(use.op, use.ran) for use in seen.backends]):
        found.add(Caveat.BEYOND_LIMIT)
    if record.environment.device_kind == "cuda" and any(use.asked == "auto" and is_plain(use) for use in seen.backends):
        found.add(Caveat.PLAIN_PYTORCH)
    return [*record.caveats, *(caveat for caveat in Caveat if caveat in found - set(record.caveats))]


def is_plain(use: BackendUse) -> bool:
    """Whether an operation ran as plain PyTorch, which stands in where no kernel for it can run."""
    return use.backend in PLAIN
