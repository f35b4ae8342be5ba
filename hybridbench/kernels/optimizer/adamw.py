"""adamw: the optimizer of a training step, as torch.optim.AdamW, with the update of a parameter interchangeable.

Two moments per parameter, in its dtype, and a step count on the host: what torch.optim.AdamW keeps, by the same names.
The update follows its fused kernel: arithmetic in a wide dtype, each tensor rounded once, when it is written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hybridbench.kernels.backend import Implementation, accepts_anything, imported, needs_cuda_and_float32


@dataclass(frozen=True)
class StepRates:
    """The numbers of one step.

    Attributes:
        decay: of the parameter that is lost, the learning rate times the weight decay.
        keep_first, keep_second: of the old moments that are kept, the rest coming from the gradient.
        rate: the learning rate over the first moment's bias correction.
        correction: one over the root of the second moment's bias correction.
        eps: added to the root of the second moment.
    """

    decay: float
    keep_first: float
    keep_second: float
    rate: float
    correction: float
    eps: float


Update = Callable[[Tensor, Tensor, Tensor, Tensor, StepRates], None]
"""Parameter, gradient and both moments, all of one layout; all but the gradient are written."""


class AdamW(torch.optim.AdamW):
    """torch.optim.AdamW whose step calls ``update`` once per parameter; it reads nothing back from a device."""

    def __init__(self, parameters: Iterable[Tensor], update: Update, *, lr: float) -> None:
        super().__init__(parameters, lr=lr)
        self._update = update

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One step from the gradients there are."""
        assert closure is None, "the gradients are there before the step"
        for group in self.param_groups:
            lr, eps = float(group["lr"]), float(group["eps"])
            keep_first, keep_second = group["betas"]
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["step"] = torch.zeros((), dtype=torch.float32)
                    for name in ("exp_avg", "exp_avg_sq"):
                        state[name] = torch.zeros_like(parameter, memory_format=torch.contiguous_format)
                state["step"] += 1
                count = float(state["step"])
                rates = StepRates(
                    decay=lr * group["weight_decay"],
                    keep_first=keep_first,
                    keep_second=keep_second,
                    rate=lr / (1 - keep_first**count),
                    correction=(1 - keep_second**count) ** -0.5,
                    eps=eps,
                )
                assert parameter.is_contiguous(), "an update goes through memory from one end to the other"
                gradient = parameter.grad.contiguous()
                self._update(parameter, gradient, state["exp_avg"], state["exp_avg_sq"], rates)


def load_torch() -> Callable[..., torch.optim.Optimizer]:
    """PyTorch's own fused kernel over all parameters at once."""

    def adamw(parameters: Iterable[Tensor], *, lr: float) -> torch.optim.Optimizer:
        return torch.optim.AdamW(parameters, lr=lr, fused=True)

    return adamw


def load_triton() -> Callable[..., torch.optim.Optimizer]:
    """This package's kernel, once per parameter."""
    of_kernel: Update = imported("hybridbench.kernels.optimizer.triton_adamw", "triton is not importable").update

    def adamw(parameters: Iterable[Tensor], *, lr: float) -> torch.optim.Optimizer:
        return AdamW(parameters, of_kernel, lr=lr)

    return adamw


of_torch = Implementation(load_torch, accepts_anything)
of_triton = Implementation(load_triton, needs_cuda_and_float32)
