"""written: configurations as released files write them, and the bytes of their weights by our count."""

from __future__ import annotations

from typing import Any

from hybridbench.arch import model
from hybridbench.arch.imports.huggingface import model_from_config
from hybridbench.arch.stored import StorageOptions

Config = dict[str, Any]


def llama(hidden: int, inner: int, heads: int, layers: int, vocab: int = 128_256, **fields: Any) -> Config:
    sizes = {"hidden_size": hidden, "intermediate_size": inner, "num_attention_heads": heads, "vocab_size": vocab}
    return {"model_type": "llama", "num_hidden_layers": layers, "num_key_value_heads": 8, **sizes, **fields}


def qwen3(hidden: int, inner: int, heads: int, layers: int, **fields: Any) -> Config:
    return llama(hidden, inner, heads, layers, 151_936, **fields) | {"model_type": "qwen3", "head_dim": 128}


def stored_bytes(config: Config) -> int:
    spec = model_from_config(config)
    return model.weight_bytes(spec, StorageOptions().dtypes(spec.stored).storage)


def packed(strategy: str, group: int | None, order: str | None = None) -> Config:
    weights = {"num_bits": 4, "type": "int", "strategy": strategy, "group_size": group, "symmetric": True}
    groups = {"group_0": {"targets": ["Linear"], "weights": weights | {"actorder": order}}}
    return {"quant_method": "compressed-tensors", "format": "pack-quantized", "ignore": ["lm_head"]} | {
        "config_groups": groups
    }


FP8 = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [128, 128]}
AWQ = {"quant_method": "awq", "bits": 4, "group_size": 128, "version": "gemm", "zero_point": True}
