"""huggingface: models from a Hugging Face config.json, one function per model type.

Each function says which blocks a config stands for, as the class of that type in transformers 5.23 builds them; the
tests hold every one to that class on the meta device, parameter by parameter. Rotary embedding changes no count and is
left out of the blocks. Layers for multi-token prediction are left out, as the classes leave them out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hybridbench.arch.block import Block
from hybridbench.arch.blocks.attention import Attention
from hybridbench.arch.blocks.gated_delta import GatedDelta
from hybridbench.arch.blocks.kda import Kda
from hybridbench.arch.blocks.latent import LatentAttention
from hybridbench.arch.blocks.lightning import Lightning
from hybridbench.arch.blocks.mamba1 import Mamba1
from hybridbench.arch.blocks.mamba2 import Mamba2
from hybridbench.arch.blocks.mlp import Mlp
from hybridbench.arch.blocks.moe import Moe
from hybridbench.arch.blocks.parallel import Fusion, Parallel
from hybridbench.arch.blocks.rg_lru import RgLru
from hybridbench.arch.blocks.shared import SharedBlock
from hybridbench.arch.blocks.short_conv import ShortConv
from hybridbench.arch.config import REQUIRED, Fields, read_json
from hybridbench.arch.model import NAMED, ModelSpec
from hybridbench.errors import BadInput, unknown_name

Layers = list[tuple[str, Block]]
"""The letter and the block of each sublayer, in order."""

DEEPEST = 4096
"""Layers a config may have."""
ATTENTION_WORDS = {"full_attention": "*", "attention": "*", "sliding_attention": "S"}
LINEAR_WORDS = {"full_attention": "*", "attention": "*", "linear_attention": "M", "mamba": "M"}


@dataclass(frozen=True)
class Draft:
    """What a config says: its sublayers and what stands around them."""

    layers: Layers
    tied: bool
    norms: int = 1


def read_config(path: Path) -> ModelSpec:
    """The model a config.json describes.

    Raises:
        BadInput: a file that is no config, a model type or field that is not known, or sizes that do not fit.
    """
    if path.is_dir():
        path = path / "config.json"
    body = read_json(path)
    try:
        return model_from_config(body)
    except BadInput as exc:
        raise BadInput(f"{path}: {exc}") from exc


def model_from_config(body: Mapping[str, Any], name: str | None = None, scale: str = NAMED[1]) -> ModelSpec:
    """The model of a config's fields; called ``name``, or by its model type.

    Raises:
        BadInput: see ``read_config``.
    """
    model_type = body.get("model_type")
    if not isinstance(model_type, str):
        raise BadInput("it has no model_type: give the config.json of a Hugging Face model.")
    if model_type not in MODEL_TYPES:
        if isinstance(body.get("text_config"), dict):
            raise BadInput(f"model type {model_type} is of more than text: put its text_config into a file of its own.")
        raise unknown_name("model type", model_type, MODEL_TYPES)
    read = Fields(body)
    d_model = read.size("hidden_size")
    vocab_size = read.size("vocab_size")
    draft = MODEL_TYPES[model_type](read, d_model)
    symbols, blocks = _symbols(draft.layers)
    return ModelSpec(
        arch=name or model_type,
        scale=scale,
        d_model=d_model,
        vocab_size=vocab_size,
        pattern="".join(symbols),
        blocks=blocks,
        tied=draft.tied,
        norms=draft.norms,
    )


def _symbols(layers: Layers) -> tuple[list[str], dict[str, Block]]:
    """A symbol for each sublayer: its letter, with a quote for every other shape of the kind that came before."""
    blocks: dict[str, Block] = {}
    symbols = []
    for letter, block in layers:
        symbol = letter
        while blocks.setdefault(symbol, block) != block:
            symbol += "'"
        symbols.append(symbol)
    return symbols, blocks


# Parts that several types share.


def _depth(read: Fields) -> int:
    depth = read.size("num_hidden_layers")
    if depth > DEEPEST:
        raise BadInput(f"num_hidden_layers is {depth}: hybridbench reads up to {DEEPEST} layers.")
    return depth


def _attention(
    read: Fields,
    d_model: int,
    *,
    head_dim: int | None = None,
    kv_heads: int | None = None,
    bias: bool = False,
    **variants: Any,
) -> Attention:
    """Attention as most types have it; ``head_dim`` and ``kv_heads`` are the type's own defaults, None for the usual.

    Those are the width over the heads, and as many key as query heads. ``bias`` is of all four projections.
    """
    n_heads = read.size("num_attention_heads")
    width = read.maybe("head_dim", head_dim)
    if width is None:
        if d_model % n_heads:
            raise BadInput(f"{n_heads} heads do not divide hidden_size {d_model}: mend one of them, or add head_dim.")
        width = d_model // n_heads
    n_kv_heads = read.maybe("num_key_value_heads", kv_heads) or n_heads
    biases = {"qkv_bias": bias, "out_bias": bias} | variants
    return Attention(d_model, n_heads, n_kv_heads, width, width, **biases)


def _mlp(read: Fields, d_model: int, name: str = "intermediate_size", **variants: Any) -> Mlp:
    return Mlp(d_model, read.size(name), **variants)


def _windows(letters: list[str], full: Attention, window: int | None) -> Layers:
    """Attention per letter; an S without a window is full attention."""
    near = full if window is None else replace(full, window=window)
    return [("S", near) if letter == "S" and window is not None else ("*", full) for letter in letters]


def _with_mlps(mixers: Layers, mlp: Block | list[Block]) -> Layers:
    """A feed-forward block after every mixer."""
    after = mlp if isinstance(mlp, list) else [mlp] * len(mixers)
    layers: Layers = []
    for mixer, block in zip(mixers, after, strict=True):
        layers += [mixer, ("E" if isinstance(block, Moe) else "-", block)]
    return layers


def _tied(read: Fields, default: bool = False) -> bool:
    return read.flag("tie_word_embeddings", default)


def _sparse(read: Fields, depth: int) -> list[bool]:
    """Qwen's rule for which layers have experts."""
    only_mlp = read.indices("mlp_only_layers", depth)
    step = read.size("decoder_sparse_step", 1)
    return [index not in only_mlp and (index + 1) % step == 0 for index in range(depth)]


def _qwen_experts(read: Fields, d_model: int, experts: int, top_k: int, shared: bool) -> Block:
    """Qwen's experts; ``experts`` and ``top_k`` are the type's defaults; a dense MLP where num_experts is 0."""
    count = read.size(read.first("num_experts", "num_local_experts"), experts, least=0)
    per_token = read.size("num_experts_per_tok", top_k)
    width = read.size("moe_intermediate_size")
    d_shared = read.size("shared_expert_intermediate_size") if shared else 0
    if not count:
        return _mlp(read, d_model)
    return Moe(d_model, width, count, per_token, d_shared, shared_gate=shared)


def _pick(dense: Block, sparse: Block, where: list[bool]) -> list[Block]:
    return [sparse if here else dense for here in where]


# Transformers.


def _llama(read: Fields, d_model: int) -> Draft:
    attention = _attention(read, d_model, bias=read.flag("attention_bias"))
    mlp = _mlp(read, d_model, bias=read.flag("mlp_bias"))
    tied = _tied(read)
    depth = _depth(read)
    read.finish()
    return Draft(_with_mlps([("*", attention)] * depth, mlp), tied)


def _mistral(read: Fields, d_model: int) -> Draft:
    """Mistral, Mixtral and Phi-3: one window for all layers, or none."""
    attention = _attention(read, d_model, kv_heads=None if read.model_type == "phi3" else 8)
    window = read.maybe("sliding_window", 4096 if read.model_type == "mistral" else None)
    mixers = _windows(["S"] * _depth(read), attention, window)
    block: Block = _mlp(read, d_model)
    if read.model_type == "mixtral":
        assert isinstance(block, Mlp)
        experts = read.size("num_local_experts", 8)
        block = Moe(d_model, block.d_ff, experts, read.size("num_experts_per_tok", 2))
    tied = _tied(read)
    read.finish()
    return Draft(_with_mlps(mixers, block), tied)


def _qwen_window(read: Fields) -> int | None:
    """The window, None where use_sliding_window does not turn it on."""
    if read.flag("use_sliding_window"):
        return read.maybe("sliding_window", 4096)
    read.value("sliding_window")
    return None


def _qwen_mixers(read: Fields, attention: Attention, depth: int) -> Layers:
    """Qwen's windows: in the layers that layer_types names, or from max_window_layers on."""
    window = _qwen_window(read)
    first = read.size("max_window_layers", 28, least=0)
    alternates = read.model_type == "qwen2_moe"
    default = [
        "S" if (index % 2 == 0 and index < first if alternates else index >= first) else "*" for index in range(depth)
    ]
    return _windows(read.layer_types("layer_types", depth, ATTENTION_WORDS, default), attention, window)


def _qwen(read: Fields, d_model: int) -> Draft:
    """Qwen 2 and 3, dense and sparse."""
    newer, sparse = read.model_type.startswith("qwen3"), read.model_type.endswith("_moe")
    depth = _depth(read)
    if newer:
        kv_heads, head_dim = (4, None) if sparse else (32, 128)
        bias = read.flag("attention_bias")
        attention = _attention(read, d_model, kv_heads=kv_heads, head_dim=head_dim, bias=bias, qk_norm="head")
    else:
        bias = read.flag("qkv_bias", True) if sparse else True
        kv_heads = 16 if sparse else 32
        attention = _attention(read, d_model, kv_heads=kv_heads, qkv_bias=bias)
    if newer and sparse:
        mixers = _windows(["S"] * depth, attention, _qwen_window(read))
        read.value("max_window_layers")
    else:
        mixers = _qwen_mixers(read, attention, depth)
    blocks: list[Block] = [_mlp(read, d_model)] * depth
    if sparse:
        experts = _qwen_experts(read, d_model, *((128, 8) if newer else (60, 4)), shared=not newer)
        blocks = _pick(blocks[0], experts, _sparse(read, depth))
    tied = _tied(read)
    read.finish()
    return Draft(_with_mlps(mixers, blocks), tied)


def _gemma(read: Fields, d_model: int) -> Draft:
    """Gemma 1 to 3; from 2 on a norm stands on either side of each sublayer."""
    kind, depth = read.model_type, _depth(read)
    read.must("use_bidirectional_attention", False)
    bias = read.flag("attention_bias")
    kv_heads = 16 if kind == "gemma" else 4
    qk_norm = "head" if kind == "gemma3_text" else "none"
    attention = _attention(read, d_model, head_dim=256, kv_heads=kv_heads, bias=bias, qk_norm=qk_norm)
    mixers: Layers = [("*", attention)] * depth
    if kind != "gemma":
        every = read.size("sliding_window_pattern", 6) if kind == "gemma3_text" else 2
        default = ["S" if (index + 1) % every else "*" for index in range(depth)]
        letters = read.layer_types("layer_types", depth, ATTENTION_WORDS, default)
        mixers = _windows(letters, attention, read.maybe("sliding_window", 4096))
    mlp = _mlp(read, d_model)
    tied = _tied(read, True)
    read.finish(("cache_implementation", "_sliding_window_pattern"))
    return Draft(_with_mlps(mixers, mlp), tied, norms=1 if kind == "gemma" else 2)


def _olmo(read: Fields, d_model: int) -> Draft:
    """OLMo 2 and 3: norms after each sublayer, and over all heads of queries and keys."""
    depth = _depth(read)
    attention = _attention(read, d_model, bias=read.flag("attention_bias"), qk_norm="full")
    mixers: Layers = [("*", attention)] * depth
    if read.model_type == "olmo3":
        default = ["S" if (index + 1) % 4 else "*" for index in range(depth)]
        letters = read.layer_types("layer_types", depth, ATTENTION_WORDS, default)
        mixers = _windows(letters, attention, read.maybe("sliding_window", 4096))
    mlp = _mlp(read, d_model)
    tied = _tied(read)
    read.finish()
    return Draft(_with_mlps(mixers, mlp), tied)


def _latent_attention(read: Fields, d_model: int, q_rank: int | None) -> LatentAttention:
    return LatentAttention(
        d_model,
        read.size("num_attention_heads"),
        nope_dim=read.size("qk_nope_head_dim", 128),
        rope_dim=read.size("qk_rope_head_dim", 64),
        v_head_dim=read.size("v_head_dim", 128),
        kv_rank=read.size("kv_lora_rank", 512),
        q_rank=read.maybe("q_lora_rank", q_rank),
        bias=read.flag("attention_bias"),
    )


def _deepseek_experts(read: Fields, d_model: int, experts: str, top_k: str, shared: str) -> Moe:
    """Routed and shared experts of one width; the names are of the fields."""
    width = read.size("moe_intermediate_size")
    n_shared = read.size(shared, 1, least=0)
    return Moe(d_model, width, read.size(experts, 256), read.size(top_k, 8), d_shared=n_shared * width)


def _deepseek(read: Fields, d_model: int) -> Draft:
    depth = _depth(read)
    attention = _latent_attention(read, d_model, 1536)
    read.must("moe_layer_freq", 1)
    dense_first = read.size("first_k_dense_replace", 3, least=0)
    routed = read.first("n_routed_experts", "num_local_experts")
    experts = _deepseek_experts(read, d_model, routed, "num_experts_per_tok", "n_shared_experts")
    blocks = _pick(_mlp(read, d_model), experts, [index >= dense_first for index in range(depth)])
    tied = _tied(read)
    read.finish(
        (
            *("num_key_value_heads", "head_dim", "qk_head_dim", "ep_size", "aux_loss_alpha", "seq_aux"),
            *("num_nextn_predict_layers", "num_mtp_layers"),
        )
    )
    return Draft(_with_mlps([("A", attention)] * depth, blocks), tied)


# State-space models and hybrids.


def _dt_rank(read: Fields, name: str, d_model: int) -> int:
    if read.value(name, "auto") == "auto":
        return -(-d_model // 16)
    return read.size(name)


def _mamba(read: Fields, d_model: int) -> Draft:
    """Mamba-1 as state-spaces and Falcon-Mamba have it; the latter's norms of dt, B and C have no weights."""
    mixer = Mamba1(
        d_model,
        read.factor("expand", d_model, 2),
        _dt_rank(read, "time_step_rank", d_model),
        d_state=read.size("state_size"),
        d_conv=read.size("conv_kernel", 4),
        conv_bias=read.flag("use_conv_bias", True),
        proj_bias=read.flag("use_bias"),
    )
    width = read.maybe("intermediate_size")
    if width is not None and width != mixer.d_inner:
        raise BadInput(f"intermediate_size {width} is not expand times hidden_size, {mixer.d_inner}: make them agree.")
    tied = _tied(read, True)
    depth = _depth(read)
    read.finish(
        ("d_inner", "d_model", "n_layer", "ssm_cfg", "fused_add_norm", "pad_vocab_size_multiple", "mixer_rms_eps")
    )
    return Draft([("m", mixer)] * depth, tied)


def _check_width(inner: int, heads: int, head_dim: int) -> None:
    if heads * head_dim != inner:
        raise BadInput(
            f"{heads} Mamba heads of {head_dim} make {heads * head_dim} channels, and the config says {inner}: "
            f"make the two agree."
        )


def _mamba2(read: Fields, d_model: int) -> Draft:
    inner = read.factor("expand", d_model, 2)
    heads, head_dim = read.size("num_heads"), read.size("head_dim", 64)
    _check_width(inner, heads, head_dim)
    bias = read.flag("use_bias")
    mixer = Mamba2(
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
    tied = _tied(read)
    depth = _depth(read)
    read.finish(("time_step_rank", "norm_before_gate"))
    return Draft([("M", mixer)] * depth, tied)


def _prefixed_mamba2(read: Fields, d_model: int, inner: int, out_bias: bool | None = None, **variants: Any) -> Mamba2:
    """Mamba-2 with the field names of Bamba, Granite and Falcon-H1."""
    heads = read.size("mamba_n_heads", 128)
    if read.value("mamba_d_head", "auto") in ("auto", None):
        if inner % heads:
            raise BadInput(f"{heads} Mamba heads do not divide {inner} channels: change mamba_n_heads.")
        head_dim = inner // heads
    else:
        head_dim = read.size("mamba_d_head")
    _check_width(inner, heads, head_dim)
    bias = read.flag("mamba_proj_bias")
    return Mamba2(
        d_model,
        inner,
        head_dim,
        read.size("mamba_d_state", 256),
        n_groups=read.size("mamba_n_groups", 1),
        d_conv=read.size("mamba_d_conv", 4),
        chunk_size=read.size("mamba_chunk_size", 256),
        conv_bias=read.flag("mamba_conv_bias", True),
        in_bias=bias,
        out_bias=bias if out_bias is None else out_bias,
        **variants,
    )


def _jamba(read: Fields, d_model: int) -> Draft:
    depth = _depth(read)
    attention = _attention(read, d_model, kv_heads=8)
    mamba = Mamba1(
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
            raise BadInput(f"{what}_layer_offset {start} is not below {what}_layer_period {every}: lower it.")
        places[what] = [index % every == start for index in range(depth)]
    mixers: Layers = [("*", attention) if here else ("m", mamba) for here in places["attn"]]
    mlp = _mlp(read, d_model)
    experts = read.size(read.first("num_experts", "num_local_experts"), 16)
    top_k = read.size("num_experts_per_tok", 2)
    sparse: Block = Moe(d_model, mlp.d_ff, experts, top_k) if experts > 1 else mlp
    read.must("mamba_inner_layernorms", True)
    read.must("sliding_window")
    tied = _tied(read)
    read.finish(("calc_logits_for_entire_prompt", "mamba_chunk_size"))
    return Draft(_with_mlps(mixers, _pick(mlp, sparse, places["expert"])), tied)


def _bamba(read: Fields, d_model: int) -> Draft:
    depth = _depth(read)
    attention = _attention(read, d_model, kv_heads=8, bias=read.flag("attention_bias"))
    mamba = _prefixed_mamba2(read, d_model, read.factor("mamba_expand", d_model, 2))
    places = read.indices("attn_layer_indices", depth)
    mixers: Layers = [("*", attention) if index in places else ("M", mamba) for index in range(depth)]
    mlp = _mlp(read, d_model, bias=read.flag("mlp_bias"))
    tied = _tied(read)
    read.must("num_experts", 1)
    read.finish(("attn_rotary_emb", "z_loss_coefficient"))
    return Draft(_with_mlps(mixers, mlp), tied)


def _granite(read: Fields, d_model: int) -> Draft:
    """Granite 4: a shared expert in every layer, routed ones beside it where there are any."""
    depth = _depth(read)
    attention = _attention(read, d_model, bias=read.flag("attention_bias"))
    name = read.first("layer_types", "layers_block_type")
    letters = read.layer_types(name, depth, LINEAR_WORDS, ["M"] * depth)
    mamba = _prefixed_mamba2(read, d_model, read.factor("mamba_expand", d_model, 2)) if "M" in letters else None
    mixers: Layers = [("M", mamba) if letter == "M" and mamba else ("*", attention) for letter in letters]
    shared = read.size("shared_intermediate_size")
    experts = read.size(read.first("num_local_experts", "num_experts"), 8, least=0)
    width, top_k = read.maybe("intermediate_size"), read.size("num_experts_per_tok", 2, least=0)
    block: Block = Mlp(d_model, shared)
    if experts:
        if width is None:
            raise BadInput("it has no intermediate_size, the width of its experts: add it.")
        block = Moe(d_model, width, experts, top_k, d_shared=shared)
    read.must("normalization_function", "rmsnorm")
    tied = _tied(read)
    read.finish(
        (
            *("position_embedding_type", "init_method", "mlp_bias"),
            *(field for field in _MAMBA_FIELDS if mamba is None),
        )
    )
    return Draft(_with_mlps(mixers, block), tied)


_MAMBA_FIELDS = (
    *("mamba_n_heads", "mamba_d_head", "mamba_d_state", "mamba_n_groups", "mamba_d_conv", "mamba_chunk_size"),
    *("mamba_conv_bias", "mamba_proj_bias", "mamba_expand"),
)


def _falcon_h1(read: Fields, d_model: int) -> Draft:
    """Attention and Mamba-2 side by side on one input, their outputs added."""
    depth = _depth(read)
    attention = _attention(read, d_model, kv_heads=8, bias=read.flag("attention_bias"))
    inner = read.maybe("mamba_d_ssm", 1024)
    expanded = read.factor("mamba_expand", d_model, 2)
    mamba = _prefixed_mamba2(
        read,
        d_model,
        expanded if inner is None else inner,
        out_bias=read.flag("projectors_bias"),
        gated_norm=read.flag("mamba_rms_norm"),
    )
    both = Parallel(mamba, attention, Fusion(norm="none", op="add"))
    read.must("mamba_use_mlp", True)
    read.must("attn_layer_indices")
    mlp = _mlp(read, d_model, bias=read.flag("mlp_bias"))
    tied = _tied(read)
    read.finish(
        (
            *("mamba_norm_before_gate", "lm_head_multiplier", "mlp_multipliers", "key_multiplier", "ssm_multipliers"),
            *("attention_out_multiplier", "attention_in_multiplier", "ssm_in_multiplier", "ssm_out_multiplier"),
            *("attn_rotary_emb", "mlp_expansion_factor", "time_step_rank"),
        )
    )
    return Draft(_with_mlps([("(*&M)", both)] * depth, mlp), tied)


NEMOTRON_WORDS = {
    "linear_attention": "M",
    "mamba": "M",
    "full_attention": "*",
    "attention": "*",
    "moe": "E",
    "mlp": "-",
}


def _nemotron_letters(read: Fields) -> list[str]:
    """One letter per sublayer, from the pattern or the list of kinds; both say how many there are."""
    depth = read.maybe("num_hidden_layers")
    name = read.first("layers_block_type", "layer_types")
    pattern = read.value("hybrid_override_pattern")
    if name in read:
        listed = read.value(name)
        count = len(listed) if depth is None and isinstance(listed, list) else depth or 0
        return read.layer_types(name, count, NEMOTRON_WORDS, None)
    if not isinstance(pattern, str) or not pattern:
        raise BadInput("it has neither hybrid_override_pattern nor layers_block_type: add the one it was saved with.")
    for letter in pattern:
        if letter not in "M*-E":
            raise BadInput(f"hybrid_override_pattern {pattern} has '{letter}': Nemotron-H knows M, *, - and E.")
    if depth is not None and len(pattern) != depth:
        more = "longer" if len(pattern) > depth else "shorter"
        raise BadInput(
            f"hybrid_override_pattern has {len(pattern)} layers, {more} than num_hidden_layers {depth}: "
            f"make the two agree."
        )
    return list(pattern)


def _nemotron_h(read: Fields, d_model: int) -> Draft:
    """Nemotron-H and Nemotron 3: one mixer or one feed-forward block without a gate per layer."""
    letters = _nemotron_letters(read)
    bias, mlp_bias = read.flag("use_bias"), read.flag("mlp_bias")
    heads, head_dim = read.size("mamba_num_heads", 128), read.size("mamba_head_dim", 64)
    read.must("attention_bias", False)
    read.must("mamba_proj_bias", False)
    read.must("sliding_window")
    width = read.size(read.first("head_dim", "attention_head_dim"), 128)
    made: dict[str, Callable[[], Block]] = {
        "M": lambda: Mamba2(
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
        "*": lambda: Attention(
            d_model,
            read.size("num_attention_heads"),
            read.maybe("num_key_value_heads", 8) or read.size("num_attention_heads"),
            width,
            width,
        ),
        "-": lambda: _mlp(read, d_model, gated=False, bias=mlp_bias),
        "E": lambda: _nemotron_experts(read, d_model, mlp_bias),
    }
    blocks = {letter: make() for letter, make in made.items() if letter in letters}
    tied = _tied(read)
    read.finish(_NEMOTRON_UNUSED)
    return Draft([(letter, blocks[letter]) for letter in letters], tied)


_NEMOTRON_UNUSED = (
    # Of kinds that the pattern does not have, and what only scales, initialises, or predicts further tokens.
    *("intermediate_size", "num_attention_heads", "num_key_value_heads", "ssm_state_size", "n_groups", "conv_kernel"),
    *("chunk_size", "use_conv_bias", "mamba_n_groups", "mamba_d_conv", "mamba_chunk_size", "mamba_conv_bias"),
    *("n_routed_experts", "num_local_experts", "num_experts_per_tok", "moe_intermediate_size", "n_shared_experts"),
    *("moe_shared_expert_intermediate_size", "moe_latent_size", "expand", "mamba_expand", "mlp_hidden_act"),
    *("mamba_hidden_act", "mamba_ssm_cache_dtype", "moe_shared_expert_overlap", "num_nextn_predict_layers"),
    *("mtp_layers_block_type", "mtp_hybrid_override_pattern", "mamba_dt_min", "mamba_dt_max", "mamba_dt_limit"),
    *("mamba_dt_init_floor",),
)


def _nemotron_experts(read: Fields, d_model: int, bias: bool) -> Moe:
    if bias:
        raise BadInput("mlp_bias is true beside experts: hybridbench reads nemotron_h with false only there.")
    read.must("n_shared_experts", 1)
    return Moe(
        d_model,
        read.size("moe_intermediate_size"),
        read.size(read.first("n_routed_experts", "num_local_experts")),
        read.size("num_experts_per_tok"),
        d_shared=read.size("moe_shared_expert_intermediate_size"),
        gated=False,
        latent=read.maybe("moe_latent_size"),
    )


def _zamba2(read: Fields, d_model: int) -> Draft:
    """Mamba-2 layers, some of them behind one of a few transformer blocks that share their weights."""
    depth = _depth(read)
    bias = read.flag("add_bias_linear")
    inner = read.factor("mamba_expand", d_model, 2)
    heads = read.size("n_mamba_heads")
    if inner % heads:
        raise BadInput(f"{heads} Mamba heads do not divide {inner} channels: change n_mamba_heads.")
    mamba = Mamba2(
        d_model,
        inner,
        inner // heads,
        read.size("mamba_d_state", 64),
        n_groups=read.size("mamba_ngroups", 1),
        d_conv=read.size("mamba_d_conv", 4),
        chunk_size=read.size("chunk_size", 256),
        in_bias=bias,
        out_bias=bias,
    )
    n_heads = read.size("num_attention_heads", 32)
    if 2 * d_model % n_heads:
        raise BadInput(f"{n_heads} heads do not divide twice hidden_size {d_model}: change num_attention_heads.")
    head_dim = 2 * d_model // n_heads
    read.must("attention_head_dim", head_dim)
    read.must("head_dim", head_dim)
    read.must("attention_hidden_size", 2 * d_model)
    read.must("mamba_headdim", inner // heads)
    n_kv_heads = read.maybe("num_key_value_heads") or n_heads
    attention = Attention(d_model, n_heads, n_kv_heads, head_dim, head_dim, d_in=2 * d_model)
    mlp = Mlp(d_model, read.maybe("intermediate_size") or 4 * d_model, bias=bias)
    adapters = read.flag("use_shared_attention_adapter")
    if adapters and n_kv_heads != n_heads:
        raise BadInput("adapters on attention with fewer key than query heads: Zamba2 has as many of both.")
    shared = SharedBlock(attention, mlp, read.size("adapter_rank", 128), adapters)
    n_blocks = read.size("num_mem_blocks", 1)
    words = {"linear_attention": "M", "mamba": "M", "hybrid": "Z"}
    letters = read.layer_types(read.first("layers_block_type", "layer_types"), depth, words, None)
    layers: Layers = []
    uses = 0
    for letter in letters:
        if letter == "Z":
            # Every num_mem_blocks-th use has the same weights; a quote tells the blocks apart, alike as they are.
            layers.append(("Z" + "'" * (uses % n_blocks), shared))
            uses += 1
        layers.append(("M", mamba))
    tied = _tied(read, True)
    read.finish(
        (
            *("use_conv_bias", "use_mem_eff_path", "use_mem_rope", "use_long_context", "kv_channels", "ft_lora"),
            *("num_query_groups", "hybrid_layer_ids", "use_shared_mlp_adapter", "lora_rank", "state_size", "rope_type"),
        )
    )
    return Draft(layers, tied)


def _recurrent_gemma(read: Fields, d_model: int) -> Draft:
    depth = _depth(read)
    attention = _attention(read, d_model, bias=read.flag("attention_bias"))
    read.must("head_dim", d_model // attention.n_heads)
    near = replace(attention, window=read.size("attention_window_size", 2048), out_bias=True)
    width = read.maybe("lru_width") or d_model
    recurrent = RgLru(d_model, width, attention.n_heads, d_conv=read.size("conv1d_width", 4))
    words = {"recurrent": "R", "attention": "S"}
    cycle = read.value("block_types", ["recurrent", "recurrent", "attention"])
    if not isinstance(cycle, list) or not cycle or any(word not in words for word in cycle):
        raise BadInput(f"block_types is {cycle!r}: give a list of 'recurrent' and 'attention'.")
    letters = [words[cycle[index % len(cycle)]] for index in range(depth)]
    mixers: Layers = [("S", near) if letter == "S" else ("R", recurrent) for letter in letters]
    both = read.size("intermediate_size", least=2)
    tied = _tied(read, True)
    read.finish(("w_init_variance_scale", "final_w_init_variance_scale", "embeddings_scale_by_sqrt_dim", "conv1d_bias"))
    return Draft(_with_mlps(mixers, Mlp(d_model, both // 2, bias=True)), tied)


def _gated_delta(read: Fields, d_model: int, defaults: tuple[int, int, int, int] | None = None) -> GatedDelta:
    """Gated delta net; ``defaults`` are key and value heads and their widths where the type has any."""
    heads_k, heads, width_k, width = defaults or (REQUIRED,) * 4
    return GatedDelta(
        d_model,
        n_heads=read.size("linear_num_value_heads", heads),
        n_k_heads=read.size("linear_num_key_heads", heads_k),
        k_head_dim=read.size("linear_key_head_dim", width_k),
        v_head_dim=read.size("linear_value_head_dim", width),
        d_conv=read.size("linear_conv_kernel_dim", 4),
    )


def _qwen_next(read: Fields, d_model: int) -> Draft:
    """Qwen3-Next and Qwen 3.5: gated delta net, and attention with an output gate in every fourth layer."""
    kind, depth = read.model_type, _depth(read)
    kv_heads = {"qwen3_5_text": 4}.get(kind, 2)
    bias = read.flag("attention_bias")
    attention = _attention(read, d_model, head_dim=256, kv_heads=kv_heads, bias=bias, qk_norm="head", gated=True)
    delta = _gated_delta(read, d_model, (16, 32, 128, 128))
    every = read.size("full_attention_interval", 4)
    words = {"linear_attention": "G", "full_attention": "*"}
    default = ["G" if (index + 1) % every else "*" for index in range(depth)]
    letters = read.layer_types("layer_types", depth, words, default)
    mixers: Layers = [("G", delta) if letter == "G" else ("*", attention) for letter in letters]
    read.must("attn_output_gate", True)
    if kind == "qwen3_next":
        experts = _qwen_experts(read, d_model, 512, 10, shared=True)
        where = _sparse(read, depth)
        dense = experts if all(where) else _mlp(read, d_model)
        blocks = _pick(dense, experts, where)
    elif kind == "qwen3_5_moe_text":
        blocks = [_qwen_experts(read, d_model, 256, 8, shared=True)] * depth
        read.must("mlp_only_layers", [])
    else:
        blocks = [_mlp(read, d_model)] * depth
        read.must("mlp_only_layers", [])
    tied = _tied(read)
    read.finish(
        (
            *("intermediate_size", "mtp_num_hidden_layers", "mtp_use_dedicated_embeddings", "mamba_ssm_dtype"),
            *("use_sliding_window", "sliding_window", "max_window_layers"),
        )
    )
    return Draft(_with_mlps(mixers, blocks), tied)


def _olmo_hybrid(read: Fields, d_model: int) -> Draft:
    """OLMo-Hybrid: gated delta net behind a norm, attention before one, either way one norm a sublayer."""
    depth = _depth(read)
    attention = _attention(read, d_model, bias=read.flag("attention_bias"), qk_norm="full")
    heads = attention.n_heads
    key_heads = read.maybe("linear_num_key_heads") or heads
    key = read.maybe("linear_key_head_dim") or int(0.75 * d_model / key_heads)
    delta = GatedDelta(
        d_model,
        n_heads=read.maybe("linear_num_value_heads") or heads,
        n_k_heads=key_heads,
        k_head_dim=key,
        v_head_dim=read.maybe("linear_value_head_dim") or 2 * key,
        d_conv=read.size("linear_conv_kernel_dim", 4),
    )
    words = {"linear_attention": "G", "full_attention": "*"}
    default = ["*" if index % 4 == 3 else "G" for index in range(depth)]
    if "*" not in default:
        default[-1] = "*"
    letters = read.layer_types("layer_types", depth, words, default)
    mixers: Layers = [("G", delta) if letter == "G" else ("*", attention) for letter in letters]
    read.must("linear_use_gate", True)
    mlp = _mlp(read, d_model)
    tied = _tied(read)
    read.finish(
        (
            *("linear_a_log_min", "linear_a_log_max", "linear_dt_min", "linear_dt_max", "linear_dt_init_floor"),
            *("linear_allow_neg_eigval",),
        )
    )
    return Draft(_with_mlps(mixers, mlp), tied)


def _kimi_linear(read: Fields, d_model: int) -> Draft:
    """Kimi delta attention, latent attention in some layers, experts in all but the first."""
    depth = _depth(read)
    latent = _latent_attention(read, d_model, None)
    nested = read.section("linear_attn_config")
    inside = Fields({**nested, "model_type": read.model_type})
    delta = Kda(
        d_model,
        inside.size("num_heads", read.size("linear_num_heads", 32)),
        inside.size("head_dim", read.size("linear_head_dim", 128)),
        d_conv=inside.size("short_conv_kernel_size", read.size("linear_conv_kernel_dim", 4)),
    )
    listed = "full_attn_layers" in inside and "kda_layers" in inside
    default = ["A" if index and index % 4 == 0 else "K" for index in range(depth)]
    if listed:
        default = _listed_layers(inside, depth)
    inside.finish(("full_attn_layers", "kda_layers"))
    letters = read.layer_types("layer_types", depth, {"linear_attention": "K", "full_attention": "A"}, default)
    mixers: Layers = [("K", delta) if letter == "K" else ("A", latent) for letter in letters]
    experts = _deepseek_experts(
        read,
        d_model,
        read.first("num_experts", "num_local_experts", "n_routed_experts"),
        read.first("num_experts_per_token", "num_experts_per_tok"),
        read.first("num_shared_experts", "n_shared_experts"),
    )
    read.must("moe_layer_freq", 1)
    dense_first = read.size("first_k_dense_replace", 1, least=0)
    sparse = ["-" if index < dense_first else "E" for index in range(depth)]
    sparse = read.layer_types("mlp_layer_types", depth, {"dense": "-", "sparse": "E"}, sparse)
    blocks = _pick(_mlp(read, d_model), experts, [letter == "E" for letter in sparse])
    tied = _tied(read)
    read.finish(
        (
            *("num_key_value_heads", "head_dim", "qk_head_dim", "model_max_length", "moe_renormalize"),
            *("num_expert_group",),
            *("moe_router_activation_func", "mla_use_nope", "use_grouped_topk", "num_nextn_predict_layers"),
        )
    )
    return Draft(_with_mlps(mixers, blocks), tied)


def _listed_layers(inside: Fields, depth: int) -> list[str]:
    """Kimi's two lists of 1-based layers, which must share all layers out between them."""
    letters: dict[int, str] = {}
    for name, letter in (("kda_layers", "K"), ("full_attn_layers", "A")):
        for number in inside.indices(name, depth + 1):
            if number in letters or number == 0:
                raise BadInput(f"{name} names layer {number} a second time or below 1: layers count from 1, each once.")
            letters[number] = letter
    missing = [number for number in range(1, depth + 1) if number not in letters]
    if missing:
        raise BadInput(
            f"kda_layers and full_attn_layers leave out layer {missing[0]} of {depth}: name it in one of them."
        )
    return [letters[number] for number in range(1, depth + 1)]


def _lfm2_width(read: Fields, width: int) -> int:
    """The feed-forward width that LFM2 makes of its intermediate_size: two thirds, times a factor, rounded up."""
    multiple = read.size("block_multiple_of", 256)
    adjusts = read.flag("block_auto_adjust_ff_dim", True)
    factor = read.value("block_ffn_dim_multiplier", 1.0)
    if not adjusts:
        return width
    narrowed = int(2 * width / 3)
    if factor is None:
        return narrowed
    return multiple * -(-int(factor * narrowed) // multiple)


def _lfm2(read: Fields, d_model: int) -> Draft:
    """LFM2, dense and sparse: gated short convolutions, and attention in some layers."""
    depth = _depth(read)
    attention = _attention(read, d_model, kv_heads=8, qk_norm="head")
    conv = ShortConv(d_model, read.size("conv_L_cache", 3), bias=read.flag("conv_bias"))
    words = {"conv": "C", "full_attention": "*"}
    places = read.indices("full_attn_idxs", depth, range(depth))
    sparse = read.model_type == "lfm2_moe"
    default = None if sparse else ["*" if index in places else "C" for index in range(depth)]
    letters = read.layer_types("layer_types", depth, words, default)
    mixers: Layers = [("C", conv) if letter == "C" else ("*", attention) for letter in letters]
    name = read.first("block_ff_dim", "intermediate_size")
    tie_name = read.first("tie_embedding", "tie_word_embeddings")
    width = read.size(name)
    if sparse:
        experts = Moe(
            d_model,
            read.size("moe_intermediate_size"),
            read.size("num_experts", 32),
            read.size("num_experts_per_tok", 4),
        )
        dense = read.size("num_dense_layers", 2, least=0)
        blocks = _pick(Mlp(d_model, width), experts, [index >= dense for index in range(depth)])
    else:
        blocks = [Mlp(d_model, _lfm2_width(read, width))] * depth
    for other in ("block_dim", "conv_dim", "conv_dim_out"):
        read.must(other, d_model)
    read.must("num_heads", attention.n_heads)
    read.must("block_use_swiglu", True)
    tied = read.flag(tie_name, True)
    read.finish(
        (
            *("block_mlp_init_scale", "block_out_init_scale", "block_norm_eps", "block_use_xavier_init"),
            *("conv_use_xavier_init", "theta", "use_pos_enc", "use_expert_bias"),
        )
    )
    return Draft(_with_mlps(mixers, blocks), tied)


def _minimax(read: Fields, d_model: int) -> Draft:
    """MiniMax: lightning attention, softmax attention in some layers, experts in all."""
    depth = _depth(read)
    attention = _attention(read, d_model, kv_heads=8)
    lightning = Lightning(d_model, attention.n_heads, attention.head_dim, chunk_size=read.size("block_size", 256))
    words = {"linear_attention": "L", "full_attention": "*"}
    default = ["L" if index % 2 else "*" for index in range(depth)]
    letters = read.layer_types("layer_types", depth, words, default)
    mixers: Layers = [("L", lightning) if letter == "L" else ("*", attention) for letter in letters]
    read.must("sliding_window")
    experts = Moe(
        d_model,
        read.size("intermediate_size"),
        read.size("num_local_experts", 8),
        read.size("num_experts_per_tok", 2),
    )
    tied = _tied(read)
    factors = (f"{part}_{which}_factor" for part in ("full_attn", "linear_attn", "mlp") for which in ("alpha", "beta"))
    read.finish(tuple(factors))
    return Draft(_with_mlps(mixers, experts), tied)


MODEL_TYPES: dict[str, Callable[[Fields, int], Draft]] = {
    **dict.fromkeys(("llama", "granite"), _llama),
    **dict.fromkeys(("mistral", "mixtral", "phi3"), _mistral),
    **dict.fromkeys(("qwen2", "qwen2_moe", "qwen3", "qwen3_moe"), _qwen),
    **dict.fromkeys(("gemma", "gemma2", "gemma3_text"), _gemma),
    **dict.fromkeys(("olmo2", "olmo3"), _olmo),
    "deepseek_v3": _deepseek,
    **dict.fromkeys(("mamba", "falcon_mamba"), _mamba),
    "mamba2": _mamba2,
    "jamba": _jamba,
    "bamba": _bamba,
    "zamba2": _zamba2,
    "falcon_h1": _falcon_h1,
    "nemotron_h": _nemotron_h,
    "granitemoehybrid": _granite,
    "recurrent_gemma": _recurrent_gemma,
    **dict.fromkeys(("qwen3_next", "qwen3_5_text", "qwen3_5_moe_text"), _qwen_next),
    **dict.fromkeys(("lfm2", "lfm2_moe"), _lfm2),
    "kimi_linear": _kimi_linear,
    "olmo_hybrid": _olmo_hybrid,
    "minimax": _minimax,
}
"""Model types that can be read, each with the function that reads it."""
