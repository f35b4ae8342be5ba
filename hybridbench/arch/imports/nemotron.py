"""nemotron: Nemotron-H and Nemotron 3, each of whose layers is one mixer or one feed-forward block."""

from __future__ import annotations

from collections.abc import Callable

from hybridbench.arch.block import Block
from hybridbench.arch.blocks.attention import Attention
from hybridbench.arch.blocks.mamba2 import Mamba2
from hybridbench.arch.blocks.moe import Moe
from hybridbench.arch.imports.parts import ATTENTION_FIELDS, MAX_LAYERS, Draft, read_kv_heads, read_mlp
from hybridbench.arch.imports.reader import Fields, shown, shown_name

_WORDS = {
    "linear_attention": "M",
    "mamba": "M",
    "full_attention": "*",
    "attention": "*",
    "moe": "E",
    "mlp": "-",
}


def _letters(read: Fields) -> list[str]:
    """One letter per sublayer, from the pattern or from the list of kinds. Its length is the number of sublayers."""
    n_layers = read.maybe("num_hidden_layers")
    read.not_null("layer_types", "mamba_expand", "expand")
    name = read.first("layers_block_type", "layer_types")
    pattern = read.value("hybrid_override_pattern")
    if name in read:
        listed = read.value(name)
        count = len(listed) if n_layers is None and isinstance(listed, list) else n_layers or 0
        return read.layer_types(name, count, _WORDS, None)
    if not isinstance(pattern, str) or not pattern:
        read.wrong(
            "hybrid_override_pattern",
            "it has neither hybrid_override_pattern nor layers_block_type: add the one it was saved with.",
        )
        return []
    unknown = next((letter for letter in pattern if letter not in "M*-E"), None)
    if unknown is not None:
        read.wrong(
            "hybrid_override_pattern",
            f"hybrid_override_pattern {shown(pattern)} has {shown_name(unknown)!r}: Nemotron-H's letters are M, *, "
            f"- and E.",
        )
    if n_layers is not None and len(pattern) != n_layers:
        more = "longer" if len(pattern) > n_layers else "shorter"
        read.contradict(
            ("hybrid_override_pattern", "num_hidden_layers"),
            f"hybrid_override_pattern has {len(pattern)} layers, {more} than num_hidden_layers {n_layers}: "
            f"make the two agree.",
        )
    if len(pattern) > MAX_LAYERS:
        read.wrong(
            "hybrid_override_pattern",
            f"hybrid_override_pattern has {len(pattern)} layers: hybridbench reads up to {MAX_LAYERS}.",
        )
    return [letter for letter in pattern if letter in "M*-E"]


def _nemotron_h(read: Fields, d_model: int) -> Draft:
    """Nemotron-H and Nemotron 3: each layer is one mixer or one feed-forward block without a gate."""
    letters = _letters(read)
    if letters and not {"M", "*"} & set(letters):
        name = read.first("layers_block_type", "layer_types")
        name, listed = (name if name in read else "hybrid_override_pattern"), "".join(letters)
        read.wrong(name, f"{name} {shown_name(listed)} has no layer that mixes positions: add M or *.")
    bias, mlp_bias = read.flag("use_bias"), read.flag("mlp_bias")
    heads, head_dim = read.size("mamba_num_heads", 128), read.size("mamba_head_dim", 64)
    read.must("attention_bias", False)
    read.must("mamba_proj_bias", False)
    read.must("sliding_window")
    made: dict[str, Callable[[], Block]] = {
        "M": lambda: read.build(
            ("mamba_num_heads", "mamba_head_dim", "n_groups", "mamba_n_groups"),
            Mamba2,
            d_model,
            heads * head_dim,
            head_dim,
            read.size("ssm_state_size", 128),
            n_groups=read.size(read.first("n_groups", "mamba_n_groups"), 8),
            d_conv=read.size(read.first("conv_kernel", "mamba_d_conv"), 4),
            chunk_size=read.size(read.first("chunk_size", "mamba_chunk_size"), 128),
            conv_bias=read.flag(read.first("use_conv_bias", "mamba_conv_bias"), True),
            in_bias=bias,
            out_bias=bias,
        ),
        "*": lambda: _attention(read, d_model),
        "-": lambda: read_mlp(read, d_model, gated=False, bias=mlp_bias),
        "E": lambda: _experts(read, d_model, mlp_bias),
    }
    blocks = {letter: make() for letter, make in made.items() if letter in letters}
    read.flag("tie_word_embeddings")  # the class ties nothing
    read.finish(_UNUSED)
    return Draft([(letter, blocks[letter]) for letter in letters], tied=False)


def _attention(read: Fields, d_model: int) -> Attention:
    """Attention, whose width the class reads from head_dim only. Released files have attention_head_dim too."""
    heads, width = read.size("num_attention_heads"), read.size("head_dim", 128)
    read.must("attention_head_dim", width)
    return read.build(
        ATTENTION_FIELDS, Attention, d_model, heads, read_kv_heads(read, heads, 8, null=False), width, width
    )


_UNUSED = (
    # Fields of kinds that the pattern lacks, and fields that only scale, initialise, or predict further tokens.
    *("intermediate_size", "num_attention_heads", "num_key_value_heads", "ssm_state_size", "n_groups", "conv_kernel"),
    *("chunk_size", "use_conv_bias", "mamba_n_groups", "mamba_d_conv", "mamba_chunk_size", "mamba_conv_bias"),
    *("n_routed_experts", "num_local_experts", "num_experts_per_tok", "moe_intermediate_size", "n_shared_experts"),
    *("moe_shared_expert_intermediate_size", "moe_latent_size", "expand", "mamba_expand", "mlp_hidden_act"),
    *("mamba_hidden_act", "mamba_ssm_cache_dtype", "moe_shared_expert_overlap", "num_nextn_predict_layers"),
    *("mtp_layers_block_type", "mtp_hybrid_override_pattern", "mamba_dt_min", "mamba_dt_max", "mamba_dt_limit"),
    *("mamba_dt_init_floor", "attention_head_dim", "head_dim"),
)


def _experts(read: Fields, d_model: int, bias: bool) -> Moe:
    if bias:
        read.wrong(
            "mlp_bias",
            "mlp_bias is true in a model with experts: hybridbench reads such a nemotron_h with false only.",
        )
    read.must("n_shared_experts", 1)
    name = read.first("n_routed_experts", "num_local_experts")
    return read.build(
        (name, "num_experts_per_tok"),
        Moe,
        d_model,
        read.size("moe_intermediate_size"),
        read.size(name),
        read.size("num_experts_per_tok"),
        d_shared=read.size("moe_shared_expert_intermediate_size"),
        gated=False,
        latent=read.maybe("moe_latent_size"),
    )


TYPES: dict[str, Callable[[Fields, int], Draft]] = {"nemotron_h": _nemotron_h}
"""Maps a model type to the function that reads it."""
