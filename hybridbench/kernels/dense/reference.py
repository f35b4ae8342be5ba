"""reference: the plain PyTorch implementations of what works on one position alone.

How they are written is said in ``kernels.plain``; shapes have the letters of ``hybridbench.kernels``.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from hybridbench.kernels.plain import wide


def swiglu(packed: Tensor) -> Tensor:
    """``silu(gate) * up`` of rows (..., 2F) that hold the gate's F columns before the other ones."""
    gate, up = wide(packed).chunk(2, dim=-1)
    return (F.silu(gate) * up).to(packed.dtype)


def add_rms_norm(x: Tensor, residual: Tensor | None, weight: Tensor, *, eps: float) -> tuple[Tensor, Tensor]:
    """The residual stream with a branch's output added, and its RMSNorm: what stands between any two branches.

    Args:
        x: (..., D), a branch's output, or the stream itself where ``residual`` is None.

    Returns:
        ``rms_norm(x + residual) * weight`` and ``x + residual``; the norm is that of the rounded sum.
    """
    added = x if residual is None else (wide(x) + wide(residual)).to(x.dtype)
    return F.rms_norm(wide(added), x.shape[-1:], wide(weight), eps).to(x.dtype), added


def rotary(
    packed_BTC: Tensor, cos_TR: Tensor, sin_TR: Tensor, *, n_heads: int, n_kv_heads: int, head_dim: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries and keys of rows that hold q | k | rest, turned: pairs (i, i + P/2) by the angles of their position.

    Args:
        cos_TR, sin_TR: float32, R = P/2 angles at each of the T positions.

    Returns:
        q_BTHP and k_BTKP turned, and the rest_BTI as it is: the values, or nothing.
    """
    widths = [n_heads * head_dim, n_kv_heads * head_dim]
    q, k, rest = torch.split(packed_BTC, [*widths, packed_BTC.shape[-1] - sum(widths)], dim=-1)
    cos, sin = cos_TR[:, None], sin_TR[:, None]

    def turned(x: Tensor, heads: int) -> Tensor:
        low, high = wide(torch.unflatten(x, -1, (heads, head_dim))).chunk(2, dim=-1)
        return torch.cat((low * cos - high * sin, high * cos + low * sin), dim=-1).to(packed_BTC.dtype)

    return turned(q, n_heads), turned(k, n_kv_heads), rest


def gate(y: Tensor, z: Tensor, weight: Tensor | None, *, eps: float) -> Tensor:
    """``y * silu(z)``, then an RMSNorm over the last dimension where there is a ``weight``: the end of Mamba-2."""
    gated = wide(y) * F.silu(wide(z))
    if weight is not None:
        gated = F.rms_norm(gated, y.shape[-1:], wide(weight), eps)
    return gated.to(y.dtype)


def head_norms(first: Tensor, second: Tensor, *, heads: tuple[int, int], eps: float) -> Tensor:
    """Two branches' outputs, each divided by its root mean square per head, side by side (..., I + J)."""
    normed = []
    for x, H in zip((first, second), heads, strict=True):
        by_head = torch.unflatten(wide(x), -1, (H, -1))
        normed.append(F.rms_norm(by_head, by_head.shape[-1:], None, eps).flatten(-2).to(x.dtype))
    return torch.cat(normed, dim=-1)


def experts(
    x_ND: Tensor, chosen_NK: Tensor, weight_NK: Tensor, in_weight_EFD: Tensor, out_weight_EDI: Tensor
) -> Tensor:
    """Routed SwiGLU experts: ``sum_k weight_k down_e(silu(gate_e x) * up_e x)`` over each token's chosen experts.

    Args:
        chosen_NK: the experts of each token; ``weight_NK`` their weights.
        in_weight_EFD: gate and up stacked, F twice the expert's width; ``out_weight_EDI`` the way back.

    Returns:
        out_ND in the dtype of ``x_ND``. Reads on the host which tokens each expert got.
    """
    x, weight = wide(x_ND), wide(weight_NK)
    out = torch.zeros_like(x)
    for e in range(in_weight_EFD.shape[0]):
        token, slot = torch.where(chosen_NK == e)
        gate, up = F.linear(x[token], wide(in_weight_EFD[e])).chunk(2, dim=-1)
        y = F.linear(F.silu(gate) * up, wide(out_weight_EDI[e]))
        out = out.index_add(0, token, y * weight[token, slot, None])
    return out.to(x_ND.dtype)


def product(x_NI: Tensor, weight_OI: Tensor) -> Tensor:
    """A linear layer without a bias: every token times the weight.

    Returns:
        (N, O) in the dtype of ``x_NI``.
    """
    return (wide(x_NI) @ wide(weight_OI).T).to(x_NI.dtype)
