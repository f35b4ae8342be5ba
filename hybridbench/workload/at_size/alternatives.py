"""alternatives: what runs in a kernel's place while a part of its work is done again, where the kernel itself cannot.

A kernel that is compiled for every shape would be compiled once more for a row, which takes seconds. Attention over a
piece of a sequence reads all keys before it, so its own kernel would only repeat the same work. A training step of one
sequence has no second sequence to compare with, and kernels give an initial state no gradient. In these cases the
reference implementation runs the part, or, for attention over a length at which that is slow, another library's kernel.
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
"""From so many tokens on, full attention by the reference implementation takes longer than the step."""


class Alternatives:
    """The model's operations, some of which run by another implementation inside ``in_place``.

    Args:
        every: exchange all operations, not only those that are compiled for every shape.
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
        """A context around all work that enters ``in_place``."""
        with swapped(self._model, self._functions, self._either):
            yield

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Inside, the other implementations run."""
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
    """An implementation of a backend's operation that shares no code with it."""
    if backend.op == "attention" and problem.window is None and problem.length > SLOW_FROM:
        for name in OPERATIONS["attention"].order[problem.device]:
            candidate = backends("attention")[name]
            if name in (backend.name, "reference", "sdpa-math") or candidate.compiles_per_length:
                continue
            if available(candidate, problem) is None:
                return candidate.load()
    return reference_of(backend.op)
