"""order: which of the waiting jobs a worker takes: first those of the kind whose kernels it has compiled."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any


def kinds_of(cases: Iterable[Any]) -> list[str]:
    """The kind of each case as a short name: cases of one model, workload and mode use the same compiled kernels."""
    names: dict[tuple[Any, ...], str] = {}
    found = [(case.model, case.workload.kind, str(case.execution)) for case in cases]
    return [names.setdefault(one, f"{len(names):04d}") for one in found]


def choose(waiting: Sequence[tuple[str, str]], held: Sequence[str], warm: str) -> list[tuple[str, str]]:
    """The waiting jobs in the order in which a worker should try to take them; the earlier may be gone by then.

    Its own kind comes first. Then the earliest kind that nobody is at, so that each kind is compiled once. When all
    are taken, it helps with the kind of which most jobs are left for each of its workers.

    Args:
        waiting: name and kind of each.
        held: the kinds of the jobs that workers are at.
        warm: the kind that this worker ran last.

    >>> choose([("1", "a"), ("2", "b"), ("3", "c")], held=["a"], warm="c")
    [('3', 'c'), ('2', 'b'), ('1', 'a')]
    """
    at, left = Counter(held), Counter(kind for _, kind in waiting)

    def place(job: tuple[str, str]) -> tuple[bool, bool, float, str]:
        name, kind = job
        return kind != warm, at[kind] > 0, -left[kind] / at[kind] if at[kind] else 0.0, name

    return sorted(waiting, key=place)
