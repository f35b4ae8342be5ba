"""optimizer: AdamW on float32 copies of the weights, with float32 moments, clipping, and decay on matrices only.

Weights of a model in bfloat16 cannot take small updates: near 1 they are 0.8% apart. So each weight has a float32 copy
(its master), AdamW updates the masters, and the weights are their rounding. Weights that are float32 already are
their own masters. The update is the ``adamw`` operation of the model, the kernel that sweeps time.

All masters of one kind lie in one tensor, and so do their gradients in float32, so a step takes a few launches however
many weights there are. Nothing is read on the host.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hybridbench.quality.training.recipe import LearnRecipe

_ALIGNED = 64
"""Each weight begins at a multiple of so many elements, for kernels that load 16 bytes at once."""


def decays(name: str, weight: Tensor) -> bool:
    """Whether a weight decays: a matrix of a product or the embedding; no conv, norm, bias or decay's logarithm."""
    last = name.removesuffix(".weight").rpartition(".")[2]
    matrix = "weight" in name or "embedding" in name or "proj" in name
    return weight.dim() >= 2 and matrix and not any(part in last for part in ("conv", "norm", "bias", "log"))


@dataclass
class _Flat:
    """The masters of some weights as one tensor, their gradients as another, and views of both, weight by weight."""

    master: nn.Parameter
    gradient: Tensor
    weights: list[nn.Parameter]
    masters: list[Tensor]
    gradients: list[Tensor]
    own: bool
    """Whether the weights are their own masters."""


def _flat(weights: list[nn.Parameter]) -> _Flat:
    first = weights[0]
    starts, size = [], 0
    for weight in weights:
        starts.append(size)
        size += -(-weight.numel() // _ALIGNED) * _ALIGNED
    flat = torch.zeros(size, dtype=torch.float32, device=first.device)
    gradient = torch.zeros_like(flat)

    def views(of: Tensor) -> list[Tensor]:
        return [of[s : s + w.numel()].view(w.shape) for s, w in zip(starts, weights, strict=True)]

    masters = views(flat)
    own = first.dtype == torch.float32
    with torch.no_grad():
        torch._foreach_copy_(masters, [weight.detach() for weight in weights])
    if own:
        for weight, master in zip(weights, masters, strict=True):
            weight.data = master
    parameter = nn.Parameter(flat)
    parameter.grad = gradient
    return _Flat(parameter, gradient, weights, masters, views(gradient), own)


class MasterAdamW:
    """The optimizer of a training run.

    Args:
        named: the weights by name.
        make: the model's ``adamw`` operation.
        recipe: rate, decay, betas and clipping.
    """

    def __init__(
        self,
        named: Iterable[tuple[str, nn.Parameter]],
        make: Callable[..., torch.optim.Optimizer],
        recipe: LearnRecipe,
    ) -> None:
        kinds: dict[tuple[bool, torch.dtype], list[nn.Parameter]] = {}
        for name, weight in named:
            kinds.setdefault((decays(name, weight), weight.dtype), []).append(weight)
        self._flats = {kind: _flat(weights) for kind, weights in kinds.items()}
        self._clip = recipe.clip
        groups = [
            {"params": [flat.master], "weight_decay": recipe.weight_decay if decayed else 0.0}
            for (decayed, _), flat in self._flats.items()
        ]
        self.inner = make(groups, lr=recipe.lr)
        for group in self.inner.param_groups:
            group["betas"] = (recipe.beta1, recipe.beta2)

    @torch.no_grad()
    def gather(self) -> Tensor:
        """Takes all weights' gradients, which are dropped there, and clips them; returns their norm as a scalar."""
        flats = self._flats.values()
        for flat in flats:
            given = [weight.grad for weight in flat.weights]
            if any(gradient is None for gradient in given):
                flat.gradient.zero_()  # of weights that the step did not use
            pairs = [(to, of) for to, of in zip(flat.gradients, given, strict=True) if of is not None]
            torch._foreach_copy_([to for to, _ in pairs], [of for _, of in pairs])
            for weight in flat.weights:
                weight.grad = None
        norm: Tensor = torch.stack([flat.gradient.norm() for flat in flats]).norm()
        factor = (self._clip / (norm + 1e-6)).clamp(max=1.0)
        for flat in flats:
            flat.gradient.mul_(factor)
        return norm

    @torch.no_grad()
    def update(self, rate: float) -> None:
        """Updates every weight from the gradients gathered last."""
        for group in self.inner.param_groups:
            group["lr"] = rate
        self.inner.step()
        for flat in self._flats.values():
            if not flat.own:
                torch._foreach_copy_([weight.detach() for weight in flat.weights], flat.masters)

    @property
    def nbytes(self) -> int:
        """Bytes of masters that are no weights, moments, and gradients in float32."""
        held = sum((0 if flat.own else flat.master.nbytes) + flat.gradient.nbytes for flat in self._flats.values())
        moments = [value for state in self.inner.state.values() for value in state.values()]
        return held + sum(value.nbytes for value in moments if isinstance(value, Tensor) and value.dim())

    def tensors(self) -> dict[str, Tensor]:
        """Everything that a checkpoint must hold, by name."""
        found: dict[str, Tensor] = {}
        for place, flat in enumerate(self._flats.values()):
            found[f"{place}.master"] = flat.master.detach()
            for name, value in self.inner.state[flat.master].items():
                found[f"{place}.{name}"] = value
        return found

    @torch.no_grad()
    def load(self, tensors: dict[str, Tensor]) -> None:
        """Puts back what ``tensors`` gave; the weights follow their masters."""
        state: dict[int, dict[str, Any]] = {}
        for place, flat in enumerate(self._flats.values()):
            flat.master.copy_(tensors[f"{place}.master"])
            own = {name.partition(".")[2]: tensor for name, tensor in tensors.items() if name.startswith(f"{place}.")}
            # The step count belongs on the host: on a GPU each update would wait to read it. torch's fused kernel,
            # which needs it on the GPU, takes it there by itself.
            state[place] = {
                name: tensor.cpu() if name == "step" else tensor for name, tensor in own.items() if name != "master"
            }
            if not flat.own:
                torch._foreach_copy_([weight.detach() for weight in flat.weights], flat.masters)
        self.inner.load_state_dict({"state": state, "param_groups": self.inner.state_dict()["param_groups"]})
