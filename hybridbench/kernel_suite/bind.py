"""bind: from a draw of inputs to the call that is timed: the operation itself, with what a model would pass it.

A draw's own ``call`` also copies states and joins parts, so that comparisons stay pure. What it passes to the operation
is caught at its first call, and that alone is timed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from hybridbench.kernel_suite.cell import BACKWARD, Cell
from hybridbench.kernels.drawing import Draw, Trial
from hybridbench.kernels.loading import draw_of
from hybridbench.operations import OPERATIONS


class _Caught(Exception):
    """Ends a draw's ``call`` once it has called the operation."""


def drawn(cell: Cell, device: torch.device, number: int = 0) -> Trial:
    """Inputs number ``number`` of a cell, at its own size, on its device."""
    generator = torch.Generator(device).manual_seed(cell.seed * 1_000_003 + number)
    draw = Draw(cell.problem, device, generator, max(1, cell.problem.batch), at_size=True)
    return next(iter(draw_of(cell.op)(cell.problem, draw)))


def arguments(trial: Trial) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What a draw's ``call`` passes to the operation."""
    found: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def catch(*given: Any, **options: Any) -> Any:
        found.append((given, options))
        raise _Caught

    with contextlib.suppress(_Caught):
        trial.call(catch, trial.tensors)
    return found[0]


def bound(cell: Cell, function: Callable[..., Any], trial: Trial) -> Callable[[], object]:
    """The call that is timed: a forward without gradients, or one with its backward.

    Each call with a backward makes its own graph of gradients, so that a kernel that computes gradients in its forward
    and one that recomputes its forward in its backward are timed alike.
    """
    if trial.bind is not None:
        return trial.bind(function, trial.tensors)
    given, options = arguments(trial)
    if cell.direction != BACKWARD:

        @torch.no_grad()
        def forward() -> object:
            return function(*given, **options)

        return forward

    tensors = [tensor for tensor in OPERATIONS[cell.op].tensors if not tensor.optional]
    learnt = [tensor.constant is False and _floating(value) for tensor, value in zip(tensors, given, strict=False)]
    inputs = [value.detach().requires_grad_() if learns else value for value, learns in zip(given, learnt, strict=True)]
    leaves = [value for value, learns in zip(inputs, learnt, strict=True) if learns]
    upstream: list[Tensor] = []

    def backward() -> object:
        with torch.enable_grad():
            made = function(*inputs, **options)
            outputs = [one for one in (made if isinstance(made, tuple) else (made,)) if one.requires_grad]
        if not upstream:
            upstream.extend(torch.randn_like(one) for one in outputs)
        return torch.autograd.grad(outputs, leaves, upstream, allow_unused=True)

    backward()
    return backward


def _floating(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()
