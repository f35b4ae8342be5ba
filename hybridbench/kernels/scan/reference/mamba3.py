"""mamba3: what Mamba-3's scan and its step mean, in plain PyTorch, and inputs to try them with."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hybridbench.kernels.drawing import Draw, Trial
from hybridbench.kernels.plain import wide
from hybridbench.problem import Problem
from hybridbench.sizes import CHUNK_ELEMENTS

A_FLOOR = 1e-4
"""The least rate of decay of Mamba-3, as its public module has it."""


def mamba3_scan(
    x_BTHP: Tensor,
    dt_BTH: Tensor,
    rate_BTH: Tensor,
    trap_BTH: Tensor,
    B_BTGN: Tensor,
    C_BTGN: Tensor,
    angle_BTR: Tensor,
    z_BTHP: Tensor,
    dt_bias_H: Tensor,
    B_bias_HN: Tensor,
    C_bias_HN: Tensor,
    D_H: Tensor,
    *,
    chunk_size: int,
    initial: tuple[Tensor, Tensor, Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The scan of Mamba-3 at rank 1 with its gate (arXiv 2603.15569, section 3), in its chunked matrix form.

    With ``dt = softplus(dt_BTH + dt_bias)``, ``a = exp(-max(softplus(rate), A_FLOOR) dt)``, ``l = sigmoid(trap)`` and
    angles ``w_t = w_{t-1} + pi tanh(angle_t) dt_t``, by which the first R pairs of neighbours of ``k = B + B_bias`` and
    ``q = C + C_bias`` are turned, it computes for every head
    ``h_t = a_t h_{t-1} + (1 - l_t) dt_t a_t x_{t-1} k_{t-1}^T + l_t dt_t x_t k_t^T`` (the trapezoidal rule) and
    ``y_t = (h_t q_t + D x_t) silu(z_t)``. Each of the G groups of B and C serves H/G heads.

    Args:
        dt_BTH, rate_BTH, trap_BTH, angle_BTR: as projected, before any function; the angles are those of every head.
        chunk_size: positions per chunk; T need not be a multiple of it.
        initial: the last four results of the positions before, to go on from.

    Returns:
        y_BTHP in the dtype of ``x_BTHP``; what the next step needs, in float32 (float64 for float64 input): the angles
        w_BHR in [0, 2 pi), the state_BHPN, the turned k_BHN and x_BHP of the last position. All differentiable.
    """
    B, T, H, P = (int(n) for n in x_BTHP.shape)
    N, R = int(B_BTGN.shape[3]), int(angle_BTR.shape[2])
    x, dt = wide(x_BTHP), F.softplus(wide(dt_BTH) + wide(dt_bias_H))
    log_decay = -F.softplus(wide(rate_BTH)).clamp(min=A_FLOOR) * dt
    now, before = _trapezoid(dt, trap_BTH)
    # An input enters at its own step and once more at the next one, whose weight is already included here.
    scale = now + F.pad(before[:, 1:], (0, 0, 0, 1))
    if initial is None:
        angle, state = x.new_zeros(B, H, R), x.new_zeros(B, H, P, N)
    else:
        angle, state, last_k, last_x = (tensor.to(x.dtype) for tensor in initial)
        state = state + before[:, 0, :, None, None] * last_x[..., None] * last_k[..., None, :]
    span = chunk_size * max(1, CHUNK_ELEMENTS // (B * H * chunk_size * chunk_size))
    pieces = []
    for t in range(0, T, span):
        part = slice(t, t + span)
        turns = math.pi * wide(angle_BTR[:, part]).tanh()[:, :, None] * dt[:, part, :, None]
        angles = (angle[:, None] + turns.cumsum(1)).remainder(2 * math.pi)
        k, q = (_turned(wide(v[:, part]), bias, angles) for v, bias in ((B_BTGN, B_bias_HN), (C_BTGN, C_bias_HN)))
        angle, last_k = angles[:, -1], k[:, -1]
        y, state = _trapezoidal_segment(
            x[:, part], log_decay[:, part], scale[:, part], now[:, part], k, q, state, chunk_size
        )
        pieces.append(y)
    y_BTHP = (pieces[0] if len(pieces) == 1 else torch.cat(pieces, 1)) + x * wide(D_H)[:, None]
    return (y_BTHP * F.silu(wide(z_BTHP))).to(x_BTHP.dtype), angle, state, last_k, x[:, -1]


def _trapezoid(dt: Tensor, trap: Tensor) -> tuple[Tensor, Tensor]:
    """The weights of this position's input and (before its decay) of the last one's."""
    share = wide(trap).sigmoid()
    return share * dt, (1 - share) * dt


def _turned(vectors: Tensor, bias_HN: Tensor, angles: Tensor) -> Tensor:
    """Vectors (..., G, N) repeated to heads, biased, and their first R pairs of neighbours turned by (..., H, R)."""
    H, R = angles.shape[-2:]
    biased = vectors.repeat_interleave(H // vectors.shape[-2], -2) + wide(bias_HN)
    even, odd = biased[..., : 2 * R : 2], biased[..., 1 : 2 * R : 2]
    cos, sin = angles.cos(), angles.sin()
    pairs = torch.stack((even * cos - odd * sin, even * sin + odd * cos), -1)
    return torch.cat((pairs.flatten(-2), biased[..., 2 * R :]), -1)


def _trapezoidal_segment(
    x: Tensor, log_decay: Tensor, scale: Tensor, now: Tensor, k: Tensor, q: Tensor, state: Tensor, Q: int
) -> tuple[Tensor, Tensor]:
    """``mamba3_scan`` without D and gate over one segment: c chunk, q and s positions in it. Inputs have the weight
    ``now`` at their own position and ``scale`` at all later ones.
    """
    T = int(x.shape[1])
    short = -T % Q
    if short:  # no decay and nothing added leave the state alone
        x, log_decay, scale, now, k, q = (
            F.pad(v, (0, 0) * (v.dim() - 2) + (0, short)) for v in (x, log_decay, scale, now, k, q)
        )
    x, log_decay, scale, now, k, q = (torch.unflatten(v, 1, (-1, Q)) for v in (x, log_decay, scale, now, k, q))
    since = log_decay.cumsum(2)  # bcqh: from the chunk's start up to and including q
    by_head = since.transpose(2, 3)
    not_earlier = torch.ones(Q, Q, dtype=torch.bool, device=x.device).triu()
    between = (by_head[..., :, None] - by_head[..., None, :]).masked_fill(not_earlier, -math.inf).exp()
    scores = torch.einsum("bcqhn,bcshn->bchqs", q, k) * between
    y = torch.einsum("bchqs,bcshp->bcqhp", scores, x * scale[..., None])
    y = y + (now * (q * k).sum(-1))[..., None] * x

    to_end = scale * (since[:, :, -1:] - since).exp()
    added = torch.einsum("bcshp,bcshn->bchpn", x * to_end[..., None], k)
    whole = since[:, :, -1].exp()[..., None, None]
    before = []
    for c in range(int(x.shape[1])):
        before.append(state)
        state = whole[:, c] * state + added[:, c]
    y = y + since.exp()[..., None] * torch.einsum("bcqhn,bchpn->bcqhp", q, torch.stack(before, 1))
    return y.flatten(1, 2)[:, :T], state


def mamba3_step(
    angle_BHR: Tensor,
    state_BHPN: Tensor,
    last_k_BHN: Tensor,
    last_x_BHP: Tensor,
    x_BHP: Tensor,
    dt_BH: Tensor,
    rate_BH: Tensor,
    trap_BH: Tensor,
    B_BGN: Tensor,
    C_BGN: Tensor,
    angle_BR: Tensor,
    z_BHP: Tensor,
    dt_bias_H: Tensor,
    B_bias_HN: Tensor,
    C_bias_HN: Tensor,
    D_H: Tensor,
) -> Tensor:
    """One step of the recurrence of ``mamba3_scan``. The first four (any float dtypes) are updated in place.

    Returns:
        y_BHP in the dtype of ``x_BHP``, read from the new state before it is rounded to the state's dtype.
    """
    x, dt = wide(x_BHP), F.softplus(wide(dt_BH) + wide(dt_bias_H))
    decay = (-F.softplus(wide(rate_BH)).clamp(min=A_FLOOR) * dt).exp()
    now, before = _trapezoid(dt, trap_BH)
    turn = math.pi * wide(angle_BR).tanh()[:, None] * dt[..., None]
    angle = (angle_BHR.to(x.dtype) + turn).remainder(2 * math.pi)
    k, q = (_turned(wide(v), bias, angle) for v, bias in ((B_BGN, B_bias_HN), (C_BGN, C_bias_HN)))
    kept = state_BHPN.to(x.dtype) + (before[..., None] * last_x_BHP)[..., None] * last_k_BHN[..., None, :]
    state = decay[..., None, None] * kept + (now[..., None] * x)[..., None] * k[..., None, :]
    for old, new in ((angle_BHR, angle), (state_BHPN, state), (last_k_BHN, k), (last_x_BHP, x)):
        old.copy_(new)
    y = (state * q[..., None, :]).sum(-1) + x * wide(D_H)[:, None]
    return (y * F.silu(wide(z_BHP))).to(x_BHP.dtype)


# Inputs, for a verification or at size --------------------------------------------------------------------------------

PROJECTED = ("x_BTHP", "dt_BTH", "rate_BTH", "trap_BTH", "B_BTGN", "C_BTGN", "angle_BTR", "z_BTHP")
"""The parts of a packed row that the scan of Mamba-3 reads, in order; its parameters follow."""


def _heads(problem: Problem, draw: Draw) -> tuple[int, int]:
    """Heads and groups; all of them on a GPU, because the public kernels tune themselves once, at the first sizes that
    they get, so that the check tunes the timed kernels.
    """
    return (problem.n_heads, problem.n_groups) if problem.device == "cuda" else draw.grouped_heads()


def _inputs(problem: Problem, draw: Draw, *length: int) -> dict[str, Tensor]:
    """Random inputs in order, dt as the model initialises it; all that is projected, x and z too, is one packed row."""
    H, G = _heads(problem, draw)
    P, N, R = problem.head_dim, problem.d_state, problem.n_angles
    widths: list[tuple[int, ...]] = [(H, P), (H,), (H,), (H,), (G, N), (G, N), (R,), (H, P)]
    names = PROJECTED if length else [name.replace("BT", "B") for name in PROJECTED]
    dt = draw.uniform(math.log(1e-3), math.log(1e-1), H).exp()
    return dict(zip(names, draw.projection(draw.batch, *length, widths=widths), strict=True)) | {
        "dt_bias_H": dt.expm1().log(),
        "B_bias_HN": draw.uniform(0.5, 1.5, H, N),
        "C_bias_HN": draw.uniform(0.5, 1.5, H, N),
        "D_H": draw.uniform(0.5, 1.5, H),
    }


def _on_the_circle(angle: Tensor) -> Tensor:
    """Cosines and sines: angles just above 0 and just below 2 pi are close."""
    return torch.stack((angle.cos(), angle.sin()), -1)


def mamba3_scan_inputs(problem: Problem, draw: Draw) -> Iterator[Trial]:
    """Lengths around one chunk; on a GPU a long one comes first, since kernels tune themselves to it.

    What the last position leaves gets no gradients. Only where no gradients are checked is there a trial from a state,
    because the kernels tune themselves again for gradients with one.
    """
    H, _G = _heads(problem, draw)
    P, N, R, Q = problem.head_dim, problem.d_state, problem.n_angles, problem.chunk_size
    started = ("angle_BHR", "state_BHPN", "last_k_BHN", "last_x_BHP")

    def call(fn: Callable[..., Any], t: dict[str, Tensor]) -> dict[str, Tensor]:
        inputs = [tensor for name, tensor in t.items() if name not in started]
        from_state = {"initial": tuple(t[name] for name in started)} if started[0] in t else {}
        y, *kept = fn(*inputs, chunk_size=Q, **from_state)
        angle, state, k, x = (tensor.detach() for tensor in kept)
        return {
            "y_BTHP": y,
            "final_angle_BHRE": _on_the_circle(angle),
            "final_state_BHPN": state,
            "last_k_BHN": k,
            "last_x_BHP": x,
        }

    tuned_at = {16 * Q} if problem.device == "cuda" else set()
    for T in draw.lengths(sorted({1, 63, 100, Q - 1, Q, Q + 1} - {0} | tuned_at, reverse=True)):
        # from an empty state a single step neither decays nor turns, so those gradients are 0
        yield Trial(f"length {T}", _inputs(problem, draw, T), call, gradients=T > 1)
    if not problem.training and not draw.at_size:
        start = {
            "angle_BHR": draw.uniform(0, 2 * math.pi, draw.batch, H, R),
            "state_BHPN": draw.uniform(-1, 1, draw.batch, H, P, N),
            "last_k_BHN": draw.normal(draw.batch, H, N),
            "last_x_BHP": draw.normal(draw.batch, H, P),
        }
        yield Trial(f"length {Q + 1}, from a state", _inputs(problem, draw, Q + 1) | start, call, continues=True)


def mamba3_step_inputs(problem: Problem, draw: Draw) -> Iterator[Trial]:
    """One step from a state in float32, and from one in the activations' dtype; the angles are float32 in both."""
    H, _G = _heads(problem, draw)
    P, N, R = problem.head_dim, problem.d_state, problem.n_angles

    def call(fn: Callable[..., Any], t: dict[str, Tensor]) -> dict[str, Tensor]:
        angle, state, k, x = kept = [tensor.clone() for tensor in list(t.values())[:4]]
        y = fn(*kept, *list(t.values())[4:])
        return {
            "y_BHP": y,
            "angle_BHRE": _on_the_circle(angle),
            "state_BHPN": state,
            "last_k_BHN": k,
            "last_x_BHP": x,
        }

    start = draw.uniform(-1, 1, draw.batch, H, P, N)
    for dtype in dict.fromkeys((start.dtype, draw.dtype)):
        tensors = {
            "angle_BHR": draw.uniform(0, 2 * math.pi, draw.batch, H, R),
            "state_BHPN": start.to(dtype),
            "last_k_BHN": draw.normal(draw.batch, H, N),
            "last_x_BHP": draw.normal(draw.batch, H, P),
        }
        inputs = _inputs(problem, draw)
        yield Trial(f"one step from a state in {str(dtype)[6:]}", tensors | inputs, call, gradients=False)
