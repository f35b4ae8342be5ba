"""choices: what runs each operation of a case, where a mode, a fused kernel or the whole step has a say, and why.

Each function returns a ``Resolution``: the backend, and why each candidate before it does not run. Which kernel "auto"
takes for one operation is ``kernels.choose``. What a case adds to that:

    mode published    decodes attention as plain eager code
    Mamba-2's core    one kernel for all of it, where one can run and nobody named a kernel of its parts
    decode_step       fused in mode graph, where it can run and nobody named a kernel of the modules
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from hybridbench.errors import Unsupported, unknown_name
from hybridbench.kernels import Problem, Resolution, choose
from hybridbench.model.step import STEPS, step_problem, unsupported_by_fused
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
    """The operations that do all of Mamba-2's core, and why it is not one kernel where it is not."""
    if CORE in asked_for:
        return (CORE,), ()
    if named := next((op for op in CORE_PARTS if op in asked_for), None):
        return CORE_PARTS, ((CORE, f"a kernel for {named} was named, which only the parts run"),)
    chosen = choose(CORE, "auto", problem)
    if chosen.backend.name != "reference":
        return (CORE,), ()
    return CORE_PARTS, tuple((f"{CORE} {name}", reason) for name, reason in chosen.passed_over)


def choose_step(case: Case) -> Resolution:
    """How the case decodes.

    Raises:
        BadInput: an unknown name.
        Unsupported: fused was asked for, by name or with two streams, and cannot run this.
    """
    execution = case.execution
    asked = execution.backends.get(DECODE_STEP, "auto")
    if asked not in (*STEPS, "auto"):
        raise unknown_name(f"{DECODE_STEP} backend", asked, [*STEPS, "auto"])
    if asked == "modules" and execution.streams == 1:
        return Resolution(STEPS["modules"], asked)
    reason = unsupported_by_fused(case, step_problem(case))
    if reason is None and asked != "modules":
        return Resolution(STEPS["fused"], asked)
    if asked == "fused":
        raise Unsupported(f"{DECODE_STEP} backend 'fused' cannot run here: {reason}. What can run here: modules.")
    if execution.streams != 1:
        reason = reason or "modules were asked for"
        raise Unsupported(f"{execution.streams} streams need the fused decode step, which cannot run: {reason}.")
    return Resolution(STEPS["modules"], asked, (("fused", str(reason)),))
