"""prepared: a workload ready to be timed: a zero-argument step, with everything allocated, captured and compiled."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hybridbench.kernels.verify import Check
from hybridbench.model.cache import Cache
from hybridbench.model.language import LanguageModel
from hybridbench.suite.case import Case

if TYPE_CHECKING:
    from hybridbench.workload.at_size import Checker


@dataclass(frozen=True)
class TimedPart:
    """A part of a step that is timed in place of the whole.

    Args:
        context: tokens cached at this decode step; None for a prefill.
        enter: prepares the part; not timed.
        step: the part's work, which may be repeated without another ``enter``.
    """

    context: int | None
    enter: Callable[[], None]
    step: Callable[[], object]


@dataclass
class Prepared:
    """One case's work.

    Args:
        step: what is timed. It does no allocation of its own, no capture and no compilation.
        eager_step: the same work without capture or compilation, for counters that look at operators.
        forward: one forward pass as a function of ``inputs``, for counters that trace.
        steps_per_sample: decode steps inside one call of ``step``.
        caches: the model's caches; None in training.
        capacity: how many tokens fit into each sequence's cache.
        optimizer: that of a training step, else None.
        loss: returns the last step's loss, in training.
        checks: checks of the timed step that have passed already.
        verify: compares compiled layers over sequences with eager ones, and raises WrongResult; None where nothing is
            compiled.
        check_at_size: compares the work with parts of itself at its own size, and raises WrongResult; None where that
            was done already.
        again: makes the step anew, as it is timed; None where ``step`` does everything anew each time. A captured step
            does what it did when it was captured.
        parts: what is timed instead of ``step``, in this order; empty where ``step`` itself is timed.
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
    again: Callable[[], Callable[[], object]] | None = None
    parts: list[TimedPart] = field(default_factory=list)


def random_tokens(case: Case, model: LanguageModel, *shape: int, offset: int = 0, divided: bool = False) -> Tensor:
    """Token ids drawn uniformly from the model's vocabulary, from the case's seed.

    Args:
        divided: of a model that works at a share of a batch, the tokens of that share. Sequences are the last
            dimension but one; ``shape`` is that of the share.
    """
    device = model.embedding_VD.device
    generator = torch.Generator(device=device).manual_seed(case.execution.seed + 1 + offset)
    index, count = model.share if divided else (0, 1)
    if count == 1:
        return torch.randint(model.vocab_size, shape, device=device, generator=generator)
    *before, rows, columns = shape
    whole = torch.randint(model.vocab_size, (*before, rows * count, columns), device=device, generator=generator)
    return whole[..., index * rows : (index + 1) * rows, :].contiguous()


def present(caches: list[Cache | None]) -> list[Cache]:
    """The caches of the layers that have one."""
    return [cache for cache in caches if cache is not None]
