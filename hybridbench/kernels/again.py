"""again: how the cheap outputs of an operation are made again from what the operation keeps anyway.

A function here runs an operation and returns what it made beside a recomputation for each output that is not worth
keeping: the tensor, and the function and arguments that make it again. ``model.checkpoint`` keeps recomputations in
place of tensors.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, cast

from torch import Tensor

Recomputation = tuple[Tensor, Callable[..., Tensor], tuple[Any, ...]]
"""A tensor, and the function and arguments that make it again."""

Again = Callable[[Callable[..., Any], tuple[Any, ...], dict[str, Any]], tuple[Any, list[Recomputation]]]
"""Runs an operation's function on arguments and options; returns its outputs and their recomputations."""


class Recomputed(Protocol):
    """A kernel that itself says which of its outputs can be made again, and how."""

    with_recomputations: Callable[..., tuple[Any, ...]]
    """As the kernel; a list of recomputations is the last of what it returns."""

    def __call__(self, *given: Any, **options: Any) -> Any:
        """The kernel."""


def recomputed(function: Callable[..., Any], with_recomputations: Callable[..., tuple[Any, ...]]) -> Recomputed:
    """A kernel's function, to which is added how its outputs are made again."""
    found = cast("Recomputed", function)
    found.with_recomputations = with_recomputations
    return found


def of_whole(
    function: Callable[..., Any], given: tuple[Any, ...], options: dict[str, Any]
) -> tuple[Any, list[Recomputation]]:
    """An operation with one output."""
    made = function(*given, **options)
    return made, [(made, lambda *again: function(*again, **options), given)]


def of_each(
    function: Callable[..., Any], given: tuple[Any, ...], options: dict[str, Any]
) -> tuple[Any, list[Recomputation]]:
    """A token shift, each of whose outputs is made by itself from x and its share."""
    made = function(*given, **options)

    def one(mix: int) -> Callable[..., Tensor]:
        return lambda x, share: function(x, share[mix : mix + 1], **options)[0]

    return made, [(mixed, one(mix), given) for mix, mixed in enumerate(made)]


def of_several(
    function: Callable[..., Any], given: tuple[Any, ...], options: dict[str, Any]
) -> tuple[Any, list[Recomputation]]:
    """An operation whose outputs are made together: the first that is asked for makes all, and the others wait."""
    made = function(*given, **options)
    waiting: dict[int, Tensor] = {}

    def one(which: int) -> Callable[..., Tensor]:
        def again(*inputs: Any) -> Tensor:
            if which not in waiting:
                waiting.update(enumerate(function(*inputs, **options)))
            return waiting.pop(which)

        return again

    return made, [(tensor, one(which), given) for which, tensor in enumerate(made)]


def of_norm(
    function: Callable[..., Any], given: tuple[Any, ...], options: dict[str, Any]
) -> tuple[Any, list[Recomputation]]:
    """A sum and its norm: the norm is recomputed from the sum."""
    normed, added = function(*given, **options)
    weight = given[2]
    return (normed, added), [(normed, lambda x, w: function(x, None, w, **options)[0], (added, weight))]


def of_core(
    function: Callable[..., Any], given: tuple[Any, ...], options: dict[str, Any]
) -> tuple[Any, list[Recomputation]]:
    """Mamba-2's core: what the function itself says about its parts, if it does, as ``mamba2_fused`` does."""
    if not hasattr(function, "with_recomputations"):
        return function(*given, **options), []
    out, state, found = function.with_recomputations(*given, **options)
    return (out, state), found
