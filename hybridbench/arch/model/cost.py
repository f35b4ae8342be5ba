"""cost: the total cost of a model in a named convention, and the share of every layer.

The ``exact`` and ``hardware`` conventions count the head (every position in training, the last one in prefill, one in
decode) and all norms' weights as parameters; ``paper`` leaves out embedding and head FLOPs and the norms.

A decode step at context S has S tokens cached and adds one. It must read every weight once, the embedding rows of its
batch, and per sequence the visible cache; it must write the new entries (an SSM state whole).
"""

from __future__ import annotations

import functools
from collections import Counter
from dataclasses import dataclass

from hybridbench.arch.block import (
    Block,
    CacheBytes,
    Convention,
    Flops,
    Storage,
)
from hybridbench.arch.model.spec import ModelSpec

once = functools.lru_cache(maxsize=1024)
"""Keeps what a function found for its latest arguments. A range of contexts asks for the same model at every context;
what depends on neither the context nor the batch is computed once."""


@dataclass(frozen=True)
class Cost:
    """What one model must cost at one context, for one sequence (decode: one token of it).

    ``decode_bytes_moved`` is for a whole step of ``batch`` sequences: all of them share one read of the weights.
    ``train_flops_full_mask`` counts every query with every key, as PaLM and nanoGPT do; it is not defined in the
    hardware convention, which counts tiles.

    With ``gpus`` all of it is of one of so many GPUs, ``tp`` of which share a matrix (``arch.model.shard``);
    ``all_reduce_bytes`` are what they add up per token of a forward. The last three are of a training step that is
    divided among groups of them: what a GPU stores of weights, gradients and moments, and what it receives and sends.
    """

    convention: Convention
    context: int
    batch: int
    params: int
    params_non_embedding: int
    params_active: int
    train_flops: int
    train_flops_full_mask: int | None
    prefill_flops: int
    decode_flops: int
    cache_bytes: int
    kv_cache_bytes: int
    ssm_state_bytes: int
    conv_state_bytes: int
    decode_bytes_moved: int
    weight_bytes: int
    gpus: int | None = None
    tp: int | None = None
    all_reduce_bytes: int | None = None
    train_state_bytes: int | None = None
    gathered_bytes: int | None = None
    scattered_bytes: int | None = None


def _sum_flops(parts: list[Flops]) -> Flops:
    return sum(parts, Flops())


def head_flops(spec: ModelSpec, convention: Convention) -> int:
    """Head FLOPs per position; the paper leaves the head out."""
    return 0 if convention is Convention.PAPER else 2 * spec.d_model * spec.vocab_size


def _norm_width(spec: ModelSpec, convention: Convention) -> int:
    """Parameters of one norm of the residual stream; the paper leaves norms out."""
    return 0 if convention is Convention.PAPER else spec.d_model * (2 if spec.norm_bias else 1)


@once
def _norm_params(spec: ModelSpec, convention: Convention) -> int:
    width = _norm_width(spec, convention)
    return width + sum(n * block.norm_params(spec.norms * width) for block, n in spec.uses)


def _head_params(spec: ModelSpec) -> int:
    """Parameters of an untied head and of a head's bias."""
    own = 0 if spec.tied else spec.vocab_size * spec.d_model
    return own + (spec.vocab_size if spec.head_bias else 0)


def _table_params(spec: ModelSpec) -> int:
    """Parameters of embedding and head."""
    return (spec.vocab_size + spec.meta_tokens) * spec.d_model + _head_params(spec)


@once
def params(spec: ModelSpec, convention: Convention = Convention.EXACT) -> int:
    """Parameters in all, a tied embedding and shared weights once."""
    blocks = sum(_params_of_uses(block, n, convention) for block, n in spec.uses)
    return blocks + _norm_params(spec, convention) + _table_params(spec)


def _params_of_uses(block: Block, uses: int, convention: Convention) -> int:
    return uses * block.params(convention) - (uses - 1) * block.shared_params(convention)


def train_flops(spec: ModelSpec, tokens: int, convention: Convention = Convention.EXACT) -> Flops:
    """Forward and backward over one sequence of ``tokens``; the head at every position."""
    blocks = _sum_flops([n * block.train_flops(tokens, convention) for block, n in spec.uses])
    return blocks + Flops(matmul=3 * tokens * head_flops(spec, convention))


def prefill_flops(
    spec: ModelSpec, tokens: int, convention: Convention = Convention.EXACT, head_positions: int = 1
) -> Flops:
    """Forward over one prompt of ``tokens``, the head at ``head_positions`` of them."""
    blocks = _sum_flops([n * block.prefill_flops(tokens, convention) for block, n in spec.uses])
    return blocks + Flops(matmul=head_positions * head_flops(spec, convention))


def decode_flops(spec: ModelSpec, context: int, convention: Convention = Convention.EXACT) -> Flops:
    """One token of one sequence with ``context`` tokens cached."""
    blocks = _sum_flops([n * block.decode_flops(context, convention) for block, n in spec.uses])
    return blocks + Flops(matmul=head_flops(spec, convention))


def cache_bytes(spec: ModelSpec, context: int, storage: Storage) -> CacheBytes:
    """Bytes one sequence keeps after ``context`` tokens."""
    return sum((n * block.cache(context, storage) for block, n in spec.uses), CacheBytes())


@once
def stored_uses(spec: ModelSpec, storage: Storage) -> tuple[tuple[Block, int, Storage], ...]:
    """``ModelSpec.uses`` with how each block is stored: its file may leave matrices of some layers whole."""
    stored = zip(spec.layers, spec.placed, storage.by_layer(spec.layers), strict=True)
    return tuple((block, n, kept) for (_, block, kept), n in Counter(stored).items())


def _head_change(spec: ModelSpec, storage: Storage) -> int:
    """``Storage.table_change`` of the head, which may be the embedding."""
    return storage.table_change("embed_tokens" if spec.tied else "lm_head", spec.vocab_size, spec.d_model)


@once
def weight_bytes(spec: ModelSpec, storage: Storage) -> int:
    """Bytes all parameters take."""
    blocks = sum(n * block.weight_bytes(kept) for block, n, kept in stored_uses(spec, storage))
    again = sum((n - 1) * block.shared_bytes(storage) for block, n in spec.uses)
    outside = _norm_params(spec, Convention.EXACT) + _table_params(spec)
    tables = storage.table_change("embed_tokens", spec.vocab_size, spec.d_model)
    tables += 0 if spec.tied else _head_change(spec, storage)
    return blocks + outside * storage.weight_bytes + tables - again


def decode_bytes_moved(spec: ModelSpec, context: int, batch: int, storage: Storage) -> int:
    """Least bytes one decode step of ``batch`` sequences must move: weights once, embedding rows, caches.

    Weights that several uses share are read at each use: no cache of a GPU is large enough to keep them. Logits are
    left out: a step that samples its token on the fly need not write them.
    """
    caches = sum(n * block.cache_traffic(context, storage) for block, n in spec.uses)
    return cacheless_bytes_moved(spec, batch, storage) + batch * caches


@once
def cacheless_bytes_moved(spec: ModelSpec, batch: int, storage: Storage) -> int:
    """``decode_bytes_moved`` without the caches: what is the same at every context."""
    weights = sum(n * block.weight_traffic(batch, kept) for block, n, kept in stored_uses(spec, storage))
    head = spec.vocab_size * spec.d_model + (spec.vocab_size if spec.head_bias else 0)
    head_and_norms = (head + _norm_params(spec, Convention.EXACT)) * storage.weight_bytes
    rows = batch * spec.d_model * storage.weight_bytes + storage.table_change("embed_tokens", batch, spec.d_model)
    return weights + head_and_norms + _head_change(spec, storage) + rows


@once
def _params_by_use(spec: ModelSpec, convention: Convention) -> tuple[int, int, int]:
    """Parameters in all, those outside of embeddings and head, and those that one token uses."""
    total = params(spec, convention)
    inactive = sum(n * (block.params(convention) - block.params_active(convention)) for block, n in spec.uses)
    embedding = _table_params(spec) + sum(n * block.embedding_params() for block, n in spec.uses)
    return total, total - embedding, total - inactive


def cost(
    spec: ModelSpec,
    context: int,
    batch: int = 1,
    convention: Convention = Convention.EXACT,
    storage: Storage | None = None,
) -> Cost:
    """All that ``hybridbench cost`` shows for one model at one context."""
    storage = storage or Storage()
    kept = cache_bytes(spec, context, storage)
    total, non_embedding, active = _params_by_use(spec, convention)
    train = train_flops(spec, context, convention).total
    extra = sum(n * block.full_mask_extra_flops(context) for block, n in spec.uses)
    return Cost(
        convention=convention,
        context=context,
        batch=batch,
        params=total,
        params_non_embedding=non_embedding,
        params_active=active,
        train_flops=train,
        train_flops_full_mask=None if convention is Convention.HARDWARE else train + 3 * extra,
        prefill_flops=prefill_flops(spec, context, convention).total,
        decode_flops=decode_flops(spec, context, convention).total,
        cache_bytes=kept.total,
        kv_cache_bytes=kept.kv,
        ssm_state_bytes=kept.ssm,
        conv_state_bytes=kept.conv,
        decode_bytes_moved=decode_bytes_moved(spec, context, batch, storage),
        weight_bytes=weight_bytes(spec, storage),
    )


@dataclass(frozen=True)
class LayerCost:
    """One sublayer's share, in the order of the pattern; the embedding, final norm and head come as ``head``."""

    index: int
    symbol: str
    kind: str
    params: int
    train_flops: int
    prefill_flops: int
    decode_flops: int
    kv_cache_bytes: int
    ssm_state_bytes: int
    conv_state_bytes: int
    decode_bytes_moved: int
    all_reduce_bytes: int | None = None


def layer_costs(
    spec: ModelSpec,
    context: int,
    batch: int = 1,
    convention: Convention = Convention.EXACT,
    storage: Storage | None = None,
) -> list[LayerCost]:
    """Cost per sublayer; the entries add up to ``cost``."""
    storage = storage or Storage()
    norm = _norm_width(spec, convention)
    exact_norm = _norm_width(spec, Convention.EXACT)
    rows = []
    seen: set[str] = set()
    layers = zip(spec.layers, spec.placed, storage.by_layer(spec.layers), strict=True)
    for index, (symbol, block, kept_as) in enumerate(layers, start=1):
        kept = block.cache(context, storage)
        shared_before = block.shared_params(convention) if symbol in seen else 0
        seen.add(symbol)
        rows.append(
            LayerCost(
                index=index,
                symbol=symbol,
                kind=block.kind,
                params=block.params(convention) - shared_before + block.norm_params(spec.norms * norm),
                train_flops=block.train_flops(context, convention).total,
                prefill_flops=block.prefill_flops(context, convention).total,
                decode_flops=block.decode_flops(context, convention).total,
                kv_cache_bytes=kept.kv,
                ssm_state_bytes=kept.ssm,
                conv_state_bytes=kept.conv,
                decode_bytes_moved=block.weight_traffic(batch, kept_as)
                + block.norm_params(spec.norms * exact_norm) * storage.weight_bytes
                + batch * block.cache_traffic(context, storage),
            )
        )
    head = head_flops(spec, convention)
    read = spec.vocab_size * spec.d_model + (spec.vocab_size if spec.head_bias else 0) + exact_norm
    rows.append(
        LayerCost(
            index=len(rows) + 1,
            symbol="head",
            kind="embedding, final norm and head",
            params=_table_params(spec) + norm,
            train_flops=3 * context * head,
            prefill_flops=head,
            decode_flops=head,
            kv_cache_bytes=0,
            ssm_state_bytes=0,
            conv_state_bytes=0,
            decode_bytes_moved=(read + batch * spec.d_model) * storage.weight_bytes
            + _head_change(spec, storage)
            + storage.table_change("embed_tokens", batch, spec.d_model),
        )
    )
    return rows
