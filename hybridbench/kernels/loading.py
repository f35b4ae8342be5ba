"""loading: from the paths in an operation's row to what they name, which needs PyTorch.

A path in a row is below ``hybridbench``; a user's own is ``package.module:function``. It names either a callable with
the operation's signature that runs anywhere, or an ``Implementation``, which says what it does not support and imports
its package when it is loaded.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import fields
from typing import Any

from hybridbench.errors import BadInput
from hybridbench.kernels.again import Again
from hybridbench.kernels.backend import Backend, Implementation, accepts_anything
from hybridbench.kernels.drawing import Draw, Trial
from hybridbench.operations import OPERATIONS
from hybridbench.operations.operation import Declared
from hybridbench.problem import Problem

ROOT = "hybridbench."


def named(path: str) -> Any:
    """The object that ``package.module:name`` names.

    Raises:
        BadInput: the module cannot be imported or has no such name.
    """
    module, _, name = path.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as problem:
        raise BadInput(
            f"'{path}' cannot be loaded ({problem}); write it as package.module:function, importable here."
        ) from problem


def own_kernel(path: str) -> Callable[..., Any]:
    """A person's own function, ``package.module:function``; modules of the current directory are importable.

    Raises:
        BadInput: it cannot be imported, or is no function. The text begins with the path in quotes.
    """
    importable_here()
    try:
        function = named(path)
    except BadInput:
        raise
    except (Exception, SystemExit) as exc:
        raise BadInput(f"'{path}' fails as its module is imported: {type(exc).__name__}: {exc}") from exc
    if not callable(function):
        raise BadInput(f"'{path}' is of type {type(function).__name__}, not a function.")
    found: Callable[..., Any] = function
    return found


def importable_here() -> None:
    """Makes modules of the current directory importable, as they are for ``python -m``."""
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.insert(0, os.getcwd())


def backends(op: str) -> dict[str, Backend]:
    """An operation's backends by name, the plain one first. No third-party package is imported."""
    return {name: _ready(declared) for name, declared in OPERATIONS[op].by_name.items()}


def _ready(declared: Declared) -> Backend:
    found = named(ROOT + declared.path)
    made = found if isinstance(found, Implementation) else Implementation(lambda: found, accepts_anything)
    row = {one.name: getattr(declared, one.name) for one in fields(Declared)}
    return Backend(**row, load=made.load, unsupported=made.unsupported, declined=made.declined)


def reference_of(op: str) -> Callable[..., Any]:
    """An operation's reference implementation, which defines it in plain PyTorch."""
    function: Callable[..., Any] = named(ROOT + OPERATIONS[op].reference)
    return function


def draw_of(op: str) -> Callable[[Problem, Draw], Iterator[Trial]]:
    """The random inputs of an operation for a problem, one trial after the other."""
    function: Callable[[Problem, Draw], Iterator[Trial]] = named(ROOT + OPERATIONS[op].draw)
    return function


def again_of(op: str) -> Again | None:
    """How an operation's outputs are recomputed; None where they are worth keeping."""
    name = OPERATIONS[op].again
    return named(f"{ROOT}kernels.again:{name}") if name else None
