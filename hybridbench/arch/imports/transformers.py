"""transformers: model types with only attention and feed-forward blocks."""

from __future__ import annotations

from collections.abc import Callable

from hybridbench.arch.block import Block
from hybridbench.arch.blocks.attention import Attention
from hybridbench.arch.blocks.mlp import Mlp
from hybridbench.arch.blocks.moe import Moe
from hybridbench.arch.imports.parts import (
    ATTENTION_WORDS,
    Draft,
    Layers,
    by_window,
    deepseek_experts,
    latent_attention,
    pick,
    qwen_experts,
    read_attention,
    read_mlp,
    read_n_layers,
    read_tied,
    sparse_layers,
    with_mlps,
)
from hybridbench.arch.imports.reader import Fields


def _llama(read: Fields, d_model: int) -> Draft:
    attention = read_attention(read, d_model, bias=read.flag("attention_bias"))
    mlp = read_mlp(read, d_model, bias=read.flag("mlp_bias"))
    tied = read_tied(read)
    n_layers = read_n_layers(read)
    read.finish()
    return Draft(with_mlps([("*", attention)] * n_layers, mlp), tied)


def _mistral(read: Fields, d_model: int) -> Draft:
    """Mistral, Mixtral and Phi-3: one window for all layers, or none."""
    attention = read_attention(read, d_model, kv_heads=None if read.model_type == "phi3" else 8)
    window = read.maybe("sliding_window", 4096 if read.model_type == "mistral" else None)
    mixers = by_window(["S"] * read_n_layers(read), attention, window)
    block: Block = read_mlp(read, d_model)
    if read.model_type == "mixtral":
        assert isinstance(block, Mlp)
        name = read.first("num_local_experts", "num_experts")
        experts, top_k = read.size(name, 8), read.size("num_experts_per_tok", 2)
        block = read.build((name, "num_experts_per_tok"), Moe, d_model, block.d_ff, experts, top_k)
    tied = read_tied(read)
    for bias in ("attention_bias", "mlp_bias", "lm_head_bias"):  # Phi's files have them, and no class reads them
        read.must(bias, False)
    read.must("full_attn_mod", 1)
    read.finish(("interpolate_factor",))
    return Draft(with_mlps(mixers, block), tied)


def _qwen_window(read: Fields) -> int | None:
    """The window; None unless use_sliding_window turns it on."""
    if read.flag("use_sliding_window"):
        return read.maybe("sliding_window", 4096)
    read.value("sliding_window")
    return None


def _qwen_mixers(read: Fields, attention: Attention, n_layers: int) -> Layers:
    """Qwen's attention: windows are in the layers that layer_types names, or from max_window_layers on."""
    window = _qwen_window(read)
    first = read.size("max_window_layers", 28, least=0)
    alternates = read.model_type == "qwen2_moe"
    default = [
        "S" if (index % 2 == 0 and index < first if alternates else index >= first) else "*"
        for index in range(n_layers)
    ]
    return by_window(read.layer_types("layer_types", n_layers, ATTENTION_WORDS, default), attention, window)


def _qwen(read: Fields, d_model: int) -> Draft:
    """Qwen 2 and 3, dense and sparse."""
    newer, sparse = read.model_type.startswith("qwen3"), read.model_type.endswith("_moe")
    n_layers = read_n_layers(read)
    if newer:
        kv_heads, head_dim = (4, None) if sparse else (32, 128)
        bias = read.flag("attention_bias")
        variants = {"bias": bias, "null_kv_heads": not sparse}
        attention = read_attention(read, d_model, kv_heads=kv_heads, head_dim=head_dim, qk_norm="head", **variants)
    else:
        bias = read.flag("qkv_bias", True) if sparse else True
        kv_heads = 16 if sparse else 32
        attention = read_attention(read, d_model, kv_heads=kv_heads, null_kv_heads=not sparse, qkv_bias=bias)
    if newer and sparse:
        mixers = by_window(["S"] * n_layers, attention, _qwen_window(read))
        read.value("max_window_layers")
    else:
        mixers = _qwen_mixers(read, attention, n_layers)
    blocks: list[Block] = [read_mlp(read, d_model)] * n_layers
    if sparse:
        experts = qwen_experts(read, d_model, *((128, 8) if newer else (60, 4)), shared=not newer)
        blocks = pick(blocks[0], experts, sparse_layers(read, n_layers))
    tied = read_tied(read)
    read.finish()
    return Draft(with_mlps(mixers, blocks), tied)


def _gemma(read: Fields, d_model: int) -> Draft:
    """Gemma 1 to 3. Gemma 2 and 3 have a norm before and a norm after each sublayer."""
    kind, n_layers = read.model_type, read_n_layers(read)
    read.must("use_bidirectional_attention", False)
    bias = read.flag("attention_bias")
    kv_heads = 16 if kind == "gemma" else 4
    qk_norm = "head" if kind == "gemma3_text" else "none"
    attention = read_attention(read, d_model, head_dim=256, kv_heads=kv_heads, bias=bias, qk_norm=qk_norm)
    mixers: Layers = [("*", attention)] * n_layers
    if kind != "gemma":
        every = read.size("sliding_window_pattern", 6) if kind == "gemma3_text" else 2
        default = ["S" if (index + 1) % every else "*" for index in range(n_layers)]
        letters = read.layer_types("layer_types", n_layers, ATTENTION_WORDS, default)
        mixers = by_window(letters, attention, read.maybe("sliding_window", 4096))
    mlp = read_mlp(read, d_model)
    tied = read_tied(read, True)
    read.finish(("cache_implementation", "_sliding_window_pattern", "sliding_window_size"))
    return Draft(with_mlps(mixers, mlp), tied, norms=1 if kind == "gemma" else 2)


def _olmo(read: Fields, d_model: int) -> Draft:
    """OLMo 2 and 3: a norm after each sublayer, and norms over all heads of queries and of keys."""
    n_layers = read_n_layers(read)
    attention = read_attention(read, d_model, bias=read.flag("attention_bias"), qk_norm="full")
    mixers: Layers = [("*", attention)] * n_layers
    if read.model_type == "olmo3":
        default = ["S" if (index + 1) % 4 else "*" for index in range(n_layers)]
        letters = read.layer_types("layer_types", n_layers, ATTENTION_WORDS, default)
        mixers = by_window(letters, attention, read.maybe("sliding_window", 4096))
    mlp = read_mlp(read, d_model)
    tied = read_tied(read)
    read.finish()
    return Draft(with_mlps(mixers, mlp), tied)


def _deepseek(read: Fields, d_model: int) -> Draft:
    n_layers = read_n_layers(read)
    attention = latent_attention(read, d_model, 1536)
    read.must("moe_layer_freq", 1)
    read.not_null("num_mtp_layers")
    dense_first = read.size("first_k_dense_replace", 3, least=0)
    routed = read.first("n_routed_experts", "num_local_experts")
    experts = deepseek_experts(read, d_model, routed, "num_experts_per_tok", "n_shared_experts")
    blocks = pick(read_mlp(read, d_model), experts, [index >= dense_first for index in range(n_layers)])
    tied = read_tied(read)
    read.finish(
        (
            *("num_key_value_heads", "head_dim", "qk_head_dim", "ep_size", "aux_loss_alpha", "seq_aux"),
            *("num_nextn_predict_layers", "num_mtp_layers"),
        )
    )
    return Draft(with_mlps([("A", attention)] * n_layers, blocks), tied)


TYPES: dict[str, Callable[[Fields, int], Draft]] = {
    **dict.fromkeys(("llama", "granite"), _llama),
    **dict.fromkeys(("mistral", "mixtral", "phi3"), _mistral),
    **dict.fromkeys(("qwen2", "qwen2_moe", "qwen3", "qwen3_moe"), _qwen),
    **dict.fromkeys(("gemma", "gemma2", "gemma3_text"), _gemma),
    **dict.fromkeys(("olmo2", "olmo3"), _olmo),
    "deepseek_v3": _deepseek,
}
"""Maps a model type to the function that reads it."""
