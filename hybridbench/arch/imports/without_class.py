"""without_class: model types without a class in transformers, exact to what their authors publish."""

from __future__ import annotations

from collections.abc import Callable

from hybridbench.arch.imports import transformers
from hybridbench.arch.imports.parts import Draft
from hybridbench.arch.imports.reader import Fields

_OTHERS_OF_FLA = (
    *("abc", "bitnet", "comba", "delta_net", "forgetting_transformer", "gated_deltaproduct", "gla", "gsa", "hgrn"),
    *("hgrn2", "lightnet", "linear_attn", "log_linear_mamba2", "mesa_net", "mom", "nsa", "path_attn", "retnet"),
    *("rodimus", "rwkv6", "samba", "simple_gla"),
)

REFUSED = {
    "hymba": "its fused heads and reused keys are set in options of its own code: cost the one that is published with "
    "--model hymba-1.5b.",
    "phi4flash": "its differential attention, its memory units and the cache that half of its layers share have no "
    "block here.",
    "plamo2": "its Mamba mixer, with projections and norms of its own, has no block here.",
    **dict.fromkeys(
        _OTHERS_OF_FLA,
        "of flash-linear-attention's types hybridbench reads gated_deltanet, kda and rwkv7, whose mixers it has.",
    ),
}
"""Maps a model type that is known and not read to the reason."""

TYPES: dict[str, Callable[[Fields, int], Draft]] = {
    "kimi_k2": transformers.TYPES["deepseek_v3"],  # its code is DeepSeek-V3's, under another name
}
"""Maps a model type to the function that reads it."""
