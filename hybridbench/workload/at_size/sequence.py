"""sequence: a forward over a batch of sequences, layer by layer, compared with the same sequences in parts.

A batch's first and last row are run alone. A single sequence, or a row that by itself exceeds 2^31 elements, is run in
pieces, each of which continues from the caches of the one before. Each layer's parts get the batch's own input of that
layer, so that a kernel's error is neither hidden by the residual stream nor added to the errors of other layers.
Outputs, keys, values, states, the norms between layers and the logits are compared.

A part takes less memory than the batch did just before: its keys and values are compared instead of being stored.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, is_dataclass, replace

import torch
from torch import Tensor, nn

from hybridbench.model.block import Step
from hybridbench.model.cache import AttentionCache, Cache, ParallelCache, of_row
from hybridbench.model.language import LanguageModel
from hybridbench.model.moe import MoeModule
from hybridbench.workload.at_size.alternatives import Alternatives
from hybridbench.workload.at_size.errors import Errors, of_whole, over_positions

OFFSETS_32_BIT = 1 << 31
"""Offsets beyond this need more than 32 bits. A row alone proves nothing if its widest tensor has more elements."""


class PartsDoNotFit(Exception):
    """Memory does not suffice for a part beside the batch. The batch can still be timed."""


@contextmanager
def fitting() -> Iterator[None]:
    """Turns running out of memory inside into ``PartsDoNotFit``."""
    try:
        yield
    except torch.OutOfMemoryError as exc:
        raise PartsDoNotFit(str(exc).splitlines()[0]) from exc


@dataclass(frozen=True)
class BatchPart:
    """A row and positions of a batch that are run by themselves; ``name`` names them, counting from 1."""

    name: str
    row: int
    first: int
    last: int


def alone(batch: int, length: int) -> list[BatchPart]:
    """The first and the last row of a batch, whole."""
    return [BatchPart(f"row {row + 1}", row, 0, length) for row in sorted({0, batch - 1})]


def pieces(row: int, length: int, count: int) -> list[BatchPart]:
    """A row in pieces of about the same length; at most one piece per token."""
    edges = [length * i // count for i in range(count + 1)]
    spans = [(first, last) for first, last in itertools.pairwise(edges) if last > first]
    return [BatchPart(f"positions {first + 1} to {last} of row {row + 1}", row, first, last) for first, last in spans]


def widest(layer: nn.Module) -> int:
    """Columns of the widest tensor that a layer makes of a token."""
    return max((parameter.shape[0] for parameter in layer.parameters() if parameter.dim() > 1), default=1)


def piece_count(layer: nn.Module, length: int) -> int:
    """How many pieces a row needs so that each stays below ``OFFSETS_32_BIT`` elements; at least two."""
    return max(2, -(-length * widest(layer) // OFFSETS_32_BIT) + 1)


class _Compared(AttentionCache):
    """A full attention cache of one row with the expected keys and values: stores are compared with it, not written."""

    errors: list[tuple[str, Tensor]]

    def store(self, k_BTKP: Tensor, v_BTKV: Tensor, start: int = 0) -> None:
        end = start + k_BTKP.shape[1]
        self.errors.append(("keys", over_positions(k_BTKP[0], self.k_BSKP[0, start:end])))
        if self.owns_value:
            self.errors.append(("values", over_positions(v_BTKV[0], self.v_BSKV[0, start:end])))


@dataclass
class _Shadow:
    """The cache of a row's layer when it is run by itself, beside the batch's cache of that row."""

    expected: Cache | None
    cache: Cache | None = None
    errors: list[tuple[str, Tensor]] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.expected is not None:
            self.cache = self._made(self.expected)

    def _made(self, expected: Cache) -> Cache:
        if isinstance(expected, ParallelCache):
            return ParallelCache(self._made(expected.first), self._made(expected.second))
        if isinstance(expected, AttentionCache) and not expected.ring:
            compared = _Compared(**vars(expected))
            compared.errors = self.errors
            return compared
        zeros = {name: torch.zeros_like(x) for name, x in vars(expected).items() if isinstance(x, Tensor)}
        assert is_dataclass(expected), "a static cache is a dataclass of tensors and sizes"
        return replace(expected, **zeros)

    def compared(self) -> list[tuple[str, Tensor]]:
        """Every error of the cache, after the layer has run over all parts."""
        if self.cache is None or self.expected is None:
            return []
        mine, theirs = self.cache.compared(), self.expected.compared()
        return self.errors + [
            (name, of_whole(mine[name], theirs[name])) for name in mine if mine[name] is not theirs[name]
        ]


@dataclass(eq=False)
class OverLayers:
    """The layers of a model over one batch, run and compared in order.

    Attributes:
        symbols: the layers' letters, for messages.
        token_BT: the batch.
        alternatives: the implementations that parts of the batch run by.
        errors: collects every comparison.
    """

    model: LanguageModel
    symbols: Sequence[str]
    token_BT: Tensor
    alternatives: Alternatives
    errors: Errors

    def __post_init__(self) -> None:
        self.step = self.model.step_over(self.token_BT)


@dataclass(eq=False)
class Walk(OverLayers):
    """The forward of each layer, compared with parts of it once it has run.

    Attributes:
        caches: the batch's caches, which are filled.
    """

    caches: Sequence[Cache | None]
    _steps: dict[tuple[int, int], Step] = field(default_factory=dict)

    def run(self) -> None:
        """Compares all layers, and the logits of the last position.

        Raises:
            Unsupported: a mixer cannot continue from its cache, and there is only one row.
        """
        model, (B, T) = self.model, self.token_BT.shape
        branch_BTD, residual_BTD = model.embed(self.token_BT), None
        rows = alone(B, T)
        for index in range(len(model.layers)):
            before, residual_before = branch_BTD, residual_BTD
            normed_BTD, residual_BTD = model.add_normed(before, residual_before, index)
            self._norms(index, before, residual_before, normed_BTD, rows if B > 1 else pieces(0, T, 2))
            del before, residual_before
            left_before = set(self.step.shared)
            with choosing(model.layers[index]):
                branch_BTD = model.run_layer(index, normed_BTD, self.step, self.caches[index])
                self._layer(index, normed_BTD, branch_BTD, left_before)
            del normed_BTD
        last = len(model.layers)
        residual_BD = None if residual_BTD is None else residual_BTD[:, -1]
        hidden_BD, _ = model.add_normed(branch_BTD[:, -1], residual_BD, last)
        logits_BV = model.head(hidden_BD)
        for part in rows:
            row = slice(part.row, part.row + 1)
            normed, _ = model.add_normed(branch_BTD[row, -1], None if residual_BD is None else residual_BD[row], last)
            self.errors.add("logits", part.name, of_whole(model.head(normed), logits_BV[row]))

    def _norms(
        self, index: int, branch_BTD: Tensor, residual_BTD: Tensor | None, normed_BTD: Tensor, parts: list[BatchPart]
    ) -> None:
        for part in parts:
            at = slice(part.row, part.row + 1), slice(part.first, part.last)
            residual = None if residual_BTD is None else residual_BTD[at]
            mine, _ = self.model.add_normed(branch_BTD[at], residual, index)
            self.errors.add(
                "norm", f"before layer {index + 1}, {part.name}", over_positions(mine[0], normed_BTD[at][0])
            )

    def _layer(self, index: int, normed_BTD: Tensor, out_BTD: Tensor, left_before: Collection[str]) -> None:
        """Compares one layer by rows, and by pieces where a row alone proves nothing.

        Args:
            left_before: names of the values that earlier layers left on the step.
        """
        layer, (B, T) = self.model.layers[index], self.token_BT.shape
        count = piece_count(layer, T)
        for part in alone(B, T):
            if B > 1:
                self._parts(index, [part], normed_BTD, out_BTD, left_before)
            if (B == 1 or count > 2) and T > 1:
                self._parts(index, pieces(part.row, T, count), normed_BTD, out_BTD, left_before)

    def _parts(
        self, index: int, parts: list[BatchPart], normed_BTD: Tensor, out_BTD: Tensor, left_before: Collection[str]
    ) -> None:
        """Runs a layer over parts of a row in order, and compares each with the same part of the batch's output and of
        the values that the layer stored for later layers.
        """
        layer, cache = self.model.layers[index], self.caches[index]
        symbol = self.symbols[index]
        row = parts[0].row
        shadow = _Shadow(None if cache is None else of_row(cache, row))
        T = self.token_BT.shape[1]
        for part in parts:
            at = slice(part.row, part.row + 1), slice(part.first, part.last)
            flat = row * T + part.first, row * T + part.last
            step = self._step_at(part).sharing({name: self.step.shared[name][at] for name in left_before})
            with fitting(), self.alternatives.in_place(), replaying(layer, *flat):
                mine = self.model.run_layer(index, normed_BTD[at], step, shadow.cache)
            left = {name: (x, self.step.shared[name]) for name, x in step.shared.items() if name not in left_before}
            for what, (one, whole) in {"output": (mine, out_BTD), **left}.items():
                error = over_positions(one[0], whole[at][0])
                self.errors.add(f"{what} of {symbol}", f"layer {index + 1}, {part.name}", error)
            del mine, step, left
        where = f"layer {index + 1}, " + (parts[0].name if len(parts) == 1 else f"row {row + 1} in {len(parts)} pieces")
        for name, error in shadow.compared():
            self.errors.add(f"{name} of {symbol}", where, error)

    def _step_at(self, part: BatchPart) -> Step:
        span = part.first, part.last
        if span == (0, self.token_BT.shape[1]):
            return self.step
        if span not in self._steps:
            self._steps[span] = self.model.step_over(self.token_BT[:1, part.first : part.last], part.first)
        return self._steps[span]


@contextmanager
def choosing(layer: nn.Module) -> Iterator[None]:
    """A context around a batch's forward of a layer and those of its parts, which replay its router's choices."""
    if not isinstance(layer, MoeModule):
        yield
        return
    layer.replaying, counts, layer.counts = True, layer.counts, False
    try:
        yield
    finally:
        layer.replaying, layer.counts, layer.chosen_NK = False, counts, None


@contextmanager
def replaying(layer: nn.Module, first: int, last: int) -> Iterator[None]:
    """A context around a part's forward: its tokens, ``first`` to ``last`` of the batch, get the batch's experts."""
    if not isinstance(layer, MoeModule):
        yield
        return
    assert layer.chosen_NK is not None, "the batch must run before its parts"
    layer.replay_NK = layer.chosen_NK[first:last]
    try:
        yield
    finally:
        layer.replay_NK = None
