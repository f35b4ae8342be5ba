"""expert_types: more model types with attention and experts: gpt-oss, GLM, MiniMax-M2, DeepSeek, JetMoE."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields

from hybridbench.arch.blocks.indexed import IndexedAttention
from hybridbench.arch.blocks.latent import LatentAttention
from hybridbench.arch.blocks.moe import Moe
from hybridbench.arch.blocks.routed_attention import RoutedAttention
from hybridbench.arch.imports.parts import (
    ATTENTION_WORDS,
    EXPERT_FIELDS,
    PREDICTS_MORE,
    Draft,
    by_window,
    deepseek_experts,
    latent_attention,
    pick,
    read_attention,
    read_mlp,
    read_n_layers,
    read_tied,
    sparse_behind_dense,
    with_mlps,
)
from hybridbench.arch.imports.reader import Fields


def _gpt_oss(read: Fields, d_model: int) -> Draft:
    """gpt-oss: windows in every other layer, a learned logit of each head in every softmax, biases everywhere."""
    n_layers = read_n_layers(read)
    bias = read.flag("attention_bias", True)
    attention = read_attention(read, d_model, head_dim=64, kv_heads=8, bias=bias, sink_logits=True)
    default = ["*" if index % 2 else "S" for index in range(n_layers)]
    letters = read.layer_types("layer_types", n_layers, ATTENTION_WORDS, default)
    mixers = by_window(letters, attention, read.maybe("sliding_window", 128))
    count = read.size(read.first("num_local_experts", "num_experts"), 128)
    top_k = read.size(read.first("num_experts_per_tok", "experts_per_token"), 4)
    experts = read.build(EXPERT_FIELDS, Moe, d_model, read.size("intermediate_size"), count, top_k, bias=True)
    tied = read_tied(read)
    read.finish(("swiglu_limit", "swiglu_alpha", "initial_context_length"))
    return Draft(with_mlps(mixers, experts), tied)


def _minimax_m2(read: Fields, d_model: int) -> Draft:
    """MiniMax-M2: full attention with norms over all heads, experts in every layer."""
    n_layers = read_n_layers(read)
    attention = read_attention(read, d_model, head_dim=128, kv_heads=8, qk_norm="full")
    read.must("use_qk_norm", True)
    read.must("qk_norm_type", "per_layer")
    read.must("attn_type_list", [1] * n_layers)
    read.must("shared_intermediate_size", 0)
    read.must("sliding_window")
    experts = read.build(
        EXPERT_FIELDS,
        Moe,
        d_model,
        read.size("intermediate_size"),
        read.size(read.first("num_local_experts", "num_experts"), 256),
        read.size("num_experts_per_tok", 8),
    )
    tied = read_tied(read)
    read.finish((*PREDICTS_MORE, "rotary_dim", "use_routing_bias", "layernorm_full_attention_beta"))
    return Draft(with_mlps([("*", attention)] * n_layers, experts), tied)


def _glm4_moe(read: Fields, d_model: int) -> Draft:
    """GLM-4.5 to 4.7: attention with biases on queries, keys and values only; experts behind dense layers."""
    n_layers = read_n_layers(read)
    qk_norm = "head" if read.flag("use_qk_norm") else "none"
    attention = read_attention(read, d_model, kv_heads=8, qkv_bias=read.flag("attention_bias"), qk_norm=qk_norm)
    routed = read.first("n_routed_experts", "num_local_experts")
    experts = deepseek_experts(read, d_model, routed, "num_experts_per_tok", "n_shared_experts", (128, 8, 1))
    dense_first = read.size("first_k_dense_replace", 1, least=0)
    blocks = pick(read_mlp(read, d_model), experts, [index >= dense_first for index in range(n_layers)])
    tied = read_tied(read)
    read.finish(PREDICTS_MORE)
    return Draft(with_mlps([("*", attention)] * n_layers, blocks), tied)


def _glm4_moe_lite(read: Fields, d_model: int) -> Draft:
    """GLM-4.7-Flash: latent attention, experts in all layers but the first."""
    n_layers = read_n_layers(read)
    attention = latent_attention(read, d_model, 768, nope_dim=192, v_head_dim=256)
    routed = read.first("n_routed_experts", "num_local_experts")
    experts = deepseek_experts(read, d_model, routed, "num_experts_per_tok", "n_shared_experts", (64, 4, 1))
    blocks = sparse_behind_dense(read, d_model, n_layers, experts, read.size("first_k_dense_replace", 1, least=0))
    tied = read_tied(read)
    read.finish((*PREDICTS_MORE, "num_key_value_heads", "head_dim", "qk_head_dim"))
    return Draft(with_mlps([("A", attention)] * n_layers, blocks), tied)


_DEEPSEEK_UNUSED = (
    "num_key_value_heads",
    "head_dim",
    "qk_head_dim",
    "ep_size",
    "aux_loss_alpha",
    "seq_aux",
    "mlp_bias",
)


def _deepseek_v2(read: Fields, d_model: int) -> Draft:
    n_layers = read_n_layers(read)
    attention = latent_attention(read, d_model, 1536)
    routed, top_k = read.first("n_routed_experts", "num_experts"), read.size("num_experts_per_tok")
    experts = deepseek_experts(read, d_model, routed, "num_experts_per_tok", "n_shared_experts", (64, top_k, 2))
    read.must("moe_layer_freq", 1)
    read.must("mlp_bias", False)
    dense_first = read.size("first_k_dense_replace", 0, least=0)
    blocks = pick(read_mlp(read, d_model), experts, [index >= dense_first for index in range(n_layers)])
    tied = read_tied(read)
    read.finish(_DEEPSEEK_UNUSED)
    return Draft(with_mlps([("A", attention)] * n_layers, blocks), tied)


def _deepseek_v32(read: Fields, d_model: int) -> Draft:
    """DeepSeek-V3.2: latent attention to the tokens that an indexer picks."""
    n_layers = read_n_layers(read)
    latent = latent_attention(read, d_model, 1536)
    attention = read.build(
        ("q_lora_rank",),
        IndexedAttention,
        **{field.name: getattr(latent, field.name) for field in fields(LatentAttention)},
        index_heads=read.size("index_n_heads", 64),
        index_dim=read.size("index_head_dim", 128),
        top_k=read.size("index_topk", 2048),
    )
    read.layer_types("layer_types", n_layers, {"indexed_attention": "I"}, ["I"] * n_layers)
    read.must("moe_layer_freq", 1)
    read.must("mlp_bias", False)
    routed = read.first("n_routed_experts", "num_local_experts", "num_experts")
    experts = deepseek_experts(read, d_model, routed, "num_experts_per_tok", "n_shared_experts")
    blocks = sparse_behind_dense(read, d_model, n_layers, experts, read.size("first_k_dense_replace", 3, least=0))
    tied = read_tied(read)
    read.finish((*_DEEPSEEK_UNUSED, *PREDICTS_MORE))
    return Draft(with_mlps([("I", attention)] * n_layers, blocks), tied)


def _jetmoe(read: Fields, d_model: int) -> Draft:
    """JetMoE: experts make the queries and outputs of attention too."""
    n_layers = read_n_layers(read)
    count, top_k = read.size("num_local_experts", 8), read.size("num_experts_per_tok", 2)
    kv_heads = read.size("num_key_value_heads", 16)
    width = read.size(read.first("kv_channels", "head_dim"), 128)
    attention = read.build(EXPERT_FIELDS, RoutedAttention, d_model, kv_heads, width, count, top_k)
    read.must("num_attention_heads", kv_heads * top_k)
    experts = read.build(EXPERT_FIELDS, Moe, d_model, read.size("intermediate_size"), count, top_k, out_bias=True)
    tied = read_tied(read, True)
    read.must("bias", True)
    read.must("glu", True)
    read.finish(("activation_function", "aux_loss_coef"))
    return Draft(with_mlps([("J", attention)] * n_layers, experts), tied)


TYPES: dict[str, Callable[[Fields, int], Draft]] = {
    "gpt_oss": _gpt_oss,
    "minimax_m2": _minimax_m2,
    "glm4_moe": _glm4_moe,
    "glm4_moe_lite": _glm4_moe_lite,
    "deepseek_v2": _deepseek_v2,
    "deepseek_v32": _deepseek_v32,
    "jetmoe": _jetmoe,
}
"""Maps a model type to the function that reads it."""
