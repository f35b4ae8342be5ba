"""mamba2: what Mamba-2's scan, step, convolution and core mean, in plain PyTorch, and inputs to try them with."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hybridbench.kernels.dense.reference import gate
from hybridbench.kernels.drawing import EPS, Draw, Trial
from hybridbench.kernels.plain import wide
from hybridbench.problem import Problem
from hybridbench.sizes import CHUNK_ELEMENTS

NO_STEP = -1e4
"""A projected dt that softplus makes exactly 0, in every dtype and with any bias, so that its row changes no state."""


def ssd(
    x_BTHP: Tensor,
    dt_BTH: Tensor,
    A_H: Tensor,
    B_BTGN: Tensor,
    C_BTGN: Tensor,
    D_H: Tensor,
    dt_bias_H: Tensor,
    *,
    chunk_size: int,
    initial_state_BHPN: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The state-space duality scan of Mamba-2, in its chunked matrix form (arXiv:2405.21060, section 6).

    With ``dt = softplus(dt_BTH + dt_bias)`` it computes, for every head,
    ``h_t = exp(dt_t A) h_{t-1} + dt_t x_t B_t^T`` and ``y_t = h_t C_t + D x_t``. Inside a chunk the recurrence is a
    masked product ``(C B^T o L) (dt x)``; between chunks only states travel, one chunk after the other.

    Args:
        A_H: negative, float32: ``-exp(A_log)``.
        chunk_size: positions per chunk; T need not be a multiple of it.

    Returns:
        y_BTHP in the dtype of ``x_BTHP`` and final_state_BHPN in float32 (float64 for float64 input), both
        differentiable.
    """
    T, H, P = (int(n) for n in x_BTHP.shape[1:])
    B, G, N = int(B_BTGN.shape[0]), int(B_BTGN.shape[2]), int(B_BTGN.shape[3])
    x, dt = wide(x_BTHP), F.softplus(wide(dt_BTH) + wide(dt_bias_H))
    state = x.new_zeros(B, H, P, N) if initial_state_BHPN is None else initial_state_BHPN.to(x.dtype)
    span = chunk_size * max(1, CHUNK_ELEMENTS // (B * H * chunk_size * chunk_size))
    pieces = []
    for t in range(0, T, span):
        part = slice(t, min(t + span, T))
        y, state = _scan(
            x[:, part], dt[:, part], wide(A_H), wide(B_BTGN[:, part]), wide(C_BTGN[:, part]), state, G, chunk_size
        )
        pieces.append(y)
    y_BTHP = (pieces[0] if len(pieces) == 1 else torch.cat(pieces, 1)) + x * wide(D_H)[:, None]
    return y_BTHP.to(x_BTHP.dtype), state


def _scan(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, state: Tensor, G: int, Q: int
) -> tuple[Tensor, Tensor]:
    """``ssd`` without D over one segment, all its chunks at once: c chunk, q and s positions in it, r heads."""
    T = int(x.shape[1])
    short = -T % Q
    if short:  # dt = 0 leaves the state alone and adds nothing
        x, dt, B, C = (F.pad(z, (0, 0) * (z.dim() - 2) + (0, short)) for z in (x, dt, B, C))
    x, dt, B, C = (torch.unflatten(z, 1, (-1, Q)) for z in (x, dt, B, C))
    x, dt = torch.unflatten(x, 3, (G, -1)), torch.unflatten(dt, 3, (G, -1))
    dtx = x * dt[..., None]
    log_decay = (dt * torch.unflatten(A, 0, (G, -1))).cumsum(2)  # bcqgr: from the chunk's start up to and including q
    by_head = log_decay.permute(0, 1, 3, 4, 2)
    between = by_head[..., :, None] - by_head[..., None, :]  # bcgrqs: from after s up to q
    later = torch.ones(Q, Q, dtype=torch.bool, device=x.device).triu(1)
    L = between.masked_fill(later, -math.inf).exp()
    scores = torch.einsum("bcqgn,bcsgn->bcgqs", C, B)
    y = torch.einsum("bcgrqs,bcsgrp->bcqgrp", scores[:, :, :, None] * L, dtx)

    to_end = (log_decay[:, :, -1:] - log_decay).exp()
    added = torch.einsum("bcsgn,bcsgrp->bcgrpn", B, dtx * to_end[..., None])
    whole = log_decay[:, :, -1].exp()[..., None, None]
    state = torch.unflatten(state, 1, (G, -1))
    before = []
    for c in range(int(x.shape[1])):
        before.append(state)
        state = whole[:, c] * state + added[:, c]
    y = y + log_decay.exp()[..., None] * torch.einsum("bcqgn,bcgrpn->bcqgrp", C, torch.stack(before, 1))
    return y.flatten(3, 4).flatten(1, 2)[:, :T], state.flatten(1, 2)


def ssd_step(
    state_BHPN: Tensor,
    x_BHP: Tensor,
    dt_BH: Tensor,
    A_H: Tensor,
    B_BGN: Tensor,
    C_BGN: Tensor,
    D_H: Tensor,
    dt_bias_H: Tensor,
) -> Tensor:
    """One step of the recurrence of ``ssd``. ``state_BHPN`` (any float dtype) is updated in place.

    Returns:
        y_BHP in the dtype of ``x_BHP``, read from the new state before it is rounded to the state's dtype.
    """
    G = B_BGN.shape[1]
    x, dt = wide(x_BHP), F.softplus(wide(dt_BH) + wide(dt_bias_H))
    B_BGN, C_BGN = wide(B_BGN), wide(C_BGN)
    decay = (dt * wide(A_H))[..., None, None]
    dtx_BGRP = torch.unflatten(x * dt[..., None], 1, (G, -1))
    state = decay.exp() * state_BHPN.to(x.dtype) + torch.einsum("bgrp,bgn->bgrpn", dtx_BGRP, B_BGN).flatten(1, 2)
    state_BHPN.copy_(state)
    y = torch.einsum("bgrpn,bgn->bgrp", torch.unflatten(state, 1, (G, -1)), C_BGN).flatten(1, 2)
    return (y + x * wide(D_H)[:, None]).to(x_BHP.dtype)


def conv1d(x_BTC: Tensor, weight_CW: Tensor, bias_C: Tensor | None) -> Tensor:
    """Depthwise causal convolution, then SiLU: ``y_t = silu(bias + sum_w weight_w x_{t-W+1+w})``, x = 0 before 0."""
    C, W = weight_CW.shape
    x_BCT = F.pad(wide(x_BTC).transpose(1, 2), (W - 1, 0))
    bias = None if bias_C is None else wide(bias_C)
    y_BCT = F.conv1d(x_BCT, wide(weight_CW)[:, None], bias, groups=C)
    return F.silu(y_BCT).transpose(1, 2).to(x_BTC.dtype)


def conv1d_step(state_BCW: Tensor, x_BC: Tensor, weight_CW: Tensor, bias_C: Tensor | None) -> Tensor:
    """One step of ``conv1d``. ``state_BCW`` holds the last W inputs, newest last, and is shifted in place."""
    state_BCW.copy_(torch.cat([state_BCW[:, :, 1:], x_BC[:, :, None].to(state_BCW.dtype)], 2))
    y = (wide(state_BCW) * wide(weight_CW)).sum(-1)
    return F.silu(y if bias_C is None else y + wide(bias_C)).to(x_BC.dtype)


def mamba2_core(
    packed_BTE: Tensor,
    conv_weight_CW: Tensor,
    conv_bias_C: Tensor,
    A_H: Tensor,
    D_H: Tensor,
    dt_bias_H: Tensor,
    norm_weight_I: Tensor | None,
    *,
    head_dim: int,
    n_groups: int,
    chunk_size: int,
    eps: float,
    initial_state_BHPN: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """All of Mamba-2 between its two projections: ``conv1d``, ``ssd`` and ``gate`` of the packed projection.

    A sequence that continues from a state also needs the convolution's last inputs. They come in front, in rows whose
    dt is so negative (-1e4) that softplus makes it exactly 0: these do not change the state, and the caller drops their
    outputs.

    Args:
        packed_BTE: rows z | x | B | C | dt, and columns behind them that are not read.
        norm_weight_I: of the gated norm; None without one.
        initial_state_BHPN: the final state of the positions before; None starts from zeros.

    Returns:
        out_BTI in the dtype of ``packed_BTE``, and final_state_BHPN as ``ssd`` returns it.
    """
    H, channels = A_H.shape[0], conv_weight_CW.shape[0]
    inner = H * head_dim
    states = (channels - inner) // 2
    z, conv_in, dt = torch.split(packed_BTE[..., : inner + channels + H], [inner, channels, H], dim=-1)
    x, b, c = torch.split(conv1d(conv_in, conv_weight_CW, conv_bias_C), [inner, states, states], dim=-1)
    x_BTHP = torch.unflatten(x, -1, (H, head_dim))
    b_BTGN, c_BTGN = (torch.unflatten(v, -1, (n_groups, -1)) for v in (b, c))
    y_BTHP, state_BHPN = ssd(
        x_BTHP,
        dt,
        A_H,
        b_BTGN,
        c_BTGN,
        D_H,
        dt_bias_H,
        chunk_size=chunk_size,
        initial_state_BHPN=initial_state_BHPN,
    )
    return gate(y_BTHP.flatten(2), z, norm_weight_I, eps=eps), state_BHPN


# Inputs, for a verification or at size --------------------------------------------------------------------------------


def _ssm_parameters(H: int, draw: Draw) -> dict[str, Tensor]:
    """A, D and dt_bias as Mamba-2 initialises them: A in -[1, 16], dt log-uniform in [0.001, 0.1]."""
    dt = draw.uniform(math.log(1e-3), math.log(1e-1), H).exp()
    return {"A_H": -draw.uniform(1, 16, H), "D_H": draw.uniform(0.5, 1.5, H), "dt_bias_H": dt.expm1().log()}


def ssd_inputs(problem: Problem, draw: Draw) -> Iterator[Trial]:
    """Lengths around one chunk, without and (at the last) with a state to start from."""
    H, G = draw.grouped_heads()
    P, N, Q = problem.head_dim, problem.d_state, problem.chunk_size

    def call(fn: Callable[..., Any], t: dict[str, Tensor]) -> dict[str, Tensor]:
        y, state = fn(
            *(t[n] for n in ("x_BTHP", "dt_BTH", "A_H", "B_BTGN", "C_BTGN", "D_H", "dt_bias_H")),
            chunk_size=Q,
            initial_state_BHPN=t.get("initial_state_BHPN"),
        )
        return {"y_BTHP": y, "final_state_BHPN": state}

    for T in draw.lengths(sorted({1, 63, 100, Q - 1, Q, Q + 1} - {0})):
        x, B, C, dt = draw.projection(draw.batch, T, widths=[(H, P), (G, N), (G, N), (H,)])
        tensors = {"x_BTHP": x, "dt_BTH": dt, "B_BTGN": B, "C_BTGN": C, **_ssm_parameters(H, draw)}
        if T == Q + 1:
            tensors["initial_state_BHPN"] = draw.uniform(-1, 1, draw.batch, H, P, N)
        # from an empty state a single step does not depend on A, so its gradient is 0 and has no relative error
        yield Trial(f"length {T}", tensors, call, gradients=T > 1, continues=T == Q + 1)


def ssd_step_inputs(problem: Problem, draw: Draw) -> Iterator[Trial]:
    """One step from a state in float32, and from one in the activations' dtype."""
    H, G = draw.grouped_heads()
    P, N = problem.head_dim, problem.d_state

    def call(fn: Callable[..., Any], t: dict[str, Tensor]) -> dict[str, Tensor]:
        state = t["state_BHPN"].clone()
        y = fn(state, *(t[n] for n in ("x_BHP", "dt_BH", "A_H", "B_BGN", "C_BGN", "D_H", "dt_bias_H")))
        return {"y_BHP": y, "state_BHPN": state}

    start = draw.uniform(-1, 1, draw.batch, H, P, N)
    for dtype in dict.fromkeys((start.dtype, draw.dtype)):
        x, B, C, dt = draw.projection(draw.batch, widths=[(H, P), (G, N), (G, N), (H,)])
        tensors = {
            "state_BHPN": start.to(dtype),
            "x_BHP": x,
            "dt_BH": dt,
            "B_BGN": B,
            "C_BGN": C,
            **_ssm_parameters(H, draw),
        }
        yield Trial(f"one step from a state in {str(dtype)[6:]}", tensors, call, gradients=False)


def conv1d_inputs(problem: Problem, draw: Draw) -> Iterator[Trial]:
    """Lengths below and above the taps; also without a bias, and with contiguous positions."""
    C, W = draw.channels, problem.d_conv

    def call(fn: Callable[..., Any], t: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"y_BTC": fn(t["x_BTC"], t["weight_CW"], t.get("bias_C"))}

    for T in draw.lengths((1, 63, 100, 257)):
        if draw.side_by_side:
            x = draw.across(C, draw.batch, T)
        else:
            _z, x = draw.projection(draw.batch, T, widths=[(16,), (C,)])
        tensors = {"x_BTC": x, "weight_CW": draw.normal(C, W), "bias_C": draw.normal(C)}
        yield Trial(f"length {T}", tensors, call)
        if T == 100:
            yield Trial(f"length {T}, no bias", {name: tensors[name] for name in ("x_BTC", "weight_CW")}, call)
            across = draw.across(C, draw.batch, T)
            yield Trial(f"length {T}, positions side by side", tensors | {"x_BTC": across}, call)


def conv1d_step_inputs(problem: Problem, draw: Draw) -> Iterator[Trial]:
    """Two steps in a row, the second from the state that the first one left."""
    C, W = draw.channels, problem.d_conv

    def call(fn: Callable[..., Any], t: dict[str, Tensor]) -> dict[str, Tensor]:
        state = t["state_BCW"].clone()
        first = fn(state, t["x_BC"], t["weight_CW"], t.get("bias_C"))
        second = fn(state, t["next_BC"], t["weight_CW"], t.get("bias_C"))
        return {"first_BC": first, "second_BC": second, "state_BCW": state}

    x, following = (draw.projection(draw.batch, widths=[(16,), (C,)])[1] for _ in range(2))
    tensors = {
        "state_BCW": draw.normal(draw.batch, C, W),
        "x_BC": x,
        "next_BC": following,
        "weight_CW": draw.normal(C, W),
        "bias_C": draw.normal(C),
    }
    yield Trial("two steps", tensors, call, gradients=False)
    without = {name: tensor for name, tensor in tensors.items() if name != "bias_C"}
    yield Trial("two steps, no bias", without, call, gradients=False)


def mamba2_core_inputs(problem: Problem, draw: Draw) -> Iterator[Trial]:
    """Lengths around one chunk, with and without a gated norm and padding of rows. The parts are drawn one by one.

    There are eight heads per group, since kernels process several at once. Also, A's gradient sums terms of either sign
    over positions: with two heads both sums may be small by chance, while their rounding is not (4% in bfloat16 on an
    H200).

    The last trial starts from a state and has no backward. Rows with the convolution's last inputs come first, which
    must not change the state.
    """
    H, G = draw.grouped_heads(most=8)
    P, N, W, Q = problem.head_dim, problem.d_state, problem.d_conv, problem.chunk_size
    inner, channels = H * P, H * P + 2 * G * N

    def call(fn: Callable[..., Any], t: dict[str, Tensor]) -> dict[str, Tensor]:
        packed = torch.cat([t[name] for name in ("z_BTI", "conv_in_BTC", "dt_BTH")], -1)
        packed = F.pad(packed, (0, -packed.shape[-1] % 16 + (16 if "norm_weight_I" in t else 0)))
        parameters = (t[name] for name in ("conv_weight_CW", "conv_bias_C", "A_H", "D_H", "dt_bias_H"))
        settings = {"head_dim": P, "n_groups": G, "chunk_size": Q, "eps": EPS}
        from_state = {name: t[name] for name in t if name == "initial_state_BHPN"}
        out, state = fn(packed, *parameters, t.get("norm_weight_I"), **settings, **from_state)
        return {"out_BTI": out, "final_state_BHPN": state}

    for T in draw.lengths(sorted({63, Q + 1})):
        for normed in (False, True):
            if draw.at_size and not normed:  # one trial, with every input of the row
                continue
            tensors = {
                "z_BTI": draw.normal(draw.batch, T, inner),
                "conv_in_BTC": draw.normal(draw.batch, T, channels),
                "dt_BTH": draw.normal(draw.batch, T, H),
                "conv_weight_CW": draw.normal(channels, W) / math.sqrt(W),
                "conv_bias_C": draw.normal(channels),
                **_ssm_parameters(H, draw),
            }
            if normed:
                tensors["norm_weight_I"] = draw.normal(inner)
            yield Trial(f"length {T}, {'a' if normed else 'no'} norm", tensors, call)
    dt = tensors["dt_BTH"].clone()
    dt[:, : W - 1] = NO_STEP
    tensors = tensors | {"dt_BTH": dt, "initial_state_BHPN": draw.uniform(-1, 1, draw.batch, H, P, N)}
    yield Trial(f"length {T}, a norm, from a state", tensors, call, gradients=False, continues=True)
