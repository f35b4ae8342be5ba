"""together: what the ranks of a case measure together: the samples of each, and a step without transfers.

The transfers that a step waits for are exposed; those behind which it computes are not. How long it waits is measured:
the time of the step less that of the same step, kernels and copies included, without the transfers themselves.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch.distributed as dist

from hybridbench.measure.clock import Timer
from hybridbench.measure.sampling import measure
from hybridbench.ranks.place import RankPlace
from hybridbench.ranks.timing import RankTimer, now_together
from hybridbench.record import Links, Observed, RankObserved
from hybridbench.suite.case import Sampling
from hybridbench.workload.prepared import Prepared

SHARE_OF_TIME = 0.25
"""How long the step without transfers is sampled, of the time that the step itself may take."""


@dataclass
class Together:
    """The measurement of one rank in step with the others.

    Args:
        place: of this rank.
        clock: this rank's own timer.
        wall: this rank's own clock; ns.
    """

    place: RankPlace
    clock: Timer
    wall: Callable[[], int]
    timer: RankTimer = field(init=False)
    now: Callable[[], int] = field(init=False)

    def __post_init__(self) -> None:
        self.timer, self.now = RankTimer(self.clock), now_together(self.wall)

    def observe(self, seen: Observed, work: Prepared, sampling: Sampling, links: Links) -> Observed:
        """What was observed of the step, with what this rank saw of itself and the step without transfers.

        The model's weights are wrong afterwards if the step trains.
        """
        own = RankObserved(dist.get_rank(), list(self.timer.own_ns), seen.memory)
        silent = [] if work.parts or sampling.probes else self._silent(work, sampling)
        return replace(seen, ranks=[own], links=links, silent_ns=silent)

    def _silent(self, work: Prepared, sampling: Sampling) -> list[int]:
        shorter = replace(
            sampling,
            max_time_s=SHARE_OF_TIME * sampling.max_time_s,
            min_time_s=0.0,
            warmup_max_s=SHARE_OF_TIME * sampling.warmup_max_s,
            insist=False,
        )
        with self.place.silent():
            step = work.again() if work.again is not None else work.step
            return measure(step, self.timer, shorter, now=self.now).samples_ns
