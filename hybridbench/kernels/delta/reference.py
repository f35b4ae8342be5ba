"""reference: what the delta rules, their steps and their gated norm mean, in plain PyTorch, and inputs for them.

How implementations are written is said in ``kernels.plain``; shapes have the letters of ``hybridbench.kernels``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hybridbench.kernels.drawing import EPS, Draw, Trial
from hybridbench.kernels.plain import wide
from hybridbench.problem import Problem
from hybridbench.sizes import CHUNK_ELEMENTS, KDA_PLAIN_CHUNK


def gated_delta(
    q_BTGP: Tensor,
    k_BTGP: Tensor,
    v_BTHV: Tensor,
    dt_BTH: Tensor,
    beta_BTH: Tensor,
    A_log_H: Tensor,
    dt_bias_H: Tensor,
    *,
    chunk_size: int,
    initial_state_BHPV: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The gated delta rule (arXiv 2412.06464, section 3), in its chunked matrix form.

    With ``g = exp(-exp(A_log) softplus(dt + dt_bias))``, ``b = sigmoid(beta)``, and q and k scaled to length one (q
    also divided by sqrt(P)) it computes, for every head,
    ``S_t = g_t S_{t-1} + b_t k_t (v_t - (g_t S_{t-1})^T k_t)^T`` and ``o_t = S_t^T q_t``. Each of the G query and key
    heads serves H/G value heads.

    Args:
        dt_BTH, beta_BTH: as projected, before softplus and sigmoid.
        chunk_size: positions per chunk; T need not be a multiple of it.

    Returns:
        o_BTHV in the dtype of ``v_BTHV`` and final_state_BHPV in float32 (float64 for float64 input), both
        differentiable.
    """
    log_decay = -wide(A_log_H).exp() * F.softplus(wide(dt_BTH) + wide(dt_bias_H))
    return _delta_rule(q_BTGP, k_BTGP, v_BTHV, log_decay[..., None], beta_BTH, chunk_size, initial_state_BHPV)


def kda(
    q_BTHP: Tensor,
    k_BTHP: Tensor,
    v_BTHV: Tensor,
    dt_BTHP: Tensor,
    beta_BTH: Tensor,
    A_log_H: Tensor,
    dt_bias_HP: Tensor,
    *,
    chunk_size: int,
    initial_state_BHPV: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Kimi delta attention (arXiv 2510.26692): ``gated_delta`` with a decay of its own for every key channel.

    ``chunk_size`` is the kernels' and changes no result.
    """
    log_decay = -wide(A_log_H).exp()[:, None] * F.softplus(wide(dt_BTHP) + wide(dt_bias_HP))
    Q = min(KDA_PLAIN_CHUNK, chunk_size)
    return _delta_rule(q_BTHP, k_BTHP, v_BTHV, log_decay, beta_BTH, Q, initial_state_BHPV)


UNIT_EPS = 1e-6
"""Added to the squared length of a query or key before it is divided by its length, as the third-party kernels do."""


def _unit(x: Tensor) -> Tensor:
    return x * torch.rsqrt((x * x).sum(-1, keepdim=True) + UNIT_EPS)


def _delta_rule(
    q_BTGP: Tensor,
    k_BTGP: Tensor,
    v_BTHV: Tensor,
    log_decay_BTHR: Tensor,
    beta_BTH: Tensor,
    Q: int,
    state: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """The delta rule with one decay a head (R is 1) or one a key channel (R is P), segment by segment."""
    B, T, G, P = (int(n) for n in q_BTGP.shape)
    H, V = (int(n) for n in v_BTHV.shape[2:])
    q, k, v = _unit(wide(q_BTGP)) / math.sqrt(P), _unit(wide(k_BTGP)), wide(v_BTHV)
    beta = wide(beta_BTH).sigmoid()[..., None]
    state = v.new_zeros(B, H, P, V) if state is None else state.to(v.dtype)
    state = torch.unflatten(state, 1, (G, -1))
    Q = min(Q, T)
    span = Q * max(1, CHUNK_ELEMENTS // (B * H * Q * Q * int(log_decay_BTHR.shape[3])))
    pieces = []
    for t in range(0, T, span):
        part = slice(t, t + span)
        o, state = _delta_segment(q[:, part], k[:, part], v[:, part], log_decay_BTHR[:, part], beta[:, part], state, Q)
        pieces.append(o)
    o_BTHV = pieces[0] if len(pieces) == 1 else torch.cat(pieces, 1)
    return o_BTHV.to(v_BTHV.dtype), state.flatten(1, 2)


def _delta_segment(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, beta: Tensor, state: Tensor, Q: int
) -> tuple[Tensor, Tensor]:
    """One segment in the WY form: inside a chunk the updates solve a triangular system, of which only the state before
    the chunk is unknown; c chunk, q and s positions in it, g group and r head of it.
    """
    T, G = int(q.shape[1]), int(q.shape[2])
    short = -T % Q
    if short:  # beta = 0 and no decay leave the state alone
        q, k, v, log_decay, beta = (F.pad(x, (0, 0, 0, 0, 0, short)) for x in (q, k, v, log_decay, beta))
    q, k, v, log_decay, beta = (
        torch.unflatten(torch.unflatten(x, 2, (G, -1)), 1, (-1, Q)).permute(0, 1, 3, 4, 2, 5)
        for x in (q, k, v, log_decay, beta)
    )  # bcgrq and the width
    since = log_decay.cumsum(-2)  # from the chunk's start up to and including q
    later = torch.ones(Q, Q, dtype=torch.bool, device=q.device).triu(1)[..., None]
    between = (since[..., :, None, :] - since[..., None, :, :]).masked_fill(later, -math.inf).exp()
    if between.shape[-1] == 1:
        among_keys, scores = ((x @ k.mT) * between[..., 0] for x in (k, q))
    else:
        among_keys, scores = ((x[..., :, None, :] * k[..., None, :, :] * between).sum(-1) for x in (k, q))
    wanted = beta * torch.cat((v, (k * since.exp()).expand(*v.shape[:-1], -1)), -1)
    solved = torch.linalg.solve_triangular(beta * among_keys, wanted, upper=False, unitriangular=True)
    new, read = solved.split([v.shape[-1], k.shape[-1]], -1)
    whole = since[..., -1, :].exp()[..., None]
    q_decayed, k_decayed = q * since.exp(), k * (since[..., -1:, :] - since).exp()
    outputs = []
    for c in range(int(q.shape[1])):
        update = new[:, c] - read[:, c] @ state
        outputs.append(q_decayed[:, c] @ state + scores[:, c] @ update)
        state = whole[:, c] * state + k_decayed[:, c].mT @ update
    o = torch.stack(outputs, 1).permute(0, 1, 4, 2, 3, 5)
    return o.flatten(3, 4).flatten(1, 2)[:, :T], state


def gated_delta_step(
    state_BHPV: Tensor,
    q_BGP: Tensor,
    k_BGP: Tensor,
    v_BHV: Tensor,
    dt_BH: Tensor,
    beta_BH: Tensor,
    A_log_H: Tensor,
    dt_bias_H: Tensor,
) -> Tensor:
    """One step of the recurrence of ``gated_delta``. ``state_BHPV`` (any float dtype) is updated in place.

    Returns:
        o_BHV in the dtype of ``v_BHV``, read from the new state before it is rounded to the state's dtype.
    """
    decay = (-wide(A_log_H).exp() * F.softplus(wide(dt_BH) + wide(dt_bias_H))).exp()
    return _delta_step(state_BHPV, q_BGP, k_BGP, v_BHV, decay[..., None], beta_BH)


def kda_step(
    state_BHPV: Tensor,
    q_BHP: Tensor,
    k_BHP: Tensor,
    v_BHV: Tensor,
    dt_BHP: Tensor,
    beta_BH: Tensor,
    A_log_H: Tensor,
    dt_bias_HP: Tensor,
) -> Tensor:
    """One step of the recurrence of ``kda``, as ``gated_delta_step``."""
    decay = (-wide(A_log_H).exp()[:, None] * F.softplus(wide(dt_BHP) + wide(dt_bias_HP))).exp()
    return _delta_step(state_BHPV, q_BHP, k_BHP, v_BHV, decay, beta_BH)


def _delta_step(
    state_BHPV: Tensor, q_BGP: Tensor, k_BGP: Tensor, v_BHV: Tensor, decay_BHR: Tensor, beta_BH: Tensor
) -> Tensor:
    times = v_BHV.shape[1] // q_BGP.shape[1]
    q = (_unit(wide(q_BGP)) / math.sqrt(q_BGP.shape[-1])).repeat_interleave(times, 1)[..., None]
    k = _unit(wide(k_BGP)).repeat_interleave(times, 1)[..., None]
    v, beta = wide(v_BHV), wide(beta_BH).sigmoid()[..., None]
    state = decay_BHR[..., None] * state_BHPV.to(v.dtype)
    update = beta * (v - (state * k).sum(-2))
    state = state + k * update[..., None, :]
    state_BHPV.copy_(state)
    return (state * q).sum(-2).to(v_BHV.dtype)


def norm_gate(y: Tensor, z: Tensor, weight_V: Tensor, *, eps: float, activation: str) -> Tensor:
    """The RMSNorm of ``y`` (..., H, V) over a head's V channels, then times ``silu(z)`` or ``sigmoid(z)``: the end of
    mixers of linear attention. One norm over all channels has H = 1.
    """
    normed = F.rms_norm(wide(y), weight_V.shape, wide(weight_V), eps)
    gate = F.silu(wide(z)) if activation == "silu" else torch.sigmoid(wide(z))
    return (normed * gate).to(y.dtype)


# Inputs, for a verification or at size --------------------------------------------------------------------------------


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


def _rule_inputs(per_channel: bool) -> Callable[[Problem, Draw], Iterator[Trial]]:
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


def _step_inputs(per_channel: bool) -> Callable[[Problem, Draw], Iterator[Trial]]:
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


def norm_gate_inputs(problem: Problem, draw: Draw) -> Iterator[Trial]:
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


gated_delta_inputs, kda_inputs = _rule_inputs(per_channel=False), _rule_inputs(per_channel=True)
gated_delta_step_inputs, kda_step_inputs = _step_inputs(per_channel=False), _step_inputs(per_channel=True)
