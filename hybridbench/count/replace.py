"""replace: a model's kernels replaced for a while by wrappers that operator counters can handle.

A Triton or FlexAttention kernel does not go through the dispatcher: ``torch.jit``'s tracer fails on its Python, and
FlexAttention fails, or silently runs uncompiled, under a counter. Two wrappers, for counting only, never for timing:

    traced    the kernel as a custom operator ``hybridbench::<operation>``, which a tracer lists by name
    unwatched the kernel itself, with the counter switched off meanwhile; the caller lists it by name
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from hybridbench.model.swap import Function
from hybridbench.operations import OPERATIONS

_library: Any = torch.library.Library("hybridbench", "FRAGMENT")
_defined: set[str] = set()
_calls: list[Function] = []
"""Kernels and their arguments that are not tensors, by the number of the call."""


@contextlib.contextmanager
def tracing() -> Iterator[None]:
    """Functions made by ``traced`` are called inside. Tensors kept from their calls are dropped at the end."""
    try:
        yield
    finally:
        _calls.clear()


def unwatched(_op: str, function: Function) -> Function:
    """``function``, run outside any dispatch mode; gradients are still recorded."""

    def call(*args: Any, **options: Any) -> Any:
        with _disable_current_modes():
            return function(*args, **options)

    return call


def traced(op: str, function: Function) -> Function:
    """``function`` as the operator ``hybridbench::op``, without gradients. It is called inside ``tracing``."""
    if op not in _defined:
        _defined.add(op)
        returned = ", ".join(["Tensor"] * len(OPERATIONS[op].outputs))
        _library.define(f"{op}(Tensor[] inputs, int call) -> ({returned})")
        _library.impl(op, _run, "CompositeExplicitAutograd")

    def call(*given: Tensor | None, **options: Any) -> Any:
        left_out = [tensor is None for tensor in given]  # and not the tensors, which would live as long as the call

        def run(*tensors: Tensor) -> Any:
            rest = iter(tensors)
            return function(*(None if none else next(rest) for none in left_out), **options)

        _calls.append(run)
        return getattr(torch.ops.hybridbench, op)([tensor for tensor in given if tensor is not None], len(_calls) - 1)

    return call


def _run(inputs: list[Tensor], call: int) -> Any:
    return _calls[call](*inputs)
