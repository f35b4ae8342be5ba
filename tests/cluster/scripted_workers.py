"""scripted_workers: workers of a queue that run no case, on a clock of their own."""

from __future__ import annotations

import heapq
import random
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from time import process_time

from hybridbench.queue.jobs import End, JobClaim
from hybridbench.queue.lease import RENEW_S
from hybridbench.queue.plan import Planned
from hybridbench.queue.shared import SharedQueue

COMPILES_S, LOOKS_S = 40.0, 20.0


@dataclass
class Cluster:
    """Workers on machines of their own that take the cases of a queue.

    Args:
        dies_at: at which of its cases a worker dies, by the worker's number.
        poison: names of cases that end every worker.
    """

    results: Path
    planned: Planned
    workers: int
    dies_at: dict[int, int] = field(default_factory=dict)
    poison: frozenset[str] = frozenset()
    now_s: float = 0.0
    began: Counter[str] = field(default_factory=Counter)
    recorded: Counter[str] = field(default_factory=Counter)
    crashed: dict[str, list[End]] = field(default_factory=dict)
    compiled: int = 0
    busy_s: float = 0.0
    scheduling_s: float = 0.0
    took_s: float = 0.0
    _renewed_s: float = float("-inf")

    def run(self) -> None:
        """Runs until no worker has anything to do; somebody follows, who takes no case."""
        self._follower = self._queue(self.workers, workers=0)
        self._queues = {number: self._queue(number) for number in range(self.workers)}
        self._random = random.Random(0)
        at: dict[int, tuple[JobClaim | None, str]] = dict.fromkeys(self._queues, (None, ""))
        taken: Counter[int] = Counter()
        events = [(0.0, number) for number in self._queues]
        while events:
            self.now_s, number = heapq.heappop(events)
            self._look_after(self._follower)
            claim, warm = self._turn(number, *at[number])
            if claim is None:
                if number in self._queues:
                    heapq.heappush(events, (self.now_s + LOOKS_S, number))
                at[number] = None, warm
                continue
            taken[number] += 1
            self.began[claim.name] += 1
            self._queues[number].at(claim, "start")
            if claim.name in self.poison or self.dies_at.get(number) == taken[number]:
                del self._queues[number]  # it renews its lease no more, and what it holds stays as it is
                continue
            cold = claim.kind != warm
            self.compiled += cold
            takes_s = COMPILES_S * cold + self._random.uniform(5.0, 60.0)
            self.busy_s += takes_s
            at[number] = claim, warm
            heapq.heappush(events, (self.now_s + takes_s, number))
        self.took_s = self.now_s
        for _ in range(20):
            self.now_s += LOOKS_S
            self._look_after(self._follower)

    @property
    def follower(self) -> str:
        """The name of the process that follows."""
        return self._follower.member

    def _turn(self, number: int, claim: JobClaim | None, warm: str) -> tuple[JobClaim | None, str]:
        """A worker records what it is done with and takes the next case; without one it looks after dead workers."""
        queue = self._queues[number]
        begun = process_time()
        if claim is not None:
            self.recorded[claim.name] += 1
            queue.settle(claim)
            warm = claim.kind
        claim = queue.take(warm)
        if claim is None and not queue.left:
            queue.leave()
            del self._queues[number]
        self.scheduling_s += process_time() - begun
        self._look_after(queue)
        return claim, warm

    def _look_after(self, queue: SharedQueue) -> None:
        if self.now_s - self._renewed_s >= RENEW_S:
            self._renewed_s = self.now_s
            for other in self._queues.values():  # those that live
                other.lease.renew()
        begun = process_time()
        for lost, ends in queue.abandoned():
            self.crashed[lost.name] = ends
            queue.settle(lost)
        self.scheduling_s += process_time() - begun

    def _queue(self, number: int, workers: int = 1) -> SharedQueue:
        return SharedQueue(
            self.planned,
            self.results / f"records-{self.planned.plan.run_id}-{number}.jsonl",
            stays=False,
            workers=workers,
            about={"node": f"node-{number // 8}", "machine": f"another-{number // 8}"},
            renew_s=None,
            now=lambda: self.now_s,
        )
