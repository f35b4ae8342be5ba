"""joint: several cases that one process runs as one job, each with a record of its own.

Kernels of the same work are timed in turns, so one process must hold them all. If the process ends while it works at
one of them alone, that one has failed and the others go on together. If it ends while it works at several, nobody knows
which one was to blame, and each gets a process of its own.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any


class Joint(ABC):
    """Several cases as one job."""

    @property
    @abstractmethod
    def cases(self) -> tuple[Any, ...]:
        """The cases, in order: a process names one by its place here."""

    @abstractmethod
    def some(self, cases: Sequence[Any]) -> Joint:
        """The same job of some of its cases."""

    @abstractmethod
    def apart(self, case: Any) -> Joint:
        """The same job of one case, which a process that worked at several did not finish."""

    @property
    @abstractmethod
    def limit_s(self) -> float:
        """After so many seconds of working at one case its process is ended."""

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""


def cases_of(job: Any) -> tuple[Any, ...]:
    """The cases of a job: several of a joint one, else the job itself."""
    return job.cases if isinstance(job, Joint) else (job,)
