"""Kernels of a person's own, each wrong in one way, as modules that a worker imports."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def right(packed: Tensor) -> Tensor:
    gate, up = packed.chunk(2, -1)
    return F.silu(gate) * up


def swapped(packed: Tensor) -> Tensor:
    gate, up = packed.chunk(2, -1)
    return F.silu(up) * gate


def off_at_one_place(packed: Tensor) -> Tensor:
    out = right(packed)
    spot = torch.zeros_like(out)
    spot[3, 7] = 5.0
    return out + spot


def unwritten(packed: Tensor) -> Tensor:
    good = right(packed)
    out = torch.empty(good.shape, dtype=good.dtype)
    out[:-1] = good[:-1]
    return out


def outside(packed: Tensor) -> Tensor:
    out = right(packed)
    behind = torch.as_strided(packed.detach(), (packed.numel() + 8,), (1,), packed.storage_offset())
    behind[packed.numel() :] = 0
    return out


def changes_input(packed: Tensor) -> Tensor:
    out = right(packed)
    packed.detach()[2, 5] = 1.0
    return out


class _WrongBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, packed: Tensor) -> Tensor:
        ctx.save_for_backward(packed)
        return right(packed)

    @staticmethod
    def backward(ctx: Any, d_out: Tensor) -> Any:
        with torch.enable_grad():
            packed = ctx.saved_tensors[0].detach().requires_grad_()
            return 1.1 * torch.autograd.grad(right(packed), packed, d_out)[0]


def wrong_gradient(packed: Tensor) -> Tensor:
    return _WrongBackward.apply(packed)


def no_gradient(packed: Tensor) -> Tensor:
    return right(packed.detach())


def raises(packed: Tensor) -> Tensor:
    raise RuntimeError("no kernel image is available")


def other_signature(x: Tensor, y: Tensor, *, width: int) -> Tensor:
    return x


def short_ssd(x: Tensor, dt: Tensor, A: Tensor, C: Tensor, B: Tensor) -> Tensor:
    return x


def _adds_one(graph: torch.fx.GraphModule, _inputs: list[Tensor]) -> Callable[..., Any]:
    return lambda *given: tuple(one + 1 for one in graph(*given))


compiled_wrongly = torch.compile(right, backend=_adds_one)
"""Right as it is written; what torch.compile makes of it is wrong."""
compiled = torch.compile(right, backend="eager")


def ends(packed: Tensor) -> Tensor:
    os._exit(3)


def ends_later(packed: Tensor) -> Tensor:
    """Right while it is checked, which takes two calls, and ends the process as its timing begins."""
    global _calls
    _calls += 1
    if _calls > 3:
        os._exit(4)
    return right(packed)


_calls = 0
