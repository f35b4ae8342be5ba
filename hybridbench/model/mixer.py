"""mixer: what every mixer module offers, so that it stands alone or as a branch of a parallel block.

``mix`` returns the core's output before the output projection, and the value that it used, which a parallel block may
lend to its other branch.
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
from hybridbench.model.quantised import dtype_of, stored
from hybridbench.sizes import ROW_ALIGNED

DT_RANGE = (1e-3, 1e-1)
"""The range that initial steps are drawn from log-uniformly."""
DT_FLOOR = 1e-4
"""The least initial step of a state-space mixer."""


class MixerModule(BlockModule):
    """A mixer, with an output projection unless a parallel block projects both of its branches jointly.

    Args:
        spec: its sizes.
        ops: the callables of the operations that the spec names.
        make: makes its parameters.
        borrows_value: the value comes from another branch, so the input projection does not include it.
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
        """The value of ``widths``."""

    @override
    def products(self) -> Iterator[tuple[Tensor, str]]:
        """Every matrix among its parameters, including conv taps and logarithms of decays, which are in no product."""
        for parameter in self.parameters():
            if parameter.dim() == 2:
                is_last = self.out_proj is not None and parameter is stored(self.out_proj).matrix_RK
                part = "out_proj" if is_last else "in_proj"
                yield parameter, f"{self.spec.name} {part}"

    @override
    def made_for_products(self) -> dict[tuple[int, ...], str]:
        """Its input projection with the zero rows that a GPU's fast kernels need behind it."""
        rows, columns = self.in_proj.out_features, self.in_proj.in_features
        padded = sizes.aligned(rows)
        return {(padded, columns): f"{self.spec.name} in_proj"} if padded != rows else {}

    def _make_parameters(self, make: Factory) -> None:
        """Makes the parameters beside the two projections; none by default."""

    @abstractmethod
    def mix(
        self, x_BTD: Tensor, step: Step, cache: Cache | None = None, value: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The core over a sequence from position ``step.start``; fills ``cache`` if given. Where the start is not 0, it
        continues from the cache.

        Returns:
            The core's output (B, T, out_width) and the value that it read.
        """

    @abstractmethod
    def mix_step(self, x_BD: Tensor, step: Step, cache: Cache, value: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The core for one new token per sequence; updates ``cache`` in place."""

    @abstractmethod
    @override
    def new_cache(self, batch: int, capacity: int, storage: Storage, device: torch.device) -> Cache:
        """An allocated cache for ``capacity`` tokens a sequence, zeroed."""

    @property
    def dtype(self) -> torch.dtype:
        """Of what it reads and writes, and of weights that are not quantised."""
        return dtype_of(self.in_proj)

    @property
    def out_heads(self) -> int:
        """The number of heads that the core's output divides into, for a norm per head."""
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
        assert self.out_proj is not None, "the parallel block applies a joint projection, not its branches"
        out: Tensor = self.out_proj(mixed)
        return out

    def _lent(self, value: Tensor | None, dims: int, width: int) -> Tensor:
        """``lent`` of the value that a borrowing branch is called with."""
        assert value is not None, "a borrowing branch is called with a value"
        return lent(value, dims, width)


class RecurrentModule(MixerModule):
    """A mixer of a recurrence and perhaps a causal conv, whose cache holds the states of both."""

    spec: Recurrent

    @property
    @abstractmethod
    def state_shape(self) -> tuple[int, ...]:
        """Sizes of one sequence's state."""

    @override
    def new_cache(self, batch: int, capacity: int, storage: Storage, device: torch.device) -> RecurrentCache:
        """A cache of zeros: the state in the weights' dtype or in the wider one that ``storage`` asks for, and as many
        columns of the conv's input as its spec or ``storage`` says.
        """
        spec, dtype = self.spec, self.dtype
        columns = storage.columns(spec.conv_columns, spec.taps)
        return RecurrentCache(
            torch.zeros(batch, *self.state_shape, device=device, dtype=state_dtype(dtype, storage, spec.kind)),
            torch.zeros(batch, spec.conv_channels, columns, device=device, dtype=dtype),
        )


def lent(value: Tensor, dims: int, width: int) -> Tensor:
    """Another branch's value as ``width`` channels of a tensor of ``dims`` dimensions.

    Attention lends a value by head. Each KV head serves n_heads / n_kv_heads query heads, so it is repeated that often.
    """
    if value.dim() <= dims:
        return value
    times = width // (value.shape[-1] * value.shape[-2])
    return value.repeat_interleave(times, dim=-2).flatten(-2)


def keep_tail(conv_BCW: Tensor, conv_in_BTC: Tensor, start: int = 0) -> None:
    """Writes the last inputs of a sequence into a conv state. Where the sequence is shorter than the state, the inputs
    before it stay in front, or zeros at the start.
    """
    columns = conv_BCW.shape[-1]
    tail_BCT = conv_in_BTC[:, -columns:].transpose(1, 2)
    missing = columns - tail_BCT.shape[-1]
    if start and missing:
        conv_BCW.copy_(torch.cat((conv_BCW[..., -missing:], tail_BCT), -1))
    else:
        conv_BCW.copy_(F.pad(tail_BCT, (missing, 0)))


def carried(state: Tensor) -> Tensor:
    """A cached state as the initial state of a scan: in float32, or in float64 if it is stored so."""
    return state.to(torch.promote_types(state.dtype, torch.float32))


def conv_front(conv_BCW: Tensor, taps: int) -> Tensor:
    """The earlier inputs (B, taps - 1, C) that a convolution over the next tokens reads."""
    return conv_BCW[..., conv_BCW.shape[-1] - (taps - 1) :].transpose(1, 2)


def convolved(conv1d: Callable[..., Tensor], conv_in_BTC: Tensor, front_BSC: Tensor | None, *weights: Any) -> Tensor:
    """A causal convolution (B, T, C) that continues from the ``conv_front`` of a cache if given."""
    if front_BSC is None:
        return conv1d(conv_in_BTC, *weights)
    whole = conv1d(torch.cat((front_BSC.to(conv_in_BTC.dtype), conv_in_BTC), 1), *weights)
    return whole[:, front_BSC.shape[1] :]


_BY_BYTES = {DTYPE_BYTES[name]: getattr(torch, name) for name in ("float64", "float32")}


def state_dtype(dtype: torch.dtype, storage: Storage, kind: str) -> torch.dtype:
    """The dtype of a recurrent state: that of the weights, or the wider one that ``storage`` asks for.

    Args:
        kind: of block that keeps it.
    """
    size = storage.state_bytes(kind)
    return dtype if size == dtype.itemsize else _BY_BYTES[size]


def padding(columns: int, device: torch.device) -> int:
    """How many zero columns to add for a GPU's fast matrix products; 0 where rows start on 16 bytes already."""
    return -columns % ROW_ALIGNED if device.type == "cuda" else 0


def aligned_product(projection: nn.Linear, x_BTD: Tensor) -> Tensor:
    """A projection of a sequence, with zero columns behind each row where its width suits no fast kernel.

    Where rows do not start on 16 bytes, as with the 4,882 columns of the intra block at 1b, only cuBLAS's slowest
    kernels can run (2.42 ms at 4 x 8192 on an H200). So a copy of the weight gets zero rows until they do: 4,888
    columns take 0.85 ms. More padding does not help: whole 128-byte lines, 4,928 columns, take 0.98 ms. Copying 20 MB
    of weights costs some 10 us.
    """
    weight = projection.weight
    extra = padding(weight.shape[0], x_BTD.device)
    return F.linear(x_BTD, F.pad(weight, (0, 0, 0, extra)) if extra else weight)


def log_uniform_steps(like: Tensor, low: float, high: float, generator: torch.Generator) -> Tensor:
    """The initial bias of dt in every state-space mixer: softplus of it is log-uniform in [low, high]."""
    steps = torch.empty_like(like, dtype=torch.float32).uniform_(math.log(low), math.log(high), generator=generator)
    steps = steps.exp().clamp(min=DT_FLOOR)
    return steps + torch.log(-torch.expm1(-steps))


def torch_dtype(name: str) -> torch.dtype:
    """``torch.bfloat16`` for ``bfloat16``."""
    dtype: torch.dtype = getattr(torch, name)
    return dtype
