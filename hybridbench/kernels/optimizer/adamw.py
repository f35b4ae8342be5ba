"""adamw: the optimizer of a training step, as torch.optim.AdamW, with the update of a parameter interchangeable.

It keeps what torch.optim.AdamW keeps, by the same names: two moments per parameter, in its dtype, and a step count on
the host. The update follows torch's fused kernel: arithmetic in a wide dtype, and each tensor rounded once, when it is
written.
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
        decay: the share of the parameter that is lost: the learning rate times the weight decay.
        keep_first, keep_second: the shares of the old moments that are kept; the rest comes from the gradient.
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
"""Called with parameter, gradient and both moments, all in one layout; updates all but the gradient in place."""


class AdamW(torch.optim.AdamW):
    """torch.optim.AdamW whose step calls ``update`` once per parameter. Nothing is read on the host."""

    def __init__(self, parameters: Iterable[Tensor], update: Update, *, lr: float) -> None:
        super().__init__(parameters, lr=lr)
        self._update = update

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Updates every parameter that has a gradient."""
        assert closure is None, "the gradients must exist before the step"
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
                assert parameter.is_contiguous(), "an update needs contiguous memory"
                gradient = parameter.grad.contiguous()
                self._update(parameter, gradient, state["exp_avg"], state["exp_avg_sq"], rates)


def load_torch() -> Callable[..., torch.optim.Optimizer]:
    """AdamW with PyTorch's fused kernel over all parameters at once."""

    def adamw(parameters: Iterable[Tensor], *, lr: float) -> torch.optim.Optimizer:
        return torch.optim.AdamW(parameters, lr=lr, fused=True)

    return adamw


def load_triton() -> Callable[..., torch.optim.Optimizer]:
    """AdamW with the package's own kernel, once per parameter."""
    of_kernel: Update = imported("hybridbench.kernels.optimizer.triton_adamw", "triton is not importable").update

    def adamw(parameters: Iterable[Tensor], *, lr: float) -> torch.optim.Optimizer:
        return AdamW(parameters, of_kernel, lr=lr)

    return adamw


of_torch = Implementation(load_torch, accepts_anything)
of_triton = Implementation(load_triton, needs_cuda_and_float32)
