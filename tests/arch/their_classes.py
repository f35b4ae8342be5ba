"""their_classes: what transformers' own classes say of a config: fields, parameters, bytes cached."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import Any

from hybridbench.arch.blocks.attention import Attention
from hybridbench.arch.model import ModelSpec, mixers

Config = dict[str, Any]


def their_config(library: SimpleNamespace, body: Config) -> Any:
    values = dict(body)
    return library.transformers.AutoConfig.for_model(values.pop("model_type"), **values)


def their_parameters(library: SimpleNamespace, body: Config) -> int:
    """Parameters of the library's model on the meta device, tied and shared ones once."""
    with library.torch.device("meta"):
        built = library.transformers.AutoModelForCausalLM.from_config(their_config(library, body))
    return sum(parameter.numel() for parameter in built.parameters())


def tensors(library: SimpleNamespace, cache: Any, built: Any) -> list[tuple[str, Any]]:
    """Every tensor a cache holds, named; RecurrentGemma keeps its states in its modules, MiniMax in a list."""
    found: list[tuple[str, Any]] = []
    for layer in cache.layers:
        for name in ("keys", "values", "indexer_keys", "conv_states", "recurrent_states"):
            held = getattr(layer, name, None)
            several = held.values() if isinstance(held, dict) else held if isinstance(held, list) else [held]
            found += [(name, tensor) for tensor in several]
    found += [("recurrent_states", tensor) for tensor in getattr(cache, "linear_cache", [])]
    for module in built.modules():
        found.append(("conv_states", getattr(module, "conv1d_state", None)))
        found.append(("recurrent_states", getattr(module, "recurrent_states", None)))
    return [(name, tensor) for name, tensor in found if library.torch.is_tensor(tensor)]


def their_cache(library: SimpleNamespace, body: Config, tokens: int) -> Counter[str]:
    """Bytes the library's cache holds by name after a prompt, in bfloat16."""
    torch, transformers = library.torch, library.transformers
    config, name = their_config(library, body), body["model_type"]
    built = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()
    taken_as = "cache_params" if name in ("mamba", "falcon_mamba", "mamba2") else "past_key_values"
    cache = None if name == "minimax" else transformers.DynamicCache(config=config)
    with torch.no_grad():
        done = built(torch.randint(3, 90, (1, tokens)), use_cache=True, **{taken_as: cache})
    held = Counter[str]()
    for kind, tensor in tensors(library, done.past_key_values if cache is None else cache, built):
        held[kind] += tensor.nbytes
    return held


def full_windows(spec: ModelSpec, tokens: int) -> int:
    """Bytes of one token in every window that ``tokens`` fill: the library keeps one token less than a window sees."""
    found = 0
    for symbol, mixer in mixers(spec):
        if not isinstance(mixer, Attention) or mixer.reuses_kv:
            continue
        if mixer.window is not None and tokens >= mixer.window:
            found += spec.counts[symbol] * mixer.n_kv_heads * (mixer.head_dim + mixer.v_head_dim) * 2
    return found
