"""jobs: what every queue of jobs answers, and the queue of one process, which is kept in memory."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from typing_extensions import override

ENDS = 2
"""A job that has ended so many workers is not tried again."""


@dataclass(frozen=True)
class End:
    """How a worker ended while it had a job.

    Attributes:
        worker: its name.
        how: what happened, as a sentence without its full stop.
        log: the end of its log; None if that is empty.
    """

    worker: str
    how: str
    log: str | None


@dataclass(frozen=True)
class JobClaim:
    """A job that a worker has taken.

    Attributes:
        job: a case, or several as a joint job.
        name: of the job in its queue.
        kind: jobs of one kind use the same compiled kernels; empty where that is unknown.
    """

    job: Any
    name: str
    kind: str = ""


class Queue(ABC):
    """Jobs that wait, and those that were taken.

    Attributes:
        POLL_S: how often an idle worker looks for jobs again; None if other processes never add or return any.
    """

    POLL_S: float | None = None

    @property
    @abstractmethod
    def left(self) -> bool:
        """Whether there is or may be a job for an idle worker of this process."""

    @abstractmethod
    def take(self, warm: str = "") -> JobClaim | None:
        """The next job, which the caller then holds; None if none waits.

        Args:
            warm: the kind of job that the worker ran last, whose kernels it has compiled.
        """

    @abstractmethod
    def settle(self, claim: JobClaim, back: Sequence[Any] = ()) -> None:
        """Ends a claim: the job has its records, but for the jobs in ``back``, which wait again."""

    @abstractmethod
    def ended(self, claim: JobClaim, end: End) -> list[End]:
        """Notes that a worker of this process ended at a job; all ends of workers at that job, the earliest first."""

    @abstractmethod
    def given_up(self) -> Iterator[tuple[JobClaim, list[End]]]:
        """Takes the waiting jobs at which workers of this process ended, for a process that can start no other."""

    def abandoned(self) -> Iterator[tuple[JobClaim, list[End]]]:
        """Puts back what dead workers of other processes held. Yields the jobs that are not to be tried again.

        It may be called at any time, and looks every few seconds.
        """
        yield from ()

    def at(self, claim: JobClaim, phase: str) -> None:  # noqa: B027  # nobody watches a queue in memory
        """Notes the phase that a job is in, for those who watch."""


class InMemory(Queue):
    """The jobs of one process, in their order."""

    def __init__(self, jobs: Sequence[Any]) -> None:
        self._waiting = deque(jobs)
        self._ends: list[tuple[Any, list[End]]] = []

    @property
    @override
    def left(self) -> bool:
        return bool(self._waiting)

    @override
    def take(self, warm: str = "") -> JobClaim | None:
        return JobClaim(self._waiting.popleft(), "") if self._waiting else None

    @override
    def settle(self, claim: JobClaim, back: Sequence[Any] = ()) -> None:
        self._waiting.extendleft(reversed(back))

    @override
    def ended(self, claim: JobClaim, end: End) -> list[End]:
        for job, ends in self._ends:
            if job is claim.job:
                ends.append(end)
                return ends
        self._ends.append((claim.job, [end]))
        return [end]

    @override
    def given_up(self) -> Iterator[tuple[JobClaim, list[End]]]:
        for job, ends in self._ends:
            if any(job is one for one in self._waiting):
                self._waiting.remove(job)
                yield JobClaim(job, ""), ends
