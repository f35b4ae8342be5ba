"""place: how a case's model is placed on the ranks that run it, and the step without what they transfer.

place = Place.of(case)              # None for a case of one rank
place.allocate(model, resolved, device)
with place.silent(): ...            # the same step without transfers
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from hybridbench.model.across import Across
from hybridbench.model.build import Resolved
from hybridbench.model.language import LanguageModel
from hybridbench.ranks.tensor import divide
from hybridbench.ranks.weights import Whole
from hybridbench.suite.case import Case
from hybridbench.suite.spread import part_of_case

if TYPE_CHECKING:
    from hybridbench.ranks.sharded import Traffic


@dataclass
class RankPlace:
    """One rank's place in a case of several.

    Args:
        case: as it was asked for.
    """

    case: Case
    _traffic: Traffic | Across | None = field(default=None, init=False)

    @property
    def part(self) -> Case:
        """The part of this rank, as a case of one rank."""
        return part_of_case(self.case)

    def allocate(self, model: LanguageModel, resolved: list[Resolved], device: torch.device) -> None:
        """Allocates and initialises this rank's part of a model that was built for ``part`` and is on the meta device.

        The weights are those that one rank draws from the same seed.
        """
        if self.case.execution.gpus > 1:
            from hybridbench.ranks.sharded import shard  # it takes a second, which only such cases need

            self._traffic = shard(model, Whole(self.case, resolved), device)
        else:
            divide(model, Whole(self.case, []), device)
            self._traffic = model.across

    @contextmanager
    def silent(self) -> Iterator[None]:
        """Inside, steps leave the transfers between ranks out, and compute wrong numbers."""
        assert self._traffic is not None, "the model is allocated first"
        self._traffic.silent = True
        try:
            yield
        finally:
            self._traffic.silent = False


def place_of(case: Case) -> RankPlace | None:
    """The place of this process in a case; None where it runs the whole case."""
    return RankPlace(case) if case.ranks > 1 else None
