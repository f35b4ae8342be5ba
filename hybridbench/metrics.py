"""metrics: every reportable number, one entry each: a name, a unit, a direction, and a pure function of a record.

There are three kinds of numbers, each computed in a module of ``derive``. Measured numbers come from the record alone.
Predicted numbers are those of ``predict`` for the case alone, in the ``exact`` convention unless the name says
otherwise. The third kind compares the two with what the machine can do: the peaks of its data sheet, and the rates
measured beside the case. Those rates set the floor, or the data sheet does if a record has none.

    floor_s      no step can be faster (``predict.floor``)
    mfu_frac     model FLOPs per second over the peak         what the arithmetic units did for the model
    hfu_frac     hardware FLOPs per second over the peak      what they did in all: whole tiles, chunked scan, recompute
    mbu_frac     must-move bytes per second over bandwidth    what the memory did for the model

Values are SI; None is unknown. A record that is not ok has no measured value: neither a failed case nor one with wrong
results has a speed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hybridbench.arch import model as arch
from hybridbench.arch.block import Convention
from hybridbench.derive import floors, measured, predicted
from hybridbench.record import Record
from hybridbench.stats import median_interval, quantile
from hybridbench.units import NS_PER_S

Better = Literal["higher", "lower"]


@dataclass(frozen=True)
class Metric:
    """One reportable number.

    Args:
        name: as in data; its suffix names the unit.
        unit: SI: ``s tokens/s FLOP FLOP/s B B/s J W``, ``frac`` for a fraction, empty for a count.
        better: which direction is an improvement; None if neither is.
        title: as in a heading, without the unit.
        formula: what is computed, in one line.
        compute: the value for a record in ``unit``; None if it is unknown or has no meaning.
    """

    name: str
    unit: str
    better: Better | None
    title: str
    formula: str
    compute: measured.Number


def _quantile(q: float) -> measured.Judge:
    return lambda samples: quantile(samples, q)


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
            measured.step_s,
        ),
        Metric(
            "step_low_s",
            "s",
            None,
            "step, low",
            "lower end of the 95% interval of the median, from order statistics; of a generation timed at depths, "
            "added up as its step is",
            measured.of_step(lambda xs: median_interval(xs)[0]),
        ),
        Metric(
            "step_high_s",
            "s",
            None,
            "step, high",
            "upper end of the 95% interval of the median, from order statistics; of a generation timed at depths, "
            "added up as its step is",
            measured.of_step(lambda xs: median_interval(xs)[1]),
        ),
        *(
            Metric(
                f"step_p{percent:02d}_s",
                "s",
                "lower",
                f"step p{percent}",
                f"quantile {percent / 100:.2f} of the samples, linear between order statistics",
                measured.of_samples(_quantile(percent / 100)),
            )
            for percent in (5, 95, 99)
        ),
        Metric("samples", "", None, "samples", "number of timed steps", measured.sample_count),
        Metric(
            "prefill_part_s",
            "s",
            "lower",
            "prefill part",
            "median time of the prefill of a generation that is timed at depths; it is part of the generation's step",
            measured.prefill_part_s,
        ),
        Metric(
            "ttft_s",
            "s",
            "lower",
            "TTFT",
            "time to first token: median time of a prefill; of a generation timed at depths, that of its prefill part",
            measured.ttft_s,
        ),
        Metric(
            "integration_frac",
            "frac",
            "lower",
            "integration error",
            "of a generation timed at depths: by how much its time changes where every other depth is left out, over "
            "its time",
            measured.integration_frac,
        ),
        Metric(
            "tokens_per_s",
            "tokens/s",
            "higher",
            "throughput",
            "tokens of the whole batch / median step; processed tokens in train and prefill, new ones otherwise",
            measured.per_step(lambda record: record.case.workload.tokens),
        ),
        Metric(
            "token_s",
            "s",
            "lower",
            "time per token",
            "median step / new tokens of each sequence: the inter-token latency; a generation's includes its prefill",
            measured.token_s,
        ),
        Metric("model_flops", "FLOP", None, "model FLOPs", "FLOPs of a step, convention exact", predicted.model_flops),
        Metric(
            "model_flops_per_token",
            "FLOP",
            "lower",
            "model FLOPs per token",
            "FLOPs of a step / tokens of the batch, convention exact",
            lambda record: predicted.flops(record) / record.case.workload.tokens,
        ),
        Metric(
            "paper_flops",
            "FLOP",
            None,
            "FLOPs, paper",
            "FLOPs of a step, convention paper: without embedding and head; none for a generation",
            predicted.flops_in(Convention.PAPER),
        ),
        Metric(
            "hardware_flops",
            "FLOP",
            None,
            "FLOPs, hardware",
            "FLOPs of a step, convention hardware: whole tiles, chunked scan, recompute; none for a generation",
            predicted.hardware_flops,
        ),
        Metric(
            "torch_flops",
            "FLOP",
            None,
            "FLOPs counted by torch",
            "torch.utils.flop_counter over one eager step (of a generation: its prefill and one decode step), with "
            "formulas and closed forms for what it lacks; operators without a formula count as nothing",
            measured.counted_flops("torch"),
        ),
        Metric(
            "torch_ratio",
            "",
            None,
            "torch / model",
            "FLOPs counted by torch / model FLOPs of the same work",
            measured.ratio(measured.counted_flops("torch"), predicted.stepped_flops),
        ),
        Metric(
            "fvcore_flops",
            "FLOP",
            None,
            "FLOPs counted by fvcore",
            "fvcore over one forward (of a generation: its prefill), a multiply-add as 2, with handles and closed "
            "forms for what it lacks; operators without a handle count as nothing",
            measured.counted_flops("fvcore"),
        ),
        Metric(
            "fvcore_ratio",
            "",
            None,
            "fvcore / model forward",
            "FLOPs counted by fvcore / model FLOPs of the same forward",
            measured.ratio(measured.counted_flops("fvcore"), predicted.traced_flops),
        ),
        Metric(
            "must_move_bytes",
            "B",
            None,
            "must-move bytes",
            "least bytes a step moves: decode weights, embedding rows and caches; prefill weights and caches; "
            "train weights once",
            predicted.must_move_bytes,
        ),
        Metric(
            "model_flops_per_s",
            "FLOP/s",
            "higher",
            "model FLOP/s",
            "model FLOPs / median step",
            floors.model_flops_per_s,
        ),
        Metric(
            "must_move_bytes_per_s",
            "B/s",
            "higher",
            "must-move B/s",
            "must-move bytes / median step",
            floors.must_move_bytes_per_s,
        ),
        Metric(
            "mfu_frac",
            "frac",
            "higher",
            "MFU",
            "model FLOPs (exact) / median step / dense peak of the dtype",
            floors.mfu_frac,
        ),
        Metric(
            "hfu_frac",
            "frac",
            None,
            "HFU",
            "FLOPs of the hardware convention / median step / dense peak of the dtype",
            measured.ratio(floors.hardware_flops_per_s, floors.peak_flops_per_s),
        ),
        Metric(
            "mbu_frac",
            "frac",
            "higher",
            "MBU",
            "must-move bytes / median step / memory bandwidth",
            measured.ratio(floors.must_move_bytes_per_s, floors.peak_bytes_per_s),
        ),
        Metric(
            "floor_s",
            "s",
            None,
            "floor",
            "max(must-move bytes / read bandwidth, model FLOPs / rate of a large product), by rates measured in the "
            "same process, by the datasheet where there are none; of a generation, the floor of its prefill plus "
            "that of its decoding",
            floors.floor_s,
        ),
        Metric(
            "ceiling_flops_per_s",
            "FLOP/s",
            None,
            "product, measured",
            "rate of a large matrix product in the case's dtype, measured in the same process",
            floors.of_ceilings(lambda ceilings: ceilings.matmul_flops_per_s),
        ),
        Metric(
            "sustained_flops_per_s",
            "FLOP/s",
            None,
            "product, sustained",
            "rate of a large matrix product in the case's dtype after a second of them, measured in the same process; "
            "none on a CPU",
            floors.sustained_flops_per_s,
        ),
        Metric(
            "sustained_frac",
            "frac",
            "higher",
            "of sustained product",
            "model FLOPs (exact) / median step / sustained rate of a large matrix product; of train and prefill",
            measured.ratio(floors.model_flops_per_s_of_sequences, floors.sustained_flops_per_s),
        ),
        Metric(
            "ceiling_bytes_per_s",
            "B/s",
            None,
            "memory read, measured",
            "bandwidth of reading memory, measured in the same process",
            floors.of_ceilings(lambda ceilings: ceilings.read_bytes_per_s),
        ),
        Metric(
            "floor_frac",
            "frac",
            "higher",
            "of floor",
            "floor / median step; a share above 100% means that the data fitted a cache, or that something is wrong",
            measured.ratio(floors.floor_s, measured.step_s),
        ),
        Metric(
            "predicted_params",
            "",
            None,
            "parameters, predicted",
            "closed form, the tied embedding once",
            lambda record: arch.params(record.case.model),
        ),
        Metric(
            "params",
            "",
            None,
            "parameters",
            "elements of the built model",
            measured.of_observed(lambda seen: seen.parameters),
        ),
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
            measured.of_memory(lambda memory: memory.weights_bytes),
        ),
        Metric(
            "predicted_cache_bytes",
            "B",
            None,
            "cache, predicted",
            "closed form for the whole batch and the tokens the cache has room for",
            predicted.of_predicted_cache(lambda cache: cache.total),
        ),
        Metric(
            "predicted_kv_cache_bytes",
            "B",
            None,
            "KV cache, predicted",
            "bytes of keys and values that the caches of the whole batch must take, by closed form",
            predicted.of_predicted_cache(lambda cache: cache.kv),
        ),
        Metric(
            "predicted_ssm_state_bytes",
            "B",
            None,
            "SSM state, predicted",
            "bytes of SSM states that the caches of the whole batch must take, by closed form",
            predicted.of_predicted_cache(lambda cache: cache.ssm),
        ),
        Metric(
            "predicted_conv_state_bytes",
            "B",
            None,
            "conv state, predicted",
            "bytes of convolution states that the caches of the whole batch must take, by closed form",
            predicted.of_predicted_cache(lambda cache: cache.conv),
        ),
        Metric(
            "cache_bytes",
            "B",
            "lower",
            "cache",
            "bytes of all tensors in the caches of the whole batch",
            measured.of_cache_held(lambda cache: cache.kv_cache_bytes + cache.ssm_state_bytes + cache.conv_state_bytes),
        ),
        Metric(
            "kv_cache_bytes",
            "B",
            "lower",
            "KV cache",
            "bytes of keys and values in the caches of the whole batch",
            measured.of_cache_held(lambda cache: cache.kv_cache_bytes),
        ),
        Metric(
            "ssm_state_bytes",
            "B",
            "lower",
            "SSM state",
            "bytes of SSM states in the caches of the whole batch",
            measured.of_cache_held(lambda cache: cache.ssm_state_bytes),
        ),
        Metric(
            "conv_state_bytes",
            "B",
            "lower",
            "conv state",
            "bytes of convolution states in the caches of the whole batch",
            measured.of_cache_held(lambda cache: cache.conv_state_bytes),
        ),
        Metric(
            "gradients_bytes",
            "B",
            "lower",
            "gradients",
            "bytes of all gradients",
            measured.of_memory(lambda memory: memory.gradients_bytes),
        ),
        Metric(
            "optimizer_bytes",
            "B",
            "lower",
            "optimizer",
            "bytes of the optimizer's state",
            measured.of_memory(lambda memory: memory.optimizer_bytes),
        ),
        Metric(
            "predicted_peak_bytes",
            "B",
            None,
            "peak, predicted",
            "closed form of the allocator's peak: weights, gradients, optimizer, activations, head, cache, workspaces; "
            "none for a generation, a compiled prefill or decode step, or a CPU",
            predicted.predicted_peak_bytes,
        ),
        Metric(
            "peak_allocated_bytes",
            "B",
            "lower",
            "peak memory",
            "the allocator's peak of allocated bytes",
            measured.of_memory(lambda memory: memory.peak_allocated_bytes),
        ),
        Metric(
            "peak_reserved_bytes",
            "B",
            "lower",
            "peak reserved",
            "the allocator's peak of reserved bytes",
            measured.of_memory(lambda memory: memory.peak_reserved_bytes),
        ),
        Metric(
            "activations_bytes",
            "B",
            "lower",
            "activations and workspace",
            "peak allocated - weights - gradients - optimizer - cache",
            measured.of_memory(measured.activations_bytes),
        ),
        Metric(
            "energy_per_token_j",
            "J",
            "lower",
            "energy per token",
            "energy counter over the sampled window / (steps in it * tokens), idle power included",
            measured.energy_per_token_j,
        ),
        Metric("power_w", "W", None, "power", "energy counter over the sampled window / its length", measured.power_w),
        Metric(
            "loss",
            "",
            None,
            "loss",
            "as the last training step reported it",
            measured.of_observed(lambda seen: seen.loss),
        ),
        Metric(
            "build_s",
            "s",
            "lower",
            "build",
            "wall time to build the model",
            measured.of_observed(lambda seen: seen.build_ns / NS_PER_S),
        ),
        Metric(
            "prepare_s",
            "s",
            "lower",
            "prepare",
            "wall time to fill caches, compile and capture",
            measured.of_observed(lambda seen: seen.prepare_ns / NS_PER_S),
        ),
        Metric(
            "check_s",
            "s",
            "lower",
            "check at size",
            "wall time to compare the work with itself at its own size; it is part of prepare",
            measured.of_observed(lambda seen: None if seen.check_ns is None else seen.check_ns / NS_PER_S),
        ),
        Metric(
            "check_share",
            "",
            "lower",
            "error / bound",
            "error over bound, of the comparison at the case's own size that came closest to its bound",
            measured.of_observed(lambda seen: max((check.error / check.bound for check in seen.sized), default=None)),
        ),
    )
}


def value(record: Record, name: str) -> float | None:
    """One metric of a record."""
    return METRICS[name].compute(record)
