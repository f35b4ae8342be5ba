"""sources: all that the figures of a compiled kernel follow from, as one hash: where it is equal, so are they.

That is its text with the text of all Triton functions that it calls, the globals it reads, its types, constants,
alignments and options, the GPU, and the program that observes. The key of Triton's own cache holds line numbers as
well, so that a kernel would be another one for a comment above it.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from triton.runtime.jit import DependenciesFinder, JITCallable
from typing_extensions import override

DIGITS = 16


class _Text(DependenciesFinder):  # type: ignore[misc]  # Triton has no types
    """Triton's walk through what a kernel refers to, with the text of each function in place of its key."""

    @override
    def _update_hash(self, func: Any) -> None:
        self.hasher.update(f"{text_of(func)} {getattr(func, 'noinline', False)}".encode())


_known: dict[Any, str] = {}


def text_of(kernel: Any) -> str:
    """The hash of a Triton function's text, of all that it calls, and of the globals that these read."""
    if kernel.fn in _known:
        return _known[kernel.fn]
    _known[kernel.fn] = "itself"  # where a function calls itself
    nonlocals = inspect.getclosurevars(kernel.fn).nonlocals
    found = _Text(kernel.__name__, kernel.__globals__, nonlocals, kernel.src)
    found.visit(kernel.parse())
    read = sorted((name, repr(value)) for (name, _), (value, _) in found.used_global_vals.items())
    _known[kernel.fn] = hashlib.sha256(f"{found.ret} {read}".encode()).hexdigest()
    return _known[kernel.fn]


def source_of(kernel: Any, compile: Mapping[str, Any], options: Mapping[str, Any], *made_for: object) -> str:
    """The hash of one kernel with its constants.

    Args:
        compile: what Triton was to compile, as its hook is told.
        options: those that it is compiled with.
        made_for: the GPU.
    """
    constants = {str(place): _said(value) for place, value in compile["constants"].items()}
    alignments = {str(place): repr(value) for place, value in compile["configs"][0].items()}
    parts = [text_of(kernel), dict(compile["signature"]), constants, alignments, dict(options), repr(made_for)]
    return hashlib.sha256(json.dumps([*parts, _program()], sort_keys=True).encode()).hexdigest()[:DIGITS]


def _said(value: Any) -> str:
    return text_of(value) if isinstance(value, JITCallable) else repr(value)


@functools.cache
def _program() -> str:
    """The text of the program that observes: what it makes of a kernel belongs to the figures."""
    here = Path(__file__).parent
    return "".join((here / name).read_text(encoding="utf-8") for name in _PROGRAM)


_PROGRAM: Sequence[str] = ("compiled.py", "sources.py")
