"""mamba_ssm: the config.json of mamba_ssm's own models, which has no model_type but d_model, n_layer and ssm_cfg."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from hybridbench.arch.block import Block
from hybridbench.arch.blocks.attention import Attention
from hybridbench.arch.blocks.mamba1 import Mamba1
from hybridbench.arch.blocks.mamba2 import Mamba2
from hybridbench.arch.blocks.mlp import Mlp
from hybridbench.arch.imports.parts import Draft, Layers, read_n_layers
from hybridbench.arch.imports.reader import Fields, shown

NAME = "mamba_ssm"
"""The model type that such a file is given here."""

_MLP_UNIT = 128
"""Its MLPs are as wide as the next multiple of this."""


def with_type(body: Mapping[str, Any]) -> Mapping[str, Any]:
    """The body itself, or with a model type if it is a file of mamba_ssm."""
    if "model_type" in body or not {"d_model", "n_layer"} <= set(body):
        return body
    return {**body, "model_type": NAME}


def _ssm(read: Fields, d_model: int) -> tuple[str, Block]:
    """The recurrent mixer, by the name of its class; without one Mamba-1, as the library has it."""
    inside = read.nested("ssm_cfg")
    inner = inside.factor("expand", d_model, 2)
    taps, conv_bias = inside.size("d_conv", 4), inside.flag("conv_bias", True)
    bias = inside.flag("bias")
    kind = inside.value("layer", "Mamba1")
    if kind == "Mamba1":
        rank = -(-d_model // 16) if inside.value("dt_rank", "auto") == "auto" else inside.size("dt_rank")
        state = inside.size("d_state", 16)
        inside.finish(("dt_min", "dt_max", "dt_init", "dt_scale", "dt_init_floor", "use_fast_path"))
        return "m", Mamba1(d_model, inner, rank, d_state=state, d_conv=taps, conv_bias=conv_bias, proj_bias=bias)
    if kind != "Mamba2":
        inside.wrong("layer", f"layer in ssm_cfg is {shown(kind)}: hybridbench reads Mamba1 and Mamba2.")
    inside.must("d_ssm", inner)
    inside.must("D_has_hdim", False)
    inside.must("norm_before_gate", False)
    block = read.build(
        ("d_model", "ssm_cfg"),
        Mamba2,
        d_model,
        inner,
        inside.size("headdim", 64),
        inside.size("d_state", 128),
        n_groups=inside.size("ngroups", 1),
        chunk_size=inside.size("chunk_size", 256),
        gated_norm=inside.flag("rmsnorm", True),
        d_conv=taps,
        conv_bias=conv_bias,
        in_bias=bias,
        out_bias=bias,
    )
    inside.finish(("dt_min", "dt_max", "dt_init_floor", "dt_limit", "A_init_range", "use_mem_eff_path", "conv_init"))
    return "M", block


def _attention(inside: Fields, d_model: int) -> tuple[str, Block]:
    heads = inside.size("num_heads")
    width = inside.maybe("head_dim") or max(d_model // heads, 1)
    inside.must("causal", True)
    inside.must("mlp_dim", 0)
    block = inside.build(
        ("num_heads", "num_heads_kv"),
        Attention,
        d_model,
        heads,
        inside.maybe("num_heads_kv") or heads,
        width,
        width,
        qkv_bias=inside.flag("qkv_proj_bias", True),
        out_bias=inside.flag("out_proj_bias", True),
        d_conv=inside.size("d_conv", 0, least=0),
    )
    inside.finish(("rotary_emb_dim", "rotary_emb_base", "rotary_emb_interleaved", "softmax_scale"))
    return "*", block


def _mamba_ssm(read: Fields, d_model: int) -> Draft:
    """Mamba-1 or Mamba-2 in every layer but those of attn_layer_idx, with MLPs where d_intermediate is not 0."""
    n_layers = read_n_layers(read, "n_layer")
    mixer = _ssm(read, d_model)
    places = read.indices("attn_layer_idx", n_layers)
    read.section("attn_cfg")
    attention = _attention(read.nested("attn_cfg"), d_model) if places else None
    width = read.size("d_intermediate", 0, least=0)
    mlp = ("-", Mlp(d_model, _MLP_UNIT * -(-width // _MLP_UNIT))) if width else None
    layers: Layers = []
    for index in range(n_layers):
        layers.append(attention if attention is not None and index in places else mixer)
        layers += [mlp] if mlp is not None else []
    unit = read.size("pad_vocab_size_multiple", 8)
    norm_bias = not read.flag("rms_norm", True)
    tied = read.flag("tie_embeddings", True)
    read.finish(("fused_add_norm",))
    padded = unit * -(-read.size("vocab_size") // unit)
    return Draft(layers, tied, norm_bias=norm_bias, vocab_size=padded)


TYPES: dict[str, Callable[[Fields, int], Draft]] = {NAME: _mamba_ssm}
"""Maps a model type to the function that reads it."""
