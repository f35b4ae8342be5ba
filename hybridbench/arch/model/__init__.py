"""model: a whole model, as a layer string and one spec per letter, and its total cost in a named convention."""

from __future__ import annotations

from hybridbench.arch.model.cost import (
    Cost,
    LayerCost,
    cache_bytes,
    cacheless_bytes_moved,
    cost,
    decode_bytes_moved,
    decode_flops,
    head_flops,
    layer_costs,
    once,
    params,
    prefill_flops,
    stored_uses,
    train_flops,
    weight_bytes,
)
from hybridbench.arch.model.shard import ReducedBytes, rank_cost, rank_layer_costs, reduced_bytes, shard
from hybridbench.arch.model.spec import CUSTOM, NAMED, ModelSpec, block_from_dict, mixers, uses_of

__all__ = [
    "CUSTOM",
    "NAMED",
    "Cost",
    "LayerCost",
    "ModelSpec",
    "ReducedBytes",
    "block_from_dict",
    "cache_bytes",
    "cacheless_bytes_moved",
    "cost",
    "decode_bytes_moved",
    "decode_flops",
    "head_flops",
    "layer_costs",
    "mixers",
    "once",
    "params",
    "prefill_flops",
    "rank_cost",
    "rank_layer_costs",
    "reduced_bytes",
    "shard",
    "stored_uses",
    "train_flops",
    "uses_of",
    "weight_bytes",
]
