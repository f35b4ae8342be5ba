"""mamba1: what Mamba-1's selective scan and its step mean, in plain PyTorch, and inputs to try them with."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from hybridbench.kernels.drawing import Draw, Trial
from hybridbench.kernels.plain import wide
from hybridbench.problem import Problem
from hybridbench.sizes import CHUNK_ELEMENTS


def selective_scan(
    x_BTI: Tensor,
    dt_BTI: Tensor,
    A_IN: Tensor,
    B_BTN: Tensor,
    C_BTN: Tensor,
    D_I: Tensor,
    z_BTI: Tensor,
    dt_bias_I: Tensor,
    *,
    initial_state_BIN: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The selective scan of Mamba-1 with its gate (arXiv 2312.00752, algorithm 2).

    With ``dt = softplus(dt_BTI + dt_bias)`` it computes, for every channel,
    ``h_t = exp(dt_t A) h_{t-1} + dt_t x_t B_t`` and ``y_t = (C_t h_t + D x_t) silu(z_t)``. A segment of T positions is
    cut into about sqrt(T) chunks. It goes step by step inside all chunks at once, then from chunk to chunk.

    Args:
        A_IN: negative, float32: ``-exp(A_log)``.
        initial_state_BIN: the final state of the positions before; None starts from zeros.

    Returns:
        y_BTI in the dtype of ``x_BTI`` and final_state_BIN in float32 (float64 for float64 input). The published kernel
        gives the state no gradient, so nothing may need it.
    """
    batch, T, width = (int(n) for n in x_BTI.shape)
    x, dt, A = wide(x_BTI), F.softplus(wide(dt_BTI) + wide(dt_bias_I)), wide(A_IN)
    B, C = wide(B_BTN), wide(C_BTN)
    state = x.new_zeros(batch, width, A.shape[1]) if initial_state_BIN is None else initial_state_BIN.to(x.dtype)
    span = max(1, CHUNK_ELEMENTS // state.numel())
    pieces = []
    for t in range(0, T, span):
        inputs = (x[:, t : t + span], dt[:, t : t + span], A, B[:, t : t + span], C[:, t : t + span], state)
        if span < T and torch.is_grad_enabled():
            y, state = checkpoint(_selective_segment, *inputs, use_reentrant=False)
        else:
            y, state = _selective_segment(*inputs)
        pieces.append(y)
    y_BTI = (pieces[0] if len(pieces) == 1 else torch.cat(pieces, 1)) + x * wide(D_I)
    return (y_BTI * F.silu(wide(z_BTI))).to(x_BTI.dtype), state


def _selective_segment(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """``selective_scan`` without D and gate over one segment: c chunk, q position in it, i channel, n state."""
    T = int(x.shape[1])
    Q = math.isqrt(T)
    short = -T % Q
    if short:  # dt = 0 leaves the state alone and adds nothing
        x, dt, B, C = (F.pad(v, (0, 0, 0, short)) for v in (x, dt, B, C))
    x, dt, B, C = (torch.unflatten(v, 1, (-1, Q)) for v in (x, dt, B, C))
    elapsed = dt.cumsum(2)[..., None]  # from the chunk's start up to and including q
    h = torch.zeros_like(elapsed[:, :, 0] * A)
    inside = []
    for q in range(Q):
        h = (dt[:, :, q, :, None] * A).exp() * h + (dt * x)[:, :, q, :, None] * B[:, :, q, None]
        inside.append(h)
    whole = (elapsed[:, :, -1] * A).exp()
    before = []
    for c in range(int(x.shape[1])):
        before.append(state)
        state = whole[:, c] * state + h[:, c]
    states = torch.stack(inside, 2) + (elapsed * A).exp() * torch.stack(before, 1)[:, :, None]
    return torch.einsum("bcqin,bcqn->bcqi", states, C).flatten(1, 2)[:, :T], state


def selective_step(
    state_BIN: Tensor,
    x_BI: Tensor,
    dt_BI: Tensor,
    A_IN: Tensor,
    B_BN: Tensor,
    C_BN: Tensor,
    D_I: Tensor,
    z_BI: Tensor,
    dt_bias_I: Tensor,
) -> Tensor:
    """One step of the recurrence of ``selective_scan``. ``state_BIN`` (any float dtype) is updated in place.

    Returns:
        y_BI in the dtype of ``x_BI``, read from the new state before it is rounded to the state's dtype.
    """
    x, dt = wide(x_BI), F.softplus(wide(dt_BI) + wide(dt_bias_I))
    decay = (dt[..., None] * wide(A_IN)).exp()
    state = decay * state_BIN.to(x.dtype) + (dt * x)[..., None] * wide(B_BN)[:, None]
    state_BIN.copy_(state)
    y = (state * wide(C_BN)[:, None]).sum(-1) + x * wide(D_I)
    return (y * F.silu(wide(z_BI))).to(x_BI.dtype)


# Inputs, for a verification or at size --------------------------------------------------------------------------------


def _parameters(draw: Draw, states: int) -> dict[str, Tensor]:
    """A, D and dt_bias as Mamba-1 initialises them: A in -[1, N], dt log-uniform in [0.001, 0.1]."""
    A = -torch.arange(1, states + 1, dtype=torch.float64).expand(draw.channels, -1)
    dt = draw.uniform(math.log(1e-3), math.log(1e-1), draw.channels).exp()
    exact = draw.uniform(0, 0, 1).dtype
    return {
        "A_IN": A.to(draw.device, exact).contiguous(),
        "D_I": draw.uniform(0.5, 1.5, draw.channels),
        "dt_bias_I": dt.expm1().log().to(draw.dtype),
    }


SELECTIVE = ("x_BTI", "dt_BTI", "A_IN", "B_BTN", "C_BTN", "D_I", "z_BTI", "dt_bias_I")
"""Inputs of the selective scan in order."""


def selective_scan_inputs(problem: Problem, draw: Draw) -> Iterator[Trial]:
    """Lengths at and beside 64 positions, stored channel by channel as in the model; the state has no gradient.

    The last trial starts from a state and has no backward.
    """
    N = problem.d_state

    def call(fn: Callable[..., Any], t: dict[str, Tensor]) -> dict[str, Tensor]:
        from_state = {name: t[name] for name in t if name == "initial_state_BIN"}
        y, state = fn(*(t[name] for name in SELECTIVE), **from_state)
        return {"y_BTI": y, "final_state_BIN": state.detach()}

    for T in draw.lengths((1, 63, 64, 100, 257)):
        I = draw.channels  # noqa: E741
        widths = {"x_BTI": I, "dt_BTI": I, "B_BTN": N, "C_BTN": N, "z_BTI": I}
        tensors = {name: draw.across(width, draw.batch, T) for name, width in widths.items()}
        tensors |= _parameters(draw, N)
        # from an empty state a single step does not depend on A, so its gradient is 0 and has no relative error
        yield Trial(f"length {T}", tensors, call, gradients=T > 1)
        if T == 100:
            tensors = tensors | {"initial_state_BIN": draw.uniform(-1, 1, draw.batch, draw.channels, N)}
            yield Trial(f"length {T}, from a state", tensors, call, gradients=False, continues=True)


def selective_step_inputs(problem: Problem, draw: Draw) -> Iterator[Trial]:
    """One step from a state in float32, and from one in the activations' dtype."""
    N = problem.d_state

    def call(fn: Callable[..., Any], t: dict[str, Tensor]) -> dict[str, Tensor]:
        state = t["state_BIN"].clone()
        y = fn(state, *(t[name.replace("BT", "B")] for name in SELECTIVE))
        return {"y_BI": y, "state_BIN": state}

    start = draw.uniform(-1, 1, draw.batch, draw.channels, N)
    for dtype in dict.fromkeys((start.dtype, draw.dtype)):
        x, z = draw.projection(draw.batch, widths=[(draw.channels,), (draw.channels,)])
        _dt, B, C = draw.projection(draw.batch, widths=[(8,), (N,), (N,)])
        tensors = {
            "state_BIN": start.to(dtype),
            "x_BI": x,
            "z_BI": z,
            "dt_BI": draw.normal(draw.batch, draw.channels),
            "B_BN": B,
            "C_BN": C,
            **_parameters(draw, N),
        }
        yield Trial(f"one step from a state in {str(dtype)[6:]}", tensors, call, gradients=False)
