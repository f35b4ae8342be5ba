"""rates: FLOPs and bytes of a step, their rates, and those against peaks and the floor."""

from __future__ import annotations

from hybridbench.arch.block import Convention
from hybridbench.derive import floors, measured, predicted
from hybridbench.metrics.metric import Metric

RATES: tuple[Metric, ...] = (
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
)
