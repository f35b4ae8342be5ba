"""masks: which keys a query sees, as a function of positions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor


def visible(window: int | None, sinks: int) -> Callable[..., Tensor]:
    """The mask as FlexAttention wants it: a function of (batch, head, query position, key position)."""

    def causal(_b: Any, _h: Any, t: Tensor, j: Tensor) -> Tensor:
        return j <= t

    if window is None:
        return causal

    def windowed(_b: Any, _h: Any, t: Tensor, j: Tensor) -> Tensor:
        return (j <= t) & ((t - j < window) | (j < sinks))

    return windowed
