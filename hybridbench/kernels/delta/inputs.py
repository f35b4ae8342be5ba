"""inputs: random inputs of the delta rules, of their steps and of their gated norm, for a verification or at size."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor

from hybridbench.kernels.drawing import EPS, Draw, Trial
from hybridbench.problem import Problem


def _delta_heads(problem: Problem, draw: Draw) -> tuple[int, int, int]:
    """Sequences, value heads and key heads: 16 heads over the batch, so that no position's output is small by chance.

    On a GPU they are all heads of the problem, because fla's kernels tune themselves to the number of heads, so that
    the check tunes the timed kernels. At size they are those of the problem.
    """
    if draw.at_size:
        return draw.batch, problem.n_heads, problem.kv_heads
    G = problem.kv_heads if problem.device == "cuda" else min(2, problem.kv_heads)
    H = G * (problem.n_heads // problem.kv_heads)
    return max(draw.batch, 16 // H), H, G


def _delta_inputs(problem: Problem, draw: Draw, per_channel: bool, *length: int) -> dict[str, Tensor]:
    """Random inputs by name, A in [1, 16] and dt as the models initialise them."""
    batch, H, G = _delta_heads(problem, draw)
    P, V, lead = problem.head_dim, problem.value_dim, (batch, *length)
    B = "BT" if len(lead) == 2 else "B"
    group = "H" if per_channel else "G"
    q, k, v, gates, beta = draw.projection(
        *lead, widths=[(G, P), (G, P), (H, V), (H, P) if per_channel else (H,), (H,)]
    )
    dt = draw.uniform(math.log(1e-3), math.log(1e-1), *((H, P) if per_channel else (H,))).exp()
    channel = "P" if per_channel else ""
    return {
        f"q_{B}{group}P": q,
        f"k_{B}{group}P": k,
        f"v_{B}HV": v,
        f"dt_{B}H{channel}": gates,
        f"beta_{B}H": beta,
        "A_log_H": draw.uniform(1, 16, H).log(),
        f"dt_bias_H{channel}": dt.expm1().log(),
    }


def delta_rule(per_channel: bool) -> Callable[[Problem, Draw], Iterator[Trial]]:
    """Lengths around one chunk, without and (at the last) with a state to start from."""

    def cases(problem: Problem, draw: Draw) -> Iterator[Trial]:
        Q = problem.chunk_size
        batch, H, _G = _delta_heads(problem, draw)

        def call(fn: Callable[..., Any], t: dict[str, Tensor]) -> dict[str, Tensor]:
            inputs = [tensor for name, tensor in t.items() if not name.startswith("initial")]
            o, state = fn(*inputs, chunk_size=Q, initial_state_BHPV=t.get("initial_state_BHPV"))
            return {"o_BTHV": o, "final_state_BHPV": state}

        for T in draw.lengths(sorted({1, 63, 100, Q - 1, Q, Q + 1} - {0})):
            tensors = _delta_inputs(problem, draw, per_channel, T)
            if T == Q + 1:
                start = draw.uniform(-1, 1, batch, H, problem.head_dim, problem.value_dim)
                tensors["initial_state_BHPV"] = start
            # from an empty state a single step does not depend on the decay, so its gradients are 0
            yield Trial(f"length {T}", tensors, call, gradients=T > 1, continues=T == Q + 1)

    return cases


def delta_step(per_channel: bool) -> Callable[[Problem, Draw], Iterator[Trial]]:
    """One step from a state in float32, and from one in the activations' dtype."""

    def cases(problem: Problem, draw: Draw) -> Iterator[Trial]:
        def call(fn: Callable[..., Any], t: dict[str, Tensor]) -> dict[str, Tensor]:
            state, *inputs = t.values()
            state = state.clone()
            return {"o_BHV": fn(state, *inputs), "state_BHPV": state}

        batch, H, _G = _delta_heads(problem, draw)
        start = draw.uniform(-1, 1, batch, H, problem.head_dim, problem.value_dim)
        for dtype in dict.fromkeys((start.dtype, draw.dtype)):
            tensors = {"state_BHPV": start.to(dtype)} | _delta_inputs(problem, draw, per_channel)
            yield Trial(f"one step from a state in {str(dtype)[6:]}", tensors, call, gradients=False)

    return cases


def norm_gate(problem: Problem, draw: Draw) -> Iterator[Trial]:
    """Both activations; z is a view into a wider row."""
    V = problem.norm_dim
    H = problem.n_heads * problem.value_dim // V if draw.at_size else 3

    for T in draw.lengths((1, 63)):
        for activation in ("silu", "sigmoid"):

            def call(fn: Callable[..., Any], t: dict[str, Tensor], activation: str = activation) -> dict[str, Tensor]:
                return {"out_BTHV": fn(t["y_BTHV"], t["z_BTHV"], t["weight_V"], eps=EPS, activation=activation)}

            z, _x = draw.projection(draw.batch, T, widths=[(H, V), (H, V)])
            tensors = {"y_BTHV": draw.normal(draw.batch, T, H, V), "z_BTHV": z, "weight_V": draw.normal(V)}
            yield Trial(f"length {T}, {activation}", tensors, call)


gated_delta, kda = delta_rule(per_channel=False), delta_rule(per_channel=True)
gated_delta_step, kda_step = delta_step(per_channel=False), delta_step(per_channel=True)
