"""inputs: random inputs of the optimizer, for a verification or at size."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from hybridbench.kernels.drawing import Draw, Trial
from hybridbench.problem import Problem


def adamw(_problem: Problem, draw: Draw) -> Iterator[Trial]:
    """Three steps of a parameter in the problem's dtype and of one in float32, large enough to show errors.

    No gradient is near 0: float16 rounds the square of a small one to 0, and then divides by it.
    """
    steps, lr = 3, 0.1

    def call(fn: Callable[..., Any], t: dict[str, Tensor]) -> dict[str, Tensor]:
        parameters = [torch.nn.Parameter(t[name].detach().clone()) for name in ("first_I", "second_J")]
        optimizer = fn(parameters, lr=lr)
        for step in range(steps):
            for parameter, name in zip(parameters, ("d_first_SI", "d_second_SJ"), strict=True):
                parameter.grad = t[name][step].detach().clone()
            optimizer.step()
        made = {}
        for name, parameter in zip(("first", "second"), parameters, strict=True):
            state = optimizer.state[parameter]
            made[f"{name} parameter"] = parameter.detach()
            made[f"{name} exp_avg"], made[f"{name} exp_avg_sq"] = state["exp_avg"], state["exp_avg_sq"]
        return made

    def gradient(n: int) -> Tensor:
        return draw.uniform(0.5, 2, steps, n) * (1 - 2 * draw.integers(2, steps, n))

    for n in (1, 63, 5000):
        first = draw.normal(n)
        tensors = {
            "first_I": first,
            "d_first_SI": gradient(n).to(first.dtype),
            "second_J": draw.uniform(-1, 1, n + 1),
            "d_second_SJ": gradient(n + 1),
        }
        yield Trial(f"{steps} steps of {n} elements", tensors, call, gradients=False)
