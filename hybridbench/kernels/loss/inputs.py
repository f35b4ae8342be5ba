"""inputs: random inputs of the head's loss, for a verification or at size."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor

from hybridbench.kernels.drawing import Draw, Trial
from hybridbench.problem import Problem

VOCABULARY = 1000
"""Vocabulary of the checked loss: small, and not a multiple of any tile."""


def linear_cross_entropy(problem: Problem, draw: Draw) -> Iterator[Trial]:
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
