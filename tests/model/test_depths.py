"""A generation integrated over depths takes what it takes when truly generated, on a clock that its kernels drive."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from variants import VARIANTS

from hybridbench.kernels import backends, resolver
from hybridbench.kernels.attention import reference
from hybridbench.measure.sampling import measure, measure_parts
from hybridbench.metrics import value
from hybridbench.model import build_model, resolve_backends
from hybridbench.record import Environment, Memory, Observed, Part, Record, Status
from hybridbench.suite.case import Case, Execution, Sampling
from hybridbench.suite.workloads import Workload
from hybridbench.workload import prepare

CPU = Environment("CPU", "cpu", None, "CPU", 1, None, None, None, "3.12", "Linux", {}, "0", None)


class KernelClock:
    """Time passes in attention alone: a fixed cost a call, so much for each token cached, and its square."""

    name, resolution_ns = "kernels", 1

    def __init__(self) -> None:
        self.now_ns = 0
        self.per_token, self.curve = 1000, 0

    def passed(self, lengths: int) -> None:
        self.now_ns += 50_000 + self.per_token * lengths + self.curve * lengths * lengths

    def sample(self, step, count):
        durations = []
        for _ in range(count):
            before = self.now_ns
            step()
            durations.append(self.now_ns - before)
        return durations

    def runs(self, count):
        return count


@pytest.fixture
def clock(monkeypatch):
    """A clock that runs while attention's decode step does, in every mode."""
    found = KernelClock()

    def timed(kernel):
        def attention_decode(q_BHP, k_BSKP, v_BSKV, length_B=None):
            if length_B is None:
                length_B = torch.full((q_BHP.shape[0],), k_BSKP.shape[1], dtype=torch.int32)
            found.passed(int(length_B[0]))
            return kernel(q_BHP, k_BSKP, v_BSKV, length_B)

        return attention_decode

    known = backends("attention_decode")
    for name in ("sdpa-mask", "naive"):
        known[name] = replace(known[name], load=lambda: timed(reference.attention_decode))
    monkeypatch.setattr(resolver, "backends", lambda op: known if op == "attention_decode" else backends(op))
    return found


def record_of(case, clock) -> Record:
    """The case, run as a worker would, on this clock."""
    model = build_model(case, resolve_backends(case))
    model.allocate(torch.device("cpu"), 0)
    work = prepare(case, model)
    if work.parts:
        timed = measure_parts([(part.enter, part.step) for part in work.parts], clock, case.sampling)
        parts = [Part(part.context, one.samples_ns) for part, one in zip(work.parts, timed, strict=True)]
        samples = []
    else:
        samples, parts = measure(work.step, clock, case.sampling).samples_ns, []
    slots = 2 if case.execution.mode == "published" else 1
    assert {x.shape[slots] for cache in work.caches for x in cache.tensors().get("kv", [])} == {work.capacity}
    nothing = Memory(1, None, None, None, None, None)
    observed = Observed(samples, 1, 1, 1, "kernels", 1, nothing, None, [], [], [], None, None, None, 1, 1, parts=parts)
    return Record(case, Status.OK, "run", "", CPU, observed)


def both(name, mode, clock, total=96, depths=5):
    """A generation of 32 prompt tokens to ``total``: integrated, and truly generated."""
    sampling = Sampling(warmup_max_s=1e-9, max_samples=1, min_samples=1, max_time_s=1e-9)
    case = Case(VARIANTS[name], Workload("generate", total, 2, 32), Execution("cpu", "float32", mode), sampling)
    integrated = replace(case, workload=replace(case.workload, depths=depths))
    return record_of(integrated, clock), record_of(case, clock)


@pytest.mark.parametrize("mode", ["eager", "published"])
def test_a_cost_that_grows_with_every_token_is_integrated_exactly(mode, clock):
    integrated, generated = both("transformer", mode, clock)
    # 2 attentions; a step with n tokens cached sees n + 1.
    exact = sum(2 * (50_000 + 1000 * (n + 1)) for n in range(32, 96))
    assert value(generated, "step_s") == pytest.approx(exact / 1e9, rel=1e-12)
    assert value(integrated, "step_s") == pytest.approx(exact / 1e9, rel=1e-12)
    assert value(integrated, "integration_frac") == pytest.approx(0, abs=1e-12)
    assert value(integrated, "tokens_per_s") == pytest.approx(2 * 64 / (exact / 1e9), rel=1e-12)
    assert value(integrated, "prefill_part_s") == 0
    assert value(integrated, "samples") == 6
    assert value(integrated, "step_p95_s") is None
    assert value(generated, "integration_frac") is None


def test_the_estimated_error_covers_the_true_one(clock):
    clock.curve = 40
    integrated, generated = both("inter", "eager", clock)
    found, exact = value(integrated, "step_s"), value(generated, "step_s")
    off, estimate = abs(found - exact) / found, value(integrated, "integration_frac")
    assert 0 < off < estimate < 0.1
    finer, _ = both("inter", "eager", clock, depths=17)
    assert abs(value(finer, "step_s") - exact) / exact < off / 10


def test_a_prefill_and_a_step_that_differ_are_added_up_as_often_as_they_run():
    case = Case(VARIANTS["mamba"], Workload("generate", 20, 3, 8, depths=3), Execution("cpu", "float32", "eager"))
    assert case.workload.timed_contexts == (8, 13, 19)
    parts = [
        Part(None, [7, 5, 6]),
        Part(8, [1, 1]),
        Part(13, [2, 4]),
        Part(19, [3, 3]),
    ]
    nothing = Memory(1, None, None, None, None, None)
    observed = Observed([], 1, 1, 1, "t", 1, nothing, None, [], [], [], None, None, None, 1, 1, parts=parts)
    record = Record(case, Status.OK, "run", "", CPU, observed)
    # Medians 6 and 1, 3, 3: steps of 1, 1.4, 1.8, 2.2, 2.6 and seven of 3 ns follow a prefill of 6.
    assert value(record, "step_s") == pytest.approx((6 + 9 + 21) * 1e-9)
    # The lowest samples are 5 and 1, 2, 3: 1 to 2 in fifths without the last, then 2 to 3 in sixths.
    assert value(record, "step_low_s") == pytest.approx((5 + 7 + 17.5) * 1e-9)
    # Without the middle one 1 to 3 in elevenths: 24.
    assert value(record, "integration_frac") == pytest.approx((30 - 24) / 36)
