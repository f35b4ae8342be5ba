"""mixer: what every mixer module offers, so that it stands alone or as a branch of a parallel block.

``mix`` yields the core's output before the output projection, and the value it used, which a parallel block may lend to
its other branch.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from hybridbench import sizes
from hybridbench.arch.block import DTYPE_BYTES, Mixer, Storage
from hybridbench.arch.recurrent import Recurrent
from hybridbench.model.block import BlockModule, Factory, Ops, Step
from hybridbench.model.cache import Cache, RecurrentCache
from hybridbench.sizes import ROW_ALIGNED

DT_FLOOR = 1e-4
"""The least initial step of a state-space mixer."""


class MixerModule(BlockModule):
    """A mixer with an output projection, or without one where a parallel block projects for both.

    Args:
        spec: its shape.
        ops: the callables of the operations that the spec names.
        make: makes its parameters.
        borrows_value: the value comes from another branch, so the input projection yields everything else.
        projects: whether it has an output projection of its own.
    """

    mixes: ClassVar[bool] = True
    spec: Mixer
    widths: list[int]
    """Columns of the input projection, part by part."""
    out_proj: nn.Linear | None

    def __init__(
        self, spec: Mixer, ops: Ops, make: Factory, *, borrows_value: bool = False, projects: bool = True
    ) -> None:
        super().__init__()
        self.spec = spec
        self.ops = ops
        self.norm_eps = make.norm_eps
        self.borrows_value = borrows_value
        self.widths = self._in_widths()
        self.in_proj = make.linear(spec.d_model, sum(self.widths))
        self._make_parameters(make)
        self.out_proj = make.linear(spec.out_width, spec.d_model) if projects else None

    @abstractmethod
    def _in_widths(self) -> list[int]:
        """What ``widths`` is."""

    @override
    def products(self) -> Iterator[tuple[Tensor, str]]:
        """Every matrix among its parameters: a conv's taps and a decay's logarithms too, which multiply no product."""
        for parameter in self.parameters():
            if parameter.dim() == 2:
                part = "in_proj" if self.out_proj is None or parameter is not self.out_proj.weight else "out_proj"
                yield parameter, f"{self.spec.name} {part}"

    @override
    def made_for_products(self) -> dict[tuple[int, ...], str]:
        """Its input projection with the zero rows that a GPU's fast kernels want behind it."""
        rows, columns = self.in_proj.weight.shape
        padded = sizes.aligned(rows)
        return {(padded, columns): f"{self.spec.name} in_proj"} if padded != rows else {}

    def _make_parameters(self, make: Factory) -> None:
        """Makes what is neither of the two projections; nothing unless a mixer says so."""

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
    @override
    def new_cache(self, batch: int, capacity: int, storage: Storage, device: torch.device) -> Cache:
        """An allocated cache for ``capacity`` tokens a sequence, zeroed."""

    @property
    def out_heads(self) -> int:
        """Heads the core's output divides into, for a norm per head."""
        return self.spec.out_heads

    @override
    def forward(self, x_BTD: Tensor, step: Step, cache: Cache | None = None) -> Tensor:
        return self.project(self.mix(x_BTD, step, cache)[0])

    @override
    def decode(self, x_BD: Tensor, step: Step, cache: Cache | None) -> Tensor:
        assert cache is not None, "a mixer decodes with a cache"
        return self.project(self.mix_step(x_BD, step, cache)[0])

    def project(self, mixed: Tensor) -> Tensor:
        """The output projection."""
        assert self.out_proj is not None, "a branch with a joint projection is projected by its parallel block"
        out: Tensor = self.out_proj(mixed)
        return out

    def _lent(self, value: Tensor | None, dims: int, width: int) -> Tensor:
        """``lent``, of the value that a borrowing branch is called with."""
        assert value is not None, "a borrowing branch is called with a value"
        return lent(value, dims, width)


class RecurrentModule(MixerModule):
    """A mixer of a causal conv, or none, and a recurrence, whose cache holds both states."""

    spec: Recurrent

    @property
    @abstractmethod
    def state_shape(self) -> tuple[int, ...]:
        """Sizes of one sequence's state."""

    @override
    def new_cache(self, batch: int, capacity: int, storage: Storage, device: torch.device) -> RecurrentCache:
        """Zeros: the state in the weights' dtype or in the wider one that ``storage`` asks for, and as many columns of
        the conv's input as its spec or ``storage`` says.
        """
        spec, dtype = self.spec, self.in_proj.weight.dtype
        columns = storage.columns(spec.conv_columns)
        return RecurrentCache(
            torch.zeros(batch, *self.state_shape, device=device, dtype=state_dtype(dtype, storage)),
            torch.zeros(batch, spec.conv_channels, columns, device=device, dtype=dtype),
        )


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
    in front, zeros at the start.
    """
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


def padding(columns: int, device: torch.device) -> int:
    """Zero columns that a GPU's matrix products want behind so many; none where rows start on 16 bytes anyway."""
    return -columns % ROW_ALIGNED if device.type == "cuda" else 0


def aligned(projection: nn.Linear, x_BTD: Tensor) -> Tensor:
    """A projection of a sequence, with zero columns behind the row where its width suits no fast kernel.

    Rows that do not start on 16 bytes, as the 4,882 columns of the intra block at 1b, leave only cuBLAS's slowest
    kernels (2.42 ms at 4 x 8192 on an H200), so the weight (not the parameter) gets zero rows until they do: 4,888
    columns take 0.85 ms. More is no better: whole 128-byte lines, 4,928 columns, take 0.98 ms, and copying 20 MB of
    weights costs some 10 us.
    """
    weight = projection.weight
    extra = padding(weight.shape[0], x_BTD.device)
    return F.linear(x_BTD, F.pad(weight, (0, 0, 0, extra)) if extra else weight)


def log_uniform_steps(like: Tensor, low: float, high: float, generator: torch.Generator) -> Tensor:
    """What softplus makes log-uniform steps of: the initial bias of dt, as every state-space mixer draws it."""
    steps = torch.empty_like(like, dtype=torch.float32).uniform_(math.log(low), math.log(high), generator=generator)
    steps = steps.exp().clamp(min=DT_FLOOR)
    return steps + torch.log(-torch.expm1(-steps))


def torch_dtype(name: str) -> torch.dtype:
    """``torch.bfloat16`` for ``bfloat16``."""
    dtype: torch.dtype = getattr(torch, name)
    return dtype
