"""reference: what the optimizer means, in plain PyTorch, and inputs to try it with.

How implementations are written is said in ``kernels.plain``; shapes have the letters of ``hybridbench.kernels``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from hybridbench.kernels.drawing import Draw, Trial
from hybridbench.kernels.optimizer.adamw import AdamW, StepRates
from hybridbench.problem import Problem


def update(parameter: Tensor, gradient: Tensor, first: Tensor, second: Tensor, rates: StepRates) -> None:
    """Loshchilov and Hutter 2019, algorithm 2: decay, both moments, the step. The reference implementation."""
    dtype = torch.float64 if parameter.dtype == torch.float64 else torch.float32
    p, g, m, v = (tensor.to(dtype) for tensor in (parameter, gradient, first, second))
    p = p - rates.decay * p
    m = rates.keep_first * m + (1 - rates.keep_first) * g
    v = rates.keep_second * v + (1 - rates.keep_second) * g * g
    p = p - rates.rate * m / (v.sqrt() * rates.correction + rates.eps)
    for tensor, value in ((parameter, p), (first, m), (second, v)):
        tensor.copy_(value)


def adamw(parameters: Iterable[Tensor], *, lr: float) -> torch.optim.Optimizer:
    """AdamW with torch's defaults, every parameter updated by plain PyTorch; the state is named as in torch.optim."""
    return AdamW(parameters, update, lr=lr)


# Inputs, for a verification or at size --------------------------------------------------------------------------------


def adamw_inputs(problem: Problem, draw: Draw) -> Iterator[Trial]:
    """Three steps of a parameter in the problem's dtype and of one in float32, large enough to show errors.

    At size it is one step of the problem's parameters, all in one tensor in its dtype.

    No gradient is near 0: float16 rounds the square of a small one to 0, and then divides by it.
    """
    steps, lr = 1 if draw.at_size else 3, 0.1
    groups = {"first": "first_I"} if draw.at_size else {"first": "first_I", "second": "second_J"}

    def call(fn: Callable[..., Any], t: dict[str, Tensor]) -> dict[str, Tensor]:
        parameters = [torch.nn.Parameter(t[name].detach().clone()) for name in groups.values()]
        optimizer = fn(parameters, lr=lr)
        for step in range(steps):
            for parameter, name in zip(parameters, ("d_first_SI", "d_second_SJ"), strict=False):
                parameter.grad = t[name][step].detach().clone()
            optimizer.step()
        made = {}
        for name, parameter in zip(groups, parameters, strict=True):
            state = optimizer.state[parameter]
            made[f"{name} parameter"] = parameter.detach()
            made[f"{name} exp_avg"], made[f"{name} exp_avg_sq"] = state["exp_avg"], state["exp_avg_sq"]
        return made

    def bind(fn: Callable[..., Any], t: dict[str, Tensor]) -> Callable[[], object]:
        parameter = torch.nn.Parameter(t["first_I"])
        parameter.grad = t["d_first_SI"][0]
        step: Callable[[], object] = fn([parameter], lr=1e-4).step
        return step

    def gradient(n: int) -> Tensor:
        return draw.uniform(0.5, 2, steps, n) * (1 - 2 * draw.integers(2, steps, n))

    if draw.at_size:
        first = draw.normal(problem.n_params)
        whole = {"first_I": first, "d_first_SI": gradient(problem.n_params).to(first.dtype)}
        yield Trial(f"a step of {problem.n_params} elements", whole, call, gradients=False, bind=bind)
        return
    for n in (1, 63, 5000):
        first = draw.normal(n)
        tensors = {
            "first_I": first,
            "d_first_SI": gradient(n).to(first.dtype),
            "second_J": draw.uniform(-1, 1, n + 1),
            "d_second_SJ": gradient(n + 1),
        }
        yield Trial(f"{steps} steps of {n} elements", tensors, call, gradients=False)
