"""mixer: what every mixer module offers, so that it stands alone or as a branch of a parallel block.

``mix`` yields the core's output before the output projection, and the value it used, which a parallel block may lend to
its other branch. ``Step`` carries what one forward pass shares between layers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hybridbench.arch.attention import Rope
from hybridbench.arch.block import DTYPE_BYTES, Storage
from hybridbench.model.cache import Cache
from hybridbench.model.rotary import Rotation, rotation

Ops = dict[str, Callable[..., Any]]


@dataclass
class Step:
    """One forward pass: absolute positions (T for a sequence, B for a decode step) and rotations by kind of RoPE.

    ``start`` is the position of a sequence's first token: where it is not 0, mixers go on from what their caches hold.
    """

    position: Tensor
    start: int = 0
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
    traceable: ClassVar[bool] = True
    """Whether torch.compile can trace its kernels over a sequence; not where they are launched past the dispatcher."""

    @abstractmethod
    def mix(
        self, x_BTD: Tensor, step: Step, cache: Cache | None = None, value: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The core over a sequence from position ``step.start``; fills ``cache`` where one is given. Where the start is
        not 0 it goes on from what the cache holds.

        Returns:
            the core's output (B, T, out_width) and the value it read.
        """

    @abstractmethod
    def mix_step(self, x_BD: Tensor, step: Step, cache: Cache, value: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The core for one new token per sequence; updates ``cache`` in place."""

    @abstractmethod
    def new_cache(self, batch: int, capacity: int, storage: Storage, device: torch.device) -> Cache:
        """An allocated cache for ``capacity`` tokens a sequence, zeroed."""

    def reset_state_parameters(self, generator: torch.Generator) -> None:
        """Initialises what is neither an embedding, a norm nor a matrix product; nothing unless a mixer says so.

        Products are drawn after it, so a weight that is to keep its own draw is no ``nn.Linear``.
        """

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


def lent(value: Tensor, dims: int, width: int) -> Tensor:
    """Another branch's value as ``width`` channels of a tensor of ``dims`` dimensions.

    Attention lends a value by head: each KV head serves n_heads / n_kv_heads query heads, so it is repeated likewise.
    """
    if value.dim() <= dims:
        return value
    times = width // (value.shape[-1] * value.shape[-2])
    return value.repeat_interleave(times, dim=-2).flatten(-2)


def keep_tail(conv_BCW: Tensor, conv_in_BTC: Tensor, start: int = 0) -> None:
    """Writes the last inputs of a sequence into a conv state; where the sequence is shorter, what came before it stays
    in front, zeros at the start."""
    columns = conv_BCW.shape[-1]
    tail_BCT = conv_in_BTC[:, -columns:].transpose(1, 2)
    missing = columns - tail_BCT.shape[-1]
    if start and missing:
        conv_BCW.copy_(torch.cat((conv_BCW[..., -missing:], tail_BCT), -1))
    else:
        conv_BCW.copy_(F.pad(tail_BCT, (missing, 0)))


def carried(state: Tensor) -> Tensor:
    """A cached state as scans take one to start from: in float32, or in float64 where it is kept so."""
    return state.to(torch.promote_types(state.dtype, torch.float32))


def conv_front(conv_BCW: Tensor, taps: int) -> Tensor:
    """The inputs (B, taps - 1, C) that a convolution over the next tokens reads of those before them."""
    return conv_BCW[..., conv_BCW.shape[-1] - (taps - 1) :].transpose(1, 2)


def convolved(conv1d: Callable[..., Tensor], conv_in_BTC: Tensor, front_BSC: Tensor | None, *weights: Any) -> Tensor:
    """A causal convolution that goes on from the ``conv_front`` of a cache where there is one, (B, T, C)."""
    if front_BSC is None:
        return conv1d(conv_in_BTC, *weights)
    whole = conv1d(torch.cat((front_BSC.to(conv_in_BTC.dtype), conv_in_BTC), 1), *weights)
    return whole[:, front_BSC.shape[1] :]


_BY_BYTES = {DTYPE_BYTES[name]: getattr(torch, name) for name in ("float64", "float32")}


def state_dtype(dtype: torch.dtype, storage: Storage) -> torch.dtype:
    """The dtype of a recurrent state: the weights', or the wider one that ``storage`` asks for."""
    return dtype if storage.ssm_bytes == dtype.itemsize else _BY_BYTES[storage.ssm_bytes]


def empty_states(
    batch: int,
    state: tuple[int, ...],
    conv: tuple[int, int],
    dtype: torch.dtype,
    storage: Storage,
    device: torch.device,
) -> tuple[Tensor, Tensor]:
    """Zeroed recurrent state and conv state of a batch.

    Args:
        state: sizes of a sequence's state, in ``dtype`` or in the wider one that ``storage`` asks for.
        conv: channels and taps; the columns are as many as the taps unless ``storage`` says otherwise.
        dtype: of the weights.
    """
    channels, taps = conv
    columns = taps if storage.conv_columns is None else storage.conv_columns
    return (
        torch.zeros(batch, *state, device=device, dtype=state_dtype(dtype, storage)),
        torch.zeros(batch, channels, columns, device=device, dtype=dtype),
    )


def torch_dtype(name: str) -> torch.dtype:
    """``torch.bfloat16`` for ``bfloat16``."""
    dtype: torch.dtype = getattr(torch, name)
    return dtype
