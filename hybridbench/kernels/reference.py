"""reference: the plain PyTorch twin of every operation, against which everything fast is checked.

These are written to be read and to be right on any device. They compute in float32 whatever the input (float64 for
float64 input), and give the input's dtype back. They are not slow on purpose: memory stays bounded in the sequence
length, and B, C, keys and values shared by a group of heads are never repeated to heads.

Shapes have the letters of the package's docstring.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

SCORE_ELEMENTS = 1 << 26
"""Attention scores held at once (256 MiB in float32); longer sequences go block by block of queries."""

CHUNK_ELEMENTS = 1 << 25
"""Values of the within-chunk decay matrix held at once (128 MiB in float32); longer sequences go segment by segment."""


def wide(x: Tensor) -> Tensor:
    """``x`` in the dtype the references compute in: float32, or float64 when it came as float64."""
    return x if x.dtype == torch.float64 else x.float()


def attention(q_BTHP: Tensor, k_BTKP: Tensor, v_BTKV: Tensor, *, window: int | None = None, sinks: int = 0) -> Tensor:
    """Causal softmax attention with grouped heads, a window and sinks.

    ``out_t = sum_j softmax_j(q_t . k_j / sqrt(P)) v_j`` over the keys ``j <= t`` with ``t - j < window or j < sinks``
    (all ``j <= t`` when ``window`` is None). Vaswani et al. 2017, equation 1; sinks as in Xiao et al. 2023.

    Returns:
        out_BTHV in the dtype of ``q_BTHP``. Differentiable; query blocks are recomputed in the backward.
    """
    B, T, H = (int(n) for n in q_BTHP.shape[:3])
    q, k, v = wide(q_BTHP), wide(k_BTKP), wide(v_BTKV)
    seen = T if window is None else min(T, window + sinks)
    block = max(16, SCORE_ELEMENTS // (B * H * seen))
    if window is not None:  # a block of n queries meets n + window + sinks keys
        block = min(block, max(128, seen // 4))
    if block >= T:
        return _attend(q, k, v, 0, T, window, sinks).to(q_BTHP.dtype)
    blocks = []
    for first in range(0, T, block):
        last = min(first + block, T)
        if torch.is_grad_enabled():
            blocks.append(checkpoint(_attend, q, k, v, first, last, window, sinks, use_reentrant=False))
        else:
            blocks.append(_attend(q, k, v, first, last, window, sinks))
    return torch.cat(blocks, 1).to(q_BTHP.dtype)


def _attend(q: Tensor, k: Tensor, v: Tensor, first: int, last: int, window: int | None, sinks: int) -> Tensor:
    """The outputs of queries ``first .. last-1``, reading only the keys that at least one of them sees."""
    K, P = k.shape[2:]
    start = 0 if window is None else max(0, first - window + 1)
    j = torch.arange(start, last, device=q.device)
    k_seen, v_seen = k[:, start:last], v[:, start:last]
    kept = min(sinks, start)
    if kept:
        j = torch.cat([torch.arange(kept, device=q.device), j])
        k_seen, v_seen = torch.cat([k[:, :kept], k_seen], 1), torch.cat([v[:, :kept], v_seen], 1)
    t = torch.arange(first, last, device=q.device)[:, None]
    visible = j <= t if window is None else (j <= t) & ((t - j < window) | (j < sinks))
    q_BTKRP = torch.unflatten(q[:, first:last] / math.sqrt(P), 2, (K, -1))
    scores = torch.einsum("btkrp,bskp->bkrts", q_BTKRP, k_seen)
    weights = scores.masked_fill(~visible, -math.inf).softmax(-1)
    return torch.einsum("bkrts,bskv->btkrv", weights, v_seen).flatten(2, 3)


def attention_decode(q_BHP: Tensor, k_cache_BSKP: Tensor, v_cache_BSKV: Tensor, length_B: Tensor) -> Tensor:
    """One query per sequence against the first ``length_B[b]`` slots of a cache; the order of slots does not matter.

    Args:
        length_B: int32 on the caches' device, at least 1; the new key and value are already in their slot.

    Returns:
        out_BHV in the dtype of ``q_BHP``. No value is read back to the host.
    """
    S, K, P = k_cache_BSKP.shape[1:]
    q_BKRP = torch.unflatten(wide(q_BHP), 1, (K, -1))
    scores = torch.einsum("bkrp,bskp->bkrs", q_BKRP, wide(k_cache_BSKP)) / math.sqrt(P)
    live_BS = torch.arange(S, device=q_BHP.device) < length_B[:, None]
    weights = scores.masked_fill(~live_BS[:, None, None], -math.inf).softmax(-1)
    v_live = wide(v_cache_BSKV).masked_fill(~live_BS[:, :, None, None], 0.0)  # 0 x garbage in a dead slot is not 0
    return torch.einsum("bkrs,bskv->bkrv", weights, v_live).flatten(1, 2).to(q_BHP.dtype)


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


def conv1d(x_BTC: Tensor, weight_CW: Tensor, bias_C: Tensor) -> Tensor:
    """Depthwise causal convolution, then SiLU: ``y_t = silu(bias + sum_w weight_w x_{t-W+1+w})``, x = 0 before 0."""
    C, W = weight_CW.shape
    x_BCT = F.pad(wide(x_BTC).transpose(1, 2), (W - 1, 0))
    y_BCT = F.conv1d(x_BCT, wide(weight_CW)[:, None], wide(bias_C), groups=C)
    return F.silu(y_BCT).transpose(1, 2).to(x_BTC.dtype)


def conv1d_step(state_BCW: Tensor, x_BC: Tensor, weight_CW: Tensor, bias_C: Tensor) -> Tensor:
    """One step of ``conv1d``. ``state_BCW`` holds the last W inputs, newest last, and is shifted in place."""
    state_BCW.copy_(torch.cat([state_BCW[:, :, 1:], x_BC[:, :, None].to(state_BCW.dtype)], 2))
    y = (wide(state_BCW) * wide(weight_CW)).sum(-1) + wide(bias_C)
    return F.silu(y).to(x_BC.dtype)


def experts(
    x_ND: Tensor, chosen_NK: Tensor, weight_NK: Tensor, in_weight_EFD: Tensor, out_weight_EDF: Tensor
) -> Tensor:
    """Routed SwiGLU experts: ``sum_k weight_k down_e(silu(gate_e x) * up_e x)`` over each token's chosen experts.

    Args:
        chosen_NK: the experts of each token; ``weight_NK`` their weights.
        in_weight_EFD: gate and up stacked, F twice the expert's width; ``out_weight_EDF`` the way back.

    Returns:
        out_ND in the dtype of ``x_ND``. Reads on the host which tokens each expert got.
    """
    x, weight = wide(x_ND), wide(weight_NK)
    out = torch.zeros_like(x)
    for e in range(in_weight_EFD.shape[0]):
        token, slot = torch.where(chosen_NK == e)
        gate, up = F.linear(x[token], wide(in_weight_EFD[e])).chunk(2, dim=-1)
        y = F.linear(F.silu(gate) * up, wide(out_weight_EDF[e]))
        out = out.index_add(0, token, y * weight[token, slot, None])
    return out.to(x_ND.dtype)


def linear_cross_entropy(hidden_ND: Tensor, weight_VD: Tensor, target_N: Tensor) -> Tensor:
    """The head's product and the mean cross entropy over all tokens, with the whole N x V logits in memory.

    Returns:
        The loss, a float32 scalar (float64 for float64 input); differentiable in ``hidden_ND`` and ``weight_VD``.
    """
    return F.cross_entropy(wide(hidden_ND) @ wide(weight_VD).T, target_N)
