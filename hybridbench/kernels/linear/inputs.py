"""inputs: random inputs of lightning attention and of its step, for a verification or at size."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor

from hybridbench.kernels.drawing import Draw, Trial
from hybridbench.problem import Problem

SLOWEST = -16
"""Exponent of two of the slowest drawn decay of a position; models have 2^-8 to nearly 1 times a factor of the place,
which falls to some 1e-5."""


def _inputs(problem: Problem, draw: Draw, *length: int) -> dict[str, Tensor]:
    """Random inputs by name; q, k and v lie in one row, from which a model's silu takes them one by one.

    16 heads over the batch at least, so that no position's output is small by chance, and on a GPU all of the
    problem's, because fla's kernels tune themselves to their number and the check then tunes what is timed.
    """
    all_of_them = draw.at_size or problem.device == "cuda"
    H, P = problem.n_heads if all_of_them else min(4, problem.n_heads), problem.head_dim
    batch = draw.batch if draw.at_size else max(draw.batch, 16 // H)
    B = "BT" if length else "B"
    parts = draw.projection(batch, *length, widths=[(H, P)] * 3)
    tensors = {f"{name}_{B}HP": part for name, part in zip("qkv", parts, strict=True)}
    return tensors | {"log_decay_H": -draw.uniform(SLOWEST, 0, H).exp2()}


def lightning(problem: Problem, draw: Draw) -> Iterator[Trial]:
    """Lengths around one chunk, without and (at the last) with a state to start from."""
    Q = problem.chunk_size

    def call(fn: Callable[..., Any], t: dict[str, Tensor]) -> dict[str, Tensor]:
        given = [t[name] for name in ("q_BTHP", "k_BTHP", "v_BTHP", "log_decay_H")]
        o, state = fn(*given, chunk_size=Q, initial_state_BHPP=t.get("initial_state_BHPP"))
        return {"o_BTHP": o, "final_state_BHPP": state}

    for T in draw.lengths(sorted({1, 63, 100, Q - 1, Q, Q + 1} - {0})):
        tensors = _inputs(problem, draw, T)
        if T == Q + 1:
            batch, _T, H, P = tensors["q_BTHP"].shape
            tensors["initial_state_BHPP"] = draw.uniform(-1, 1, batch, H, P, P)
        yield Trial(f"length {T}", tensors, call, continues=T == Q + 1)


def lightning_step(problem: Problem, draw: Draw) -> Iterator[Trial]:
    """One step from a state in float32, and from one in the activations' dtype."""

    def call(fn: Callable[..., Any], t: dict[str, Tensor]) -> dict[str, Tensor]:
        state, *inputs = t.values()
        state = state.clone()
        return {"o_BHP": fn(state, *inputs), "state_BHPP": state}

    inputs = _inputs(problem, draw)
    batch, H, P = inputs["q_BHP"].shape
    start = draw.uniform(-1, 1, batch, H, P, P)
    for dtype in dict.fromkeys((start.dtype, draw.dtype)):
        tensors = {"state_BHPP": start.to(dtype)} | _inputs(problem, draw)
        yield Trial(f"one step from a state in {str(dtype)[6:]}", tensors, call, gradients=False)
