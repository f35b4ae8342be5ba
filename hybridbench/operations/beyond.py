"""beyond: which kernels of a stored record ran on sizes beyond their limits."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass, field

from hybridbench.limits import rows_at_once
from hybridbench.operations import OPERATIONS
from hybridbench.problem import of_op, problem_of
from hybridbench.suite.case import Case
from hybridbench.suite.ops import block_ops_in, block_uses


def ran_beyond(case: Case, ran: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """The operations, and what ran them, as records name them, whose problem was beyond the kernel's limits.

    What ran may state how many sequences it processed at a time, as "fla, 2 rows at a time"; otherwise it was all.
    """
    return list(_ran_beyond(_Keyed(case), tuple(dict.fromkeys(ran))))


@dataclass(frozen=True)
class _Keyed:
    """A case that is hashed by its key: a report asks the same of each of its records."""

    case: Case = field(compare=False)
    key: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "key", self.case.key)


@functools.lru_cache(maxsize=1 << 14)
def _ran_beyond(keyed: _Keyed, used: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
    case, found = keyed.case, list[tuple[str, str]]()
    for block, borrows in block_uses(case.model):
        whole = problem_of(block, case, borrows)
        for op, in_step in block_ops_in(block, borrows, case.workload.row):
            problem = of_op(op, whole, case, step=in_step)
            for pair in used:
                name, _, groups = pair[1].partition(", ")
                given = int(groups.split()[0]) if groups else problem.batch
                backend = OPERATIONS[op].by_name.get(name)
                if pair[0] != op or backend is None:
                    continue
                if rows_at_once(backend.limits, problem) < min(given, problem.batch):
                    found.append(pair)
    return tuple(dict.fromkeys(found))
