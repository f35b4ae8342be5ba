"""A prefill that goes on from its caches: the pieces of a prompt give what the whole prompt gives."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from variants import VARIANTS

from hybridbench.model import build_model, resolve_backends
from hybridbench.model.cache import Cache
from hybridbench.suite.case import Case, Execution
from hybridbench.suite.workloads import PREFILL, Workload

PIECES = (1, 2, 37, 40)
"""Shorter than a convolution's taps first, then longer than a window and its sinks."""
BOUNDS = {"float64": 1e-11, "float32": 2e-5, "bfloat16": 0.12}
"""In bfloat16 a difference of two attentions, as diff-transformer has, is off by 8%; all else by 1 to 3%."""


def relative(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected.double()).norm() / expected.double().norm())


def kept(caches: list[Cache | None]) -> list[Tensor]:
    """All that caches hold, in a form in which equal states are close."""
    return [tensor for cache in caches if cache is not None for tensor in cache.compared().values()]


NARROW = (
    "swa",
    "recipe paper",
    "moe intra",
    "inter mamba1",
    "inter mamba3",
    "inter gated-delta",
    "inter kda",
    "inter lightning",
    "inter rwkv7",
    "lent values",
)
EVERY = [*((name, "float64") for name in VARIANTS), *((name, d) for name in NARROW for d in ("float32", "bfloat16"))]


def takes_longer(name: str, dtype: str) -> bool:
    """Whether quick cases show the same: other fusions, and mixers in float64, which are quick beside attention."""
    others = name.startswith("fusion") and not name.startswith("fusion gate")
    return others or (name.startswith("inter ") and dtype == "float64")


CASES = [pytest.param(*one, marks=[pytest.mark.slow] if takes_longer(*one) else []) for one in EVERY]


@pytest.mark.parametrize(("name", "dtype"), CASES)
@pytest.mark.sampled
def test_pieces_give_what_the_whole_gives(name: str, dtype: str) -> None:
    spec, total, execution = VARIANTS[name], sum(PIECES), Execution("cpu", dtype, "eager")
    case = Case(spec, Workload(PREFILL, total, 2), execution)
    model = build_model(case, resolve_backends(case))
    model.allocate(torch.device("cpu"), seed=1)
    model.eval()
    token_BT = torch.randint(spec.vocab_size, (2, total), generator=torch.Generator().manual_seed(2))
    whole, parts = (model.new_caches(2, total, execution.storage) for _ in range(2))
    start = 0
    with torch.no_grad():
        expected = model.prefill(token_BT, whole)
        for length in PIECES:
            found = model.prefill(token_BT[:, start : start + length], parts, start)
            start += length
    assert relative(found, expected) < BOUNDS[dtype]
    for mine, theirs in zip(kept(parts), kept(whole), strict=True):
        assert relative(mine, theirs) < BOUNDS[dtype]
