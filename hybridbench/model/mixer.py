"""mixer: what every mixer module offers, so that it stands alone or as a branch of a parallel block.

``mix`` yields the core's output before the output projection, and the value it used, which a parallel block may lend to
its other branch. ``Step`` carries what one forward pass shares between layers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from hybridbench.arch.attention import Rope
from hybridbench.arch.block import Storage
from hybridbench.model.cache import Cache
from hybridbench.model.rotary import Rotation, rotation

Ops = dict[str, Callable[..., Any]]


@dataclass
class Step:
    """One forward pass: absolute positions (T for a sequence, B for a decode step) and rotations by kind of RoPE."""

    position: Tensor
    _turns: dict[tuple[Rope, int], Rotation] = field(default_factory=dict)

    def turn(self, rope: Rope, head_dim: int) -> Rotation:
        """The rotation for these positions, computed once per kind."""
        if (rope, head_dim) not in self._turns:
            self._turns[rope, head_dim] = rotation(rope, head_dim, self.position)
        return self._turns[rope, head_dim]


@dataclass(frozen=True)
class Factory:
    """Where and as what parameters are made: on the meta device until the model is allocated."""

    dtype: torch.dtype
    device: torch.device = field(default_factory=lambda: torch.device("meta"))

    def linear(self, inputs: int, outputs: int) -> nn.Linear:
        return nn.Linear(inputs, outputs, bias=False, device=self.device, dtype=self.dtype)

    def parameter(self, *shape: int, dtype: torch.dtype | None = None) -> nn.Parameter:
        return nn.Parameter(torch.empty(*shape, device=self.device, dtype=dtype or self.dtype))


class MixerModule(nn.Module, ABC):
    """A mixer with an output projection, or without one where a parallel block projects for both."""

    out_proj: nn.Linear | None

    @abstractmethod
    def mix(
        self, x_BTD: Tensor, step: Step, cache: Cache | None = None, value: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The core over a sequence from position 0; fills ``cache`` where one is given.

        Returns:
            the core's output (B, T, out_width) and the value it read.
        """

    @abstractmethod
    def mix_step(self, x_BD: Tensor, step: Step, cache: Cache, value: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The core for one new token per sequence; updates ``cache`` in place."""

    @abstractmethod
    def new_cache(self, batch: int, capacity: int, storage: Storage, device: torch.device) -> Cache:
        """An allocated cache for ``capacity`` tokens a sequence, zeroed."""

    @property
    @abstractmethod
    def out_heads(self) -> int:
        """Heads the core's output divides into, for a per-head norm."""

    def forward(self, x_BTD: Tensor, step: Step, cache: Cache | None = None) -> Tensor:
        return self.project(self.mix(x_BTD, step, cache)[0])

    def decode(self, x_BD: Tensor, step: Step, cache: Cache) -> Tensor:
        """One new token per sequence."""
        return self.project(self.mix_step(x_BD, step, cache)[0])

    def project(self, mixed: Tensor) -> Tensor:
        """The output projection."""
        assert self.out_proj is not None, "a branch with a joint projection is projected by its parallel block"
        out: Tensor = self.out_proj(mixed)
        return out


def torch_dtype(name: str) -> torch.dtype:
    """``torch.bfloat16`` for ``bfloat16``."""
    dtype: torch.dtype = getattr(torch, name)
    return dtype
