"""guard: a kernel called so that what it must not do shows: outputs left unwritten, and writes where none belong.

- Memory that it allocates through PyTorch holds NaN (integers: their largest) until it is written.
- Each input lies between guard zones, in a buffer of its own with the strides that it had. After the call the zones and
  the gaps between rows must hold what they held.
- Inputs that the operation does not update must hold what they held too.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from typing_extensions import override

from hybridbench.errors import WrongResult
from hybridbench.operations import OPERATIONS

ZONE = 4096
"""Elements before and behind each input that must not change."""

_EMPTY = ("aten::empty", "aten::empty_like", "aten::empty_strided", "aten::new_empty", "aten::new_empty_strided")


class Poisoned(TorchDispatchMode):
    """Inside, memory that PyTorch hands out unwritten holds NaN, or an integer dtype's largest value."""

    @override
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if func._schema.name in _EMPTY and isinstance(made, Tensor) and made.device.type != "meta":
            if made.is_floating_point():
                made.fill_(torch.nan)
            elif made.dtype != torch.bool and not made.is_complex():
                made.fill_(torch.iinfo(made.dtype).max)
        return made


def poisoned() -> AbstractContextManager[object]:
    """The context in which unwritten memory shows."""
    mode: Callable[[], AbstractContextManager[object]] = Poisoned
    return mode()


class _Zoned:
    """A tensor in the middle of a buffer that remembers what it held."""

    def __init__(self, name: str, tensor: Tensor, in_place: bool) -> None:
        self.name, self.in_place = name, in_place
        repeats = any(size > 1 and stride == 0 for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
        tensor = tensor.contiguous() if repeats else tensor
        self.shape, self.strides = tensor.shape, tensor.stride()
        extent = 1 + sum((size - 1) * stride for size, stride in zip(self.shape, self.strides, strict=True))
        self.buffer = torch.full(
            (extent + 2 * ZONE,), _sentinel(tensor.dtype), dtype=tensor.dtype, device=tensor.device
        )
        self.view = self.buffer.as_strided(self.shape, self.strides, ZONE)
        self.view.copy_(tensor.detach())
        self.before = self.buffer.clone()

    def check(self, op: str) -> None:
        """Raise ``WrongResult`` if what must not change has changed."""
        changed = self.buffer.view(_BITS[self.buffer.element_size()]) != self.before.view(
            _BITS[self.buffer.element_size()]
        )
        inside = torch.zeros_like(changed)
        inside.as_strided(self.shape, self.strides, ZONE).fill_(True)
        outside = changed & ~inside
        if bool(outside.any()):
            first = int(outside.nonzero()[0]) - ZONE
            raise WrongResult(
                f"{op}: the kernel writes outside {self.name}, which has shape {tuple(self.shape)} and strides "
                f"{tuple(self.strides)}: {int(outside.sum())} elements around it have changed, the first {first} "
                "elements from its start. It is not timed."
            )
        if not self.in_place and bool(changed.any()):
            view = changed.as_strided(self.shape, self.strides, ZONE)
            place = [int(index) for index in view.nonzero()[0]]
            raise WrongResult(
                f"{op}: the kernel changes its input {self.name}, first at {place}: {int(view.sum())} of "
                f"{view.numel()} elements. It may only read it. It is not timed."
            )


_BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def _sentinel(dtype: torch.dtype) -> float | int:
    return 12345.0 if dtype.is_floating_point else 77


class Guarded:
    """A kernel between guards; call ``check`` after its backward too.

    Args:
        op: its operation.
        function: the kernel.
        poisons: whether memory that it allocates holds NaN meanwhile. What torch.compile made of a function is not run
            inside: PyTorch takes the plain function instead, and another kernel would be checked than is timed.
    """

    def __init__(self, op: str, function: Callable[..., Any], *, poisons: bool = True) -> None:
        self._op, self._function, self._poisons = op, function, poisons
        self._zoned: list[_Zoned] = []
        self._in_place = {tensor.name for tensor in OPERATIONS[op].tensors if tensor.in_place}

    def __call__(self, *given: Any, **options: Any) -> Any:
        """Calls the kernel with the same values in guarded memory; gradients flow to what was given."""
        names = [tensor.name for tensor in OPERATIONS[self._op].tensors if not tensor.optional]
        zoned: list[_Zoned] = []
        updated: list[tuple[Tensor, _Zoned]] = []

        def guarded(name: str, value: Any) -> Any:
            if not isinstance(value, Tensor):
                return value
            one = _Zoned(name, value, name in self._in_place)
            zoned.append(one)
            if one.in_place:
                updated.append((value, one))
            through: Callable[..., Tensor] = _Through.apply
            return through(value, one.view) if value.requires_grad else one.view

        inputs = [guarded(name, value) for name, value in zip(names, given, strict=False)]
        settings = {name: guarded(name, value) for name, value in options.items()}
        self._zoned += zoned
        with self.poisoned():
            made = self._function(*inputs, **settings)
        _synchronise(zoned)
        for one in zoned:
            one.check(self._op)
        for value, one in updated:
            value.copy_(one.view)  # the caller looks at its own tensor
        return made

    def poisoned(self) -> AbstractContextManager[object]:
        """The context in which memory shows that the kernel or its backward never writes, unless that is off."""
        return poisoned() if self._poisons else contextlib.nullcontext()

    def check(self) -> None:
        """Raise ``WrongResult`` if a guard has changed since: by the backward."""
        _synchronise(self._zoned)
        for one in self._zoned:
            one.check(self._op)
        self._zoned.clear()


def _synchronise(zoned: list[_Zoned]) -> None:
    if any(one.buffer.is_cuda for one in zoned):
        torch.cuda.synchronize()


class _Through(torch.autograd.Function):
    """The guarded copy in the forward, the gradient unchanged in the backward."""

    @staticmethod
    def forward(_ctx: Any, _value: Tensor, view: Tensor) -> Tensor:
        return view.view_as(view)

    @staticmethod
    def backward(_ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None
