"""resume: which cases of a plan are left to run, given the records of earlier runs.

A recorded case is done, however it ended, with two exceptions: one that something stood in the way of, such as a full
disk, and one that ran out of time and has a longer limit now.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from hybridbench.record import Status


@dataclass(frozen=True)
class Remaining:
    """What is left of a plan.

    Attributes:
        todo: the cases to run, in order.
        done: keys of the recorded cases that do not run again, including those of other plans.
        sampled_otherwise: how many of ``todo`` are recorded with other sampling, such as another ``--max-time``.
    """

    todo: list[Any]
    done: set[str]
    sampled_otherwise: int


def remaining_of(planned: Sequence[Any], stored: Mapping[str, Any]) -> Remaining:
    """What is left of a plan.

    Args:
        planned: cases, or cells of another suite.
        stored: the latest record of each case by its key, as ``store.recorded`` gives them.
    """
    limits = {case.key: case.limit_s for case in planned}
    done = {key for key, record in stored.items() if not _again(record, limits.get(key))}
    todo = [case for case in planned if case.key not in done]
    sampled = (stored[key].case for key in done)
    samplings = {case.sampling for case in sampled if hasattr(case, "sampling")}  # tasks and long contexts have none
    alike = [case for case in todo if any(replace(case, sampling=other).key in done for other in samplings)]
    return Remaining(todo, done, len(alike))


def _again(record: Any, limit_s: float | None) -> bool:
    """Whether a recorded case runs again: it was blocked, or it ran out of time and its limit is longer now."""
    if record.status is Status.BLOCKED:
        return True
    return bool(record.status is Status.TIMED_OUT and limit_s is not None and limit_s > record.case.limit_s)
