"""inputs: random inputs of RWKV-7's rule, of its step and of what follows it, for a verification or at size."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from hybridbench.kernels.drawing import EPS, Draw, Trial
from hybridbench.problem import Problem


def _heads(problem: Problem, draw: Draw) -> tuple[int, int]:
    """Sequences and heads: 16 heads over the batch, so that no position's output is small by chance, and on a GPU all
    of the problem's, which fla's kernels tune themselves to; at size those of the problem.
    """
    if draw.at_size:
        return draw.batch, problem.n_heads
    H = problem.n_heads if problem.device == "cuda" else min(2, problem.n_heads)
    return max(draw.batch, 16 // H), H


def _inputs(problem: Problem, draw: Draw, *length: int) -> dict[str, Tensor]:
    """Random inputs by name: a removal key of length one, rates between 0 and 1, all else normal."""
    batch, H = _heads(problem, draw)
    shape, B = (batch, *length, H, problem.head_dim), "BT" if length else "B"
    return {
        f"r_{B}HP": draw.normal(*shape),
        f"w_{B}HP": draw.normal(*shape),
        f"k_{B}HP": draw.normal(*shape),
        f"v_{B}HV": draw.normal(*shape),
        f"kk_{B}HP": F.normalize(draw.normal(*shape), dim=-1),
        f"a_{B}HP": draw.normal(*shape).sigmoid(),
    }


def rwkv7(problem: Problem, draw: Draw) -> Iterator[Trial]:
    """Lengths around one chunk, without and (at the last) with a state to start from."""
    Q = problem.chunk_size

    def call(fn: Callable[..., Any], t: dict[str, Tensor]) -> dict[str, Tensor]:
        inputs = [tensor for name, tensor in t.items() if not name.startswith("initial")]
        o, state = fn(*inputs, chunk_size=Q, initial_state_BHPV=t.get("initial_state_BHPV"))
        return {"o_BTHV": o, "final_state_BHPV": state}

    for T in draw.lengths(sorted({1, 63, 100, Q - 1, Q, Q + 1} - {0})):
        tensors = _inputs(problem, draw, T)
        if T == Q + 1:
            start = draw.uniform(-1, 1, *_heads(problem, draw), problem.head_dim, problem.head_dim)
            tensors["initial_state_BHPV"] = start
        # from an empty state a single step depends on neither decay nor removal: their gradients are 0
        yield Trial(f"length {T}", tensors, call, gradients=T > 1, continues=T == Q + 1)


def rwkv7_step(problem: Problem, draw: Draw) -> Iterator[Trial]:
    """One step from a state in float32, and from one in the activations' dtype."""

    def call(fn: Callable[..., Any], t: dict[str, Tensor]) -> dict[str, Tensor]:
        state, *inputs = t.values()
        state = state.clone()
        return {"o_BHV": fn(state, *inputs), "state_BHPV": state}

    start = draw.uniform(-1, 1, *_heads(problem, draw), problem.head_dim, problem.head_dim)
    for dtype in dict.fromkeys((start.dtype, draw.dtype)):
        tensors = {"state_BHPV": start.to(dtype)} | _inputs(problem, draw)
        yield Trial(f"one step from a state in {str(dtype)[6:]}", tensors, call, gradients=False)


def rwkv7_output(problem: Problem, draw: Draw) -> Iterator[Trial]:
    """Of a sequence and of a step."""
    H, P = problem.n_heads if draw.at_size else 3, problem.head_dim

    def call(fn: Callable[..., Any], t: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"out_BTHV": fn(*t.values(), eps=EPS)}

    for T in draw.lengths((1, 63)):
        names = ("y_BTHV", "r_BTHP", "k_BTHP", "v_BTHV", "gate_BTHV")
        tensors = {name: draw.normal(draw.batch, T, H, P) for name in names}
        tensors |= {name: draw.normal(H, P) for name in ("weight_HV", "bias_HV", "bonus_HP")}
        yield Trial(f"length {T}", tensors, call)
