"""fla_types: model types of flash-linear-attention: gated delta net, Kimi delta attention, RWKV-7."""

from __future__ import annotations

from collections.abc import Callable

from hybridbench.arch.block import Block
from hybridbench.arch.blocks.attention import Attention
from hybridbench.arch.blocks.channel_mix import ChannelMix
from hybridbench.arch.blocks.gated_delta import GatedDelta
from hybridbench.arch.blocks.kda import Kda
from hybridbench.arch.blocks.mlp import Mlp
from hybridbench.arch.blocks.rwkv7 import Rwkv7
from hybridbench.arch.imports.parts import Draft, Layers, read_n_layers, read_tied, with_mlps
from hybridbench.arch.imports.reader import Fields

_HARMLESS = (
    *("attn_mode", "fuse_norm", "fuse_swiglu", "fuse_cross_entropy", "fuse_linear_cross_entropy", "use_l2warp"),
    *("allow_neg_eigval", "output_gate_activation", "safe_gate", "lower_bound"),
)
"""How the library runs a model; none changes a count."""


def _width(read: Fields, d_model: int) -> int:
    """The feed-forward width: as given, or two thirds of hidden_ratio times d_model, in whole multiples of 256."""
    ratio = read.size("hidden_ratio", 4)
    return read.maybe("intermediate_size") or 256 * -(-int(d_model * ratio * 2 / 3) // 256)


def _with_attention(read: Fields, d_model: int, n_layers: int, letter: str, recurrent: Block) -> Layers:
    """The recurrent mixer in every layer but those that ``attn`` names, which have attention."""
    if not read.section("attn"):
        return [(letter, recurrent)] * n_layers
    inside = read.nested("attn")
    places = inside.indices("layers", n_layers)
    heads = inside.size("num_heads")
    if d_model % heads:
        read.contradict(
            ("attn", "hidden_size"),
            f"num_heads {heads} of attn does not divide hidden_size {d_model}: correct one of them.",
        )
    attention = read.build(
        ("attn",),
        Attention,
        d_model,
        heads,
        inside.maybe("num_kv_heads") or heads,
        max(d_model // heads, 1),
        max(d_model // heads, 1),
        window=inside.maybe("window_size"),
        qkv_bias=inside.flag("qkv_bias"),
    )
    inside.finish()
    symbol = "*" if attention.window is None else "S"
    return [(symbol, attention) if index in places else (letter, recurrent) for index in range(n_layers)]


def _dense(read: Fields, d_model: int, letter: str, mixer: Block) -> Draft:
    """The rest of a model whose feed-forward blocks are MLPs."""
    layers = with_mlps(
        _with_attention(read, d_model, read_n_layers(read), letter, mixer), Mlp(d_model, _width(read, d_model))
    )
    read.must("use_short_conv", True)
    read.must("attnres_block_size")
    tied = read_tied(read)
    read.finish(_HARMLESS)
    return Draft(layers, tied)


def _gated_deltanet(read: Fields, d_model: int) -> Draft:
    heads, width = read.size("num_heads"), read.size("head_dim")
    read.must("use_gate", True)
    delta = read.build(
        ("num_heads", "num_v_heads"),
        GatedDelta,
        d_model,
        n_heads=read.maybe("num_v_heads") or heads,
        n_k_heads=heads,
        k_head_dim=width,
        v_head_dim=read.factor("expand_v", width, 2),
        d_conv=read.size("conv_size", 4),
    )
    return _dense(read, d_model, "G", delta)


def _kda(read: Fields, d_model: int) -> Draft:
    heads = read.size("num_heads")
    read.must("expand_v", 1)
    read.must("num_v_heads", heads)
    delta = Kda(d_model, heads, read.size("head_dim"), d_conv=read.size("conv_size", 4), gate_bias=True)
    return _dense(read, d_model, "K", delta)


def _rwkv7(read: Fields, d_model: int) -> Draft:
    """RWKV-7 as Hugging Face has it: time mixing and channel mixing, LayerNorms, one of them on the embedding."""
    n_layers, head_dim = read_n_layers(read), read.size("head_dim", 64)
    if d_model % head_dim:
        read.contradict(
            ("head_dim", "hidden_size"),
            f"head_dim {head_dim} does not divide hidden_size {d_model}: correct one of them.",
        )
    mixer = Rwkv7(
        d_model,
        max(d_model // head_dim, 1),
        head_dim,
        decay_rank=read.size("decay_low_rank_dim"),
        rate_rank=read.size("a_low_rank_dim"),
        value_rank=read.size("v_low_rank_dim"),
        gate_rank=read.size("gate_low_rank_dim"),
    )
    read.must("attn")
    read.must("value_dim", d_model, [d_model] * n_layers)
    bias = read.flag("norm_bias", True)
    width = read.maybe("intermediate_size") or read.size("hidden_ratio", 4) * d_model
    read.value("hidden_ratio")
    first = d_model * (2 if bias else 1) if read.flag("norm_first", True) else 0
    mixing = ChannelMix(d_model, width), ChannelMix(d_model, width, after_embedding=first)
    layers: Layers = []
    for index in range(n_layers):
        layers += [("7", mixer), ("c", mixing[index == 0])]
    tied = read_tied(read)
    read.finish((*_HARMLESS, "num_heads"))
    return Draft(layers, tied, norm_bias=bias)


TYPES: dict[str, Callable[[Fields, int], Draft]] = {
    "gated_deltanet": _gated_deltanet,
    "kda": _kda,
    "rwkv7": _rwkv7,
}
"""Maps a model type to the function that reads it."""
