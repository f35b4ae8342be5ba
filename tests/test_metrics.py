"""Metrics against numbers worked out by hand for a 1B Transformer on one H200, and what must be unknown is None."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest

from hybridbench.arch import model as arch
from hybridbench.derive.doubts import doubts, problems
from hybridbench.derive.predicted import predicted_cache
from hybridbench.metrics import METRICS, value
from hybridbench.record import (
    BackendUse,
    CacheObserved,
    Caveat,
    Ceilings,
    Energy,
    Environment,
    Memory,
    Observed,
    OperatorCount,
    Record,
    Status,
)
from hybridbench.suite.case import Case
from hybridbench.suite.sweep import Sweep, cases

H200 = Environment("NVIDIA H200", "cuda", None, "CPU", 16, None, None, None, "3.12", "Linux", {}, "0", None)
CPU = replace(H200, device_kind="cpu")

# The paper's 1B Transformer: 16 blocks of attention (Q and O 2048x2048, K and V 2048x512) and SwiGLU (3 x 2048x8192),
# a norm weight before each of 32 sublayers and one at the end, and 128,256 tied embedding rows.
LINEAR = 16 * (2 * 2048 * 2048 + 2 * 2048 * 512 + 3 * 2048 * 8192)
EMBEDDING = 128_256 * 2048
PARAMS = LINEAR + EMBEDDING + 33 * 2048
KV_PER_TOKEN = 16 * 2 * 8 * 64 * 2
BF16, TF32, BANDWIDTH = 989.4e12, 494.7e12, 4.8e12


def one_case(workload: str, **sweep: Any) -> Case:
    (case,) = cases(Sweep(workload, **{"arch": "transformer", "batch": "4", **sweep}), has_gpu=True)
    return case


def ok(case: Case, samples_s: list[float], environment: Environment = H200) -> Record:
    cache = predicted_cache(Record(case, Status.OK, "r", "", environment))
    observed = Observed(
        samples_ns=[round(sample * 1e9) for sample in samples_s],
        steps_per_sample=1,
        warmup_steps=1,
        warmup_ns=1,
        timer="t",
        parameters=arch.params(case.model),
        memory=Memory(100, 20, None, 7, 200, 300),
        cache=CacheObserved(case.workload.context + 1, cache.kv, cache.ssm, cache.conv) if cache else None,
        counts=[OperatorCount("torch", 6_000, {}), OperatorCount("fvcore", None, {}, "no")],
        backends=[],
        kernels=[],
        gpu_before=None,
        gpu_after=None,
        energy=Energy(energy_j=500.0, window_s=2.0, steps=1000, idle_power_w=None),
        build_ns=1_500_000_000,
        prepare_ns=0,
    )
    return Record(case, Status.OK, "r", "", environment, observed)


DECODE = ok(one_case("decode", ctx="4k"), [0.003, 0.001, 0.002, 0.002, 0.004])


def test_the_decode_floor_of_the_papers_transformer() -> None:
    moved = 2 * PARAMS + 4 * (4097 * KV_PER_TOKEN + 2 * 2048)
    assert value(DECODE, "must_move_bytes") == moved == 3_008_647_168
    assert value(DECODE, "floor_s") == pytest.approx(moved / BANDWIDTH)
    assert value(DECODE, "floor_s") == pytest.approx(626.8e-6, rel=1e-4)
    assert value(DECODE, "floor_frac") == pytest.approx(0.3134, rel=1e-3)
    assert value(DECODE, "mbu_frac") == pytest.approx(moved / 0.002 / BANDWIDTH)


def test_decode_flops_and_utilisation() -> None:
    # Scores and values: 32 heads, 64 + 64 wide, over 4097 keys, a multiply-add being 2, in 16 layers.
    flops = 4 * (2 * (LINEAR + EMBEDDING) + 16 * 2 * 32 * 128 * 4097)
    assert value(DECODE, "model_flops") == flops
    assert value(DECODE, "model_flops_per_token") == flops / 4
    assert value(DECODE, "model_flops_per_s") == pytest.approx(flops / 0.002)
    assert value(DECODE, "mfu_frac") == pytest.approx(flops / 0.002 / BF16)
    # The paper leaves out the head and the key of the new token; tiles of 128 round 4097 keys up to 33 tiles.
    assert value(DECODE, "paper_flops") == 4 * (2 * LINEAR + 16 * 2 * 32 * 128 * 4096)
    hardware = 4 * (2 * (LINEAR + EMBEDDING) + 16 * 2 * 32 * 128 * 33 * 128)
    assert value(DECODE, "hfu_frac") == pytest.approx(hardware / 0.002 / BF16)


def test_times_and_throughput_come_from_the_samples() -> None:
    assert value(DECODE, "step_s") == 0.002
    assert value(DECODE, "step_low_s") == 0.001
    assert value(DECODE, "step_high_s") == 0.004
    assert value(DECODE, "step_p05_s") == pytest.approx(0.0012)
    assert value(DECODE, "step_p95_s") == pytest.approx(0.0038)
    assert value(DECODE, "step_p99_s") == pytest.approx(0.00396)
    assert value(DECODE, "samples") == 5
    assert value(DECODE, "tokens_per_s") == 4 / 0.002
    assert value(DECODE, "token_s") == 0.002
    assert value(DECODE, "build_s") == 1.5


def test_bytes_joules_and_counters() -> None:
    assert value(DECODE, "predicted_params") == value(DECODE, "params") == PARAMS
    assert value(DECODE, "predicted_weights_bytes") == 2 * PARAMS
    assert value(DECODE, "weights_bytes") == 100
    assert value(DECODE, "activations_bytes") == 200 - 100 - 20 - 7
    assert value(DECODE, "optimizer_bytes") is None
    assert value(DECODE, "predicted_cache_bytes") == value(DECODE, "cache_bytes") == 4 * 4097 * KV_PER_TOKEN
    assert value(DECODE, "ssm_state_bytes") == 0
    assert value(DECODE, "energy_per_token_j") == 500 / 4000
    assert value(DECODE, "power_w") == 250
    assert value(DECODE, "torch_flops") == 6000
    model_flops = METRICS["model_flops"].compute(DECODE)
    assert model_flops is not None
    assert value(DECODE, "torch_ratio") == pytest.approx(6000 / model_flops)
    assert value(DECODE, "fvcore_flops") is None
    assert value(DECODE, "fvcore_ratio") is None


def test_training_is_bound_by_arithmetic() -> None:
    record = ok(one_case("train", ctx="8k"), [1.0])
    pairs = 8192 * 8193 // 2
    flops = 3 * 4 * (2 * (LINEAR + EMBEDDING) * 8192 + 16 * 2 * 32 * 128 * pairs)
    assert value(record, "model_flops") == flops
    assert value(record, "floor_s") == pytest.approx(flops / BF16)
    assert value(record, "must_move_bytes") == 2 * PARAMS
    assert value(record, "tokens_per_s") == 4 * 8192
    assert value(record, "token_s") is None
    assert value(record, "predicted_cache_bytes") is None
    # 61.0 TFLOP a sample is the paper's own figure, which leaves out the head.
    assert value(record, "paper_flops") == pytest.approx(4 * 61.0e12, rel=1e-3)
    # fvcore sees the forward alone.
    assert record.observed is not None
    seen = replace(record.observed, counts=[OperatorCount("fvcore", flops // 3, {})])
    assert value(replace(record, observed=seen), "fvcore_ratio") == pytest.approx(1)


def test_prefill_moves_weights_once_and_writes_the_cache() -> None:
    record = ok(one_case("prefill", ctx="4k"), [0.1])
    assert value(record, "must_move_bytes") == 2 * PARAMS + 4 * 4096 * KV_PER_TOKEN
    head = 4 * 2 * EMBEDDING
    assert value(record, "model_flops") == 4 * (2 * LINEAR * 4096 + 16 * 2 * 32 * 128 * 4096 * 4097 // 2) + head


@pytest.mark.parametrize("family", ["transformer", "swa", "mamba", "inter", "intra"])
def test_a_generation_is_a_prefill_and_its_decode_steps_one_by_one(family: str) -> None:
    case = one_case("generate", arch=family, ctx="768", batch="2")
    record, storage = ok(case, [2.0]), case.execution.storage
    depths = range(512, 768)
    flops = arch.prefill_flops(case.model, 512).total + sum(arch.decode_flops(case.model, d).total for d in depths)
    assert value(record, "model_flops") == 2 * flops
    decoded = sum(arch.decode_bytes_moved(case.model, d, 2, storage) for d in depths)
    prefilled = arch.weight_bytes(case.model, storage) + 2 * arch.cache_bytes(case.model, 512, storage).total
    assert value(record, "must_move_bytes") == prefilled + decoded
    floor = max(prefilled / BANDWIDTH, 2 * arch.prefill_flops(case.model, 512).total / BF16) + decoded / BANDWIDTH
    assert value(record, "floor_s") == pytest.approx(floor)
    assert value(record, "tokens_per_s") == 2 * 256 / 2.0
    assert value(record, "token_s") == pytest.approx(2.0 / 256)
    assert value(record, "hfu_frac") is None
    # The counters see the prefill, one of them with a decode step behind it.
    prefill = 2 * arch.prefill_flops(case.model, 512).total
    one = 2 * arch.decode_flops(case.model, 512).total
    assert record.observed is not None
    counts = [OperatorCount("torch", prefill + one, {}), OperatorCount("fvcore", prefill, {})]
    counted = replace(record, observed=replace(record.observed, counts=counts))
    assert value(counted, "torch_ratio") == value(counted, "fvcore_ratio") == 1


def test_experts_no_token_is_routed_to_are_not_read() -> None:
    one = ok(one_case("prefill", ctx="1", batch="1", moe=True, scale="tiny"), [1.0])
    many = ok(one_case("prefill", ctx="4k", batch="1", moe=True, scale="tiny"), [1.0])
    all_weights = arch.weight_bytes(many.case.model, many.case.execution.storage)
    assert (value(one, "must_move_bytes") or 0) < all_weights
    cache = arch.cache_bytes(many.case.model, 4096, many.case.execution.storage).total
    assert value(many, "must_move_bytes") == all_weights + cache


@pytest.mark.parametrize("environment", [CPU, replace(H200, device="NVIDIA H200 MIG 1g.18gb")])
def test_an_unknown_machine_has_no_peak_and_no_share_of_it(environment: Environment) -> None:
    record = replace(DECODE, environment=environment)
    for name in ("floor_s", "floor_frac", "mfu_frac", "hfu_frac", "mbu_frac"):
        assert value(record, name) is None
    assert value(record, "model_flops_per_s") is not None
    assert problems(record) == []


@pytest.mark.parametrize(("dtype", "peak"), [("float16", BF16), ("float32", TF32), ("float64", None)])
def test_the_peak_is_that_of_the_dtype(dtype: str, peak: float | None) -> None:
    record = ok(one_case("train", ctx="1k", dtype=dtype), [1.0])
    flops = value(record, "model_flops")
    assert flops is not None
    assert value(record, "mfu_frac") == (None if peak is None else pytest.approx(flops / peak))


@pytest.mark.parametrize("status", [status for status in Status if status is not Status.OK])
def test_a_case_that_failed_has_predictions_but_no_speed(status: Status) -> None:
    record = replace(DECODE, status=status)
    for name in ("step_s", "tokens_per_s", "mfu_frac", "floor_frac", "cache_bytes", "torch_ratio", "power_w"):
        assert value(record, name) is None
    for name in ("model_flops", "floor_s", "predicted_cache_bytes", "must_move_bytes"):
        assert value(record, name) == value(DECODE, name)
    assert problems(record) == []


def test_every_metric_is_a_number_or_unknown_for_every_workload() -> None:
    for workload in ("train", "prefill", "decode", "generate"):
        record = ok(one_case(workload, ctx="1k", scale="tiny"), [1e-3])
        bare = replace(record, observed=None, status=Status.OOM)
        for name, metric in METRICS.items():
            assert metric.name == name
            for one in (record, bare):
                number = metric.compute(one)
                assert number is None or isinstance(number, int | float)


def test_a_step_faster_than_its_floor_is_a_problem() -> None:
    fast = ok(DECODE.case, [0.0006])
    assert value(fast, "floor_frac") == pytest.approx(626.8 / 600, rel=1e-3)
    (sentence,) = problems(fast)
    assert sentence.startswith("faster than the floor (1.04 times)")


def test_contradictions_between_observed_and_predicted_are_problems() -> None:
    seen = DECODE.observed
    assert seen is not None
    assert seen.cache is not None
    assert problems(DECODE) == []
    short = replace(seen.cache, kv_cache_bytes=seen.cache.kv_cache_bytes - 2)
    swapped = BackendUse("attention_decode", "flash", "sdpa", "torch", None, None, None)
    chosen = replace(swapped, asked="auto")
    bad = replace(seen, parameters=7, cache=short, backends=[swapped, chosen])
    assert problems(replace(DECODE, observed=bad)) == [
        f"parameters: 7 observed, {PARAMS:,} predicted",
        f"KV cache bytes: {4 * 4097 * KV_PER_TOKEN - 2:,} observed, {4 * 4097 * KV_PER_TOKEN:,} predicted",
        "attention_decode ran on sdpa where flash was asked for",
    ]


def test_a_kernel_beyond_its_limit_is_a_doubt_found_on_reading_and_never_where_the_size_was_checked() -> None:
    """One H200 gave wrong logits from the second of four prompts of 128k on with this kernel, and right ones at 32k."""

    def prefilled(ctx: str, ran: str) -> Record:
        (case,) = cases(Sweep("prefill", arch="mamba", scale="1b", ctx=ctx, batch="4", device="cuda"), has_gpu=True)
        record = ok(case, [1.0])
        assert record.observed is not None
        use = BackendUse("mamba2_core", "fused", ran, "mamba_ssm", None, 0.0, 1.0)
        return replace(record, observed=replace(record.observed, backends=[use]))

    affected = prefilled("128k", "fused")
    assert affected.caveats == []
    assert doubts(affected) == [Caveat.BEYOND_LIMIT]
    assert doubts(replace(affected, caveats=[Caveat.UNSTEADY])) == [Caveat.UNSTEADY, Caveat.BEYOND_LIMIT]
    assert doubts(prefilled("32k", "fused")) == doubts(prefilled("128k", "one-pass")) == []
    assert doubts(prefilled("128k", "fused, 1 row at a time")) == []
    assert doubts(replace(affected, status=Status.OOM, observed=None)) == []
    assert not any("asked for" in problem for problem in problems(prefilled("128k", "fused, 1 row at a time")))
    seen = affected.observed
    assert seen is not None
    checked = copy.copy(seen)
    object.__setattr__(checked, "sized", ["compared at its size"])
    assert doubts(replace(affected, observed=checked)) == []


def with_ceilings(record: Record, flops_per_s: float, bytes_per_s: float) -> Record:
    assert record.observed is not None
    ceilings = Ceilings("bfloat16", flops_per_s, bytes_per_s, bytes_per_s)
    return replace(record, observed=replace(record.observed, ceilings=ceilings))


def test_measured_ceilings_make_the_floor_and_leave_utilisation_to_the_datasheet() -> None:
    slower = with_ceilings(DECODE, BF16, BANDWIDTH / 2)
    assert value(slower, "floor_s") == pytest.approx(2 * value(DECODE, "floor_s"))
    assert value(slower, "mbu_frac") == value(DECODE, "mbu_frac")
    assert value(slower, "ceiling_bytes_per_s") == BANDWIDTH / 2
    assert value(DECODE, "ceiling_bytes_per_s") is None


@pytest.mark.parametrize(("workload", "judged"), [("train", True), ("prefill", True), ("decode", False)])
def test_the_sustained_product_is_beside_the_floor_and_never_in_it(workload: str, judged: bool) -> None:
    burst = with_ceilings(ok(one_case(workload, ctx="4k"), [0.2]), BF16, BANDWIDTH)
    assert burst.observed is not None
    assert burst.observed.ceilings is not None
    assert value(burst, "sustained_frac") is value(burst, "sustained_flops_per_s") is None
    ceilings = replace(burst.observed.ceilings, sustained_matmul_flops_per_s=BF16 / 4)
    sustained = replace(burst, observed=replace(burst.observed, ceilings=ceilings))
    assert value(sustained, "sustained_flops_per_s") == BF16 / 4
    share = pytest.approx(4 * value(burst, "mfu_frac")) if judged else None
    assert value(sustained, "sustained_frac") == share
    for name in ("floor_s", "floor_frac", "ceiling_flops_per_s"):
        assert value(sustained, name) == value(burst, name) is not None


def test_a_cpu_has_a_floor_by_its_ceilings_and_still_no_peak() -> None:
    on_cpu = replace(with_ceilings(DECODE, 1e11, 1e10), environment=CPU)
    assert value(on_cpu, "floor_s") == pytest.approx(value(DECODE, "must_move_bytes") / 1e10)
    assert value(on_cpu, "mfu_frac") is None


def test_beating_a_measured_ceiling_is_a_cache_but_beating_the_datasheet_is_an_error() -> None:
    cached = with_ceilings(DECODE, BF16, BANDWIDTH / 10)
    assert value(cached, "floor_frac") > 1
    assert not problems(cached)
