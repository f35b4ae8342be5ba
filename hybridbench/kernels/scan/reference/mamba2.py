"""mamba2: the plain PyTorch implementations of Mamba-2's scan, of its step, its convolution and its whole core."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from hybridbench.kernels.dense.reference import gate
from hybridbench.kernels.plain import wide
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
