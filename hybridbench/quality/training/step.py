"""step: forward, backward and clipped gradients of one batch, launched one by one or replayed as one CUDA graph.

A small model's step is some thousand launches of some microseconds each, so the host may be what limits it. Captured,
they are one launch. The graph ends at the clipped gradients: the update that follows is a few launches over flat
tensors (``optimizer``), and its rate and step count change from step to step.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from hybridbench.capture import captured
from hybridbench.errors import Unsupported, described
from hybridbench.model.language import LanguageModel
from hybridbench.quality.training.optimizer import MasterAdamW

Gradients = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Called with inputs and targets (B, T); leaves clipped gradients in the optimizer. Returns the loss, and the norm of
all gradients before clipping, as scalars on the device that later calls leave alone."""


def launched(model: LanguageModel, optimizer: MasterAdamW, layers: dict[int, Callable[..., Tensor]]) -> Gradients:
    """Launched one by one.

    Args:
        layers: the compiled sublayers, in the others' place; empty for none.
    """

    def gradients(token_BT: Tensor, target_BT: Tensor) -> tuple[Tensor, Tensor]:
        with model.compiling(layers):
            loss = model.loss(token_BT, target_BT)
        torch.autograd.backward(loss)
        return loss.detach(), optimizer.gather()

    return gradients


def graphed(gradients: Gradients, token_BT: Tensor, target_BT: Tensor) -> Gradients:
    """The same as one CUDA graph, for batches of one shape. Weights do not change while it is captured.

    Args:
        token_BT, target_BT: any batch of that shape.

    Raises:
        Unsupported: the step waits for the GPU, or cannot be captured for another reason.
    """
    token_BT, target_BT = token_BT.clone(), target_BT.clone()
    results: dict[str, Tensor] = {}

    def step() -> None:
        results["loss"], results["norm"] = gradients(token_BT, target_BT)

    try:
        replay = captured(step)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as exc:
        raise Unsupported(
            f"the step cannot be captured in a CUDA graph ({described(exc)}): give --mode compile or --mode eager"
        ) from exc

    def replayed(new_token_BT: Tensor, new_target_BT: Tensor) -> tuple[Tensor, Tensor]:
        token_BT.copy_(new_token_BT)
        target_BT.copy_(new_target_BT)
        replay()
        return results["loss"].clone(), results["norm"].clone()

    return replayed
