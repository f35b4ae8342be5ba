"""The bytes that a step is predicted to exchange are those that its collectives carry, counted on 2 ranks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from two_ranks import on_ranks
from variants import small

from hybridbench.arch.families import ARCHS, Options, build_spec
from hybridbench.arch.model import ModelSpec
from hybridbench.model import across
from hybridbench.model.build import build_model, resolve_backends
from hybridbench.predict.group import GpuGroup, link_bytes
from hybridbench.ranks import sharded
from hybridbench.ranks.place import place_of
from hybridbench.suite.case import Case, Execution
from hybridbench.suite.workloads import DECODE, GENERATE, PREFILL, TRAIN, Workload
from hybridbench.workload import prepare

pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
RANKS = 2
SPECS = {
    **{name: small(build_spec(name, "toy")) for name in ARCHS},
    **{m: small(build_spec("inter", "tiny", Options(mixer=m))) for m in ("gated-delta", "kda", "mamba3", "rwkv7")},
    "experts": small(build_spec("inter", "tiny", Options(moe=True))),
    "gate": small(build_spec("intra", "tiny", Options(fusion_scale="gate"))),
}
QUICK = ("inter", "intra")
WORKS = {
    TRAIN: Workload(TRAIN, 40, 2),
    PREFILL: Workload(PREFILL, 40, 2),
    DECODE: Workload(DECODE, 40, 2),
    GENERATE: Workload(GENERATE, 45, 2, 37),
}


def size(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def moved(spec: ModelSpec, work: Workload, dtype: str, spread: dict[str, int]) -> dict[str, int]:
    """Bytes of a step's collectives: results of all-reduces, and of the others what comes from or goes to the other."""
    case = Case(spec, work, Execution("cpu", dtype, "eager", **spread))
    place = place_of(case)
    assert place is not None
    resolved = resolve_backends(place.part)
    model = build_model(place.part, resolved)
    place.allocate(model, resolved, torch.device("cpu"))
    ready = prepare(place.part, model)
    ready.step()
    counted: Counter[str] = Counter()
    reduce, gather, scatter = dist.all_reduce, across.all_gather, across.reduce_scatter

    def counting(name: str, function: Callable[..., Any], amount: Callable[..., int]) -> Callable[..., Any]:
        def call(*given: Any, **options: Any) -> Any:
            counted[name] += amount(*given)
            return function(*given, **options)

        return call

    dist.all_reduce = counting("all_reduced", reduce, size)
    across.all_gather = sharded.all_gather = counting("gathered", gather, lambda out, mine, *_: size(out) - size(mine))
    across.reduce_scatter = sharded.reduce_scatter = counting(
        "scattered", scatter, lambda out, every, *_: size(every) - size(out)
    )
    ready.step()
    return dict(counted)


@pytest.mark.parametrize("kind", WORKS)
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in SPECS]
)
@pytest.mark.sampled
def test_ranks_that_share_every_sublayer_move_the_bytes_predicted(name: str, kind: str) -> None:
    spec, work = SPECS[name], WORKS[kind]
    predicted = link_bytes(spec, work, Execution("cpu", "bfloat16", "eager").storage, GpuGroup(RANKS, RANKS))
    loss = 4 if kind == TRAIN else 0  # the one number that is left out
    wanted = {"all_reduced": predicted.all_reduced + loss, "gathered": predicted.gathered}
    wanted |= {"scattered": predicted.scattered} if kind == TRAIN else {}
    assert on_ranks(RANKS, moved, spec, work, "bfloat16", {"tp": RANKS}) == [wanted] * RANKS


@pytest.mark.parametrize("name", ARCHS)
@pytest.mark.sampled
def test_ranks_that_shard_every_weight_move_the_bytes_predicted(name: str) -> None:
    spec, each = SPECS[name], Workload(TRAIN, 40, 1)
    predicted = link_bytes(spec, each, Execution("cpu", "bfloat16", "eager").storage, GpuGroup(RANKS))
    wanted = {"gathered": predicted.gathered, "scattered": predicted.scattered}
    wanted |= {"all_reduced": predicted.all_reduced} if predicted.all_reduced else {}
    assert on_ranks(RANKS, moved, spec, WORKS[TRAIN], "bfloat16", {"gpus": RANKS}) == [wanted] * RANKS
