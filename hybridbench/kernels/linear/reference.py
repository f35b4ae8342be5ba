"""reference: the plain PyTorch implementations of lightning attention and of its step.

How they are written is said in ``kernels.plain``; shapes have the letters of ``hybridbench.kernels``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hybridbench.kernels.plain import wide


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
