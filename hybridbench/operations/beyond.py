"""beyond: which kernels of a stored record ran on sizes beyond their limits."""

from __future__ import annotations

from collections.abc import Iterable

from hybridbench.limits import rows_at_once
from hybridbench.operations import OPERATIONS
from hybridbench.problem import of_op, problem_of
from hybridbench.suite.case import Case
from hybridbench.suite.ops import block_ops_in, block_uses


def ran_beyond(case: Case, ran: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """The operations, and what ran them, as records name them, whose problem was beyond the kernel's limits.

    What ran may state how many sequences it processed at a time, as "fla, 2 rows at a time"; otherwise it was all.
    """
    used = dict.fromkeys(ran)
    found = []
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
    return list(dict.fromkeys(found))
