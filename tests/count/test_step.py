"""A record and an audit count a step by the same formulas: whatever the mixer, their totals are one figure."""

from __future__ import annotations

import gc
from collections import Counter
from dataclasses import replace

import pytest
import torch

from hybridbench.arch.families import Options, pattern_spec
from hybridbench.audit.observe.counters import observe
from hybridbench.count.account import FVCORE, TORCH
from hybridbench.count.formulas import closed_form
from hybridbench.count.whose import is_hidden, parts_of
from hybridbench.kernels import release
from hybridbench.operations import OPERATIONS
from hybridbench.record import OperatorCount
from hybridbench.session import Proofs
from hybridbench.suite.case import Case, Execution, Sampling
from hybridbench.suite.ops import block_ops, block_uses, ops_of
from hybridbench.suite.workloads import DECODE, PREFILL, TRAIN, Workload
from hybridbench.worker import Bench, run_case

SMALL = Options(vocab_size=64)
MODELS = {
    "transformer": ("*-", SMALL),
    "swa": ("*-S-", replace(SMALL, window=40, sinks=8)),
    "mamba": ("M-", SMALL),
    "inter": ("M-*-", SMALL),
    "intra": ("(*&M)-", SMALL),
    "mamba1": ("m-", SMALL),
    "mamba3": ("3-", SMALL),
    "gated delta": ("G-", SMALL),
    "kda": ("K-", SMALL),
    "experts": ("*E", SMALL),
    "all of them": ("M-*-S-m-3-G-K-*E(*&M)-", replace(SMALL, window=40, sinks=8)),
}
BRIEFLY = Sampling(warmup_max_s=0.0, warmup_min_steps=1, min_samples=2, max_samples=2, max_time_s=1.0)


@pytest.fixture(name="bench", scope="module")
def _bench() -> Bench:
    """One device for all cases, whose rates nobody measures here."""
    return Bench(torch.device("cpu"), None, None, ceilings={"float32": None})


def tensors() -> int:
    """How many tensors there are."""
    gc.collect()
    return sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())


@pytest.mark.parametrize("kind", [TRAIN, PREFILL, DECODE])
@pytest.mark.sampled
def test_nothing_of_a_counted_step_outlives_its_case(kind: str, bench: Bench) -> None:
    """Kernels that a tracer passes as operators are called by number, with what was kept of the call."""
    hidden = {
        op: f"hybridbench.kernels.{OPERATIONS[op].family[8:]}.reference:{op}" for op in ("attention", "ssd", "ssd_step")
    }
    used = {op: path for op, path in hidden.items() if op in ops_of(pattern_spec("M-*-", "tiny", SMALL), kind)}
    execution = Execution("cpu", "float32", "eager", backends=used)
    case = Case(pattern_spec("M-*-", "tiny", SMALL), Workload(kind, 70, 2), execution, sampling=BRIEFLY)
    release()  # what earlier tests of this process left to be kept between cases
    before = tensors()
    observed, _ = run_case(case, bench)
    assert {use.ran for use in observed.backends} >= set(used.values())
    release()
    assert tensors() == before


QUICK = {("inter", TRAIN), ("all of them", DECODE)}


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        pytest.param(name, kind, marks=[] if (name, kind) in QUICK else [pytest.mark.slow])
        for name in MODELS
        for kind in (TRAIN, PREFILL, DECODE)
    ],
)
def test_a_record_and_an_audit_count_the_same(name: str, kind: str, bench: Bench) -> None:
    pattern, options = MODELS[name]
    case = Case(
        pattern_spec(pattern, "tiny", options),
        Workload(kind, 70, 2),
        Execution("cpu", "float32", "eager"),
        sampling=BRIEFLY,
    )
    observed, _ = run_case(case, bench)
    audited = observe(case, Proofs(bench.proofs.checks, bench.proofs.known)).accounts
    recorded = {count.counter: count for count in observed.counts}
    assert set(recorded) == set(audited) == {TORCH, FVCORE}
    for counter, account in audited.items():
        count = recorded[counter]
        assert account.error is None
        assert count.flops == sum(account.flops.values()) > 0
        assert count.unseen == sum((Counter(one) for one in account.unseen.values()), Counter())
        assert count == OperatorCount(counter, count.flops, count.unseen, formulas=account.formulas)
    if kind != TRAIN:
        assert recorded[TORCH].flops == pytest.approx(recorded[FVCORE].flops, rel=0.05)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("letters", ["*-", "S-", "M-", "m-", "3-", "G-", "K-", "*E", "(*&M)-"])
def test_every_kernel_past_the_dispatcher_has_a_closed_form(letters: str, training: bool) -> None:
    """Of an operation that the model has, more with a backward, and in proportion to the batch."""
    spec = pattern_spec(letters, "tiny", SMALL)
    for block, borrows in block_uses(spec):
        sequence, step = block_ops(block, borrows)
        for op in {*sequence, *step}:
            for backend in OPERATIONS[op].by_name.values():
                if not is_hidden(backend):
                    continue
                forms = []
                for batch in (1, 2):
                    shapes = {"attention": [(batch, 300, 8, 32), (batch, 300, 2, 32), (batch, 300, 2, 64)]}
                    shapes["attention_decode"] = [(batch, 8, 32), (batch, 300, 2, 32), (batch, 300, 2, 64)]
                    args = [torch.empty(*shape, device="meta") for shape in shapes.get(op, [(batch, 300, 64)])]
                    with torch.set_grad_enabled(training):
                        forms.append(closed_form(op, parts_of(op), block, tuple(args), backend.name))
                assert set(forms[0]) == set(forms[1]) == {f"{block.name} {part}" for part in parts_of(op)}, op
                assert all(0 < forms[0][name] < forms[1][name] for name in forms[0]), op
