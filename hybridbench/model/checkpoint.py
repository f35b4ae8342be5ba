"""checkpoint: which activations a training step keeps from its forward to its backward.

    none       all that autograd asks for
    selective  all but what cheap work makes of tensors that are kept anyway: norms, gated activations, gates and
               convolutions of recurrent mixers, norms per head. Their outputs, mostly the inputs of products, are made
               again when the backward asks for them; products, attention and scans are never repeated.
    full       the residual stream before each sublayer; the backward runs each sublayer forward again

What that leaves of each kind of block is listed tensor by tensor in ``arch.activations`` (its ``cheap`` terms are what
``selective`` makes again).

``full`` is torch.utils.checkpoint around a sublayer and its norm. ``selective`` is a pair of hooks on saved tensors:
``remembering`` notes of each cheap operation's output how it came to be, and where autograd would keep that output it
keeps the recipe and not the tensor. A recipe holds the operation's inputs, which the operation itself keeps anyway.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from hybridbench.kernels.loading import again_of


class _Made:
    """How a tensor is made again; while anybody still uses the last one made, it is not made twice."""

    def __init__(self, function: Callable[..., Tensor], arguments: Sequence[Any], strides: tuple[int, ...]) -> None:
        self._function = function
        self._arguments = arguments
        self._strides = strides
        self._last: Callable[[], Tensor | None] = lambda: None

    def __call__(self) -> Tensor:
        made = self._last()
        if made is None:
            with torch.no_grad():
                made = self._function(*(item() if isinstance(item, _Kept) else item for item in self._arguments))
            assert made.stride() == self._strides, "what is made again must lie as it lay"
            self._last = weakref.ref(made)
        return made


class _Kept:
    """A tensor autograd keeps: itself, or the part of a tensor that can be made again."""

    def __init__(self, tensor: Tensor) -> None:
        self._tensor: Tensor | None = tensor.detach()
        self._part = (tensor.shape, tensor.stride(), tensor.storage_offset())
        self._made: _Made | None = None

    def replace(self, made: _Made) -> None:
        """Lets the tensor go."""
        self._tensor, self._made = None, made

    def __call__(self) -> Tensor:
        if self._made is not None:
            return self._made().as_strided(*self._part)
        assert self._tensor is not None
        return self._tensor


class Memory:
    """What one forward pass has autograd keep, and how its cheap tensors are made again.

    Storages are told apart by their address; a weak reference to each keeps it from being given to another.
    """

    def __init__(self) -> None:
        self._known: dict[int, tuple[StorageWeakRef, _Made]] = {}
        self._kept: dict[int, list[weakref.ref[_Kept]]] = {}

    def keep(self, tensor: Tensor) -> Any:
        """What autograd keeps in a tensor's place; a parameter is nobody's activation."""
        return tensor if tensor.is_leaf and tensor.requires_grad else self._entry(tensor)

    def _entry(self, tensor: Tensor) -> _Kept:
        kept, where = _Kept(tensor), _address(tensor)
        if where in self._known:
            kept.replace(self._known[where][1])
        else:
            self._kept.setdefault(where, []).append(weakref.ref(kept))
        return kept

    def learn(self, tensor: Tensor, function: Callable[..., Tensor], arguments: tuple[Any, ...]) -> None:
        """Notes how a tensor is made, also for those who keep it already: an operation may keep its own output."""
        assert tensor.storage_offset() == 0, "a part of a tensor cannot be made without the whole"
        kept = [self.keep(item) if isinstance(item, Tensor) else item for item in arguments]
        made = _Made(function, kept, tensor.stride())
        where = _address(tensor)
        self._known[where] = (StorageWeakRef(tensor.untyped_storage()), made)  # type: ignore[no-untyped-call]
        for reference in self._kept.pop(where, []):
            if (waiting := reference()) is not None:
                waiting.replace(made)


def _address(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _restore(kept: Any) -> Tensor:
    tensor: Tensor = kept() if isinstance(kept, _Kept) else kept
    return tensor


_memory: Memory | None = None


@contextlib.contextmanager
def remembering() -> Iterator[None]:
    """A forward pass of which autograd keeps recipes in place of cheap tensors."""
    global _memory
    before, _memory = _memory, Memory()
    try:
        with torch.autograd.graph.saved_tensors_hooks(_memory.keep, _restore):
            yield
    finally:
        _memory = before


def cheap(function: Callable[..., Tensor], *arguments: Any) -> Tensor:
    """``function(*arguments)``, whose result is not worth keeping."""
    made = function(*arguments)
    if _memory is not None and torch.is_grad_enabled():
        _memory.learn(made, function, arguments)
    return made


def learning(op: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """``function``, one of the operations of a model, with its recipes noted in a forward that remembers."""
    recipes = again_of(op)
    if recipes is None:
        return function

    def call(*given: Any, **options: Any) -> Any:
        if _memory is None or not torch.is_grad_enabled():
            return function(*given, **options)
        made, found = recipes(function, given, options)
        for tensor, again, arguments in found:
            _memory.learn(tensor, again, arguments)
        return made

    return call
