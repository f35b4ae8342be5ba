"""by_rows: a kernel that is right on few sequences at once, run over a batch in groups of them.

A third-party kernel that computes its offsets in 32 bits is wrong from some size on (``limits``). The sequences of a
batch are independent, so the operation on the batch equals the operation on groups of sequences, put together. That
needs at most one more copy of its outputs and gives the same gradients. States that a step updates in place are views.

Arguments that hold sequences are those whose shape begins with B among the reference implementation's parameters.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from hybridbench.kernels.again import recomputed
from hybridbench.kernels.backend import Backend
from hybridbench.kernels.loading import reference_of

Remake = tuple[Callable[..., Tensor], tuple[Any, ...]]
"""The function and arguments that make a tensor again, as in a ``Recomputation``."""


def in_groups(backend: Backend, rows: int) -> Backend:
    """``backend``, called with at most ``rows`` sequences at a time."""
    return replace(backend, load=lambda: by_rows(backend.op, backend.load(), rows), rows=rows, whole=backend)


def by_rows(op: str, function: Callable[..., Any], rows: int) -> Callable[..., Any]:
    """``function``, a callable of ``op``, over a batch in groups of at most ``rows`` sequences.

    Its ``with_recomputations``, where it has one, is kept: what can be made again of each group is noted group by
    group, and the output as a whole.
    """
    names = list(inspect.signature(reference_of(op)).parameters)
    batched = {name for name in names if holds_sequences(name)}

    def size(given: tuple[Any, ...]) -> int:
        return int(next(value for name, value in zip(names, given, strict=False) if name in batched).shape[0])

    def groups(given: tuple[Any, ...], options: dict[str, Any]) -> Iterator[tuple[list[Any], dict[str, Any]]]:
        batch = size(given)
        for first in range(0, batch, rows):
            last = min(first + rows, batch)

            def some(name: str, value: Any, first: int = first, last: int = last) -> Any:
                return sequences(value, first, last) if name in batched else value

            named = zip(names, given, strict=False)
            yield [some(*pair) for pair in named], {name: some(name, value) for name, value in options.items()}

    def call(*given: Any, **options: Any) -> Any:
        return _joined((function(*some, **more) for some, more in groups(given, options)), size(given))

    if not hasattr(function, "with_recomputations"):
        return call

    def with_recomputations(*given: Any, **options: Any) -> tuple[Any, ...]:
        parts, recomputations, again = [], [], []
        for some, more in groups(given, options):
            out, *states, found = function.with_recomputations(*some, **more)
            parts.append((out, *states))
            recomputations += [recomputation for recomputation in found if recomputation[0] is not out]
            again += [recomputation[1:] for recomputation in found if recomputation[0] is out]
        out, *states = _joined(parts, size(given))
        if len(again) == len(parts):
            recomputations.append((out, *_remade(again)))
        return (out, *states, recomputations)

    return recomputed(call, with_recomputations)


def holds_sequences(name: str) -> bool:
    """Whether a parameter of a reference implementation has a row for each sequence, by the name of its shape."""
    return name == "initial" or name.rpartition("_")[2].startswith("B")


def _remade(again: list[Remake]) -> Remake:
    """A function and its arguments that make a whole tensor, of which each of ``again`` makes one group."""
    functions, counts = [function for function, _ in again], [len(arguments) for _, arguments in again]

    def whole(*arguments: Any) -> Tensor:
        left = iter(arguments)
        return _concatenated(
            [function(*(next(left) for _ in range(count))) for function, count in zip(functions, counts, strict=True)]
        )

    return whole, tuple(argument for _, arguments in again for argument in arguments)


def sequences(value: Any, first: int, last: int) -> Any:
    """Some sequences of a tensor or of each tensor in a tuple; None of None.

    Where positions are contiguous, a view of some sequences would keep the whole batch's stride between channels, which
    is what the kernel cannot handle. So those are copied.
    """
    if value is None:
        return None
    if isinstance(value, tuple):
        return tuple(sequences(one, first, last) for one in value)
    some: Tensor = value[first:last]
    if _side_by_side(some) and some.stride(2) > some.shape[0] * some.shape[1]:
        return _channels_outside(some.permute(2, 0, 1).contiguous())
    return some


def _side_by_side(x: Tensor) -> bool:
    """Whether positions of (B, T, C) are contiguous in memory, as in Mamba-1."""
    return x.dim() == 3 and x.shape[1] > 1 and x.stride(1) == 1


def _channels_outside(x_CBT: Tensor) -> Tensor:
    return x_CBT.permute(1, 2, 0)


def _joined(parts: Iterable[Any], batch: int) -> Any:
    """The outputs of the groups joined into those of the whole batch, in the same layout.

    Without gradients each is copied to its place as soon as it exists, so that the outputs never exist twice.
    """
    if torch.is_grad_enabled():
        made = list(parts)
        if len(made) == 1:
            return made[0]
        if isinstance(made[0], tuple):
            return tuple(_concatenated(pieces) for pieces in zip(*made, strict=True))
        return _concatenated(made)
    whole: list[Tensor] = []
    done, several = 0, False
    for part in parts:
        several = isinstance(part, tuple)
        pieces = part if several else (part,)
        count = pieces[0].shape[0]
        if count == batch:
            return part
        whole = whole or [_room(piece, batch) for piece in pieces]
        for room, piece in zip(whole, pieces, strict=True):
            room[done : done + count].copy_(piece)
        done += count
    return tuple(whole) if several else whole[0]


def _room(piece: Tensor, batch: int) -> Tensor:
    """An empty tensor for the whole batch, in the layout of the group's ``piece``."""
    _, *sizes = piece.shape
    if _side_by_side(piece):
        return _channels_outside(piece.new_empty(sizes[1], batch, sizes[0]))
    return piece.new_empty(batch, *sizes)


def _concatenated(pieces: Sequence[Tensor]) -> Tensor:
    if _side_by_side(pieces[0]):
        return _channels_outside(torch.cat([piece.permute(2, 0, 1) for piece in pieces], 1))
    return torch.cat(list(pieces))
