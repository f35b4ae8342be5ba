"""reference: what RWKV-7's rule, its step and what is around them mean, in plain PyTorch, and inputs to try them with.

How implementations are written is said in ``kernels.plain``; shapes have the letters of ``hybridbench.kernels``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hybridbench.kernels.drawing import EPS, WIDTH, Draw, Trial
from hybridbench.kernels.plain import wide
from hybridbench.problem import Problem
from hybridbench.sizes import CHUNK_ELEMENTS, RWKV7_PLAIN_CHUNK

RATE = math.exp(-0.5)
"""The fastest decay is exp(-exp(-0.5)) a position (arXiv 2503.14456, section 4)."""

LENGTH_EPS = 1e-12
"""The least length that a removal key is divided by, as ``torch.nn.functional.normalize`` has it."""


def _log_decay(w: Tensor) -> Tensor:
    """The decay's logarithm, in (-0.607, 0), from w before its sigmoid."""
    return -RATE * wide(w).sigmoid()


def rwkv7(
    r_BTHP: Tensor,
    w_BTHP: Tensor,
    k_BTHP: Tensor,
    v_BTHV: Tensor,
    kk_BTHP: Tensor,
    a_BTHP: Tensor,
    *,
    chunk_size: int,  # noqa: ARG001  # a backend's: the reference has chunks of its own
    initial_state_BHPV: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """RWKV-7's delta rule (arXiv 2503.14456, section 4), chunk by chunk in its matrix form.

    With ``d = exp(-exp(-0.5) sigmoid(w))`` it computes, for every head,
    ``S_t = diag(d_t) S_{t-1} - (kk_t a_t) (kk_t^T S_{t-1}) + k_t v_t^T`` and ``o_t = S_t^T r_t``. What kk reads in a
    chunk solves a triangular system, of which only the state before the chunk is unknown. So a chunk multiplies the
    state by one matrix and adds another: all that does not read the state is computed for many chunks at once.

    Args:
        w_BTHP: before its sigmoid.
        kk_BTHP: the removal key, of length one.
        a_BTHP: the rate, in (0, 1).
        chunk_size: the kernels'; it changes no result.

    Returns:
        o_BTHV in the dtype of ``v_BTHV`` and final_state_BHPV in float32 (float64 for float64 input), both
        differentiable.
    """
    B, T, H, P = (int(n) for n in r_BTHP.shape)
    r, k, v, kk, log = (wide(x).transpose(1, 2) for x in (r_BTHP, k_BTHP, v_BTHV, kk_BTHP, _log_decay(w_BTHP)))
    removed = kk * wide(a_BTHP).transpose(1, 2)
    state = v.new_zeros(B, H, P, v.shape[-1]) if initial_state_BHPV is None else initial_state_BHPV.to(v.dtype)
    Q = RWKV7_PLAIN_CHUNK
    span = Q * max(1, CHUNK_ELEMENTS // (B * H * P * P))
    outputs = []
    for parts in zip(*(x.split(span, 2) for x in (r, k, v, kk, removed, log)), strict=True):
        o, state = _segment(list(parts), state, min(Q, T))
        outputs.append(o)
    return torch.cat(outputs, 2).transpose(1, 2).to(v_BTHV.dtype), state


def _segment(inputs: list[Tensor], state: Tensor, Q: int) -> tuple[Tensor, Tensor]:
    """The outputs (B, H, T, V) of some chunks of Q positions, and the state after them; inputs are r, k, v, kk, what is
    removed and the logarithm of the decay.
    """
    T = int(inputs[0].shape[2])
    short = -T % Q  # positions that neither decay, remove nor add leave the state alone
    r, k, v, kk, removed, log = (
        torch.unflatten(F.pad(x, (0, 0, 0, short)) if short else x, 2, (-1, Q)) for x in inputs
    )  # bhcq and the width
    since = log.cumsum(-2)  # from the chunk's start up to and including a position
    before, after = (-since).exp(), since.exp()
    read, seen = kk * (since - log).exp(), r * after
    added, taken = k * before, removed * before
    # what kk reads: a part that is known, and one that is a product with the state before the chunk
    known = torch.cat(((read @ added.mT).tril(-1) @ v, read), -1)
    held = torch.linalg.solve_triangular((read @ taken.mT).tril(-1), known, upper=False, unitriangular=True)
    of_values, of_state = held.split([v.shape[-1], k.shape[-1]], -1)
    whole = after[..., -1, :, None]
    times = whole * (torch.eye(k.shape[-1], dtype=v.dtype, device=v.device) - taken.mT @ of_state)
    plus = whole * (added.mT @ v - taken.mT @ of_values)
    states = []
    for one_times, one_plus in zip(times.unbind(2), plus.unbind(2), strict=True):
        states.append(state)
        state = one_plus + one_times @ state
    at_start = torch.stack(states, 2)
    removal = (seen @ taken.mT).tril()
    o = (seen @ added.mT).tril() @ v - removal @ of_values + (seen - removal @ of_state) @ at_start
    return o.flatten(2, 3)[:, :, :T], state


def rwkv7_step(
    state_BHPV: Tensor, r_BHP: Tensor, w_BHP: Tensor, k_BHP: Tensor, v_BHV: Tensor, kk_BHP: Tensor, a_BHP: Tensor
) -> Tensor:
    """One step of the recurrence of ``rwkv7``. ``state_BHPV`` (any float dtype) is updated in place.

    Returns:
        o_BHV in the dtype of ``v_BHV``, read from the new state before it is rounded to the state's dtype.
    """
    r, k, v, kk, a = (wide(x) for x in (r_BHP, k_BHP, v_BHV, kk_BHP, a_BHP))
    state = state_BHPV.to(v.dtype)
    held = (kk[..., None] * state).sum(-2, keepdim=True)
    state = _log_decay(w_BHP).exp()[..., None] * state - (kk * a)[..., None] * held + k[..., None] * v[..., None, :]
    state_BHPV.copy_(state)
    return (state * r[..., None]).sum(-2).to(v_BHV.dtype)


def rwkv7_output(
    y: Tensor,
    r: Tensor,
    k: Tensor,
    v: Tensor,
    gate: Tensor,
    weight_HV: Tensor,
    bias_HV: Tensor,
    bonus_HP: Tensor,
    *,
    eps: float,
) -> Tensor:
    """The LayerNorm of ``y`` (..., H, V) over a head's V channels, plus ``(r . k bonus) v``, times ``gate``: the end of
    RWKV-7's mixer, for any leading dimensions.
    """
    normed = F.layer_norm(wide(y), y.shape[-1:], None, None, eps) * wide(weight_HV) + wide(bias_HV)
    of_token = (wide(r) * wide(k) * wide(bonus_HP)).sum(-1, keepdim=True) * wide(v)
    return ((normed + of_token) * wide(gate)).to(y.dtype)


def rwkv7_shift(x_BTD: Tensor, share_LD: Tensor, *, front_BD: Tensor | None = None) -> tuple[Tensor, ...]:
    """The token shift: ``mixed_l = x + (before - x) share_l`` for L shares, where before is the token before (arXiv
    2503.14456, section 4).

    Args:
        front_BD: the token before the first one; zeros without.

    Returns:
        L tensors (B, T, D) in the dtype of ``x_BTD``, each with memory of its own.
    """
    x = wide(x_BTD)
    front = torch.zeros_like(x[:, 0]) if front_BD is None else wide(front_BD)
    difference = torch.cat((front[:, None], x[:, :-1]), 1) - x
    return tuple((x + difference * share).to(x_BTD.dtype) for share in wide(share_LD))


def rwkv7_keys(k: Tensor, rate: Tensor, removal_HP: Tensor, added_HP: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The removal key, the added key and the rate that ``rwkv7`` reads, for any leading dimensions (arXiv 2503.14456,
    section 4).

    Args:
        k: (..., H, P) as it is projected.
        rate: (..., H, P) before its sigmoid.

    Returns:
        ``k removal`` divided by its length over a head's channels, ``k (1 + (a - 1) added)``, and a, the rate's
        sigmoid, each in the dtype of ``k``.
    """
    key, a = wide(k), wide(rate).sigmoid()
    removed = F.normalize(key * wide(removal_HP), dim=-1, eps=LENGTH_EPS)
    added = key * (1 + (a - 1) * wide(added_HP))
    return removed.to(k.dtype), added.to(k.dtype), a.to(k.dtype)


# Inputs, for a verification or at size --------------------------------------------------------------------------------


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


def rwkv7_inputs(problem: Problem, draw: Draw) -> Iterator[Trial]:
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


def rwkv7_step_inputs(problem: Problem, draw: Draw) -> Iterator[Trial]:
    """One step from a state in float32, and from one in the activations' dtype."""

    def call(fn: Callable[..., Any], t: dict[str, Tensor]) -> dict[str, Tensor]:
        state, *inputs = t.values()
        state = state.clone()
        return {"o_BHV": fn(state, *inputs), "state_BHPV": state}

    start = draw.uniform(-1, 1, *_heads(problem, draw), problem.head_dim, problem.head_dim)
    for dtype in dict.fromkeys((start.dtype, draw.dtype)):
        tensors = {"state_BHPV": start.to(dtype)} | _inputs(problem, draw)
        yield Trial(f"one step from a state in {str(dtype)[6:]}", tensors, call, gradients=False)


def rwkv7_output_inputs(problem: Problem, draw: Draw) -> Iterator[Trial]:
    """Of a sequence and of a step."""
    H, P = problem.n_heads if draw.at_size else 3, problem.head_dim

    def call(fn: Callable[..., Any], t: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"out_BTHV": fn(*t.values(), eps=EPS)}

    for T in draw.lengths((1, 63)):
        names = ("y_BTHV", "r_BTHP", "k_BTHP", "v_BTHV", "gate_BTHV")
        tensors = {name: draw.normal(draw.batch, T, H, P) for name in names}
        tensors |= {name: draw.normal(H, P) for name in ("weight_HV", "bias_HV", "bonus_HP")}
        yield Trial(f"length {T}", tensors, call)


def rwkv7_shift_inputs(problem: Problem, draw: Draw) -> Iterator[Trial]:
    """Of a sequence and of a step, and of five inputs behind a token; at size of a whole sequence."""
    width = problem.d_model or WIDTH

    def call(fn: Callable[..., Any], t: dict[str, Tensor]) -> dict[str, Tensor]:
        mixed = fn(t["x_BTD"], t["share_LD"], front_BD=t.get("front_BD"))
        return {f"mixed_{mix}_BTD": one for mix, one in enumerate(mixed)}

    def tensors(T: int, mixes: int) -> dict[str, Tensor]:
        share = draw.uniform(0, 1, mixes, width).to(draw.dtype)
        return {"x_BTD": draw.normal(draw.batch, T, width), "share_LD": share}

    for T in draw.lengths((1, 63)):
        yield Trial(f"length {T}", tensors(T, 6), call)
    if not draw.at_size:
        front = {"front_BD": draw.normal(draw.batch, width)}
        yield Trial("length 100 behind a token, five inputs", tensors(100, 5) | front, call)


def rwkv7_keys_inputs(problem: Problem, draw: Draw) -> Iterator[Trial]:
    """Of a sequence and of a step."""
    H, P = problem.n_heads if draw.at_size else 3, problem.head_dim

    def call(fn: Callable[..., Any], t: dict[str, Tensor]) -> dict[str, Tensor]:
        return dict(zip(("kk_BTHP", "key_BTHP", "a_BTHP"), fn(*t.values()), strict=True))

    for T in draw.lengths((1, 63)):
        tensors = {name: draw.normal(draw.batch, T, H, P) for name in ("k_BTHP", "rate_BTHP")}
        tensors |= {name: draw.normal(H, P) for name in ("removal_HP", "added_HP")}
        yield Trial(f"length {T}", tensors, call)
