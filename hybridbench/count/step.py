"""step: one eager step of a case as both public counters see it, for records and audits alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from hybridbench.count.account import Account, Product
from hybridbench.count.by_fvcore import count_with_fvcore
from hybridbench.count.by_torch import count_with_torch
from hybridbench.count.caches import CountedCache
from hybridbench.model.build import Resolved
from hybridbench.model.language import LanguageModel


class Work(Protocol):
    """What is counted: a workload that is ready to run (``workload.Prepared``)."""

    @property
    def eager_step(self) -> Callable[[], object]:
        """One step without capture or compilation."""

    @property
    def forward(self) -> Callable[..., torch.Tensor]:
        """One forward as a function of ``inputs``."""

    @property
    def inputs(self) -> tuple[torch.Tensor, ...]:
        """What ``forward`` is called with."""

    @property
    def caches(self) -> Sequence[CountedCache]:
        """What the model keeps between tokens."""


@dataclass(frozen=True)
class Counted:
    """Both accounts of a step, and the matrix products a dispatcher saw, in the order in which they started."""

    by_torch: Account
    by_fvcore: Account
    products: list[Product]


def count_step(work: Work, model: LanguageModel, resolved: list[Resolved]) -> Counted:
    """Runs one eager step under torch's counter and traces one forward with fvcore.

    A counter that fails says so in its account and costs nothing else. Neither sees inside a replayed CUDA graph, so
    what is counted is the eager step.
    """
    if any(item.backend.compiles_per_length for item in resolved):
        work.eager_step()  # what compiles on its first call, backward included, does so before a counter watches

    def forward(*inputs: torch.Tensor) -> tuple[object, ...]:
        # The tracer drops work that no output depends on, such as a state kept for the next step.
        with torch.no_grad():
            return work.forward(*inputs), [cache.tensors() for cache in work.caches]

    by_torch, products = count_with_torch(work.eager_step, model, resolved)
    by_fvcore = count_with_fvcore(forward, work.inputs, model, model, resolved)
    return Counted(by_torch, by_fvcore, products)
