"""replace: a model's kernels replaced for a while by wrappers that operator counters can handle.

A Triton or FlexAttention kernel does not go through the dispatcher: ``torch.jit``'s tracer fails on its Python, and
FlexAttention fails, or silently runs uncompiled, under a counter. Two wrappers, for counting only, never for timing:

    traced    the kernel as a custom operator ``hybridbench::<operation>``, which a tracer lists by name
    unwatched the kernel itself, with the counter switched off meanwhile; the caller lists it by name
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _disable_current_modes

from hybridbench.model.swap import Function, swapped
from hybridbench.operations import OPERATIONS

_library: Any = torch.library.Library("hybridbench", "FRAGMENT")
_defined: set[str] = set()
_calls: list[Function] = []
"""Kernels with what is no tensor of their arguments, by the number under which the operator finds them."""


@contextlib.contextmanager
def replaced(
    model: nn.Module, functions: Iterable[Function], wrap: Callable[[str, Function], Function]
) -> Iterator[None]:
    """``swapped``, and what ``traced`` keeps of each call is dropped at the end."""
    try:
        with swapped(model, functions, wrap):
            yield
    finally:
        _calls.clear()


def unwatched(_op: str, function: Function) -> Function:
    """``function`` outside any dispatch mode; gradients are recorded as ever."""

    def call(*args: Any, **options: Any) -> Any:
        with _disable_current_modes():
            return function(*args, **options)

    return call


def traced(op: str, function: Function) -> Function:
    """``function`` as the operator ``hybridbench::op``, without gradients."""
    if op not in _defined:
        _defined.add(op)
        returned = ", ".join(["Tensor"] * len(OPERATIONS[op].outputs))
        _library.define(f"{op}(Tensor[] inputs, int call) -> ({returned})")
        _library.impl(op, _run, "CompositeExplicitAutograd")

    def call(*given: Tensor | None, **options: Any) -> Any:
        def run(*tensors: Tensor) -> Any:
            rest = iter(tensors)
            return function(*(None if tensor is None else next(rest) for tensor in given), **options)

        _calls.append(run)
        return getattr(torch.ops.hybridbench, op)([tensor for tensor in given if tensor is not None], len(_calls) - 1)

    return call


def _run(inputs: list[Tensor], call: int) -> Any:
    return _calls[call](*inputs)
