"""step: forward, backward and clipped gradients of one batch, launched one by one or replayed as one CUDA graph.

A small model's step is some thousand launches of some microseconds each, so the host may be what limits it. Captured,
they are one launch. The graph ends at the clipped gradients: the update that follows is a few launches over flat
tensors (``optimizer``), and its rate and step count change from step to step. The flat gradients are made before any
graph and lie outside of them, so graphs of batches of several sizes write to the same ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from hybridbench.capture import captured_together
from hybridbench.errors import Unsupported, described
from hybridbench.quality.training.optimizer import MasterAdamW

Gradients = Callable[..., tuple[Tensor, Tensor]]
"""Called with the tensors of a batch; leaves clipped gradients in the optimizer. Returns the loss, and the norm of all
gradients before clipping, as scalars on the device that later calls leave alone."""


def launched(loss_of: Callable[..., Tensor], optimizer: MasterAdamW) -> Gradients:
    """Launched one by one.

    Args:
        loss_of: the loss of a batch's tensors, with its autograd graph.
    """

    def gradients(*batch: Tensor) -> tuple[Tensor, Tensor]:
        loss = loss_of(*batch)
        torch.autograd.backward(loss)
        return loss.detach(), optimizer.gather()

    return gradients


def graphed(steps: Sequence[tuple[Gradients, Sequence[Tensor]]]) -> list[Gradients]:
    """Each of several steps as one CUDA graph, for batches of one shape each; the graphs share their memory.

    Weights do not change while they are captured.

    Args:
        steps: each with any batch of its shape.

    Raises:
        Unsupported: a step waits for the GPU, or cannot be captured for another reason.
    """
    fixed = [_InPlace(gradients, batch) for gradients, batch in steps]
    try:
        replays = captured_together([one.run for one in fixed])
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as exc:
        raise Unsupported(
            f"the step cannot be captured in a CUDA graph ({described(exc)}): give another --mode, such as eager"
        ) from exc
    return [one.replayed_by(replay) for one, replay in zip(fixed, replays, strict=True)]


class _InPlace:
    """A step that reads its batch where it always lies, and leaves its results where they always lie."""

    def __init__(self, gradients: Gradients, batch: Sequence[Tensor]) -> None:
        self._gradients = gradients
        self._batch = [tensor.clone() for tensor in batch]
        self._results: tuple[Tensor, ...] = ()

    def run(self) -> None:
        self._results = self._gradients(*self._batch)

    def replayed_by(self, replay: Callable[[], object]) -> Gradients:
        def gradients(*batch: Tensor) -> tuple[Tensor, Tensor]:
            for held, new in zip(self._batch, batch, strict=True):
                held.copy_(new)
            replay()
            loss, norm = self._results
            return loss.clone(), norm.clone()

        return gradients
