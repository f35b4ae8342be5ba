"""alternatives: what runs in a kernel's place while a part of its work is done again, where the kernel itself cannot.

A kernel that is compiled for every shape would be compiled once more for a row, which takes seconds. Attention over a
piece of a sequence goes over all keys before it, so that its kernel would only do the same again. A training step of
one sequence has no second sequence to be held to, and kernels give an initial state no gradient. There the reference
implementation does the part, or another library's kernel for attention over a length at which the reference
implementation is slow.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from hybridbench.kernels import Problem, available, backends, reference_of
from hybridbench.kernels.backend import Backend
from hybridbench.model.build import Resolved
from hybridbench.model.language import LanguageModel
from hybridbench.model.swap import Function, swapped
from hybridbench.operations import OPERATIONS
from hybridbench.suite.ops import DECODE_STEP

SLOW_FROM = 16_384
"""Tokens from which full attention by the reference implementation takes longer than the step."""


class Alternatives:
    """The model's operations with another implementation each, taken inside ``in_place``.

    Args:
        every: exchange all operations, and not only those that compile for every shape.
        attention: exchange attention too.
    """

    def __init__(
        self, model: LanguageModel, resolved: Sequence[Resolved], *, every: bool = False, attention: bool = False
    ) -> None:
        self._model = model
        items = [item for item in resolved if item.op not in (DECODE_STEP, "adamw")]
        chosen = [
            item
            for item in items
            if every or item.backend.compiles_per_length or (attention and item.op == "attention")
        ]
        self._other = {id(item.function): other(item.backend, item.problem) for item in chosen}
        self._functions = [item.function for item in chosen]
        self._active = False

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Around all work in which ``in_place`` is entered."""
        with swapped(self._model, self._functions, self._either):
            yield

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The other implementations run inside."""
        self._active = True
        try:
            yield
        finally:
            self._active = False

    def _either(self, _op: str, function: Function) -> Function:
        other = self._other[id(function)]

        def call(*given: Any, **options: Any) -> Any:
            return (other if self._active else function)(*given, **options)

        return call


def other(backend: Backend, problem: Problem) -> Function:
    """An implementation of an operation that shares no source with a backend."""
    if backend.op == "attention" and problem.window is None and problem.length > SLOW_FROM:
        for name in OPERATIONS["attention"].order[problem.device]:
            candidate = backends("attention")[name]
            if name in (backend.name, "reference", "sdpa-math") or candidate.compiles_per_length:
                continue
            if available(candidate, problem) is None:
                return candidate.load()
    return reference_of(backend.op)
