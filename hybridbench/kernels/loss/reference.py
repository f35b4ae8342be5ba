"""reference: what the head's loss means, in plain PyTorch, and inputs to try it with.

How implementations are written is said in ``kernels.plain``; shapes have the letters of ``hybridbench.kernels``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from hybridbench.kernels.drawing import Draw, Trial
from hybridbench.kernels.plain import wide
from hybridbench.problem import Problem


def linear_cross_entropy(hidden_ND: Tensor, weight_VD: Tensor, target_N: Tensor) -> Tensor:
    """The head's product and the mean cross entropy over all tokens, with the whole N x V logits in memory.

    Returns:
        The loss, a float32 scalar (float64 for float64 input); differentiable in ``hidden_ND`` and ``weight_VD``.
    """
    return F.cross_entropy(wide(hidden_ND) @ wide(weight_VD).T, target_N)


# Inputs, for a verification or at size --------------------------------------------------------------------------------

VOCABULARY = 1000
"""Vocabulary of the checked loss: small, and not a multiple of any tile."""


def linear_cross_entropy_inputs(problem: Problem, draw: Draw) -> Iterator[Trial]:
    """Logits of unit variance. The upstream gradient is not 1, so that its scaling is checked too."""
    D, V = (problem.width, problem.vocabulary) if draw.at_size else (64, VOCABULARY)

    def call(fn: Callable[..., Any], t: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"loss": fn(t["hidden_ND"], t["weight_VD"], t["target_N"])}

    for N in draw.tokens((1, 63, 100, 257)):
        tensors = {
            "hidden_ND": draw.normal(N, D),
            "weight_VD": draw.normal(V, D) / math.sqrt(D),
            "target_N": draw.integers(V, N),
        }
        yield Trial(f"{N} tokens", tensors, call)
