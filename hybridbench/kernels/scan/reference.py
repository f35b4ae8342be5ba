"""reference: the plain PyTorch implementations of Mamba's scans, of their steps and of their convolution.

How they are written is said in ``kernels.plain``; shapes have the letters of ``hybridbench.kernels``.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from hybridbench.kernels.dense.reference import gate
from hybridbench.kernels.plain import wide
from hybridbench.sizes import CHUNK_ELEMENTS


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


NO_STEP = -1e4
"""A projected dt that softplus makes exactly 0, in every dtype and with any bias, so that its row changes no state."""


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
        y_BTI in the dtype of ``x_BTI`` and final_state_BIN in float32 (float64 for float64 input). The third-party
        kernel gives the state no gradient, so nothing may need it.
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
