"""resume: what of a plan is left to run where records of earlier runs exist.

A case that is recorded is done however it ended, but for one that ran out of time and is given more now.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from hybridbench.record import Record, Status
from hybridbench.suite.case import Case


@dataclass(frozen=True)
class Left:
    """What is left of a plan.

    Attributes:
        todo: the cases to run, in order.
        done: keys of the cases that are recorded and not to run again, those of other plans too.
        sampled_otherwise: how many of those to run are recorded with other sampling, as by another ``--max-time``.
    """

    todo: list[Case]
    done: set[str]
    sampled_otherwise: int


def left_of(planned: Sequence[Case], stored: Mapping[str, Record]) -> Left:
    """What is left of a plan.

    Args:
        stored: the latest record of each case by its key, as ``store.recorded`` gives them.
    """
    limits = {case.key: case.limit_s for case in planned}
    done = {key for key, record in stored.items() if not _again(record, limits.get(key))}
    todo = [case for case in planned if case.key not in done]
    samplings = {stored[key].case.sampling for key in done}
    alike = [case for case in todo if any(replace(case, sampling=other).key in done for other in samplings)]
    return Left(todo, done, len(alike))


def _again(record: Record, limit_s: float | None) -> bool:
    """Whether a recorded case is worth another try: it ran out of time, and is given more now."""
    return record.status is Status.TIMED_OUT and limit_s is not None and limit_s > record.case.limit_s
