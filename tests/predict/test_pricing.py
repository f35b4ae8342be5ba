"""Prices are the roofline by hand; an efficiency taken from a record gives that record back."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hybridbench.arch.families import ARCHS, Options, build_spec, pattern_spec
from hybridbench.arch.model import ModelSpec, params
from hybridbench.arch.stored import Dtypes, StorageOptions
from hybridbench.derive.doubts import problems
from hybridbench.efficiency import MeasuredSteps
from hybridbench.errors import BadInput
from hybridbench.machine import PEAKS, Peak, find_gpu, find_peak
from hybridbench.metrics import value
from hybridbench.predict.pricing import Efficiency, price
from hybridbench.record import Record
from hybridbench.store import load
from hybridbench.suite.workloads import DECODE, PREFILL, TRAIN, Workload

HALF = Dtypes.of("bfloat16")
RESULTS = Path(__file__).parents[2] / "results" / "nvidia-h200"
RECORDS = [
    record
    for record in load([RESULTS / "efficiency"], lambda text: None)
    if record.case.workload.kind in (TRAIN, PREFILL, DECODE)
]


def test_decode_floor_of_a_transformer_by_hand() -> None:
    """Weights once, four embedding rows, and four caches of 8,192 tokens read and one entry each written."""
    found = price(build_spec("transformer", "1b"), Workload(DECODE, 8192, 4), find_gpu("h200"), HALF)
    moved = 1_235_814_400 * 2 + 4 * (2048 * 2 + 8193 * 16 * 2 * 8 * 64 * 2)
    assert found.moved_bytes == moved
    assert found.bound == "memory"
    assert found.floor_s == pytest.approx(moved / 4.8e12)
    assert found.floor_tokens_per_s == pytest.approx(4 / (moved / 4.8e12))
    assert found.energy_at_tdp_j == pytest.approx(700 * moved / 4.8e12 / 4)
    assert found.step_s is found.step_tokens_per_s is found.energy_per_token_j is None


def test_training_is_bound_by_the_peak_of_its_dtype() -> None:
    spec, work, gpu = build_spec("mamba", "1b"), Workload(TRAIN, 8192, 1), find_gpu("a100-80gb")
    half, single = price(spec, work, gpu, HALF), price(spec, work, gpu, Dtypes.of("float32"))
    assert half.bound == single.bound == "compute"
    assert half.floor_s == pytest.approx(half.flops / 312e12)
    assert single.floor_s == pytest.approx(2 * half.floor_s)
    with pytest.raises(BadInput, match="float64"):
        price(spec, work, gpu, Dtypes.of("float64"))


@pytest.mark.parametrize("gpu", PEAKS, ids=lambda gpu: gpu.name)
def test_every_gpu_prices_every_family(gpu: Peak) -> None:
    for family in ARCHS:
        for kind in (TRAIN, PREFILL, DECODE):
            found = price(build_spec(family, "350m"), Workload(kind, 2048, 2), gpu, HALF)
            assert found.floor_s > 0
            assert found.fits is True


def test_other_executions_do_not_speak_of_the_plain_one_and_the_fastest_speaks() -> None:
    plain = next(record for record in RECORDS if record.case.workload.kind == DECODE and not problems(record))
    assert plain.observed is not None

    def share(*records: Record) -> float | None:
        found = MeasuredSteps(records).efficiency_of(plain.case.model, plain.case.workload, HALF)
        return None if found is None else found.floor_frac

    def other(slower: float, **changes: Any) -> Record:
        assert plain.observed is not None
        samples = [round(ns * slower) for ns in plain.observed.samples_ns]
        execution = replace(plain.case.execution, **changes)
        case = replace(plain.case, execution=execution)
        return replace(plain, case=case, observed=replace(plain.observed, samples_ns=samples))

    assert share(plain, other(0.97, streams=2)) == share(plain)
    assert share(other(0.97, checkpoint="full")) is None
    slow = other(1.5, mode="eager")
    assert share(plain, slow) == share(slow, plain) == share(plain)


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.case.label)
def test_on_its_own_gpu_and_at_its_own_context_a_record_is_predicted_exactly(record: Record) -> None:
    if problems(record):
        pytest.skip("this record is not to be believed")
    case, gpu = record.case, find_peak(record.environment.device)
    assert gpu is not None
    share = MeasuredSteps(RECORDS).efficiency_of(case.model, case.workload, case.execution.dtypes)
    assert share is not None
    found = price(case.model, case.workload, gpu, Dtypes.of(case.execution.dtype), efficiency=share)
    assert found.step_s == pytest.approx(value(record, "step_s"))
    assert found.energy_per_token_j == pytest.approx(value(record, "energy_per_token_j"), rel=0.1)


def test_between_contexts_the_share_lies_between_and_outside_it_stays() -> None:
    spec = build_spec("transformer", "1b")

    def share(context: int) -> float:
        found = MeasuredSteps(RECORDS).efficiency_of(spec, Workload(DECODE, context, 4), HALF)
        assert found is not None
        return found.floor_frac

    assert share(1024) == share(4096)
    assert share(1 << 20) == share(131_072)
    low, middle, high = share(65_536), share(92_682), share(131_072)
    assert middle == pytest.approx((low + high) / 2, rel=1e-4)  # 92,682 is halfway by ratio


def test_nothing_is_borrowed_from_another_family_phase_or_dtype() -> None:
    work = Workload(DECODE, 8192, 4)
    assert MeasuredSteps(RECORDS).efficiency_of(pattern_spec("M-*-", "1b"), work, HALF) is None
    assert MeasuredSteps(RECORDS).efficiency_of(build_spec("mamba", "1b"), work, Dtypes.of("float32")) is None
    decodes = [record for record in RECORDS if record.case.workload.kind == DECODE]
    assert MeasuredSteps(decodes).efficiency_of(build_spec("mamba", "1b"), Workload(TRAIN, 8192, 4), HALF) is None
    assert MeasuredSteps([]).efficiency_of(build_spec("mamba", "1b"), work, HALF) is None


def test_formats_are_predicted_from_records_of_the_same_formats_only() -> None:
    coded = load([RESULTS / "eight-bits"], lambda text: None)
    measured = MeasuredSteps(coded)
    fp8 = StorageOptions("bfloat16", weights="fp8", kv="fp8")
    for record in coded:
        case, gpu = record.case, find_peak(record.environment.device)
        assert gpu is not None
        share = measured.efficiency_of(case.model, case.workload, case.execution.dtypes)
        assert share is not None
        assert ("weights fp8, KV cache fp8, on NVIDIA H200" in share.about) == case.execution.quantises
        found = price(case.model, case.workload, gpu, case.execution.dtypes, efficiency=share)
        assert found.step_s == pytest.approx(value(record, "step_s"))
        assert case.execution.dtypes in (HALF, fp8.dtypes(case.model.stored))
    work = Workload(DECODE, 8192, 4)
    transformer, mamba = build_spec("transformer", "1b"), build_spec("mamba", "1b")
    for asked in (StorageOptions(kv="fp8"), StorageOptions(weights="fp8"), StorageOptions(weights="int8", kv="fp8")):
        assert measured.efficiency_of(transformer, work, asked.dtypes(transformer.stored)) is None
    # mamba has no keys and values, so their format says nothing
    weights_only = StorageOptions(weights="fp8").dtypes(mamba.stored)
    assert measured.efficiency_of(mamba, work, weights_only) == measured.efficiency_of(
        mamba, work, fp8.dtypes(mamba.stored)
    )
    wide = measured.efficiency_of(mamba, work, Dtypes.of("bfloat16", state="float32"))
    assert wide is not None
    assert wide.beyond == "SSM state"
    kept = measured.efficiency_of(transformer, work, Dtypes.of("bfloat16", state="float32"))
    assert kept is not None
    assert kept.beyond == ""


def test_another_scale_takes_the_nearest_and_says_which() -> None:
    found = MeasuredSteps(RECORDS).efficiency_of(build_spec("mamba", "3b"), Workload(DECODE, 8192, 64), HALF)
    assert found is not None
    assert found.about == "decode of mamba 1b, batch 4, 4k to 128k, on NVIDIA H200 (6 records)"
    assert (found.between, found.beyond) == ("", "scale, batch")


def test_of_several_models_of_a_scale_the_wanted_one_speaks_and_else_the_most_alike() -> None:
    steps = [one for one in RECORDS if one.case.workload.kind == DECODE and one.case.model.arch == "inter"]
    assert {one.case.model.label for one in steps} == {"inter 2+11"}
    plain, placed, even = Options(), Options(positions=(2, 7)), Options(ratio="1:1")
    known = MeasuredSteps([*steps, *(_slower(one, build_spec("inter", "1b", placed)) for one in steps)])

    def found(options: Options, scale: str) -> Efficiency:
        one = known.efficiency_of(build_spec("inter", scale, options), Workload(DECODE, 8192, 4), HALF)
        assert one is not None
        return one

    assert found(plain, "1b").floor_frac == pytest.approx(2 * found(placed, "1b").floor_frac)
    for options in (plain, placed):
        assert found(options, "3b").floor_frac == found(options, "1b").floor_frac
    assert [found(options, "1b").beyond for options in (plain, placed, even)] == ["", "", "model"]
    assert [found(options, "3b").beyond for options in (plain, placed, even)] == ["scale", "scale", "model, scale"]


def _slower(record: Record, model: ModelSpec) -> Record:
    """A record of another model in twice the time."""
    assert record.observed is not None
    observed = replace(record.observed, samples_ns=[2 * ns for ns in record.observed.samples_ns])
    return replace(record, case=replace(record.case, model=model), observed=observed)


def test_shares_and_powers_are_interpolated_over_scales_and_batches() -> None:
    """Halfway by ratio, so that both ends count alike; parameters of 350m lie between those of 100m and 1b."""
    known = MeasuredSteps(load([RESULTS / "batch"], print))

    def found(scale: str, batch: int) -> Efficiency:
        one = known.efficiency_of(build_spec("transformer", scale), Workload(DECODE, 4096, batch), HALF)
        assert one is not None
        return one

    low, between, high = (found("1b", batch) for batch in (4, 8, 16))
    assert between.floor_frac == pytest.approx((low.floor_frac + high.floor_frac) / 2)
    assert low.power_frac is not None
    assert high.power_frac is not None
    assert between.power_frac == pytest.approx((low.power_frac + high.power_frac) / 2)
    assert (low.between, between.between, between.beyond) == ("", "batch", "")

    small, large = found("100m", 4), found("1b", 4)
    without = [one for one in load([RESULTS / "batch"], print) if one.case.model.scale != "350m"]
    spec = build_spec("transformer", "350m")
    held = MeasuredSteps(without).efficiency_of(spec, Workload(DECODE, 4096, 4), HALF)
    assert held is not None
    sizes = [params(build_spec("transformer", scale)) for scale in ("100m", "350m", "1b")]
    part = math.log(sizes[1] / sizes[0]) / math.log(sizes[2] / sizes[0])
    assert held.floor_frac == pytest.approx((1 - part) * small.floor_frac + part * large.floor_frac)
    assert (held.between, held.beyond) == ("scale", "")
