"""recurrent_types: more model types with a recurrence or a short convolution beside attention: LFM3, Lara, Ling."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from hybridbench.arch.blocks.kda import Kda
from hybridbench.arch.blocks.mlp import Mlp
from hybridbench.arch.blocks.moe import Moe
from hybridbench.arch.blocks.short_conv import ShortConv
from hybridbench.arch.imports.parts import (
    EXPERT_FIELDS,
    PREDICTS_MORE,
    Draft,
    Layers,
    by_window,
    deepseek_experts,
    gated_delta,
    latent_attention,
    read_attention,
    read_n_layers,
    read_tied,
    sparse_behind_dense,
    with_mlps,
)
from hybridbench.arch.imports.reader import Fields


def _lfm3(read: Fields, d_model: int) -> Draft:
    """LFM3: short convolutions, windows and full attention; a gate on every head, two norms around each sublayer."""
    n_layers = read_n_layers(read)
    gated = read.flag("use_attention_gate", True)
    bias = read.flag("attention_bias")
    attention = read_attention(read, d_model, head_dim=128, kv_heads=4, bias=bias, qk_norm="head", head_gated=gated)
    conv = ShortConv(d_model, read.size("conv_L_cache", 7), bias=read.flag("conv_bias"))
    words = {"conv": "C", "sliding_attention": "S", "full_attention": "*"}
    default = ["*" if index % 4 == 2 else "C" if index % 4 or not index else "S" for index in range(n_layers)]
    letters = read.layer_types("layer_types", n_layers, words, default)
    windowed = by_window(letters, attention, read.maybe("sliding_window", 256))
    mixers: Layers = [("C", conv) if letter == "C" else mixer for letter, mixer in zip(letters, windowed, strict=True)]
    mlp = Mlp(d_model, read.size("intermediate_size"))
    norms = 2 if read.flag("use_sandwich_norm", True) else 1
    tied = read_tied(read, True)
    read.finish()
    return Draft(with_mlps(mixers, mlp), tied, norms)


def _bailing_hybrid(read: Fields, d_model: int) -> Draft:
    """Ling 3: Kimi delta attention with full matrices for decay and gate, gated latent attention, experts."""
    n_layers = read_n_layers(read)
    latent = replace(latent_attention(read, d_model, None), head_gated=True)
    # A file that the class wrote has a rotary key's width under head_dim, and the recurrence's under another name.
    heads = read.maybe("linear_num_heads") or latent.n_heads
    width = read.maybe("linear_head_dim") or read.size("head_dim", 128)
    taps = read.maybe("linear_conv_kernel_dim") or read.size("short_conv_kernel_size", 4)
    delta = Kda(d_model, heads, width, d_conv=taps, full_rank=True)
    every = read.size("layer_group_size", 6)
    default = ["K" if (index + 1) % every else "A" for index in range(n_layers)]
    letters = read.layer_types("layer_types", n_layers, {"linear_attention": "K", "full_attention": "A"}, default)
    mixers: Layers = [("K", delta) if letter == "K" else ("A", latent) for letter in letters]
    experts = deepseek_experts(
        read,
        d_model,
        read.first("num_local_experts", "num_experts"),
        read.first("num_experts_per_tok", "num_experts_per_token"),
        read.first("n_shared_experts", "num_shared_experts"),
        (512, 8, 1),
    )
    blocks = sparse_behind_dense(read, d_model, n_layers, experts, read.size("first_k_dense_replace", 2, least=0))
    read.flag("tie_word_embeddings")  # the class ties nothing
    read.finish(
        (
            *PREDICTS_MORE,
            *("num_key_value_heads", "head_dim", "qk_head_dim", "short_conv_kernel_size", "kda_safe_gate"),
            *("kda_lower_bound", "mtp_loss_scaling_factor", "model_max_length", "moe_renormalize", "num_expert_group"),
        )
    )
    return Draft(with_mlps(mixers, blocks), tied=False)


def _lara_mini(read: Fields, d_model: int) -> Draft:
    """Lara Mini: gated delta net, windows and full attention in turn; experts with a shared one in all layers."""
    n_layers = read_n_layers(read)
    bias = read.flag("attention_bias")
    attention = read_attention(read, d_model, head_dim=128, kv_heads=4, bias=bias, qk_norm="head")
    delta = gated_delta(read, d_model, (8, 16, 128, 128))
    words = {"linear_attention": "G", "sliding_attention": "S", "full_attention": "*"}
    default = ["GSG*S"[index % 5] for index in range(n_layers)]
    letters = read.layer_types("layer_types", n_layers, words, default)
    windowed = by_window(letters, attention, read.maybe("sliding_window", 512))
    mixers: Layers = [("G", delta) if letter == "G" else mixer for letter, mixer in zip(letters, windowed, strict=True)]
    experts = read.build(
        EXPERT_FIELDS,
        Moe,
        d_model,
        read.size("moe_intermediate_size"),
        read.size(read.first("num_experts", "num_local_experts"), 128),
        read.size("num_experts_per_tok", 4),
        d_shared=read.size("shared_expert_intermediate_size"),
    )
    tied = read_tied(read, True)
    read.finish()
    return Draft(with_mlps(mixers, experts), tied)


TYPES: dict[str, Callable[[Fields, int], Draft]] = {
    "lfm3": _lfm3,
    "lara_mini": _lara_mini,
    "bailing_hybrid": _bailing_hybrid,
}
"""Maps a model type to the function that reads it."""
