"""Windows, sinks and unequal widths on the CPU's flash kernel: right at every edge of a block, and linear in length."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hybridbench.errors import Unsupported
from hybridbench.kernels import Problem, resolve
from hybridbench.kernels.attention import reference
from hybridbench.kernels.attention.blocks import load_blocks
from hybridbench.sizes import QUERY_BLOCK, query_blocks

attention = load_blocks()

WINDOWS = [(2, 0), (1, 3), (40, 8), (QUERY_BLOCK, 0), (QUERY_BLOCK + 1, 1), (300, 270), (600, 64)]
"""Windows and sinks, shorter and longer than a block each."""
EDGES = [-1, 0, 1, QUERY_BLOCK - 1, QUERY_BLOCK, QUERY_BLOCK + 1, 2 * QUERY_BLOCK + 1, 3 * QUERY_BLOCK]
"""Lengths, counted from the last position that sees everything before it."""
BOUNDS = {torch.float64: 1e-12, torch.float32: 1e-5}


def inputs(T: int, dtype: torch.dtype, P: int = 8, V: int = 8, K: int = 2) -> list[Tensor]:
    """Queries of four heads, keys and values of ``K``, side by side in one wide tensor; a long sequence is alone."""
    wide = torch.randn(
        2 if T < 400 else 1, T, 4 * P + K * P + K * V, dtype=dtype, generator=torch.Generator().manual_seed(T)
    )
    parts = wide.split([4 * P, K * P, K * V], 2)
    return [part.unflatten(2, (-1, width)) for part, width in zip(parts, (P, P, V), strict=True)]


def relative_errors(given: list[Tensor], **settings: Any) -> list[float]:
    """Of the output and of the three gradients, against the reference in float64."""
    found = []
    upstream = torch.randn(*given[0].shape[:3], given[2].shape[3], dtype=torch.float64)
    for function, dtype in ((attention, given[0].dtype), (reference.attention, torch.float64)):
        leaves = [x.to(dtype).requires_grad_() for x in given]
        out = function(*leaves, **settings)
        assert out.dtype == dtype
        found.append([out.detach(), *torch.autograd.grad(out, leaves, upstream.to(dtype))])
    return [float((ours - theirs).norm() / theirs.norm()) for ours, theirs in zip(*found, strict=True)]


@pytest.mark.parametrize(("window", "sinks"), WINDOWS)
@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
@pytest.mark.sampled
def test_a_window_is_the_references_at_every_edge(window: int, sinks: int, dtype: torch.dtype) -> None:
    for edge in EDGES:
        T = window + sinks + edge
        if T > 1:  # the gradients of a single query's scores are 0, and have no relative error
            assert max(relative_errors(inputs(T, dtype), window=window, sinks=sinks)) < BOUNDS[dtype], T


@pytest.mark.parametrize(("P", "V"), [(8, 16), (16, 8), (7, 9)])
@pytest.mark.parametrize(("window", "sinks"), [(None, 0), (40, 8)])
@pytest.mark.parametrize("K", [1, 4])
@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
def test_either_side_may_be_wider(P: int, V: int, window: int | None, sinks: int, K: int, dtype: torch.dtype) -> None:
    for T in (2, 47, 48, 49, 310):
        errors = relative_errors(inputs(T, dtype, P, V, K), window=window, sinks=sinks)
        assert max(errors) < BOUNDS[dtype], T


class Ran(TorchDispatchMode):
    """The attention kernels that ran, elements written by all operators, and the largest tensor among them."""

    def __init__(self) -> None:
        TorchDispatchMode.__init__(self)
        self.attention: Counter[str] = Counter()
        self.elements = self.largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if "attention" in func.__name__:
            self.attention[func.__name__.partition(".")[0]] += 1
        if not func.is_view:
            sizes = [leaf.numel() for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
            self.elements += sum(sizes)
            self.largest = max(self.largest, *sizes, 0)
        return out


def ran(T: int, window: int | None, sinks: int, V: int = 8) -> Ran:
    leaves = [x.detach().requires_grad_() for x in inputs(T, torch.float32, 8, V)]
    with Ran() as seen:
        attention(*leaves, window=window, sinks=sinks).sum().backward()
    return seen


@pytest.mark.parametrize(("window", "sinks", "V", "calls"), [(100, 4, 8, 5), (100, 0, 16, 5), (None, 0, 16, 1)])
def test_every_call_is_the_flash_kernel(window: int | None, sinks: int, V: int, calls: int) -> None:
    """A sequence of 1,100: its first 100 or 104 positions, and four blocks."""
    assert len(query_blocks(1100, window, sinks)) == calls
    name = "_scaled_dot_product_flash_attention_for_cpu"
    assert ran(1100, window, sinks, V).attention == {name: calls, f"{name}_backward": calls}


@pytest.mark.parametrize("sinks", [0, 16])
def test_work_and_memory_are_linear_in_the_length(sinks: int) -> None:
    short, long = ran(2048, 100, sinks), ran(8192, 100, sinks)
    assert long.elements < 4.1 * short.elements
    assert long.largest <= 2 * 8192 * (4 + 2 + 2) * 8, "queries, keys and values of 8 side by side, and no T x T"


def test_the_calls_cover_what_is_visible() -> None:
    for window, sinks in WINDOWS:
        for edge in EDGES:
            T = window + sinks + edge
            calls = query_blocks(T, window, sinks)
            assert sum(queries for queries, _ in calls) == T
            assert max(queries for queries, _ in calls[1:] or calls) <= max(QUERY_BLOCK, T if len(calls) == 1 else 0)
            seen = sum(min(t + 1, window + sinks) for t in range(T))
            assert sum(queries * keys for queries, keys in calls) >= seen


def test_it_says_what_it_cannot_do() -> None:
    problem = Problem("cuda", "bfloat16", head_dim=64, n_heads=8, window=512, sinks=64)
    with pytest.raises(Unsupported, match="takes a mask on a CPU only, and the device is cuda"):
        resolve("attention", "sdpa-blocks", problem)
