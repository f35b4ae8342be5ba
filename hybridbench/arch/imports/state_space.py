"""state_space: model types with Mamba-1 or Mamba-2, with or without attention."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from hybridbench.arch.block import Block
from hybridbench.arch.blocks.attention import Attention
from hybridbench.arch.blocks.mamba1 import Mamba1
from hybridbench.arch.blocks.mamba2 import Mamba2
from hybridbench.arch.blocks.mlp import Mlp
from hybridbench.arch.blocks.moe import Moe
from hybridbench.arch.blocks.parallel import Fusion, Parallel
from hybridbench.arch.blocks.shared import SharedBlock
from hybridbench.arch.imports.parts import (
    ATTENTION_FIELDS,
    LINEAR_WORDS,
    Draft,
    Layers,
    pick,
    read_attention,
    read_kv_heads,
    read_mlp,
    read_n_layers,
    read_tied,
    with_mlps,
)
from hybridbench.arch.imports.reader import Fields


def _dt_rank(read: Fields, name: str, d_model: int) -> int:
    if read.value(name) in ("auto", None) and not read.is_null(name):
        rank = -(-d_model // 16)
        read.default(name, rank)
        return rank
    return read.size(name)


def _mamba(read: Fields, d_model: int) -> Draft:
    """Mamba-1 of state-spaces and of Falcon-Mamba, whose norms of dt, B and C have no weights."""
    width = read.maybe("intermediate_size")
    if width is None:
        width = read.factor("expand", d_model, 2)
    else:  # the class overwrites expand times hidden_size with it: Falcon-Mamba has an expand of 16 and a width of 8192
        read.value("expand")
    mixer = read.build(
        ("expand", "intermediate_size", "time_step_rank", "state_size"),
        Mamba1,
        d_model,
        width,
        _dt_rank(read, "time_step_rank", d_model),
        d_state=read.size("state_size"),
        d_conv=read.size("conv_kernel", 4),
        conv_bias=read.flag("use_conv_bias", True),
        proj_bias=read.flag("use_bias"),
    )
    read.must("d_inner", width)
    read.must("d_model", d_model)
    read.must("rms_norm", True)
    tied = read_tied(read, True)
    n_layers = read_n_layers(read)
    read.must("n_layer", n_layers)
    read.must("ssm_cfg", {})
    read.finish(("fused_add_norm", "pad_vocab_size_multiple", "mixer_rms_eps", "use_falcon_mambapy"))
    return Draft([("m", mixer)] * n_layers, tied)


def _check_width(read: Fields, names: Sequence[str], inner: int, heads: int, head_dim: int) -> None:
    if heads * head_dim != inner:
        read.contradict(
            (*names, "hidden_size"),
            f"{heads} Mamba heads of {head_dim} make {heads * head_dim} channels, and the config says {inner}: "
            f"make the two agree.",
        )


def _mamba2(read: Fields, d_model: int) -> Draft:
    inner = read.factor("expand", d_model, 2)
    heads, head_dim = read.size("num_heads"), read.size("head_dim", 64)
    _check_width(read, ("num_heads", "head_dim", "expand"), inner, heads, head_dim)
    bias = read.flag("use_bias")
    mixer = read.build(
        ("num_heads", "head_dim", "expand", "n_groups"),
        Mamba2,
        d_model,
        inner,
        head_dim,
        read.size("state_size"),
        n_groups=read.size("n_groups", 8),
        d_conv=read.size("conv_kernel", 4),
        chunk_size=read.size("chunk_size", 256),
        conv_bias=read.flag("use_conv_bias", True),
        in_bias=bias,
        out_bias=bias,
    )
    read.must("rms_norm", True)
    read.must("intermediate_size", inner)
    tied = read_tied(read)
    n_layers = read_n_layers(read)
    read.finish(("time_step_rank", "norm_before_gate"))
    return Draft([("M", mixer)] * n_layers, tied)


_WIDTHS = ("mamba_d_ssm", "mamba_expand", "hidden_size")


def _shared_width(read: Fields, name: str, width: int, heads: int) -> int:
    """``width`` divided among ``heads``, which the field ``name`` says."""
    if width % heads:
        read.contradict((name, *_WIDTHS), f"{heads} Mamba heads do not divide {width} channels: change {name}.")
    return max(1, width // heads)


def _prefixed_mamba2(read: Fields, d_model: int, inner: int, out_bias: bool | None = None, **variants: Any) -> Mamba2:
    """Mamba-2 with the field names of Bamba, Granite and Falcon-H1."""
    heads = read.size("mamba_n_heads", 128)
    if read.value("mamba_d_head") in ("auto", None) and not read.is_null("mamba_d_head"):
        head_dim = _shared_width(read, "mamba_n_heads", inner, heads)
        read.default("mamba_d_head", head_dim)
    else:
        head_dim = read.size("mamba_d_head")
        _check_width(read, ("mamba_n_heads", "mamba_d_head", *_WIDTHS), inner, heads, head_dim)
    bias = read.flag("mamba_proj_bias", null=False)
    return read.build(
        ("mamba_n_heads", "mamba_d_head", "mamba_n_groups", *_WIDTHS),
        Mamba2,
        d_model,
        inner,
        head_dim,
        read.size("mamba_d_state", 256),
        n_groups=read.size("mamba_n_groups", 1),
        d_conv=read.size("mamba_d_conv", 4),
        chunk_size=read.maybe("mamba_chunk_size", 256) or 256,
        conv_bias=read.flag("mamba_conv_bias", True, null=False),
        in_bias=bias,
        out_bias=bias if out_bias is None else out_bias,
        **variants,
    )


def _jamba(read: Fields, d_model: int) -> Draft:
    n_layers = read_n_layers(read)
    attention = read_attention(read, d_model, kv_heads=8)
    mamba = read.build(
        ("mamba_expand", "mamba_dt_rank", "mamba_d_state"),
        Mamba1,
        d_model,
        read.factor("mamba_expand", d_model, 2),
        _dt_rank(read, "mamba_dt_rank", d_model),
        d_state=read.size("mamba_d_state", 16),
        d_conv=read.size("mamba_d_conv", 4),
        inner_norms=True,
        conv_bias=read.flag("mamba_conv_bias", True),
        proj_bias=read.flag("mamba_proj_bias"),
    )
    places = {}
    for what, period, offset in (("attn", 8, 4), ("expert", 2, 1)):
        every = read.size(f"{what}_layer_period", period)
        start = read.size(f"{what}_layer_offset", offset, least=0)
        if start >= every:
            names = (f"{what}_layer_offset", f"{what}_layer_period")
            read.contradict(names, f"{names[0]} {start} is not below {names[1]} {every}: lower it.")
        places[what] = [index % every == start for index in range(n_layers)]
    mixers: Layers = [("*", attention) if here else ("m", mamba) for here in places["attn"]]
    mlp = read_mlp(read, d_model)
    name = read.first("num_experts", "num_local_experts")
    experts, top_k = read.size(name, 16), read.size("num_experts_per_tok", 2)
    sparse: Block = mlp
    if experts > 1:
        sparse = read.build((name, "num_experts_per_tok"), Moe, d_model, mlp.d_ff, experts, top_k)
    read.must("mamba_inner_layernorms", True)
    read.must("sliding_window")
    tied = read_tied(read)
    read.finish(("calc_logits_for_entire_prompt", "mamba_chunk_size"))
    return Draft(with_mlps(mixers, pick(mlp, sparse, places["expert"])), tied)


def _bamba(read: Fields, d_model: int) -> Draft:
    n_layers = read_n_layers(read)
    attention = read_attention(read, d_model, kv_heads=8, null_kv_heads=True, bias=read.flag("attention_bias"))
    mamba = _prefixed_mamba2(read, d_model, read.factor("mamba_expand", d_model, 2))
    places = read.indices("attn_layer_indices", n_layers)
    mixers: Layers = [("*", attention) if index in places else ("M", mamba) for index in range(n_layers)]
    mlp = read_mlp(read, d_model, bias=read.flag("mlp_bias"))
    tied = read_tied(read)
    read.must("num_experts", 1)
    read.finish(("attn_rotary_emb", "z_loss_coefficient"))
    return Draft(with_mlps(mixers, mlp), tied)


def _granite(read: Fields, d_model: int) -> Draft:
    """Granite 4: a shared expert in every layer, and routed experts where the config has any."""
    n_layers = read_n_layers(read)
    attention = read_attention(read, d_model, bias=read.flag("attention_bias"))
    read.not_null("layers_block_type")
    name = read.first("layer_types", "layers_block_type")
    letters = read.layer_types(name, n_layers, LINEAR_WORDS, ["M"] * n_layers)
    mamba = _prefixed_mamba2(read, d_model, read.factor("mamba_expand", d_model, 2)) if "M" in letters else None
    mixers: Layers = [("M", mamba) if letter == "M" and mamba else ("*", attention) for letter in letters]
    shared = read.size("shared_intermediate_size")
    experts = read.size("num_local_experts", 8, least=0)
    width, top_k = read.maybe("intermediate_size"), _granite_top_k(read, experts)
    block: Block = read.build(("shared_intermediate_size",), Mlp, d_model, shared)
    if experts:
        if width is None:
            read.wrong("intermediate_size", "it has no intermediate_size, the width of its experts: add it.")
        block = read.build(
            ("num_local_experts", "num_experts_per_tok"), Moe, d_model, width or 1, experts, top_k, d_shared=shared
        )
    read.must("normalization_function", "rmsnorm")
    tied = read_tied(read)
    read.finish(
        (
            *("position_embedding_type", "init_method", "mlp_bias"),
            *(field for field in _MAMBA_FIELDS if mamba is None),
        )
    )
    return Draft(with_mlps(mixers, block), tied)


def _granite_top_k(read: Fields, experts: int) -> int:
    """Experts of a token; a file without experts may have null."""
    if not experts and read.is_null("num_experts_per_tok"):
        return 0
    return read.size("num_experts_per_tok", 2, least=0)


_MAMBA_FIELDS = (
    *("mamba_n_heads", "mamba_d_head", "mamba_d_state", "mamba_n_groups", "mamba_d_conv", "mamba_chunk_size"),
    *("mamba_conv_bias", "mamba_proj_bias", "mamba_expand"),
)


def _falcon_h1(read: Fields, d_model: int) -> Draft:
    """Falcon-H1: attention and Mamba-2 in parallel on one input, their outputs added."""
    n_layers = read_n_layers(read)
    attention = read_attention(read, d_model, kv_heads=8, null_kv_heads=True, bias=read.flag("attention_bias"))
    inner = read.maybe("mamba_d_ssm", 1024)
    if inner is None or not read.is_null("mamba_expand"):
        expanded = read.factor("mamba_expand", d_model, 2)
        inner = expanded if inner is None else inner
    mamba = _prefixed_mamba2(
        read,
        d_model,
        inner,
        out_bias=read.flag("projectors_bias", null=False),
        gated_norm=read.flag("mamba_rms_norm", null=False),
    )
    both = Parallel(mamba, attention, Fusion(norm="none", op="add"))
    read.must("mamba_use_mlp", True)
    read.must("attn_layer_indices")
    mlp = read_mlp(read, d_model, bias=read.flag("mlp_bias"))
    tied = read_tied(read)
    read.finish(
        (
            *("mamba_norm_before_gate", "lm_head_multiplier", "mlp_multipliers", "key_multiplier", "ssm_multipliers"),
            *("attention_out_multiplier", "attention_in_multiplier", "ssm_in_multiplier", "ssm_out_multiplier"),
            *("attn_rotary_emb", "mlp_expansion_factor", "time_step_rank"),
        )
    )
    return Draft(with_mlps([("(*&M)", both)] * n_layers, mlp), tied)


def _zamba2(read: Fields, d_model: int) -> Draft:
    """Zamba2: Mamba-2 layers, some preceded by one of a few transformer blocks whose weights are shared.

    transformers ties the shared blocks only where the embedding is tied too: an untied file, which no release is, gets
    a copy for every use from its class. Here they are shared either way, as the authors' code shares them.
    """
    n_layers = read_n_layers(read)
    bias = read.flag("add_bias_linear")
    inner = read.factor("mamba_expand", d_model, 2)
    heads = read.size("n_mamba_heads")
    mamba_width = _shared_width(read, "n_mamba_heads", inner, heads)
    mamba = read.build(
        ("n_mamba_heads", "mamba_ngroups", *_WIDTHS),
        Mamba2,
        d_model,
        inner,
        mamba_width,
        read.size("mamba_d_state", 64),
        n_groups=read.size("mamba_ngroups", 1),
        d_conv=read.size("mamba_d_conv", 4),
        chunk_size=read.size("chunk_size", 256),
        in_bias=bias,
        out_bias=bias,
    )
    n_heads = read.size("num_attention_heads", 32)
    if 2 * d_model % n_heads:
        read.contradict(
            ("num_attention_heads", "hidden_size"),
            f"{n_heads} heads do not divide twice hidden_size {d_model}: change num_attention_heads.",
        )
    head_dim = max(1, 2 * d_model // n_heads)
    read.must("attention_head_dim", head_dim)
    read.must("head_dim", head_dim)
    read.not_null("attention_head_dim", "head_dim")
    read.must("attention_hidden_size", 2 * d_model)
    read.must("mamba_headdim", mamba_width)
    n_kv_heads = read_kv_heads(read, n_heads)
    attention = read.build(
        ATTENTION_FIELDS, Attention, d_model, n_heads, n_kv_heads, head_dim, head_dim, d_in=2 * d_model
    )
    ff = read.maybe("intermediate_size")
    read.default("intermediate_size", 4 * d_model)
    mlp = read.build(("intermediate_size",), Mlp, d_model, 4 * d_model if ff is None else ff, bias=bias)
    adapters = read.flag("use_shared_attention_adapter")
    if adapters and n_kv_heads != n_heads:
        read.contradict(
            ("use_shared_attention_adapter", "num_key_value_heads", "num_attention_heads"),
            "adapters on attention need as many key heads as query heads, as Zamba2 has: make them equal.",
        )
    shared = read.build(("adapter_rank",), SharedBlock, attention, mlp, read.size("adapter_rank", 128), adapters)
    n_blocks = read.size("num_mem_blocks", 1)
    words = {"linear_attention": "M", "mamba": "M", "hybrid": "Z"}
    letters = read.layer_types(read.first("layers_block_type", "layer_types"), n_layers, words, None)
    layers: Layers = []
    uses = 0
    for letter in letters:
        if letter == "Z":
            # Every num_mem_blocks-th use has the same weights. The blocks have equal sizes; a quote tells them apart.
            layers.append(("Z" + "'" * (uses % n_blocks), shared))
            uses += 1
        layers.append(("M", mamba))
    tied = read_tied(read, True)
    read.finish(
        (
            *("use_conv_bias", "use_mem_eff_path", "use_mem_rope", "use_long_context", "kv_channels", "ft_lora"),
            *("num_query_groups", "hybrid_layer_ids", "use_shared_mlp_adapter", "lora_rank", "state_size", "rope_type"),
        )
    )
    return Draft(layers, tied)


TYPES: dict[str, Callable[[Fields, int], Draft]] = {
    **dict.fromkeys(("mamba", "falcon_mamba"), _mamba),
    "mamba2": _mamba2,
    "jamba": _jamba,
    "bamba": _bamba,
    "zamba2": _zamba2,
    "falcon_h1": _falcon_h1,
    "granitemoehybrid": _granite,
}
"""Maps a model type to the function that reads it."""
