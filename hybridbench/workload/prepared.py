"""prepared: a workload ready to be timed: a zero-argument step, with everything allocated, captured and compiled."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hybridbench.kernels.verify import Check
from hybridbench.model.cache import Cache
from hybridbench.suite.case import Case

if TYPE_CHECKING:
    from hybridbench.workload.at_size import Checker


@dataclass(frozen=True)
class TimedPart:
    """A part of a step that is timed in place of the whole.

    Args:
        context: tokens cached at this decode step; None for a prefill.
        enter: puts the part into place; not timed.
        step: the part's work, which may be repeated without ``enter``.
    """

    context: int | None
    enter: Callable[[], None]
    step: Callable[[], object]


@dataclass
class Prepared:
    """One case's work.

    Args:
        step: what is timed; no allocation of its own, no capture, no compilation.
        eager_step: the same work without capture or compilation, for counters that look at operators.
        forward: one forward pass as a function of ``inputs``, for counters that trace.
        steps_per_sample: decode steps inside one call of ``step``.
        caches: what the model keeps, None in training.
        capacity: tokens each sequence's cache has room for.
        optimizer: the training step's, else None.
        loss: the last step's loss tensor, for training.
        checks: proofs taken of the very step that is timed.
        verify: takes the proof of compiled layers over sequences; None where nothing is compiled. It raises
            WrongResult.
        check_at_size: compares the work with itself at its own size; None where that was done already. It raises
            WrongResult.
        parts: what is timed in place of ``step``, in this order; empty where that is ``step`` itself.
    """

    step: Callable[[], object]
    eager_step: Callable[[], object]
    forward: Callable[..., Tensor]
    inputs: tuple[Tensor, ...]
    steps_per_sample: int = 1
    caches: list[Cache] = field(default_factory=list)
    capacity: int = 0
    optimizer: torch.optim.Optimizer | None = None
    loss: Callable[[], float] | None = None
    checks: list[Check] = field(default_factory=list)
    verify: Callable[[], Check] | None = None
    check_at_size: Callable[[Checker], None] | None = None
    parts: list[TimedPart] = field(default_factory=list)


def random_tokens(case: Case, *shape: int, device: torch.device, offset: int = 0) -> Tensor:
    """Token ids drawn uniformly from the vocabulary, from the case's seed."""
    generator = torch.Generator(device=device).manual_seed(case.execution.seed + 1 + offset)
    return torch.randint(case.model.vocab_size, shape, device=device, generator=generator)


def kept(caches: list[Cache | None]) -> list[Cache]:
    """The caches of the layers that have one."""
    return [cache for cache in caches if cache is not None]
