"""choices: what a case adds to the choice of what runs an operation: its mode, and what it rules out, and why.

Every choice is made by ``kernels.choose``, which sees only a problem. It returns a ``Resolution``: the backend, and why
each candidate before it does not run. This module adds what depends on the case:

    mode published    decodes attention as plain eager code
    Mamba-2's core    runs as one kernel where one can run, unless a kernel of its parts was named
    decode_step       is fused in mode graph where that can run, unless a kernel of the modules was named
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from hybridbench.errors import Unsupported
from hybridbench.kernels import Problem, Resolution, available, backends, choose
from hybridbench.model.step import ruled_out_by, step_problem
from hybridbench.suite.case import PUBLISHED, Case
from hybridbench.suite.ops import CORE, CORE_PARTS, DECODE_STEP

PassedOver = tuple[tuple[str, str], ...]


def choose_in_case(op: str, problem: Problem, case: Case) -> Resolution:
    """What runs one operation of a block or of the model.

    Raises:
        BadInput: an unknown backend.
        Unsupported: it cannot run here as asked.
    """
    if op == "attention_decode" and case.execution.mode == PUBLISHED:
        chosen = choose(op, "naive", problem)
        return replace(chosen, why="mode published decodes attention as plain eager code")
    return choose(op, case.execution.backends.get(op, "auto"), problem)


def core_or_parts(problem: Problem, asked_for: Mapping[str, str]) -> tuple[Sequence[str], PassedOver]:
    """The operations that run Mamba-2's core, and why it is not one kernel where it is several."""
    if CORE in asked_for:
        return (CORE,), ()
    if named := next((op for op in CORE_PARTS if op in asked_for), None):
        return CORE_PARTS, ((CORE, f"a kernel for {named} was named, which only the parts run"),)
    chosen = choose(CORE, "auto", problem)
    if chosen.backend.name != "reference":
        return (CORE,), ()
    return CORE_PARTS, tuple((f"{CORE} {name}", reason) for name, reason in chosen.passed_over)


def choose_step(case: Case) -> Resolution:
    """What runs the decode step of a case.

    Raises:
        BadInput: an unknown name.
        Unsupported: the fused step was asked for, by name or by two streams, and cannot run this case.
    """
    execution = case.execution
    asked = execution.backends.get(DECODE_STEP, "auto")
    problem, reason = step_problem(case), ruled_out_by(case)
    found = choose(DECODE_STEP, asked, problem, {} if reason is None else {"fused": reason})
    if asked == "auto" and found.backend.name != "fused" and not found.passed_over:
        # fused is not a candidate on a CPU, but a case that could decode fused on a GPU still says why it does not
        why_not = available(backends(DECODE_STEP)["fused"], problem, reason)
        found = replace(found, passed_over=(("fused", str(why_not)),))
    if execution.streams != 1 and found.backend.name != "fused":
        why = dict(found.passed_over).get("fused", "modules were asked for")
        raise Unsupported(f"{execution.streams} streams need the fused decode step, which cannot run: {why}.")
    return found
