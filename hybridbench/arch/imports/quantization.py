"""quantization: how a config.json says that weights are quantised, and which matrices it leaves whole.

Files name what they leave out by module: a whole name, a tail of one, a wildcard, or a regular expression behind
``re:``. A block here does not know what its class calls it, so a pattern is tried on the names that the usual classes
have for a matrix: ``model.layers.3.self_attn.q_proj``, ``backbone.layers.3.mixer.in_proj``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from hybridbench.arch.block import DTYPE_BYTES
from hybridbench.arch.imports.schemes import METHODS, method_of
from hybridbench.arch.model import ModelSpec
from hybridbench.arch.weights import Matrix, Part, Quantised
from hybridbench.errors import BadInput

FIELDS = ("quantization_config", "quantization")
"""transformers' field, and MLX's, which writes both alike."""

_LEFT_OUT = ("modules_to_not_convert", "llm_int8_skip_modules", "ignored_layers", "ignore", "exclude_modules")
"""Names of the list of modules that are left out."""

_FEED_FORWARD = ("mlp", "feed_forward", "block_sparse_moe", "mixer", "shared_mlp", "moe", "ffn")
_ATTENTION = ("self_attn", "attn", "attention", "self_attention", "mixer")
_CONTAINERS: dict[Part, tuple[str, ...]] = {
    "attention": _ATTENTION,
    "mixer": ("linear_attn", "mixer", "mamba", "self_attn", "conv", "temporal_block"),
    "mlp": _FEED_FORWARD,
    "expert": _FEED_FORWARD,
    "shared expert": _FEED_FORWARD,
    "router": _FEED_FORWARD,
    "attention router": _ATTENTION,
    "layer": ("",),
    "rows": ("",),
}
_ALIASES = {
    "q_proj": ("qkv_proj",),
    "k_proj": ("qkv_proj",),
    "v_proj": ("qkv_proj",),
    "o_proj": ("out_proj",),
    "in_proj_qkv": ("in_proj_qkvz",),
    "in_proj_z": ("in_proj_qkvz",),
    "in_proj_b": ("in_proj_ba",),
    "in_proj_a": ("in_proj_ba",),
    "gate_proj": ("gate_up_proj", "w1"),
    "up_proj": ("gate_up_proj", "w3"),
    "down_proj": ("w2",),
    "gate": ("router", "router.layer"),
}
"""What other classes call a matrix."""
_STARTS = ("model", "backbone", "model.language_model", "language_model.model")


def read_quantised(body: Mapping[str, Any], spec: ModelSpec) -> tuple[Quantised | None, str | None]:
    """How a config's weights are quantised, and the dtype of keys and values where it names one.

    Raises:
        BadInput: a method, scheme or field of it that is not known.
    """
    found = next((body[name] for name in FIELDS if body.get(name) is not None), None)
    if found is None:
        return None, None
    if not isinstance(found, dict):
        raise BadInput(f"quantization_config is {found!r}: give an object.")
    method = method_of(found)
    scheme = METHODS[method](found, _scale_bytes(method, spec))
    whole = _patterns(found)
    only = _targets(found)
    by_layer = tuple(
        frozenset(
            matrix.name
            for matrix in block.matrices()
            if any(_matches(pattern, name) for name in _names(matrix, layer) for pattern in whole)
            or (only and not any(_matches(pattern, name) for name in _names(matrix, layer) for pattern in only))
        )
        for block, layer in zip(spec.placed, _layer_numbers(spec, body.get("num_hidden_layers")), strict=True)
    )
    by_symbol = dict(zip(reversed(spec.layers), reversed(by_layer), strict=True))
    tables = frozenset(
        name
        for name in _tables(method, found)
        if not any(_matches(pattern, full) for full in _table_names(name) for pattern in whole)
    )
    quantised = Quantised(scheme, by_layer=by_layer, by_symbol=tuple(by_symbol.items()), tables=tables)
    return quantised, _kv_dtype(found)


def _scale_bytes(method: str, spec: ModelSpec) -> int:
    """Bytes of a scale that has no dtype of its own: the file's; fp8 has float32 scales outside Qwen's files."""
    if method == "fp8" and not spec.arch.startswith("qwen"):
        return 4
    return DTYPE_BYTES[spec.stored.dtype or "bfloat16"]


def _patterns(config: Mapping[str, Any]) -> list[str]:
    """The patterns of what is left out.

    Raises:
        BadInput: they are no list of names, or MLX stores some modules in other bits.
    """
    found: list[str] = []
    for name in _LEFT_OUT:
        listed = config.get(name) or []
        if not isinstance(listed, list) or not all(isinstance(one, str) for one in listed):
            raise BadInput(f"quantization_config has {name} {listed!r}: give a list of names of modules.")
        found += listed
    for name in config.get("dynamic") or {}:  # GPTQModel's rules by module
        if not name.startswith("-:"):
            raise _of_its_own(name)
        found.append("re:" + name.removeprefix("-:"))
    plain = {name: config.get(name) for name in ("bits", "group_size")}
    for name, value in config.items():
        if "." not in name:
            continue
        if value is False:
            found.append(name)
        elif isinstance(value, dict) and {key: value.get(key, plain[key]) for key in plain} != plain:
            raise _of_its_own(name)
    return found


def _of_its_own(name: str) -> BadInput:
    return BadInput(f"quantization_config stores {name} in a way of its own: hybridbench reads files of one scheme.")


def _targets(config: Mapping[str, Any]) -> list[str]:
    """The modules that compressed-tensors quantises; empty where it means every linear layer."""
    groups = config.get("config_groups")
    listed = (
        [name for group in groups.values() for name in group.get("targets") or ()] if isinstance(groups, dict) else []
    )
    return [] if "Linear" in listed else [str(name) for name in listed]


def _tables(method: str, config: Mapping[str, Any]) -> Sequence[str]:
    """Which of embedding and head a method quantises unless they are left out."""
    if method == "mlx":
        return "embed_tokens", "lm_head"
    if method in ("compressed-tensors", "modelopt") or config.get("lm_head") is True:
        return ("lm_head",)
    return ()


def _kv_dtype(config: Mapping[str, Any]) -> str | None:
    scheme = config.get("kv_cache_scheme")
    if scheme is None:
        return "fp8" if config.get("kv_cache_quant_algo") == "FP8" else None
    if not isinstance(scheme, dict) or scheme.get("num_bits") != 8:
        raise BadInput(f"quantization_config has kv_cache_scheme {scheme!r}: hybridbench reads one of 8 bits.")
    return "fp8" if scheme.get("type") == "float" else "int8"


def _layer_numbers(spec: ModelSpec, n_layers: Any) -> list[int]:
    """The 0-based number that the file's classes give each sublayer's layer.

    A layer is one sublayer (Nemotron-H, Mamba), or a mixer and the feed-forward block behind it; Zamba's shared block
    belongs to the layer of the Mamba block behind it.
    """
    if n_layers is None or n_layers == len(spec.layers):
        return list(range(len(spec.layers)))
    numbers, number, open_layer = [], -1, False
    for symbol, block in zip(spec.layers, spec.placed, strict=True):
        if not block.feed_forward and not open_layer:
            number += 1
        open_layer = symbol.startswith("Z")
        numbers.append(max(number, 0))
    return numbers


def _names(matrix: Matrix, layer: int) -> Iterator[str]:
    """The names that the usual classes have for a matrix; of routed experts, for that of the first."""
    head, _, last = matrix.name.rpartition(".")
    holders = {"experts": ("experts.0", "experts"), "shared_expert": ("shared_expert", "shared_experts")}.get(
        head, (head,)
    )
    for start in _STARTS:
        for container in _CONTAINERS[matrix.part]:
            for holder in holders:
                for name in (last, *_ALIASES.get(last, ())):
                    yield ".".join(part for part in (start, "layers", str(layer), container, holder, name) if part)


def _table_names(name: str) -> list[str]:
    """The names that the usual classes, and those of wrappers, have for the embedding or the head."""
    return [name, *(f"{start}.{name}" for start in (*_STARTS, "language_model"))]


def _matches(pattern: str, name: str) -> bool:
    """Whether a pattern means a module, or one that holds it."""
    if pattern.startswith("re:"):
        return re.match(pattern.removeprefix("re:"), name) is not None
    if "*" in pattern:
        return fnmatchcase(name, pattern) or fnmatchcase(name, f"{pattern.rstrip('.')}.*")
    return f".{pattern}." in f".{name}."
