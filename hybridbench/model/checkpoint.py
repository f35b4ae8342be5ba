"""checkpoint: which activations a training step keeps from its forward to its backward.

    none       everything that autograd saves
    selective  everything except the outputs of cheap operations whose inputs are kept anyway: norms, gated activations,
               gates and convolutions of recurrent mixers, norms per head. The backward recomputes these outputs, which
               are mostly the inputs of products; products, attention and scans are never repeated.
    full       the residual stream before each sublayer; the backward runs each sublayer forward again

``arch.activations`` lists tensor by tensor what each kind of block then keeps; its ``cheap`` terms are those that
``selective`` recomputes.

``full`` is torch.utils.checkpoint around a sublayer and its norm. ``selective`` is a pair of hooks on saved tensors:
inside ``remembering`` each cheap operation notes a recomputation of its output, and where autograd would save that
output, it saves the recomputation instead. A recomputation holds the operation's inputs, which the operation itself
keeps anyway.
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
    """How a tensor is recomputed. While the last recomputed tensor is still in use, it is returned again."""

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
            assert made.stride() == self._strides, "a recomputed tensor must have the strides of the first one"
            self._last = weakref.ref(made)
        return made


class _Kept:
    """A tensor that autograd saves: the tensor itself, or a view of a tensor that can be recomputed."""

    def __init__(self, tensor: Tensor) -> None:
        self._tensor: Tensor | None = tensor.detach()
        self._part = (tensor.shape, tensor.stride(), tensor.storage_offset())
        self._made: _Made | None = None

    def replace(self, made: _Made) -> None:
        """Drops the tensor and keeps how to recompute it."""
        self._tensor, self._made = None, made

    def __call__(self) -> Tensor:
        if self._made is not None:
            return self._made().as_strided(*self._part)
        assert self._tensor is not None
        return self._tensor


class SavedTensors:
    """What autograd saves in one forward pass, and how its cheap tensors are recomputed.

    Storages are identified by their address. A weak reference to each keeps the address from being reused.
    """

    def __init__(self) -> None:
        self._known: dict[int, tuple[StorageWeakRef, _Made]] = {}
        self._kept: dict[int, list[weakref.ref[_Kept]]] = {}

    def keep(self, tensor: Tensor) -> Any:
        """What autograd saves instead of a tensor. A parameter is saved as it is: it is not an activation."""
        return tensor if tensor.is_leaf and tensor.requires_grad else self._entry(tensor)

    def _entry(self, tensor: Tensor) -> _Kept:
        kept, where = _Kept(tensor), _address(tensor)
        if where in self._known:
            kept.replace(self._known[where][1])
        else:
            self._kept.setdefault(where, []).append(weakref.ref(kept))
        return kept

    def learn(self, tensor: Tensor, function: Callable[..., Tensor], arguments: tuple[Any, ...]) -> None:
        """Notes how a tensor is made, also where it is saved already: an operation may save its own output."""
        assert tensor.storage_offset() == 0, "only a whole tensor can be recomputed"
        kept = [self.keep(item) if isinstance(item, Tensor) else item for item in arguments]
        made = _Made(function, kept, tensor.stride())
        where = _address(tensor)
        self._known[where] = (StorageWeakRef(tensor.untyped_storage()), made)
        for reference in self._kept.pop(where, []):
            if (waiting := reference()) is not None:
                waiting.replace(made)


def _address(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _restore(kept: Any) -> Tensor:
    tensor: Tensor = kept() if isinstance(kept, _Kept) else kept
    return tensor


_memory: SavedTensors | None = None


@contextlib.contextmanager
def remembering() -> Iterator[None]:
    """Inside, autograd saves recomputations instead of cheap tensors."""
    global _memory
    before, _memory = _memory, SavedTensors()
    try:
        with torch.autograd.graph.saved_tensors_hooks(_memory.keep, _restore):
            yield
    finally:
        _memory = before


def cheap(function: Callable[..., Tensor], *arguments: Any) -> Tensor:
    """``function(*arguments)``, whose result is recomputed in the backward and not saved."""
    made = function(*arguments)
    if _memory is not None and torch.is_grad_enabled():
        _memory.learn(made, function, arguments)
    return made


def learning(op: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """``function``, an operation of a model, which notes its recomputations inside ``remembering``."""
    recomputations = again_of(op)
    if recomputations is None:
        return function

    def call(*given: Any, **options: Any) -> Any:
        if _memory is None or not torch.is_grad_enabled():
            return function(*given, **options)
        made, found = recomputations(function, given, options)
        for tensor, again, arguments in found:
            _memory.learn(tensor, again, arguments)
        return made

    return call
