"""reference: what lightning attention and its step mean, in plain PyTorch, and inputs to try them with.

How implementations are written is said in ``kernels.plain``; shapes have the letters of ``hybridbench.kernels``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from hybridbench.kernels.drawing import Draw, Trial
from hybridbench.kernels.plain import wide
from hybridbench.problem import Problem


def lightning(
    q_BTHP: Tensor,
    k_BTHP: Tensor,
    v_BTHP: Tensor,
    log_decay_H: Tensor,
    *,
    chunk_size: int,
    initial_state_BHPP: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Lightning attention (arXiv 2501.08313, section 2.2.2), in its chunked matrix form.

    It computes, for every head, ``S_t = exp(log_decay) S_{t-1} + k_t v_t^T`` and ``o_t = S_t^T q_t``, without a scale.
    Inside a chunk that is a masked product ``(q k^T o decays) v``; between chunks only states travel.

    Args:
        log_decay_H: at most 0, of one position.
        chunk_size: positions per chunk, which change no result; T need not be a multiple of it.

    Returns:
        o_BTHP in the dtype of ``v_BTHP`` and final_state_BHPP, keys by values, in float32 (float64 for float64 input),
        both differentiable.
    """
    q, k, v = (wide(x).transpose(1, 2) for x in (q_BTHP, k_BTHP, v_BTHP))
    log_decay = log_decay_H.to(v.dtype)[:, None]
    B, H, T, P = (int(n) for n in v.shape)
    state = v.new_zeros(B, H, P, P) if initial_state_BHPP is None else initial_state_BHPP.to(v.dtype)
    pieces = []
    for start in range(0, T, chunk_size):
        part = slice(start, min(start + chunk_size, T))
        o, state = _chunk(q[:, :, part], k[:, :, part], v[:, :, part], log_decay, state)
        pieces.append(o)
    o_BHTP = pieces[0] if len(pieces) == 1 else torch.cat(pieces, 2)
    return o_BHTP.transpose(1, 2).to(v_BTHP.dtype), state


def _chunk(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """The output of one chunk (B, H, Q, P) and the state behind it."""
    Q = int(q.shape[2])
    place = torch.arange(Q, device=q.device, dtype=q.dtype)
    between = (place[:, None] - place).clamp(min=0) * log_decay[..., None]
    scores = (q @ k.mT) * between.exp().tril()
    read = q * (log_decay * (place + 1)).exp()[..., None]
    kept = k * (log_decay * (Q - 1 - place)).exp()[..., None]
    return scores @ v + read @ state, (log_decay * Q).exp()[..., None] * state + kept.mT @ v


def lightning_step(state_BHPP: Tensor, q_BHP: Tensor, k_BHP: Tensor, v_BHP: Tensor, log_decay_H: Tensor) -> Tensor:
    """One step of the recurrence of ``lightning``. ``state_BHPP`` (any float dtype) is updated in place.

    Returns:
        o_BHP in the dtype of ``v_BHP``, read from the new state before it is rounded to the state's dtype.
    """
    q, k, v = wide(q_BHP)[..., None], wide(k_BHP)[..., None], wide(v_BHP)
    decay = log_decay_H.to(v.dtype).exp()[:, None, None]
    state = decay * state_BHPP.to(v.dtype) + k * v[..., None, :]
    state_BHPP.copy_(state)
    return (state * q).sum(-2).to(v_BHP.dtype)


# Inputs, for a verification or at size --------------------------------------------------------------------------------

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


def lightning_inputs(problem: Problem, draw: Draw) -> Iterator[Trial]:
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


def lightning_step_inputs(problem: Problem, draw: Draw) -> Iterator[Trial]:
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
