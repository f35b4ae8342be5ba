"""inputs: random inputs of attention and of its decode step, for a verification or at size."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from hybridbench.kernels.drawing import Draw, Trial
from hybridbench.problem import Problem


def _few_heads(problem: Problem, draw: Draw) -> tuple[int, int]:
    """Query and KV heads: at most two KV heads, with the problem's number of query heads each; at size all heads."""
    if draw.at_size:
        return problem.n_heads, problem.kv_heads
    K = min(2, problem.kv_heads)
    return K * (problem.n_heads // problem.kv_heads), K


def attention(problem: Problem, draw: Draw) -> Iterator[Trial]:
    """Length 1, and lengths around a 128-wide tile, or around window and sinks and up to two blocks of 256 more."""
    H, K = _few_heads(problem, draw)
    P, V, w, s = problem.head_dim, problem.value_dim, problem.window, problem.sinks
    lengths = (1, 63, 100, 127, 128, 129) if w is None else (1, 63, w, w + 1, w + s + 65, w + s + 321)

    def call(fn: Callable[..., Any], t: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"out_BTHV": fn(t["q_BTHP"], t["k_BTKP"], t["v_BTKV"], window=w, sinks=s)}

    for T in draw.lengths(lengths):
        views = draw.projection(draw.batch, T, widths=[(H, P), (K, P), (K, V)])
        tensors = dict(zip(("q_BTHP", "k_BTKP", "v_BTKV"), views, strict=True))
        # A single key gets all the weight: the gradients of query and key are 0 and have no relative error.
        yield Trial(f"length {T}", tensors, call, gradients=T > 1, length=T)


def attention_decode(problem: Problem, draw: Draw) -> Iterator[Trial]:
    """Two lengths per batch, including one slot and whole caches; unused slots hold large numbers."""
    H, K = _few_heads(problem, draw)

    def call(fn: Callable[..., Any], t: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"out_BHV": fn(t["q_BHP"], t["k_cache_BSKP"], t["v_cache_BSKV"], t["length_B"])}

    caches = {100: (1, 100), 129: (63, 128), 1500: (700, 1499)}
    for S in draw.lengths(caches):
        # alternating lengths; at size full and nearly full caches
        pair = (S, S - 1) if draw.at_size else caches[S]
        lengths = tuple(pair[i % 2] for i in range(draw.batch))
        length_B = torch.tensor(lengths, dtype=torch.int32, device=draw.device)
        dead = (torch.arange(S, device=draw.device) >= length_B[:, None])[:, :, None, None]
        tensors = {
            "q_BHP": draw.projection(draw.batch, widths=[(H, problem.head_dim)])[0],
            "k_cache_BSKP": draw.normal(draw.batch, S, K, problem.head_dim).masked_fill(dead, 1e3),
            "v_cache_BSKV": draw.normal(draw.batch, S, K, problem.value_dim).masked_fill(dead, 1e3),
            "length_B": length_B,
        }
        yield Trial(f"lengths {lengths} in a cache of {S}", tensors, call, gradients=False)
