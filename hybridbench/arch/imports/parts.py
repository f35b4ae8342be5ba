"""parts: what several model types share: attention, feed-forward blocks, experts, and which layers have which."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from hybridbench.arch.block import Block
from hybridbench.arch.blocks.attention import Attention
from hybridbench.arch.blocks.gated_delta import GatedDelta
from hybridbench.arch.blocks.latent import LatentAttention
from hybridbench.arch.blocks.mlp import Mlp
from hybridbench.arch.blocks.moe import Moe
from hybridbench.arch.imports.reader import Fields

Layers = list[tuple[str, Block]]
"""The letter and the block of each sublayer, in order."""


@dataclass(frozen=True)
class Draft:
    """What a config describes: its sublayers, and the embedding, norms and head around them.

    ``vocab_size`` is given where the table has more rows than the config says.
    """

    layers: Layers
    tied: bool
    norms: int = 1
    norm_bias: bool = False
    vocab_size: int | None = None


ATTENTION_FIELDS = ("num_attention_heads", "num_key_value_heads", "head_dim")
"""The fields that may contradict each other in attention."""


EXPERT_FIELDS = ("num_local_experts", "num_experts", "num_experts_per_tok")
"""The fields that may contradict each other in experts."""


MAX_LAYERS = 4096
"""The most layers that a config may have."""


ATTENTION_WORDS = {"full_attention": "*", "attention": "*", "sliding_attention": "S"}


PREDICTS_MORE = ("num_nextn_predict_layers", "num_mtp_layers", "num_mtp_modules", "mtp_transformer_layers", "use_mtp")
"""Fields of layers for multi-token prediction, which the classes leave out."""


LINEAR_WORDS = {"full_attention": "*", "attention": "*", "linear_attention": "M", "mamba": "M"}


def read_n_layers(read: Fields, name: str = "num_hidden_layers") -> int:
    """The number of layers, at most ``MAX_LAYERS``."""
    n_layers = read.size(name)
    if n_layers > MAX_LAYERS:
        read.wrong(name, f"{name} is {n_layers}: hybridbench reads up to {MAX_LAYERS} layers.")
        return 1
    return n_layers


_NO_HEAD_DIM = frozenset(
    (
        *("granite", "phi3", "qwen2", "qwen2_moe", "qwen3_moe", "olmo2", "olmo3", "jamba", "bamba", "falcon_h1"),
        *("granitemoehybrid", "lfm2", "lfm2_moe", "olmo_hybrid", "recurrent_gemma"),
    )
)
"""Types whose class has no field head_dim: it reads one that a file has, and cannot compute with null."""


def read_attention(
    read: Fields,
    d_model: int,
    *,
    head_dim: int | None = None,
    kv_heads: int | None = None,
    null_kv_heads: bool | None = None,
    bias: bool = False,
    **variants: Any,
) -> Attention:
    """Attention as most types have it.

    Args:
        read: the config's fields.
        d_model: width of the residual stream.
        head_dim: the type's own default; None for ``d_model`` divided by the number of heads.
        kv_heads: the type's own default; None for as many key heads as query heads.
        null_kv_heads: whether the class takes null for as many key heads as query heads; by default those classes do
            that have no default of their own.
        bias: whether all four projections have biases.
        variants: further fields of ``Attention``.
    """
    n_heads = read.size("num_attention_heads")
    if read.model_type in _NO_HEAD_DIM:
        read.not_null("head_dim")
    width = read.maybe("head_dim") if head_dim is None else read.size("head_dim", head_dim)
    names = ATTENTION_FIELDS if width else (*ATTENTION_FIELDS, "hidden_size")
    if width is None:
        if d_model % n_heads:
            read.contradict(
                ("num_attention_heads", "hidden_size"),
                f"{n_heads} heads do not divide hidden_size {d_model}: correct one of them, or add head_dim.",
            )
        width = max(1, d_model // n_heads)
        read.default("head_dim", width)
    null = kv_heads is None if null_kv_heads is None else null_kv_heads
    n_kv_heads = read_kv_heads(read, n_heads, kv_heads, null)
    biases = {"qkv_bias": bias, "out_bias": bias} | variants
    return read.build(names, Attention, d_model, n_heads, n_kv_heads, width, width, **biases)


def read_kv_heads(read: Fields, n_heads: int, default: int | None = None, null: bool = True) -> int:
    """The number of key heads: ``default`` where the file has none, None for as many as the ``n_heads`` query heads."""
    found = read.maybe("num_key_value_heads", default) if null else read.size("num_key_value_heads", default or n_heads)
    if found is None:
        read.default("num_key_value_heads", n_heads)
        return n_heads
    return found


def read_mlp(read: Fields, d_model: int, name: str = "intermediate_size", **variants: Any) -> Mlp:
    """A gated MLP whose width is the field ``name``; ``variants`` are further fields of ``Mlp``."""
    return read.build((name,), Mlp, d_model, read.size(name), **variants)


def by_window(letters: list[str], full: Attention, window: int | None) -> Layers:
    """One attention block per letter. The letter S stands for the window; without a window it is full attention."""
    near = full if window is None else replace(full, window=window)
    return [("S", near) if letter == "S" and window is not None else ("*", full) for letter in letters]


def with_mlps(mixers: Layers, mlp: Block | list[Block]) -> Layers:
    """The mixers with a feed-forward block after each."""
    after = mlp if isinstance(mlp, list) else [mlp] * len(mixers)
    layers: Layers = []
    for mixer, block in zip(mixers, after, strict=True):
        layers += [mixer, ("E" if isinstance(block, Moe) else "-", block)]
    return layers


def read_tied(read: Fields, default: bool = False) -> bool:
    """Whether embedding and head share their weights; ``default`` is the default of the model type."""
    read.default("tie_word_embeddings", default)
    return read.flag("tie_word_embeddings", default)


def sparse_layers(read: Fields, n_layers: int) -> list[bool]:
    """For each layer, whether it has experts by Qwen's rule."""
    only_mlp = read.indices("mlp_only_layers", n_layers)
    step = read.size("decoder_sparse_step", 1)
    return [index not in only_mlp and (index + 1) % step == 0 for index in range(n_layers)]


def qwen_experts(read: Fields, d_model: int, experts: int, top_k: int, shared: bool) -> Block:
    """Qwen's experts, or a dense MLP where num_experts is 0. ``experts`` and ``top_k`` are the type's defaults."""
    names = ("num_experts", "num_local_experts") if read.model_type == "qwen3_moe" else ("num_experts",)
    name = read.first(*names)
    count = read.size(name, experts, least=0)
    per_token = read.size("num_experts_per_tok", top_k)
    width = read.size("moe_intermediate_size")
    d_shared = read.size("shared_expert_intermediate_size") if shared else 0
    if not count:
        return read_mlp(read, d_model)
    return read.build(
        (name, "num_experts_per_tok"), Moe, d_model, width, count, per_token, d_shared, shared_gate=shared
    )


def pick(dense: Block, sparse: Block, where: list[bool]) -> list[Block]:
    """``sparse`` in the layers where ``where`` is true, ``dense`` in the others."""
    return [sparse if here else dense for here in where]


def latent_attention(
    read: Fields, d_model: int, q_rank: int | None, nope_dim: int = 128, v_head_dim: int = 128
) -> LatentAttention:
    """DeepSeek's latent attention; the arguments are the type's defaults, a q_rank None for a full query projection."""
    return read.build(
        ("num_attention_heads", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim", "kv_lora_rank", "q_lora_rank"),
        LatentAttention,
        d_model,
        read.size("num_attention_heads"),
        nope_dim=read.size("qk_nope_head_dim", nope_dim),
        rope_dim=read.size("qk_rope_head_dim", 64),
        v_head_dim=read.size("v_head_dim", v_head_dim),
        kv_rank=read.size("kv_lora_rank", 512),
        q_rank=read.maybe("q_lora_rank", q_rank),
        bias=read.flag("attention_bias"),
    )


def deepseek_experts(
    read: Fields, d_model: int, experts: str, top_k: str, shared: str, defaults: tuple[int, int, int] = (256, 8, 1)
) -> Moe:
    """Routed and shared experts of one width.

    Args:
        read: the config's fields.
        d_model: width of the residual stream.
        experts, top_k, shared: names of the config's fields.
        defaults: the type's own values of the three.
    """
    width = read.size("moe_intermediate_size")
    n_shared = read.size(shared, defaults[2], least=0)
    return read.build(
        (experts, top_k),
        Moe,
        d_model,
        width,
        read.size(experts, defaults[0]),
        read.size(top_k, defaults[1]),
        d_shared=n_shared * width,
    )


def sparse_behind_dense(read: Fields, d_model: int, n_layers: int, experts: Moe, dense_first: int) -> list[Block]:
    """The experts behind ``dense_first`` dense layers, or where mlp_layer_types says so."""
    default = ["-" if index < dense_first else "E" for index in range(n_layers)]
    letters = read.layer_types("mlp_layer_types", n_layers, {"dense": "-", "sparse": "E"}, default)
    return pick(read_mlp(read, d_model), experts, [letter == "E" for letter in letters])


DELTA_FIELDS = ("linear_num_value_heads", "linear_num_key_heads", "linear_key_head_dim", "linear_value_head_dim")


def gated_delta(read: Fields, d_model: int, defaults: tuple[int, int, int, int]) -> GatedDelta:
    """Gated delta net. ``defaults`` are the type's own key heads, value heads and their two widths."""
    heads_k, heads, width_k, width = defaults
    return read.build(
        DELTA_FIELDS,
        GatedDelta,
        d_model,
        n_heads=read.size("linear_num_value_heads", heads),
        n_k_heads=read.size("linear_num_key_heads", heads_k),
        k_head_dim=read.size("linear_key_head_dim", width_k),
        v_head_dim=read.size("linear_value_head_dim", width),
        d_conv=read.size("linear_conv_kernel_dim", 4),
    )
