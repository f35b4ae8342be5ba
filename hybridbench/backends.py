"""backends: which kernels cases may ask for, which can run here and up to what size, and which a case would run with.

All of it is known before anything runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from hybridbench.arch.kinds import FEED_FORWARD, RUNNING
from hybridbench.errors import BadInput, Unsupported
from hybridbench.kernels import available
from hybridbench.kernels import backends as backends_of
from hybridbench.kernels.resolver import by_path, named_backends
from hybridbench.limits import tightest
from hybridbench.model.build import NeededOperation, asked_operations
from hybridbench.operations import OPERATIONS
from hybridbench.operations.operation import Declared
from hybridbench.problem import Problem, of_op, problem_of
from hybridbench.suite.case import Case
from hybridbench.suite.ops import block_ops, block_uses
from hybridbench.suite.sweep import Sweep, cases
from hybridbench.suite.workloads import DECODE, TRAIN


def check_names(planned: Sequence[Case]) -> None:
    """Check that the backends that cases name exist.

    Raises:
        BadInput: one does not; the text has the nearest name.
    """
    for op, name in sorted({pair for case in planned for pair in case.execution.backends.items()}):
        if name not in named_backends(op, name) and name != "auto":
            by_path(op, name)


def check_installed(planned: Sequence[Case]) -> None:
    """Check, before anything runs, that the backends named on the command line are installed.

    Raises:
        BadInput: with the reason and the install command, or an unknown name.
    """
    check_names(planned)
    asked = {pair for case in planned for pair in case.execution.backends.items() if ":" not in pair[1]}
    for op, name in sorted(asked):
        if reason := available(backends_of(op)[name]):
            on_gpu = any(case.execution.device == "cuda" for case in planned)
            if unsupported := None if on_gpu else backends_of(op)[name].unsupported(Problem("cpu", "float32")):
                reason = f"{unsupported}; besides, {reason}"
            raise BadInput(f"backend {op}={name} cannot run here: {reason}.")


def every_backend() -> tuple[str, list[dict[str, Any]]]:
    """The device, and a row for each backend: whether it can run here, its rank, and its limits.

    Each is tried with the shapes of the 1B transformer and Mamba-2, in bfloat16 on a GPU and float32 on a CPU.
    """
    at_1b = _problems_at_1b()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = "bfloat16" if device == "cuda" else "float32"
    heads = Problem(device, dtype, head_dim=64, n_heads=32, n_kv_heads=8)
    typical = replace(heads, d_state=128, n_angles=32, chunk_size=256, d_conv=4)
    rows: list[dict[str, Any]] = []
    for op, operation in OPERATIONS.items():
        order = operation.order[device]
        # Mamba-2's chunk is longer than kernels of the delta rules and of Mamba-3 support
        chunk = next((problem.chunk_size for problem in at_1b.get(op, [])), typical.chunk_size)
        asked = replace(typical, chunk_size=chunk)
        for name, kernel in backends_of(op).items():
            reason = available(kernel, asked)
            rows.append(
                {
                    "op": op,
                    "backend": name,
                    "package": kernel.package,
                    "version": kernel.version,
                    "runs_here": reason is None,
                    "auto_rank": order.index(name) + 1 if name in order else None,
                    "reason": reason,
                    "right_up_to": _right_up_to(kernel, at_1b.get(op, [])),
                }
            )
    return device, rows


def explain(case: Case) -> dict[str, Any]:
    """Each operation of a case: the backend asked for, the one that runs here, and why.

    The entry has ``unsupported``, the first reason, if the case cannot run. Operations after that one are listed too.
    """
    entry: dict[str, Any] = {"key": case.key, "case": case.label, "device": case.execution.device}
    try:
        rows = [_explained(asked) for asked in asked_operations(case)]
    except Unsupported as reason:
        return entry | {"operations": [], "unsupported": str(reason)}
    reasons = [row["unsupported"] for row in rows if "unsupported" in row]
    return entry | {"operations": rows} | ({"unsupported": reasons[0]} if reasons else {})


def _explained(asked: NeededOperation) -> dict[str, Any]:
    """One operation of a case: the backend asked for, the one that runs, and why; or why none does."""
    about = {"op": asked.op, "block": asked.block.kind if asked.block else None, "uses": asked.uses}
    try:
        item = asked.resolved()
    except Unsupported as reason:
        named = asked.case.execution.backends.get(asked.op, "auto")
        return about | {"asked": named, "runs": None, "why": None, "passed_over": [], "unsupported": str(reason)}
    return about | {
        "asked": item.asked,
        "runs": item.backend.ran,
        "why": item.choice.why,
        "passed_over": [{"candidate": name, "reason": reason} for name, reason in item.choice.passed_over],
    }


def _problems_at_1b() -> dict[str, list[Problem]]:
    """Each operation of a mixer at 1B on a GPU, in training and in a decode step of 4 sequences with 8k cached."""
    asked: dict[str, list[Problem]] = {}
    for kind in (TRAIN, DECODE):
        step = kind == DECODE
        for symbol in (letter for letter in RUNNING if letter not in FEED_FORWARD):
            sweep = Sweep(kind, pattern=f"{symbol}-", scale="1b", ctx="8k", batch="4", device="cuda")
            (case,) = cases(sweep, has_gpu=True)
            for block, borrows in block_uses(case.model):
                for op in block_ops(block, borrows)[step]:
                    asked.setdefault(op, []).append(of_op(op, problem_of(block, case, borrows), case, step=step))
    return asked


def _right_up_to(backend: Declared, asked: list[Problem]) -> list[str]:
    """Up to which size a backend is right: one sentence per tensor that limits it, for the widest problem."""
    if backend.wide:
        return ["right at any size: its offsets have 64 bits"]
    widest: dict[str, tuple[int, str]] = {}
    for problem in asked:
        if limit := tightest(backend.limits, problem):
            found = (limit.elements(problem), f"right up to {limit.in_words(problem)}")
            widest[limit.what] = max(widest.get(limit.what, found), found)
    return [words for _, words in widest.values()]
