"""shard: one rank's part of a model under tensor parallelism, which is a model too, so that every formula holds for it.

Blocks are cut as ``arch.block.cut`` says. Embedding and head are divided by rows of the vocabulary, each rank having
equally many: where the vocabulary does not divide, the last rank's are fewer and the rest is padding. Norms and learned
tokens before a sequence are on every rank.

Ranks add up partial results after every block, and after the embedding, which one rank has of a token. Logits stay
where they are made: to pick a token, ranks exchange their best ones only.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from hybridbench.arch.block import Convention, Storage, Uncut, rows_of
from hybridbench.arch.model.cost import Cost, LayerCost, cost, layer_costs, once
from hybridbench.arch.model.spec import ModelSpec
from hybridbench.errors import BadInput

MOST_RANKS = 64
"""The most ranks that an error proposes."""


@once
def shard(spec: ModelSpec, tp: int) -> ModelSpec:
    """One rank's part of a model that ``tp`` ranks share; the model itself for one.

    Raises:
        BadInput: so many ranks cannot share a block; the text has its field, and the numbers of ranks that can.
    """
    if tp == 1:
        return spec
    try:
        return _cut(spec, tp)
    except Uncut as exc:
        fitting = [str(ranks) for ranks in _possible(spec)]
        what = f"--tp {tp}: {spec.label} has {exc.what}"
        if not fitting:
            raise BadInput(f"{what}, and no number of GPUs up to {MOST_RANKS} divides all it has.") from exc
        raise BadInput(f"{what}, which {tp} GPUs cannot share; give {_listed(fitting)}.") from exc


def _listed(words: list[str]) -> str:
    return " or ".join(filter(None, (", ".join(words[:-1]), words[-1])))


def _cut(spec: ModelSpec, tp: int) -> ModelSpec:
    blocks = {symbol: block.shard(tp) for symbol, block in spec.blocks.items()}
    return replace(spec, blocks=blocks, vocab_size=rows_of(spec.vocab_size, tp))


def _possible(spec: ModelSpec) -> Iterator[int]:
    """Numbers of ranks above 1 that can share a model."""
    for tp in range(2, MOST_RANKS + 1):
        try:
            _cut(spec, tp)
        except Uncut:
            continue
        yield tp


@dataclass(frozen=True, slots=True)
class ReducedBytes:
    """Bytes per token of a forward that ranks add up: the results, whatever way they take.

    Args:
        embedding: after the embedding.
        layers: after, and in, each sublayer in order.
    """

    embedding: int
    layers: tuple[int, ...]

    @property
    def total(self) -> int:
        """Of a whole forward."""
        return self.embedding + sum(self.layers)


@once
def reduced_bytes(spec: ModelSpec, tp: int, size: int) -> ReducedBytes:
    """What ``tp`` ranks add up per token of a forward; nothing for one.

    Args:
        spec: the whole model.
        size: bytes per element of activations.
    """
    if tp == 1:
        return ReducedBytes(0, (0,) * len(spec.layers))
    layers = tuple(block.reduced_bytes(spec.d_model, size, tp) for block in spec.placed)
    return ReducedBytes(spec.d_model * size, layers)


def rank_cost(spec: ModelSpec, tp: int, context: int, batch: int, convention: Convention, storage: Storage) -> Cost:
    """``cost`` of one of ``tp`` GPUs that share a model.

    Raises:
        BadInput: so many cannot share it.
    """
    one = cost(shard(spec, tp), context, batch, convention, storage)
    return replace(one, gpus=tp, tp=tp, all_reduce_bytes=reduced_bytes(spec, tp, storage.weight_bytes).total)


def rank_layer_costs(
    spec: ModelSpec, tp: int, context: int, batch: int, convention: Convention, storage: Storage
) -> list[LayerCost]:
    """``layer_costs`` of one of ``tp`` GPUs that share a model; the entries add up to ``rank_cost``."""
    reduced = reduced_bytes(spec, tp, storage.weight_bytes)
    rows = layer_costs(shard(spec, tp), context, batch, convention, storage)
    added_up = (*reduced.layers, reduced.embedding)
    return [replace(row, all_reduce_bytes=count) for row, count in zip(rows, added_up, strict=True)]
