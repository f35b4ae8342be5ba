"""gemma_types: Gemma 3n and 4: late layers that read an earlier layer's keys and values, and per-layer embeddings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from hybridbench.arch.block import Block
from hybridbench.arch.blocks.altup import AltUp
from hybridbench.arch.blocks.attention import Attention
from hybridbench.arch.blocks.mlp import Mlp
from hybridbench.arch.blocks.moe import Moe
from hybridbench.arch.blocks.per_layer import PerLayerInput
from hybridbench.arch.imports.parts import ATTENTION_WORDS, Draft, Layers, read_attention, read_n_layers, read_tied
from hybridbench.arch.imports.reader import Fields
from hybridbench.errors import BadInput
from hybridbench.units import whole


def _own_layers(read: Fields, letters: list[str], default: int) -> int:
    """How many layers have keys and values of their own; later ones read those of the last of their letter."""
    own = len(letters) - read.size("num_kv_shared_layers", default, least=0)
    if own < 1 or set(letters[:own]) != set(letters):
        raise BadInput(
            f"num_kv_shared_layers leaves {max(own, 0)} of {len(letters)} layers keys of their own: lower it until "
            f"both kinds of layer_types are among these first layers."
        )
    return own


def _per_layer(read: Fields, d_model: int) -> Layers:
    """The per-layer embeddings behind every layer; none where their width is 0."""
    width = read.maybe("hidden_size_per_layer_input", 256, least=0)
    rows = read.size("vocab_size_per_layer_input", 262_144)
    return [("P", PerLayerInput(d_model, width, rows))] if width else []


def _gemma4_shapes(read: Fields, letters: list[str]) -> list[tuple[int, int]]:
    """Each layer's head_dim and number of key heads.

    A released file has those of full layers in fields of their own, a file that transformers wrote in per_layer_config.
    """
    usual = read.size("head_dim", 256), read.size("num_key_value_heads", 4)
    kv_heads = read.maybe("num_global_key_value_heads") if read.flag("attention_k_eq_v") else None
    full = read.size("global_head_dim", 512), kv_heads or usual[1]
    read.value("num_global_key_value_heads")
    if "per_layer_config" not in read:
        return [full if letter == "*" else usual for letter in letters]
    shapes = [usual] * len(letters)
    for layer, changed in read.section("per_layer_config").items():
        at = whole(layer)
        if at is None or at >= len(letters) or not isinstance(changed, dict):
            raise BadInput(
                f"per_layer_config has {layer}: {changed!r}: give fields by layer, from 0 to {len(letters) - 1}."
            )
        inside = Fields({**changed, "model_type": read.model_type})
        shapes[at] = inside.size("head_dim", usual[0]), inside.size("num_key_value_heads", usual[1])
        inside.finish()
    return shapes


def _gemma4(read: Fields, d_model: int) -> Draft:
    """Gemma 4: windows in five of six layers; full layers have wider heads, and values may be their keys.

    Some sizes have experts beside every MLP, others per-layer embeddings.
    """
    n_layers = read_n_layers(read)
    read.must("use_bidirectional_attention", "vision")
    default = ["S" if (index + 1) % 6 else "*" for index in range(n_layers)]
    letters = read.layer_types("layer_types", n_layers, ATTENTION_WORDS, default)
    letters[-1] = "*"  # as the class sees to
    own = _own_layers(read, letters, 0)
    usual = read_attention(read, d_model, head_dim=256, kv_heads=4, bias=read.flag("attention_bias"), qk_norm="head")
    windows = {"S": read.size("sliding_window", 512), "*": None}
    width = read.size("intermediate_size")
    wide = 2 if read.flag("use_double_wide_mlp") else 1
    extra = _per_layer(read, d_model)
    layers: Layers = []
    for index, (letter, (head_dim, kv_heads)) in enumerate(zip(letters, _gemma4_shapes(read, letters), strict=True)):
        shares = index >= own
        attention = read.build(
            ("num_attention_heads", "num_key_value_heads", "num_global_key_value_heads"),
            Attention,
            d_model,
            usual.n_heads,
            kv_heads,
            head_dim,
            head_dim,
            window=windows[letter],
            qkv_bias=usual.qkv_bias,
            out_bias=usual.out_bias,
            qk_norm="head",
            keys_as_values=letter == "*" and read.flag("attention_k_eq_v"),
            reuses_kv=shares,
        )
        layers += [(letter, attention), _gemma4_feed_forward(read, d_model, width * (wide if shares else 1)), *extra]
    tied = read_tied(read, True)
    read.finish(("num_experts", "top_k_experts", "moe_intermediate_size"))
    return Draft(layers, tied, norms=2)


def _gemma4_feed_forward(read: Fields, d_model: int, width: int) -> tuple[str, Block]:
    """The MLP, or that MLP as the shared expert beside routed ones."""
    if not read.flag("enable_moe_block"):
        return "-", Mlp(d_model, width)
    experts, top_k = read.size("num_experts"), read.size("top_k_experts")
    expert = read.size("moe_intermediate_size")
    names = ("num_experts", "top_k_experts")
    return "E", read.build(names, Moe, d_model, expert, experts, top_k, d_shared=width, inner_norms=True)


def _gemma3n(read: Fields, d_model: int) -> Draft:
    """Gemma 3n: four copies of the residual stream, windows in four of five layers, per-layer embeddings."""
    n_layers = read_n_layers(read)
    default = ["S" if (index + 1) % 5 else "*" for index in range(n_layers)]
    letters = read.layer_types("layer_types", n_layers, ATTENTION_WORDS, default)
    bias = read.flag("attention_bias")
    full = read_attention(read, d_model, head_dim=256, kv_heads=2, bias=bias, qk_norm="head")
    mixers = {"*": full, "S": replace(full, window=read.size("sliding_window", 512))}
    own = _own_layers(read, letters, 15)
    widths = read.value("intermediate_size")
    if not isinstance(widths, list):
        widths = [read.size("intermediate_size")] * n_layers
    if len(widths) != n_layers or any(type(width) is not int or width < 1 for width in widths):
        raise BadInput(
            f"intermediate_size is {widths!r}: give a width of 1 or more, or a list of {n_layers}, one a layer."
        )
    copies, rank = read.size("altup_num_inputs", 4), read.size("laurel_rank", 64)
    extra = _per_layer(read, d_model)
    if not extra:
        raise BadInput(
            "hidden_size_per_layer_input is 0: every Gemma 3n layer has per-layer embeddings, so give 1 or more."
        )
    layers: Layers = []
    for index, (letter, width) in enumerate(zip(letters, widths, strict=True)):
        mixer = replace(mixers[letter], reuses_kv=True) if index >= own else mixers[letter]
        altup = AltUp(d_model, copies, rank, first=index == 0)
        layers += [(letter, mixer), ("-", Mlp(d_model, width)), ("U", altup), *extra]
    tied = read_tied(read, True)
    read.finish(
        (
            "activation_sparsity_pattern",
            "altup_active_idx",
            "altup_coef_clip",
            "altup_correct_scale",
            "altup_lr_multiplier",
        )
    )
    return Draft(layers, tied, norms=2)


TYPES: dict[str, Callable[[Fields, int], Draft]] = {"gemma4_text": _gemma4, "gemma3n_text": _gemma3n}
"""Maps a model type to the function that reads it."""
