"""block: what the module of any kind of block offers, what it is made with, and what one forward shares between layers.

A language model calls only these methods, so it does not depend on any kind of block.
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import override

from hybridbench.arch.block import Block, Storage
from hybridbench.arch.rope import Rope
from hybridbench.model.across import Across
from hybridbench.model.cache import Cache
from hybridbench.model.rotary import Rotation, rotation

Ops = dict[str, Callable[..., Any]]

INIT_STD = 0.02
"""Standard deviation of the normal distribution from which the embedding and the weights of products are drawn."""


@dataclass
class Step:
    """One forward pass: absolute positions (T for a sequence, B for a decode step) and rotations by kind of RoPE.

    ``start`` is the position of a sequence's first token. Where it is not 0, mixers continue from their caches.
    ``shared`` holds values that layers leave for later layers of the same pass, by name: (B, T, ...), or (B, ...) in a
    decode step.
    """

    position: Tensor
    start: int = 0
    shared: dict[str, Tensor] = field(default_factory=dict)
    _turns: dict[tuple[Rope, int], Rotation] = field(default_factory=dict)

    def share(self, name: str, value: Tensor) -> None:
        """Leaves a value for later layers. The first value of a name stays, so a forward that is repeated for its
        backward changes nothing.
        """
        self.shared.setdefault(name, value)

    def sharing(self, shared: dict[str, Tensor]) -> Step:
        """A copy of the step with other shared values."""
        return replace(self, shared=shared)

    @property
    def turns(self) -> tuple[tuple[Rope, int], ...]:
        """The kinds of RoPE, each with its head width, that were asked for so far."""
        return tuple(self._turns)

    def turn(self, rope: Rope, head_dim: int) -> Rotation:
        """The rotation for these positions, computed once per kind."""
        if (rope, head_dim) not in self._turns:
            self._turns[rope, head_dim] = rotation(rope, head_dim, self.position)
        return self._turns[rope, head_dim]


@dataclass(frozen=True)
class Factory:
    """What all modules of a model are made with.

    Args:
        dtype, device: of the parameters, which are on the meta device until the model is allocated.
        norm_eps: the epsilon of every norm.
        layers: the specs of all sublayers, in order.
        index: the index of the sublayer that is being made.
        build: ``build(spec, make, **keywords)`` makes the module of any block; the keywords are ``MixerModule``'s.
    """

    dtype: torch.dtype
    device: torch.device = field(default_factory=lambda: torch.device("meta"))
    norm_eps: float = 1e-5
    layers: tuple[Block, ...] = ()
    index: int = 0
    build: Callable[..., Any] | None = None

    def block(self, spec: Block, **keywords: Any) -> Any:
        """The module of a block inside another."""
        assert self.build is not None, "a factory without build cannot make blocks inside a block"
        return self.build(spec, self, **keywords)

    def linear(self, inputs: int, outputs: int) -> nn.Linear:
        """A projection without a bias."""
        return nn.Linear(inputs, outputs, bias=False, device=self.device, dtype=self.dtype)

    def parameter(self, *shape: int, dtype: torch.dtype | None = None) -> nn.Parameter:
        """A parameter that is not initialised; ``dtype`` None takes the model's."""
        return nn.Parameter(torch.empty(*shape, device=self.device, dtype=dtype or self.dtype))


class BlockModule(nn.Module, ABC):
    """One sublayer without its pre-norm and residual, made as ``Module(spec, ops, make)``.

    Over a sequence it is called with (B, T, d_model), and where it ``mixes`` with the step and its cache too.
    """

    ops: Ops
    across: Across | None = None
    """The ranks that have the other parts of it; None where it is whole."""
    projections: ClassVar[tuple[str, ...]] = ("in_proj", "out_proj")
    """Names of the linear layers that ``model.quantised`` replaces; a module may lack some."""
    mixes: ClassVar[bool] = False
    """Whether it mixes positions, and so needs the step and a cache."""
    shares: tuple[str, ...] = ()
    """Names of the values that it leaves on the step for later layers, or reads from it."""
    traceable: bool = True
    """Whether torch.compile can trace its forward over a sequence."""

    @property
    def branches(self) -> tuple[BlockModule, ...]:
        """The parallel mixers in it; empty unless it is a parallel block."""
        return ()

    @abstractmethod
    @override
    def forward(self, *given: Any) -> Tensor:
        """The block over a sequence, of the input's shape."""

    def decode(self, x_BD: Tensor, step: Step, cache: Cache | None) -> Tensor:
        """One new token per sequence; updates ``cache`` in place."""
        out: Tensor = self(x_BD)
        return out

    def new_cache(self, batch: int, capacity: int, storage: Storage, device: torch.device) -> Cache | None:
        """An allocated cache for ``capacity`` tokens a sequence, zeroed; None where nothing is kept."""
        return None

    def make_turns(self, step: Step) -> None:
        """Computes the rotations that a forward over the step's positions reads; none except in attention."""

    def initialise(self, generator: torch.Generator) -> None:
        """Draws all parameters of it and of the modules in it. What ``reset`` draws comes before its products."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                module.weight.normal_(std=INIT_STD, generator=generator)
            elif isinstance(module, BlockModule):
                module.reset(generator)

    def reset(self, generator: torch.Generator) -> None:
        """Initialises its own parameters and buffers, except weights of an ``nn.Linear``; does nothing without any.

        The weights of ``nn.Linear`` are drawn later, so a weight with a distribution of its own must not be in one.
        """

    def products(self) -> Iterator[tuple[Tensor, str]]:
        """The weights of its matrix products, each with its operation's name in ``arch.operations``."""
        yield from ()

    def made_for_products(self) -> dict[tuple[int, ...], str]:
        """Shapes of matrices that it makes from its weights for a product, with that product's operation."""
        return {}

    def balance(self) -> None:
        """Moves a router's biases after a training step; does nothing without experts."""

    def repeating(self) -> contextlib.AbstractContextManager[None]:
        """A context for a forward that only recomputes activations, and so must not be counted."""
        return contextlib.nullcontext()
