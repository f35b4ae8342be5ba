"""attention_types: more model types with attention and dense feed-forward blocks in every layer."""

from __future__ import annotations

from collections.abc import Callable

from hybridbench.arch.blocks.mlp import Mlp
from hybridbench.arch.imports.parts import (
    ATTENTION_WORDS,
    Draft,
    by_window,
    read_attention,
    read_mlp,
    read_n_layers,
    read_tied,
    with_mlps,
)
from hybridbench.arch.imports.reader import Fields


def _smollm3(read: Fields, d_model: int) -> Draft:
    """SmolLM3: windows, where they are turned on, in the layers without rotary embedding."""
    n_layers = read_n_layers(read)
    attention = read_attention(read, d_model, kv_heads=4, bias=read.flag("attention_bias"))
    every = read.size("no_rope_layer_interval", 4)
    rotates = read.value("no_rope_layers")
    if not isinstance(rotates, list) or len(rotates) < n_layers:
        rotates = [(index + 1) % every != 0 for index in range(n_layers)]
    window = read.maybe("sliding_window") if read.flag("use_sliding_window") else None
    for unused in ("sliding_window", "max_window_layers"):
        read.value(unused)
    default = ["*" if turns or window is None else "S" for turns in rotates[:n_layers]]
    letters = read.layer_types("layer_types", n_layers, ATTENTION_WORDS, default)
    mlp = read_mlp(read, d_model, bias=read.flag("mlp_bias"))
    tied = read_tied(read, True)
    read.finish()
    return Draft(with_mlps(by_window(letters, attention, window), mlp), tied)


def _seed_oss(read: Fields, d_model: int) -> Draft:
    """Seed-OSS: biases on queries, keys and values, and one of their own for the output."""
    biases = {"qkv_bias": read.flag("attention_bias", True), "out_bias": read.flag("attention_out_bias")}
    attention = read_attention(read, d_model, head_dim=128, kv_heads=8, **biases)
    mlp = read_mlp(read, d_model, bias=read.flag("mlp_bias"))
    tied = read_tied(read)
    n_layers = read_n_layers(read)
    read.finish(("residual_dropout",))
    return Draft(with_mlps([("*", attention)] * n_layers, mlp), tied)


def _arcee(read: Fields, d_model: int) -> Draft:
    """Arcee's AFM: feed-forward blocks without a gate."""
    attention = read_attention(read, d_model, bias=read.flag("attention_bias"))
    mlp = read_mlp(read, d_model, gated=False, bias=read.flag("mlp_bias"))
    tied = read_tied(read)
    n_layers = read_n_layers(read)
    read.finish()
    return Draft(with_mlps([("*", attention)] * n_layers, mlp), tied)


def _ministral3(read: Fields, d_model: int) -> Draft:
    attention = read_attention(read, d_model, head_dim=128, kv_heads=8)
    mixers = by_window(["S"] * read_n_layers(read), attention, read.maybe("sliding_window"))
    read.must("layer_types")
    mlp = read_mlp(read, d_model)
    tied = read_tied(read)
    read.finish()
    return Draft(with_mlps(mixers, mlp), tied)


def _exaone4(read: Fields, d_model: int) -> Draft:
    """EXAONE 4: a norm after each sublayer, and norms on every head of queries and keys."""
    n_layers = read_n_layers(read)
    attention = read_attention(read, d_model, kv_heads=32, qk_norm="head")
    window = read.maybe("sliding_window", 4096)
    default = ["*"] * n_layers
    if window is not None and "layer_types" not in read:
        every = read.size("sliding_window_pattern", 4)
        default = ["S" if (index + 1) % every else "*" for index in range(n_layers)]
    read.value("sliding_window_pattern")
    mixers = by_window(read.layer_types("layer_types", n_layers, ATTENTION_WORDS, default), attention, window)
    mlp = read_mlp(read, d_model)
    tied = read_tied(read)
    read.finish()
    return Draft(with_mlps(mixers, mlp), tied)


def _cohere2(read: Fields, d_model: int) -> Draft:
    """Command R7B and A: attention and feed-forward block side by side, on one norm."""
    n_layers = read_n_layers(read)
    read.must("head_dim", d_model // read.size("num_attention_heads"))
    attention = read_attention(read, d_model, bias=read.flag("attention_bias"))
    every = read.size(read.first("sliding_window_pattern", "_sliding_window_pattern"), 4)
    default = ["S" if (index + 1) % every else "*" for index in range(n_layers)]
    letters = read.layer_types("layer_types", n_layers, ATTENTION_WORDS, default)
    mixers = by_window(letters, attention, read.maybe("sliding_window", 4096))
    mlp = Mlp(d_model, read.size("intermediate_size"), own_norm=False)
    # Options of the released files that the class does not have; each has the value that the class takes for granted.
    read.must("use_gated_activation", True)
    read.must("use_parallel_block", True)
    read.must("use_qk_norm", False)
    read.must("use_embedding_sharing", True)
    tied = read_tied(read, True)
    read.finish(("logit_scale", "rotary_pct", "cache_implementation", "layer_switch", "position_embedding_type"))
    return Draft(with_mlps(mixers, mlp), tied)


def _granite_swa(read: Fields, d_model: int) -> Draft:
    """Granite with windows in three of four layers, and a learned logit of each head in every softmax."""
    n_layers = read_n_layers(read)
    attention = read_attention(read, d_model, kv_heads=4, bias=read.flag("attention_bias"), sink_logits=True)
    default = ["S" if index % 4 else "*" for index in range(n_layers)]
    letters = read.layer_types("layer_types", n_layers, ATTENTION_WORDS, default)
    mixers = by_window(letters, attention, read.maybe("sliding_window", 128))
    mlp = read_mlp(read, d_model, bias=read.flag("mlp_bias"))
    tied = read_tied(read, True)
    read.finish(("layer_rope_theta",))
    return Draft(with_mlps(mixers, mlp), tied)


TYPES: dict[str, Callable[[Fields, int], Draft]] = {
    "smollm3": _smollm3,
    "seed_oss": _seed_oss,
    "arcee": _arcee,
    "ministral3": _ministral3,
    "exaone4": _exaone4,
    "cohere2": _cohere2,
    "granite_swa": _granite_swa,
}
"""Maps a model type to the function that reads it."""
