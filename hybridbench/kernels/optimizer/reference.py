"""reference: the plain PyTorch implementations of the optimizer.

How they are written is said in ``kernels.plain``; shapes have the letters of ``hybridbench.kernels``.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from hybridbench.kernels.optimizer.adamw import AdamW, StepRates


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
