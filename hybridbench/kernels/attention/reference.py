"""reference: what attention and its decode step mean, in plain PyTorch, and inputs to try them with.

How implementations are written is said in ``kernels.plain``; shapes have the letters of ``hybridbench.kernels``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from hybridbench.kernels.drawing import Draw, Trial
from hybridbench.kernels.plain import wide
from hybridbench.problem import Problem
from hybridbench.sizes import SCORE_ELEMENTS

CACHE_ELEMENTS = 1 << 25
"""Elements of keys or values held at once (128 MiB in float32); longer caches are read in blocks of slots."""


def attention(q_BTHP: Tensor, k_BTKP: Tensor, v_BTKV: Tensor, *, window: int | None = None, sinks: int = 0) -> Tensor:
    """Causal softmax attention with grouped heads, a window and sinks.

    ``out_t = sum_j softmax_j(q_t . k_j / sqrt(P)) v_j`` over the keys ``j <= t`` with ``t - j < window or j < sinks``
    (all ``j <= t`` when ``window`` is None). Vaswani et al. 2017, equation 1; sinks as in Xiao et al. 2023.

    Returns:
        out_BTHV in the dtype of ``q_BTHP``. Differentiable; query blocks are recomputed in the backward.
    """
    B, T, H = (int(n) for n in q_BTHP.shape[:3])
    q, k, v = wide(q_BTHP), wide(k_BTKP), wide(v_BTKV)
    seen = T if window is None else min(T, window + sinks)
    block = max(16, SCORE_ELEMENTS // (B * H * seen))
    if window is not None:  # a block of n queries meets n + window + sinks keys
        # On a GPU the launches take most of the time, so fewer and longer blocks are faster although they read more
        # keys.
        block = min(block, max(1024 if q.is_cuda else 128, seen // 4))
    if block >= T:
        return _attend(q, k, v, 0, T, window, sinks).to(q_BTHP.dtype)
    blocks = []
    for first in range(0, T, block):
        last = min(first + block, T)
        if torch.is_grad_enabled():
            blocks.append(checkpoint(_attend, q, k, v, first, last, window, sinks, use_reentrant=False))
        else:
            blocks.append(_attend(q, k, v, first, last, window, sinks))
    return torch.cat(blocks, 1).to(q_BTHP.dtype)


def _attend(q: Tensor, k: Tensor, v: Tensor, first: int, last: int, window: int | None, sinks: int) -> Tensor:
    """The outputs of queries ``first .. last-1``, reading only the keys that at least one of them sees."""
    K, P = k.shape[2:]
    start = 0 if window is None else max(0, first - window + 1)
    j = torch.arange(start, last, device=q.device)
    k_seen, v_seen = k[:, start:last], v[:, start:last]
    kept = min(sinks, start)
    if kept:
        j = torch.cat([torch.arange(kept, device=q.device), j])
        k_seen, v_seen = torch.cat([k[:, :kept], k_seen], 1), torch.cat([v[:, :kept], v_seen], 1)
    t = torch.arange(first, last, device=q.device)[:, None]
    visible = j <= t if window is None else (j <= t) & ((t - j < window) | (j < sinks))
    q_BTKRP = torch.unflatten(q[:, first:last] / math.sqrt(P), 2, (K, -1))
    scores = torch.einsum("btkrp,bskp->bkrts", q_BTKRP, k_seen)
    weights = scores.masked_fill(~visible, -math.inf).softmax(-1)
    return torch.einsum("bkrts,bskv->btkrv", weights, v_seen).flatten(2, 3)


def attention_decode(q_BHP: Tensor, k_cache_BSKP: Tensor, v_cache_BSKV: Tensor, length_B: Tensor) -> Tensor:
    """One query per sequence against the first ``length_B[b]`` slots of a cache; the order of slots does not matter.

    Args:
        length_B: int32 on the caches' device, at least 1. The new key and value must be in their slot already.

    Returns:
        out_BHV in the dtype of ``q_BHP``. No value is read back to the host.
    """
    S, K, P = (int(n) for n in k_cache_BSKP.shape[1:])
    q_BKRP = torch.unflatten(wide(q_BHP), 1, (K, -1)) / math.sqrt(P)
    block = max(1, CACHE_ELEMENTS // (len(q_BHP) * K * max(P, int(v_cache_BSKV.shape[3]))))
    top = q_BKRP.new_full(q_BKRP.shape[:3], -math.inf)
    total, out = torch.zeros_like(top), q_BKRP.new_zeros(*q_BKRP.shape[:3], v_cache_BSKV.shape[3])
    for first in range(0, S, block):  # a running softmax: what came before is scaled down when a larger score comes
        part = slice(first, min(first + block, S))
        live_BS = torch.arange(part.start, part.stop, device=q_BHP.device) < length_B[:, None]
        scores = torch.einsum("bkrp,bskp->bkrs", q_BKRP, wide(k_cache_BSKP[:, part]))
        scores = scores.masked_fill(~live_BS[:, None, None], -math.inf)
        new_top = torch.maximum(top, scores.amax(-1))
        weights, keep = (scores - new_top[..., None]).exp(), (top - new_top).exp()
        v_live = wide(v_cache_BSKV[:, part]).masked_fill(~live_BS[:, :, None, None], 0.0)  # 0 x NaN is not 0
        out = out * keep[..., None] + torch.einsum("bkrs,bskv->bkrv", weights, v_live)
        total, top = total * keep + weights.sum(-1), new_top
    return (out / total[..., None]).flatten(1, 2).to(q_BHP.dtype)


# Inputs, for a verification or at size --------------------------------------------------------------------------------


def _few_heads(problem: Problem, draw: Draw) -> tuple[int, int]:
    """Query and KV heads: at most two KV heads, with the problem's number of query heads each; at size all heads."""
    if draw.at_size:
        return problem.n_heads, problem.kv_heads
    K = min(2, problem.kv_heads)
    return K * (problem.n_heads // problem.kv_heads), K


def attention_inputs(problem: Problem, draw: Draw) -> Iterator[Trial]:
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


def attention_decode_inputs(problem: Problem, draw: Draw) -> Iterator[Trial]:
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
