"""linear: model types with another linear recurrence: RG-LRU, delta rules, short convolution, lightning attention."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from hybridbench.arch.blocks.gated_delta import GatedDelta
from hybridbench.arch.blocks.kda import Kda
from hybridbench.arch.blocks.lightning import Lightning
from hybridbench.arch.blocks.mlp import Mlp
from hybridbench.arch.blocks.moe import Moe
from hybridbench.arch.blocks.rg_lru import RgLru
from hybridbench.arch.blocks.short_conv import ShortConv
from hybridbench.arch.imports.parts import (
    DELTA_FIELDS,
    Draft,
    Layers,
    deepseek_experts,
    gated_delta,
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
from hybridbench.arch.imports.reader import Fields, shown


def _recurrent_gemma(read: Fields, d_model: int) -> Draft:
    n_layers = read_n_layers(read)
    attention = read_attention(read, d_model, bias=read.flag("attention_bias"))
    read.must("head_dim", d_model // attention.n_heads)
    window = read.size(read.first("attention_window_size", "sliding_window"), 2048)
    near = replace(attention, window=window, out_bias=True)
    width = read.maybe("lru_width")
    read.default("lru_width", d_model)
    width = d_model if width is None else width
    names = ("lru_width", "num_attention_heads", "hidden_size")
    recurrent = read.build(names, RgLru, d_model, width, attention.n_heads, d_conv=read.size("conv1d_width", 4))
    words = {"recurrent": "R", "attention": "S"}
    # Released files call it _block_types, the name under which older classes kept it.
    name = read.first("block_types", "_block_types")
    cycle = read.value(name, ["recurrent", "recurrent", "attention"])
    if (
        not isinstance(cycle, list)
        or not cycle
        or any(not isinstance(word, str) or word not in words for word in cycle)
    ):
        read.wrong(name, f"{name} is {shown(cycle)}: give a list of 'recurrent' and 'attention'.")
        cycle = list(words)
    letters = [words[cycle[index % len(cycle)]] for index in range(n_layers)]
    mixers: Layers = [("S", near) if letter == "S" else ("R", recurrent) for letter in letters]
    both = read.size("intermediate_size", least=2)
    tied = read_tied(read, True)
    read.finish(("w_init_variance_scale", "final_w_init_variance_scale", "embeddings_scale_by_sqrt_dim", "conv1d_bias"))
    return Draft(with_mlps(mixers, Mlp(d_model, both // 2, bias=True)), tied)


def _qwen_next(read: Fields, d_model: int) -> Draft:
    """Qwen3-Next and Qwen 3.5: gated delta net, and attention with an output gate in every fourth layer."""
    kind, n_layers = read.model_type, read_n_layers(read)
    kv_heads = {"qwen3_5_text": 4}.get(kind, 2)
    bias = read.flag("attention_bias")
    attention = read_attention(read, d_model, head_dim=256, kv_heads=kv_heads, bias=bias, qk_norm="head", gated=True)
    delta = gated_delta(read, d_model, (16, 32, 128, 128))
    every = read.size("full_attention_interval", 4)
    words = {"linear_attention": "G", "full_attention": "*"}
    default = ["G" if (index + 1) % every else "*" for index in range(n_layers)]
    letters = read.layer_types("layer_types", n_layers, words, default)
    mixers: Layers = [("G", delta) if letter == "G" else ("*", attention) for letter in letters]
    read.must("attn_output_gate", True)
    read.must("output_gate_type", "swish", "silu")
    if kind == "qwen3_next":
        experts = qwen_experts(read, d_model, 512, 10, shared=True)
        where = sparse_layers(read, n_layers)
        dense = experts if all(where) else read_mlp(read, d_model)
        blocks = pick(dense, experts, where)
    elif kind == "qwen3_5_moe_text":
        blocks = [qwen_experts(read, d_model, 256, 8, shared=True)] * n_layers
        read.must("mlp_only_layers", [])
    else:
        blocks = [read_mlp(read, d_model)] * n_layers
        read.must("mlp_only_layers", [])
    tied = read_tied(read)
    read.finish(
        (
            *("intermediate_size", "mtp_num_hidden_layers", "mtp_use_dedicated_embeddings", "mamba_ssm_dtype"),
            *("use_sliding_window", "sliding_window", "max_window_layers"),
        )
    )
    return Draft(with_mlps(mixers, blocks), tied)


def _olmo_hybrid(read: Fields, d_model: int) -> Draft:
    """OLMo-Hybrid: gated delta net after its norm, attention before its norm; each sublayer has one norm."""
    n_layers = read_n_layers(read)
    attention = read_attention(read, d_model, bias=read.flag("attention_bias"), qk_norm="full")
    heads = attention.n_heads
    key_heads = read.maybe("linear_num_key_heads") or heads
    key = read.maybe("linear_key_head_dim") or int(0.75 * d_model / key_heads)
    value_heads, value = read.maybe("linear_num_value_heads") or heads, read.maybe("linear_value_head_dim") or 2 * key
    for name, size in zip(DELTA_FIELDS, (value_heads, key_heads, key, value), strict=True):
        read.default(name, size)
    delta = read.build(
        (*DELTA_FIELDS, "hidden_size"),
        GatedDelta,
        d_model,
        n_heads=value_heads,
        n_k_heads=key_heads,
        k_head_dim=key,
        v_head_dim=value,
        d_conv=read.size("linear_conv_kernel_dim", 4),
    )
    words = {"linear_attention": "G", "full_attention": "*"}
    default = ["*" if index % 4 == 3 else "G" for index in range(n_layers)]
    if "*" not in default:
        default[-1] = "*"
    letters = read.layer_types("layer_types", n_layers, words, default)
    mixers: Layers = [("G", delta) if letter == "G" else ("*", attention) for letter in letters]
    read.must("linear_use_gate", True)
    mlp = read_mlp(read, d_model)
    tied = read_tied(read)
    read.finish(
        (
            *("linear_a_log_min", "linear_a_log_max", "linear_dt_min", "linear_dt_max", "linear_dt_init_floor"),
            *("linear_allow_neg_eigval",),
        )
    )
    return Draft(with_mlps(mixers, mlp), tied)


def _kimi_linear(read: Fields, d_model: int) -> Draft:
    """Kimi delta attention, latent attention in some layers, experts in all but the first."""
    n_layers = read_n_layers(read)
    latent = latent_attention(read, d_model, None)
    inside = read.nested("linear_attn_config")
    delta = Kda(
        d_model,
        _kimi_size(read, inside, "num_heads", "linear_num_heads", 32),
        _kimi_size(read, inside, "head_dim", "linear_head_dim", 128),
        d_conv=_kimi_size(read, inside, "short_conv_kernel_size", "linear_conv_kernel_dim", 4),
    )
    listed = "full_attn_layers" in inside and "kda_layers" in inside
    default = ["A" if index and index % 4 == 0 else "K" for index in range(n_layers)]
    if listed:
        default = _listed_layers(inside, n_layers)
    inside.finish(("full_attn_layers", "kda_layers"))
    letters = read.layer_types("layer_types", n_layers, {"linear_attention": "K", "full_attention": "A"}, default)
    mixers: Layers = [("K", delta) if letter == "K" else ("A", latent) for letter in letters]
    experts = deepseek_experts(
        read,
        d_model,
        read.first("num_experts", "num_local_experts"),
        read.first("num_experts_per_token", "num_experts_per_tok"),
        read.first("num_shared_experts", "n_shared_experts"),
    )
    read.must("moe_layer_freq", 1)
    read.not_null("max_position_embeddings", "norm_topk_prob", "n_group")
    dense_first = read.size("first_k_dense_replace", 1, least=0)
    sparse = ["-" if index < dense_first else "E" for index in range(n_layers)]
    sparse = read.layer_types("mlp_layer_types", n_layers, {"dense": "-", "sparse": "E"}, sparse)
    blocks = pick(read_mlp(read, d_model), experts, [letter == "E" for letter in sparse])
    read.flag("tie_word_embeddings")  # the class ties nothing
    read.finish(
        (
            *("num_key_value_heads", "head_dim", "qk_head_dim", "model_max_length", "moe_renormalize"),
            *("num_expert_group",),
            *("moe_router_activation_func", "mla_use_nope", "use_grouped_topk", "num_nextn_predict_layers"),
        )
    )
    return Draft(with_mlps(mixers, blocks), tied=False)


def _kimi_size(read: Fields, inside: Fields, name: str, outside: str, default: int) -> int:
    """A size of the delta rule: the class takes the nested field before the one beside it."""
    if name not in inside:
        return read.size(outside, default)
    size = inside.size(name)
    read.must(outside, size)
    return size


def _listed_layers(inside: Fields, n_layers: int) -> list[str]:
    """Kimi's two lists of 1-based layers. Together they must name every layer once."""
    letters: dict[int, str] = {}
    for name, letter in (("kda_layers", "K"), ("full_attn_layers", "A")):
        for number in inside.indices(name, n_layers, first=1):
            if number in letters:
                inside.wrong(name, f"{name} names layer {number} a second time: name each once.")
            letters[number] = letter
    missing = [number for number in range(1, n_layers + 1) if number not in letters]
    if missing:
        inside.contradict(
            ("kda_layers", "full_attn_layers"),
            f"kda_layers and full_attn_layers leave out layer {missing[0]} of {n_layers}: name it in one of them.",
        )
    return [letters.get(number, "K") for number in range(1, n_layers + 1)]


def _lfm2_width(read: Fields, width: int) -> int:
    """LFM2's feed-forward width: two thirds of intermediate_size, times a factor, rounded up."""
    multiple = read.size("block_multiple_of", 256)
    adjusts = read.flag("block_auto_adjust_ff_dim", True)
    factor = read.number("block_ffn_dim_multiplier", 1.0)
    if not adjusts:
        return width
    return multiple * -(-int(factor * int(2 * width / 3)) // multiple)


def _lfm2(read: Fields, d_model: int) -> Draft:
    """LFM2, dense and sparse: gated short convolutions, and attention in some layers."""
    n_layers = read_n_layers(read)
    attention = read_attention(read, d_model, kv_heads=8, qk_norm="head")
    conv = ShortConv(d_model, read.size("conv_L_cache", 3), bias=read.flag("conv_bias"))
    words = {"conv": "C", "full_attention": "*"}
    places = read.indices("full_attn_idxs", n_layers, range(n_layers))
    sparse = read.model_type == "lfm2_moe"
    default = None if sparse else ["*" if index in places else "C" for index in range(n_layers)]
    letters = read.layer_types("layer_types", n_layers, words, default)
    mixers: Layers = [("C", conv) if letter == "C" else ("*", attention) for letter in letters]
    name = "intermediate_size" if sparse else read.first("intermediate_size", "block_ff_dim")
    tie_name = read.first("tie_embedding", "tie_word_embeddings")
    width = read.size(name)
    if sparse:
        read.must("block_ff_dim", width)
        experts = read.build(
            ("num_experts", "num_experts_per_tok"),
            Moe,
            d_model,
            read.size("moe_intermediate_size"),
            read.size("num_experts", 32),
            read.size("num_experts_per_tok", 4),
        )
        dense = read.size("num_dense_layers", 2, least=0)
        blocks = pick(Mlp(d_model, width), experts, [index >= dense for index in range(n_layers)])
    else:
        named = (name, "block_ffn_dim_multiplier", "block_multiple_of")
        blocks = [read.build(named, Mlp, d_model, _lfm2_width(read, width))] * n_layers
    for other in ("block_dim", "conv_dim", "conv_dim_out"):
        read.must(other, d_model)
    read.must("num_heads", attention.n_heads)
    read.must("block_use_swiglu", True)
    tied = read.flag(tie_name, True)
    read.default(tie_name, True)
    read.finish(
        (
            *("block_mlp_init_scale", "block_out_init_scale", "block_norm_eps", "block_use_xavier_init"),
            *("conv_use_xavier_init", "theta", "use_pos_enc", "use_expert_bias"),
        )
    )
    return Draft(with_mlps(mixers, blocks), tied)


def _minimax(read: Fields, d_model: int) -> Draft:
    """MiniMax: lightning attention, softmax attention in some layers, experts in all."""
    n_layers = read_n_layers(read)
    attention = read_attention(read, d_model, kv_heads=8)
    lightning = Lightning(d_model, attention.n_heads, attention.head_dim, chunk_size=read.size("block_size", 256))
    words = {"linear_attention": "L", "full_attention": "*"}
    default = ["L" if index % 2 else "*" for index in range(n_layers)]
    letters = read.layer_types("layer_types", n_layers, words, default)
    mixers: Layers = [("L", lightning) if letter == "L" else ("*", attention) for letter in letters]
    read.must("sliding_window")
    name = read.first("num_local_experts", "num_experts")
    experts = read.build(
        (name, "num_experts_per_tok"),
        Moe,
        d_model,
        read.size("intermediate_size"),
        read.size(name, 8),
        read.size("num_experts_per_tok", 2),
    )
    read.must("postnorm", True)
    read.must("shared_intermediate_size", 0)
    tied = read_tied(read)
    factors = (f"{part}_{which}_factor" for part in ("full_attn", "linear_attn", "mlp") for which in ("alpha", "beta"))
    read.finish((*factors, "rotary_dim", "shared_moe_mode"))
    return Draft(with_mlps(mixers, experts), tied)


TYPES: dict[str, Callable[[Fields, int], Draft]] = {
    "recurrent_gemma": _recurrent_gemma,
    **dict.fromkeys(("qwen3_next", "qwen3_5_text", "qwen3_5_moe_text"), _qwen_next),
    **dict.fromkeys(("lfm2", "lfm2_moe"), _lfm2),
    "kimi_linear": _kimi_linear,
    "olmo_hybrid": _olmo_hybrid,
    "minimax": _minimax,
}
"""Maps a model type to the function that reads it."""
