"""paper_decode: a decode step as the source paper's figures suggest it ran: attention eager, the rest in CUDA graphs.

The paper names neither engine nor kernels. In its table 13 Mamba takes 1.4 ms a step, which needs a graph, and every
attention layer of every stack reads its cache at about 17 GB/s, far slower than any fused kernel. So here an attention
sublayer runs operator by operator on a cache that grows by ``torch.cat``, and all sublayers between two attentions are
one captured graph with static buffers. 13 Mamba-2 blocks are a single graph; in 16 Transformer blocks only the MLPs are
graphs. In an intra block only the attention branch is eager. It is an imitation, and where the paper's attention was
slower still, this one is not.

Where nothing can be captured, as on a CPU, every piece runs eagerly in the same order, with the same result.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from hybridbench.model.block import BlockModule, Step
from hybridbench.model.cache import Cache, ParallelCache, not_growing
from hybridbench.model.language import LanguageModel
from hybridbench.model.mixer import MixerModule
from hybridbench.model.parallel import ParallelModule

Carry = dict[str, Tensor]
"""The tensors that pieces pass on: ``token`` and ``position``, the residual stream ``x``, values that layers
share (names begin with ``SHARED_PREFIX``), inside an intra block its normed input and the outputs of its branches, and
at the end ``logits``."""
SHARED_PREFIX = "shared "
"""Prefix of the names of values that a layer stores in the step and later layers read."""
Capture = Callable[[Callable[[], object]], Callable[[], object]]


@dataclass(frozen=True)
class Piece:
    """A part of a step: it reads some tensors of the carry and returns those that it adds."""

    reads: tuple[str, ...]
    run: Callable[[Carry], Carry]
    eager: bool = False


class Segment:
    """Consecutive pieces captured as one graph.

    A replay reads the same memory as the capture: where a later step has another tensor, it is copied there first.

    Args:
        carry: the tensors at this point of the step.
    """

    def __init__(self, pieces: list[Piece], carry: Carry, capture: Capture) -> None:
        self._inputs = {name: carry[name] for piece in pieces for name in piece.reads if name in carry}
        self._outputs: Carry = {}

        def run() -> None:
            local = dict(self._inputs)
            for piece in pieces:
                local.update(piece.run(local))
            self._outputs = {name: local[name] for name in local if local[name] is not self._inputs.get(name)}

        self._replay = capture(run)

    def run(self, carry: Carry) -> Carry:
        """Replays the graph with the tensors of ``carry`` and returns those that it adds."""
        for name, buffer in self._inputs.items():
            if carry[name] is not buffer:
                buffer.copy_(carry[name])
        self._replay()
        return self._outputs


class PaperDecode:
    """Logits of one new token per sequence, with the signature of ``LanguageModel.decode``.

    Args:
        model: an allocated model.
        token_B, position_B: the tensors that every step will be called with; graphs read them in place.
        caches: those that every step will be called with. Capturing changes states, but not keys and values.
        capture: captures a graph of a function and returns its replay; None runs every piece eagerly.
    """

    def __init__(
        self,
        model: LanguageModel,
        token_B: Tensor,
        position_B: Tensor,
        caches: list[Cache | None],
        capture: Capture | None,
    ) -> None:
        self._model = model
        self._caches = caches
        self._step = Step(position_B)
        self._parts: list[Piece | Segment] = []
        pieces = self._pieces(caches)
        if capture is None:
            self._parts += pieces
            return
        carry: Carry = {"token": token_B, "position": position_B}
        for eager, found in itertools.groupby(pieces, key=lambda piece: piece.eager):
            run = list(found)
            parts: list[Piece | Segment] = [*run] if eager else [Segment(run, carry, capture)]
            with not_growing(caches):
                for part in parts:
                    carry.update(part.run(carry))
            self._parts += parts

    def __call__(self, token_B: Tensor, position_B: Tensor, caches: list[Cache | None]) -> Tensor:
        """Logits (B, V); updates ``caches``, which must be those it was made with."""
        assert caches is self._caches, "a published step runs on the caches that it was made with"
        self._step = Step(position_B)
        carry: Carry = {"token": token_B, "position": position_B}
        for part in self._parts:
            carry.update(part.run(carry))
        return carry["logits"]

    def _pieces(self, caches: list[Cache | None]) -> list[Piece]:
        model = self._model
        pieces = [Piece(("token", "position"), lambda carry: {"x": F.embedding(carry["token"], model.embedding_VD)})]
        for index in range(len(model.layers)):
            pieces += self._layer(index, caches[index])

        def head(carry: Carry) -> Carry:
            normed = model._normed(carry["x"], len(model.layers))
            return {"logits": F.linear(normed, model.embedding_VD)}

        return [*pieces, Piece(("x",), head)]

    def _step_at(self, carry: Carry, eager: bool) -> Step:
        """The step with the values that earlier pieces left on it. All eager pieces share its rotations."""
        step = self._step if eager else Step(carry["position"])
        return step.sharing(
            {name.removeprefix(SHARED_PREFIX): carry[name] for name in carry if name.startswith(SHARED_PREFIX)}
        )

    def _layer(self, index: int, cache: Cache | None) -> list[Piece]:
        model, layer = self._model, self._model.blocks[index]
        eager = any(_reads_values(part) for part in layer.branches or (layer,))
        if layer.branches and not all(_reads_values(part) for part in layer.branches) and eager:
            assert isinstance(layer, ParallelModule)
            assert isinstance(cache, ParallelCache)
            if layer.spec.borrower is None:
                return self._hybrid(index, layer, cache)

        def run(carry: Carry) -> Carry:
            normed = model._normed(carry["x"], index)
            step = self._step_at(carry, eager)
            return {"x": carry["x"] + layer.decode(normed, step, cache), **_left(step)}

        return [Piece(("x", "position", *_shared_by(layer)), run, eager)]

    def _hybrid(self, index: int, layer: ParallelModule, cache: ParallelCache) -> list[Piece]:
        """An intra block of one attention and one recurrent branch, neither of which needs the other's value."""
        model = self._model
        names = ("first", "second") if _reads_values(layer.first) else ("second", "first")
        modules: dict[str, MixerModule] = {"first": layer.first, "second": layer.second}
        caches = {"first": cache.first, "second": cache.second}
        attention, other = (modules[name] for name in names)
        kept, state = (caches[name] for name in names)

        def before(carry: Carry) -> Carry:
            normed = model._normed(carry["x"], index)
            step = self._step_at(carry, False)
            return {"normed": normed, names[1]: other.mix_step(normed, step, state)[0], **_left(step)}

        def attend(carry: Carry) -> Carry:
            return {names[0]: attention.mix_step(carry["normed"], self._step, kept)[0]}

        def after(carry: Carry) -> Carry:
            return {"x": carry["x"] + layer._fuse(carry["first"], carry["second"], carry["normed"])}

        return [
            Piece(("x", "position", *_shared_by(layer)), before),
            Piece(("normed",), attend, eager=True),
            Piece(("x", "normed", "first", "second"), after),
        ]


def _reads_values(module: BlockModule) -> bool:
    """Whether it reads the values of single tokens, as attention does, which the paper seems to have run eagerly."""
    return isinstance(module, MixerModule) and module.spec.keeps_values


def _shared_by(layer: BlockModule) -> tuple[str, ...]:
    return tuple(SHARED_PREFIX + name for name in layer.shares)


def _left(step: Step) -> Carry:
    """The values that are on the step now."""
    return {SHARED_PREFIX + name: value for name, value in step.shared.items()}
