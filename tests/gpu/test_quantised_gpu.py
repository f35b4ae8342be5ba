"""Decode steps on codes of 8 bits on a GPU: against the modules, captured against not, and the bytes that they hold."""

from __future__ import annotations

import importlib
from dataclasses import replace

import pytest
import torch

from hybridbench.arch import model as arch
from hybridbench.arch.families import build_spec, pattern_spec
from hybridbench.arch.kinds import KINDS, MIXERS
from hybridbench.arch.model import ModelSpec
from hybridbench.capture import captured
from hybridbench.measure.memory import weights_bytes
from hybridbench.model import build_model, resolve_backends
from hybridbench.model.cache import Cache
from hybridbench.model.kinds import STEPS
from hybridbench.model.quantised import QuantisedLinear, quantise_rows
from hybridbench.model.step import BOUND, both_ways
from hybridbench.session import Proofs, open_session
from hybridbench.sizes import E4M3_SINCE
from hybridbench.suite.case import GRAPH, Case, Execution
from hybridbench.suite.workloads import DECODE, Workload
from hybridbench.workload.at_size.quantised import QUANTISED
from hybridbench.workload.prepared import present

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.skipif(
        torch.cuda.is_available() and torch.cuda.get_device_capability() < E4M3_SINCE, reason="the GPU has no E4M3"
    ),
]

CONTEXT = 2500
FUSED = [row.mixer for row in KINDS if row.spec in STEPS and row.mixer in MIXERS]
SPECS = {
    **{family: build_spec(family, "1b") for family in ("transformer", "swa", "mamba", "inter", "intra")},
    **{f"with {mixer}": pattern_spec(f"{MIXERS[mixer]}-*-(*&{MIXERS[mixer]})-", "1b") for mixer in FUSED if mixer},
}


def case_of(spec: ModelSpec, batch: int, weight_dtype: str | None = "fp8", kv_dtype: str | None = "fp8") -> Case:
    execution = Execution("cuda", "bfloat16", GRAPH, weight_dtype=weight_dtype, kv_dtype=kv_dtype)
    return Case(spec, Workload(DECODE, CONTEXT, batch), execution)


@pytest.mark.parametrize("weight_dtype", ["fp8", "int8", None])
def test_a_whole_session_is_verified_at_its_size(weight_dtype: str | None) -> None:
    case = case_of(SPECS["inter"], 4, weight_dtype)
    session = open_session(case, torch.device("cuda"), Proofs())
    assert any(item.backend.name == "fused" for item in session.resolved)
    checks = {check.what: check for check in session.sized}
    assert checks["a decode step"].error <= checks["a decode step"].bound
    print({what: f"{check.error:.2e}" for what, check in checks.items()})  # noqa: T201
    assert QUANTISED in checks
    assert weights_bytes(session.model) == arch.weight_bytes(case.model, case.execution.storage)


@pytest.mark.parametrize("batch", [1, 11, 33, 256])
@pytest.mark.parametrize("name", SPECS)
def test_fused_is_what_the_modules_compute(name: str, batch: int) -> None:
    if batch > 11 and "with" in name:
        pytest.skip("other mixers share the kernels of many sequences")
    case = case_of(SPECS[name], batch)
    model = build_model(case, resolve_backends(case))
    assert model.fused_step is not None, "the fused step is what auto takes here"
    model.allocate(torch.device("cuda"), 0)
    assert float(model.quantise("fp8")) < 3.5e-2
    caches: list[Cache | None] = model.new_caches(batch, CONTEXT + 1, case.execution.storage)
    generator = torch.Generator(device="cuda").manual_seed(0)
    for cache in present(caches):
        cache.fill(generator)
    token_B = torch.randint(case.model.vocab_size, (batch,), device="cuda", generator=generator)
    position_B = torch.full((batch,), CONTEXT, device="cuda")
    plan = model.fused_step(model, caches, token_B, position_B, advance=False)
    with torch.no_grad():
        plain = lambda: model.decode(token_B, position_B, caches)  # noqa: E731
        errors = both_ways(plain, plan, present(caches), (token_B, position_B))
        print(f"{name} b{batch}: {max(errors.values()):.2e}")  # noqa: T201
        assert max(errors.values()) < BOUND
        first = plan().clone()
        token_B.copy_(first.argmax(-1))
        replay = captured(plan)
        token_B.copy_(first.argmax(-1))
        second = plan().clone()
        token_B.copy_(first.argmax(-1))
        replay()
        if not [one for cache in present(caches) for kind in ("ssm", "conv") for one in cache.tensors().get(kind, [])]:
            assert torch.equal(plan.logits_BV, second), "a replay computes what its launches do"


@pytest.mark.parametrize("scheme", ["fp8", "int8"])
def test_codes_are_made_on_a_gpu_as_on_a_cpu(scheme: str) -> None:
    from hybridbench.arch.weights import SCHEMES

    matrix = torch.randn(300, 1024, generator=torch.Generator().manual_seed(0))
    on_cpu, on_gpu = (quantise_rows(x, SCHEMES[scheme]) for x in (matrix, matrix.cuda()))
    for here, there in zip(on_cpu, on_gpu, strict=True):
        apart = (here.float() - there.float().cpu()).abs() > 0
        assert float(apart.float().mean()) < 1e-3, "a division rounds a last bit otherwise at most"
    assert torch.equal(on_cpu[1], on_gpu[1].cpu()), "scales are products, which every device rounds alike"


def test_every_code_is_converted_exactly_and_float16_saturates() -> None:
    assert importlib.import_module("narrow_kernels").wrong("cuda") == []  # of tests/kernels


def test_a_rank_of_quantised_layers_is_what_a_model_has() -> None:
    case = case_of(replace(SPECS["inter"]), 1)
    model = build_model(case, resolve_backends(case))
    model.allocate(torch.device("cuda"), 0)
    before = torch.cuda.memory_allocated()
    model.quantise("fp8")
    made = sum(isinstance(module, QuantisedLinear) for module in model.modules())
    assert made == 2 * len(case.model.layers)
    torch.cuda.synchronize()
    assert torch.cuda.memory_allocated() < 0.6 * before, "plain weights are given back"
