"""beyond: which kernels of a stored record were given more than they are right on."""

from __future__ import annotations

from collections.abc import Iterable

from hybridbench.limits import rows_at_once
from hybridbench.operations import OPERATIONS
from hybridbench.problem import of_op, problem_of
from hybridbench.suite.case import Case
from hybridbench.suite.ops import block_ops_in, block_uses


def ran_beyond(case: Case, ran: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Those of the operations and what ran, as records name them, that were given more than they are right on.

    What ran may say how many sequences it was given at a time, as "fla, 2 rows at a time"; else it was all.
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
