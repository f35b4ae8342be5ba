"""inputs: random inputs of what works on one position alone, for a verification or at size."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from hybridbench.kernels.drawing import EPS, WIDTH, Draw, Trial
from hybridbench.problem import Problem


def swiglu(problem: Problem, draw: Draw) -> Iterator[Trial]:
    """One token, and several."""
    width = problem.width or WIDTH

    def call(fn: Callable[..., Any], t: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"out_NF": fn(t["packed_NF"])}

    for N in draw.tokens((1, 63)):
        yield Trial(f"{N} tokens of {width}", {"packed_NF": draw.projection(N, widths=[(2 * width,)])[0]}, call)


def add_rms_norm(problem: Problem, draw: Draw) -> Iterator[Trial]:
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


def rotary(problem: Problem, draw: Draw) -> Iterator[Trial]:
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


def gate(problem: Problem, draw: Draw) -> Iterator[Trial]:
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


def head_norms(problem: Problem, draw: Draw) -> Iterator[Trial]:
    """Two branches with different numbers of heads, few each, of the problem's widths; at size all heads."""
    heads = (problem.n_heads, problem.kv_heads) if draw.at_size else (3, 2)
    widths = [H * P for H, P in zip(heads, (problem.head_dim, problem.value_dim), strict=True)]

    def call(fn: Callable[..., Any], t: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"joined_BTC": fn(t["first_BTI"], t["second_BTJ"], heads=heads, eps=EPS)}

    for T in draw.lengths((1, 63)):
        first, second = (draw.normal(draw.batch, T, width) for width in widths)
        yield Trial(f"length {T}", {"first_BTI": first, "second_BTJ": second}, call)


def experts(problem: Problem, draw: Draw) -> Iterator[Trial]:
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


def product(problem: Problem, draw: Draw) -> Iterator[Trial]:
    """One token, and several; outputs of unit variance."""
    sizes = (problem.d_model, problem.width) if draw.at_size else (64, WIDTH)

    def call(fn: Callable[..., Any], t: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"out_NO": fn(t["x_NI"], t["weight_OI"])}

    for N in draw.tokens((1, 63)):
        inner, outer = sizes
        tensors = {"x_NI": draw.normal(N, inner), "weight_OI": draw.normal(outer, inner) / math.sqrt(inner)}
        yield Trial(f"{N} tokens", tensors, call)
