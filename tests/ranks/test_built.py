"""What is predicted of one rank under tensor parallelism is what a rank builds: parameters, products, cache bytes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from variants import small

from hybridbench.arch import model as arch
from hybridbench.arch.block import Convention
from hybridbench.arch.families import ARCHS, Options, build_spec
from hybridbench.arch.kinds import MIXERS
from hybridbench.arch.model import ModelSpec, shard
from hybridbench.arch.operations import operations
from hybridbench.count.by_torch import count_with_torch
from hybridbench.count.caches import count_cache
from hybridbench.errors import BadInput
from hybridbench.model.across import Across
from hybridbench.model.build import build_model, parameter_count, resolve_backends
from hybridbench.suite.case import Case, Execution
from hybridbench.suite.spread import part_of_case
from hybridbench.suite.workloads import DECODE, Workload
from hybridbench.workload import prepare

BATCH, CONTEXT = 3, 41
CORES = ("core", "conv", "scan")
"""Ends of the names of operations that kernels do and no product does."""


def models(scale: str) -> dict[str, ModelSpec]:
    """Every family, every mixer between and beside attention, and experts."""
    found = {name: build_spec(name, scale) for name in ARCHS}
    found |= {f"{arch} {m}": build_spec(arch, scale, Options(mixer=m)) for arch in ("inter", "intra") for m in MIXERS}
    return found | {f"{arch} moe": build_spec(arch, scale, Options(moe=True)) for arch in ("transformer", "inter")}


def shared(scale: str) -> Iterator[tuple[str, ModelSpec, int]]:
    for name, spec in models(scale).items():
        for tp in (2, 4):
            try:
                shard(spec, tp)
            except BadInput:
                continue
            yield name, spec, tp


def on_a_rank(spec: ModelSpec, tp: int) -> Case:
    return part_of_case(Case(spec, Workload(DECODE, CONTEXT, BATCH), Execution("cpu", "bfloat16", "eager", tp=tp)))


@pytest.mark.parametrize("scale", ["tiny", "1b", "3b"])
def test_a_rank_holds_the_parameters_and_the_cache_bytes_predicted_of_it(scale: str) -> None:
    seen = set()
    for name, spec, tp in shared(scale):
        case = on_a_rank(spec, tp)
        model, storage = build_model(case, []), case.execution.storage
        predicted = arch.rank_cost(spec, tp, CONTEXT, BATCH, Convention.EXACT, storage)
        assert parameter_count(model) == predicted.params, (name, tp)
        bytes_held = sum(one.numel() * one.element_size() for one in model.parameters())
        assert bytes_held == predicted.weight_bytes, (name, tp)
        kept = count_cache([one for one in model.new_caches(BATCH, CONTEXT, storage) if one is not None], CONTEXT)
        found = kept.kv_cache_bytes, kept.ssm_state_bytes, kept.conv_state_bytes
        wanted = predicted.kv_cache_bytes, predicted.ssm_state_bytes, predicted.conv_state_bytes
        assert found == tuple(BATCH * size for size in wanted), (name, tp)
        seen.add((name, tp))
    every = {(name, tp) for name in models(scale) for tp in (2, 4)}
    assert seen == every if scale == "3b" else len(seen) > 30, every - seen


@pytest.mark.parametrize(
    ("name", "spec", "tp"), [pytest.param(*one, id=f"{one[0]} {one[2]}") for one in shared("tiny")]
)
@pytest.mark.sampled
def test_a_rank_multiplies_as_often_as_predicted_of_it(name: str, spec: ModelSpec, tp: int) -> None:
    """The matrix products of a decode step, as a dispatcher counts them, of every operation and of the head."""
    case = on_a_rank(small(spec), tp)
    resolved = resolve_backends(case)
    model = build_model(case, resolved)
    model.allocate(torch.device("cpu"), 0)
    model.across = Across(0, tp, spec.vocab_size)
    model.across.silent = True  # what the other ranks have is not there, and changes no shape
    account, _ = count_with_torch(prepare(case, model).eager_step, model, resolved)
    assert account.error is None
    predicted = operations(case.model, "decode", CONTEXT)
    products = {one: flops for one, flops in predicted.items() if one.rpartition(" ")[2] not in CORES}
    assert {one: account.flops.get(one) for one in products} == {one: BATCH * flops for one, flops in products.items()}
