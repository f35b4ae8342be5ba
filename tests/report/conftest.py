"""Scripted records: real cases, made-up observations, so that tables and charts can be compared to the letter."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from hybridbench import metrics
from hybridbench.derive.predicted import cache_capacity, predicted_cache
from hybridbench.predict.work import step_flops
from hybridbench.record import (
    BackendUse,
    CacheObserved,
    Energy,
    Environment,
    Memory,
    Observed,
    OperatorCount,
    Record,
    Status,
)
from hybridbench.record.traced import Spent, Trace, TraceRecord
from hybridbench.report.build import build_report
from hybridbench.report.render.folder import ReportFiles, write_report
from hybridbench.suite.case import Case
from hybridbench.suite.sweep import Sweep, cases

H200 = Environment(
    device="NVIDIA H200",
    device_kind="cuda",
    device_memory_bytes=150_754_820_096,
    cpu="Xeon",
    cores=16,
    memory_bytes=2**37,
    driver="580.0",
    cuda="13.0",
    python="3.12.1",
    platform="Linux",
    packages={"torch": "2.11.0", "triton": "3.6.0"},
    hybridbench="0.1.0",
    git_commit="0123abc",
)


def make_record(case: Case, step_s: float = 0.002, environment: Environment = H200, **changes: Any) -> Record:
    """An ok record of a case whose median step is ``step_s`` and whose bytes are exactly as predicted."""
    started_at = "2026-11-21T18:16:00+00:00"
    if changes.get("status", Status.OK) is not Status.OK:
        return replace(Record(case, Status.OK, "run", started_at, environment), **changes)
    empty = Record(case, Status.OK, "run", started_at, environment)
    cache = predicted_cache(empty)
    weights = round(metrics.value(empty, "predicted_weights_bytes") or 0)
    total = cache.total if cache else 0
    observed = Observed(
        samples_ns=[round(step_s * 1e9 * (1 + 0.01 * (i % 5 - 2))) for i in range(25)],
        steps_per_sample=1,
        warmup_steps=3,
        warmup_ns=10_000_000,
        timer="cuda events",
        parameters=round(metrics.value(empty, "predicted_params") or 0),
        memory=Memory(weights, None, None, total, weights + total + 2**28, weights + total + 2**29),
        cache=CacheObserved(cache_capacity(empty), cache.kv, cache.ssm, cache.conv) if cache else None,
        counts=[
            OperatorCount("torch", round(0.9 * step_flops(case.model, case.workload)), {"flash": 16}),
            OperatorCount("fvcore", None, {}, "the forward cannot be traced: no"),
        ],
        backends=[BackendUse("attention_decode", "auto", "triton", "triton", "3.6.0", 1e-3, 1e-2)],
        kernels=["decode_kernel"],
        gpu_before=None,
        gpu_after=None,
        energy=Energy(600.0, 2.0, 1000, 90.0) if environment.device_kind == "cuda" else None,
        build_ns=1_500_000_000,
        prepare_ns=2_500_000_000,
    )
    return replace(replace(empty, observed=observed), **changes)


@pytest.fixture(name="record_of")
def _record_of() -> Callable[..., Record]:
    return make_record


@pytest.fixture(name="h200")
def _h200() -> Environment:
    return H200


def decode_records(ctx: str = "4k..32k") -> list[Record]:
    """A decode sweep of the five families with one failure of each shape."""
    made = []
    for case in cases(Sweep("decode", ctx=ctx), has_gpu=True):
        floor = metrics.value(Record(case, Status.OK, "run", "", H200), "floor_s")
        assert floor is not None
        context = case.workload.context
        if case.model.arch == "swa" and context == 32768:
            made.append(make_record(case, status=Status.OOM, message="out of memory: 150 GiB asked, 139 GiB there"))
        elif case.model.arch == "intra" and context >= 16384:
            made.append(make_record(case, status=Status.UNSUPPORTED, message="head_dim 72: no kernel takes it"))
        else:
            made.append(make_record(case, floor * 1.4 + 1e-4))
    return made


@pytest.fixture(name="decode_records")
def _decode_records() -> list[Record]:
    return decode_records()


@pytest.fixture(scope="session", name="written")
def _written(tmp_path_factory: pytest.TempPathFactory) -> ReportFiles:
    """The report of ``decode_records``, written once. A test that changes it works on a copy."""
    return write_report(build_report(decode_records()), tmp_path_factory.mktemp("written"))


TRACED = {
    "inter": {"matrix products": 6e-4, "attention": 1e-4, "scan": 2e-4},
    "mamba": {"matrix products": 5e-4, "scan": 3e-4},
}


def trace_of(classes: dict[str, float], gap_s: float = 1e-4) -> Trace:
    spent = [Spent(name, name, seconds, 10.0) for name, seconds in classes.items()]
    busy_s = sum(classes.values())
    return Trace(busy_s + gap_s, busy_s, spent, spent, 5, list(classes))


@pytest.fixture(name="traces")
def _traces(h200: Environment) -> list[TraceRecord]:
    made = cases(Sweep("decode", arch="mamba,inter", ctx="4k"), has_gpu=True)
    return [
        TraceRecord(case, "run", f"2026-11-29T01:00:0{at}+00:00", h200, trace_of(TRACED[case.model.arch]))
        for at, case in enumerate(made)
    ]
