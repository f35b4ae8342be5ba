"""resolver: which backend runs an operation, and why each candidate before it does not.

    >>> problem = Problem(device="cpu", dtype="float32", head_dim=64, n_heads=8, n_kv_heads=2)
    >>> resolve("attention", "auto", problem).name
    'sdpa-flash'
    >>> windowed = Problem(device="cpu", dtype="float32", head_dim=64, n_heads=8, n_kv_heads=2, window=512)
    >>> [name for name, reason in choose("attention", "auto", windowed).passed_over]
    ['sdpa-flash']

A named backend runs or raises ``Unsupported``. Only "auto" chooses, and the record says what it chose. A backend that
is right only on fewer sequences than the batch has runs on groups of them, and its ``ran`` says so; a backend that is
wrong on a single sequence cannot run (``limits``). The candidates and their order are in ``operations``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from hybridbench.errors import BadInput, Unsupported, unknown_name
from hybridbench.kernels.backend import Backend, accepts_anything
from hybridbench.kernels.by_rows import in_groups
from hybridbench.kernels.loading import backends, own_kernel, reference_of
from hybridbench.limits import beyond, rows_at_once
from hybridbench.operations import OPERATIONS
from hybridbench.problem import Problem


@dataclass(frozen=True)
class Resolution:
    """What runs an operation.

    Attributes:
        asked: a backend's name, ``package.module:function`` or ``"auto"``.
        passed_over: the candidates before it, each with a sentence (without a full stop) that says why it does not run.
            Only "auto" passes over candidates.
        why: what decided, where it was neither a name nor the order of candidates; a sentence without a full stop.
    """

    backend: Backend
    asked: str = "auto"
    passed_over: tuple[tuple[str, str], ...] = ()
    why: str = ""


def available(backend: Backend, problem: Problem | None = None, ruled_out: str | None = None) -> str | None:
    """Why ``backend`` cannot run here (on ``problem``, if given), as a sentence without a full stop; None if it can.

    Args:
        ruled_out: why the case rules it out, which cannot be seen from the problem.
    """
    if problem is not None:
        if reason := backend.unsupported(problem) or ruled_out:
            return reason
        if reason := beyond(backend.limits, problem):
            return reason
        if problem.device == "cuda" and not torch.cuda.is_available():
            return "PyTorch finds no CUDA device on this machine"
    try:
        backend.load()
    except Unsupported as missing:
        return f"{missing}; install it with: {backend.install}" if backend.install else str(missing)
    return None


def resolve(op: str, asked: str, problem: Problem) -> Backend:
    """The backend of ``choose``."""
    return choose(op, asked, problem).backend


def choose(op: str, asked: str, problem: Problem, ruled_out: Mapping[str, str] | None = None) -> Resolution:
    """What will run ``op`` on ``problem``, in groups of sequences where it is right only on those.

    Args:
        asked: ``"auto"``, a name of ``backends(op)``, or ``package.module:function`` for a user's own callable with the
            operation's signature.
        ruled_out: names of backends that the case rules out, with the reason.

    Raises:
        BadInput: no such operation or name.
        Unsupported: the named backend cannot do this here; the text says why and what can.
    """
    table, out = named_backends(op, asked), ruled_out or {}
    if asked == "auto":
        return _first_that_runs(op, problem, out)
    if asked not in table:
        return Resolution(by_path(op, asked), asked)
    if reason := available(table[asked], problem, out.get(asked)):
        others = [name for name, other in table.items() if available(other, problem, out.get(name)) is None]
        can = f"What can run here: {', '.join(others)}" if others else "No other backend can run it here either"
        raise Unsupported(f"{op} backend '{asked}' cannot run here: {reason}. {can}.")
    return Resolution(_right_at_size(table[asked], problem), asked)


def named_backends(op: str, asked: str) -> dict[str, Backend]:
    """``backends(op)``, after checking that ``asked`` is one of them, ``"auto"``, or the path of a callable.

    Raises:
        BadInput: no such operation or name.
    """
    if op not in OPERATIONS:
        raise unknown_name("operation", op, OPERATIONS)
    table = backends(op)
    own = ":" in asked and bool(OPERATIONS[op].inputs)
    if asked not in table and asked != "auto" and not own:
        raise unknown_name(f"{op} backend", asked, [*table, "auto"])
    return table


def _first_that_runs(op: str, problem: Problem, ruled_out: Mapping[str, str]) -> Resolution:
    passed_over: list[tuple[str, str]] = []
    table = backends(op)
    for name in OPERATIONS[op].order[problem.device]:
        reason = available(table[name], problem, ruled_out.get(name)) or table[name].declined(problem)
        if reason is None:
            return Resolution(_right_at_size(table[name], problem), passed_over=tuple(passed_over))
        passed_over.append((name, reason))
    reasons = ". ".join(f"{name}: {reason}" for name, reason in passed_over)
    raise Unsupported(f"no {op} backend can run here. {reasons}.")


def _right_at_size(backend: Backend, problem: Problem) -> Backend:
    """The backend, in groups of as many sequences as it is right on. ``available`` has checked that it is on one."""
    if not OPERATIONS[backend.op].sequences:
        return backend
    rows = rows_at_once(backend.limits, problem)
    return backend if rows >= problem.batch else in_groups(backend, rows)


def by_path(op: str, path: str) -> Backend:
    """A backend from ``package.module:function``. It may run on any problem, and is verified like any other.

    A scan without a parameter for an initial state is accepted too; it never gets one.

    Raises:
        BadInput: the module cannot be imported or has no such function; a sentence.
    """
    try:
        function = own_kernel(path)
    except BadInput as problem:
        raise BadInput(f"{op} kernel {problem}") from problem
    package = path.partition(":")[0].partition(".")[0]
    continues = _takes_initial_state(op, function)
    kernel = function if continues else _from_nothing(op, path, function)
    return Backend(
        op=op,
        name=path,
        package=package,
        path=path,
        load=lambda: kernel,
        unsupported=accepts_anything,
        dispatched=False,
        continues=continues,
    )


def _takes_initial_state(op: str, function: Callable[..., Any]) -> bool:
    """Whether a function has the operation's parameter for an initial state; True for operations without one."""
    wanted = {name for name in inspect.signature(reference_of(op)).parameters if name.startswith("initial")}
    try:
        given = inspect.signature(function).parameters
    except (TypeError, ValueError):  # a compiled function may have no signature that Python sees
        return True
    return wanted <= given.keys() or any(one.kind is one.VAR_KEYWORD for one in given.values())


def _from_nothing(op: str, path: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps a scan that can only start from an empty state."""

    def call(*given: Any, **options: Any) -> Any:
        started = {name for name, value in options.items() if name.startswith("initial") and value is not None}
        if started:
            raise Unsupported(f"{op} kernel '{path}' has no parameter {min(started)}, to start from a state.")
        return function(*given, **{name: value for name, value in options.items() if not name.startswith("initial")})

    return call
