"""reference: what operations on one position alone mean, in plain PyTorch, and inputs to try them with.

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


# Inputs, for a verification or at size --------------------------------------------------------------------------------


def swiglu_inputs(problem: Problem, draw: Draw) -> Iterator[Trial]:
    """One token, and several."""
    width = problem.width or WIDTH

    def call(fn: Callable[..., Any], t: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"out_NF": fn(t["packed_NF"])}

    for N in draw.tokens((1, 63)):
        yield Trial(f"{N} tokens of {width}", {"packed_NF": draw.projection(N, widths=[(2 * width,)])[0]}, call)


def add_rms_norm_inputs(problem: Problem, draw: Draw) -> Iterator[Trial]:
    """The first norm of a model, which adds nothing, and later ones."""
    width = problem.width or WIDTH

    def call(fn: Callable[..., Any], t: dict[str, Tensor]) -> dict[str, Tensor]:
        normed, added = fn(t["x_BTD"], t.get("residual_BTD"), t["weight_D"], eps=EPS)
        return {"normed_BTD": normed, "added_BTD": added}

    for T in draw.lengths((1, 63)):
        tensors = {"x_BTD": draw.normal(draw.batch, T, width), "weight_D": draw.normal(width)}
        if not draw.at_size:
            yield Trial(f"length {T}, nothing to add", tensors, call)
        yield Trial(f"length {T}", tensors | {"residual_BTD": draw.normal(draw.batch, T, width)}, call)


def rotary_inputs(problem: Problem, draw: Draw) -> Iterator[Trial]:
    """With and without values behind the keys; the angles have no gradient."""
    H, K, P = problem.n_heads, problem.kv_heads, problem.head_dim
    settings = {"n_heads": H, "n_kv_heads": K, "head_dim": P}

    behind = {1: K * problem.value_dim, 63: 0, 100: K * problem.value_dim}
    for T in draw.lengths(behind):
        values = K * problem.value_dim if draw.at_size else behind[T]
        angles = draw.uniform(0, 2 * math.pi, T, P // 2)

        def call(fn: Callable[..., Any], t: dict[str, Tensor]) -> dict[str, Tensor]:
            q, k, rest = fn(t["packed_BTC"], t["cos_TR"], t["sin_TR"], **settings)
            return {"q_BTHP": q, "k_BTKP": k, "rest_BTC": rest}

        packed = draw.projection(draw.batch, T, widths=[((H + K) * P + values,)])[0]
        tensors = {"packed_BTC": packed, "cos_TR": angles.cos(), "sin_TR": angles.sin()}
        yield Trial(f"length {T}, {values} channels of values", tensors, call)


def gate_inputs(problem: Problem, draw: Draw) -> Iterator[Trial]:
    """With and without a norm; z is a view into a wider row."""
    width = problem.width or WIDTH

    def call(fn: Callable[..., Any], t: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"out_BTI": fn(t["y_BTI"], t["z_BTI"], t.get("weight_I"), eps=EPS)}

    for T in draw.lengths((1, 63)):
        z, _x = draw.projection(draw.batch, T, widths=[(width,), (width,)])
        tensors = {"y_BTI": draw.normal(draw.batch, T, width), "z_BTI": z}
        if not draw.at_size:
            yield Trial(f"length {T}", tensors, call)
        yield Trial(f"length {T} and a norm", tensors | {"weight_I": draw.normal(width)}, call)


def head_norms_inputs(problem: Problem, draw: Draw) -> Iterator[Trial]:
    """Two branches with different numbers of heads, few each, of the problem's widths; at size all heads."""
    heads = (problem.n_heads, problem.kv_heads) if draw.at_size else (3, 2)
    widths = [H * P for H, P in zip(heads, (problem.head_dim, problem.value_dim), strict=True)]

    def call(fn: Callable[..., Any], t: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"joined_BTC": fn(t["first_BTI"], t["second_BTJ"], heads=heads, eps=EPS)}

    for T in draw.lengths((1, 63)):
        first, second = (draw.normal(draw.batch, T, width) for width in widths)
        yield Trial(f"length {T}", {"first_BTI": first, "second_BTJ": second}, call)


def experts_inputs(problem: Problem, draw: Draw) -> Iterator[Trial]:
    """Two experts per token, and one expert without tokens; at size the problem's, which get about as many each."""
    D, width, E = (problem.d_model, problem.d_expert, problem.n_experts) if draw.at_size else (64, 32, 5)
    K = problem.top_k if draw.at_size else 2

    def call(fn: Callable[..., Any], t: dict[str, Tensor]) -> dict[str, Tensor]:
        names = ("x_ND", "chosen_NK", "weight_NK", "in_weight_EFD", "out_weight_EDI")
        return {"out_ND": fn(*(t[name] for name in names))}

    for N in draw.tokens((1, 63, 100)):
        if draw.at_size:  # from a random one on, every few experts: all different
            chosen = (draw.integers(E, N)[:, None] + torch.arange(K, device=draw.device) * max(1, E // K)) % E
        else:
            first = draw.integers(2, N)
            chosen = torch.stack((first, first + 2), 1)  # never the last expert
        tensors = {
            "x_ND": draw.normal(N, D),
            "chosen_NK": chosen,
            "weight_NK": draw.normal(N, K),
            "in_weight_EFD": draw.normal(E, 2 * width, D) / math.sqrt(D),
            "out_weight_EDI": draw.normal(E, D, width) / math.sqrt(width),
        }
        yield Trial(f"{N} tokens", tensors, call)


def product_inputs(problem: Problem, draw: Draw) -> Iterator[Trial]:
    """One token, and several; outputs of unit variance."""
    sizes = (problem.d_model, problem.width) if draw.at_size else (64, WIDTH)

    def call(fn: Callable[..., Any], t: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"out_NO": fn(t["x_NI"], t["weight_OI"])}

    for N in draw.tokens((1, 63)):
        inner, outer = sizes
        tensors = {"x_NI": draw.normal(N, inner), "weight_OI": draw.normal(outer, inner) / math.sqrt(inner)}
        yield Trial(f"{N} tokens", tensors, call)
