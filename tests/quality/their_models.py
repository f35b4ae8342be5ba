"""their_models: transformers' Llama and Bamba with the sizes and the weights of a model of ours."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from hybridbench.arch.blocks.attention import Attention
from hybridbench.arch.blocks.mamba2 import Mamba2
from hybridbench.arch.blocks.mlp import Mlp
from hybridbench.arch.model import ModelSpec
from hybridbench.model.language import LanguageModel
from hybridbench.public.llama import ROPE


def their_model(library: ModuleType, spec: ModelSpec, context: int) -> Any:
    """Llama for a model of attention only, else Bamba, in float32 on the CPU."""
    mixers = [spec.blocks[symbol] for symbol in spec.layers if symbol != "-"]
    attention = next((block for block in mixers if isinstance(block, Attention)), None)
    mamba = next((block for block in mixers if isinstance(block, Mamba2)), None)
    mlp = spec.blocks["-"]
    assert isinstance(mlp, Mlp)
    common: dict[str, Any] = {
        "vocab_size": spec.vocab_size,
        "hidden_size": spec.d_model,
        "intermediate_size": mlp.d_ff,
        "num_hidden_layers": len(mixers),
        "num_attention_heads": attention.n_heads if attention else 4,
        "num_key_value_heads": attention.n_kv_heads if attention else 1,
        "max_position_embeddings": context,
        "rms_norm_eps": spec.norm_eps,
        "rope_parameters": ROPE,
        "tie_word_embeddings": True,
        "pad_token_id": None,
        "bos_token_id": None,
        "eos_token_id": None,
        "attn_implementation": "eager",
    }
    if mamba is None:
        return library.LlamaForCausalLM(library.LlamaConfig(**common)).float()
    config = library.BambaConfig(
        **common,
        attn_layer_indices=[place for place, block in enumerate(mixers) if isinstance(block, Attention)],
        mamba_n_heads=mamba.n_heads,
        mamba_d_head=mamba.head_dim,
        mamba_n_groups=mamba.n_groups,
        mamba_d_state=mamba.d_state,
        mamba_d_conv=mamba.d_conv,
        mamba_expand=mamba.d_inner // spec.d_model,
        mamba_chunk_size=mamba.chunk_size,
        mamba_conv_bias=True,
        mamba_proj_bias=False,
    )
    return library.BambaForCausalLM(config).float()


def give_weights(ours: LanguageModel, spec: ModelSpec, theirs: Any) -> None:
    """Copies every weight of ours; raises if one of theirs was not given."""
    state = dict(_named(ours, spec))
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            given = state.pop(name)
            assert given.shape == parameter.shape, name
            parameter.copy_(given)
    assert not state, sorted(state)


def _named(ours: LanguageModel, spec: ModelSpec) -> Iterator[tuple[str, Tensor]]:
    """Our weights by their names. Both libraries' blocks are two of our sublayers."""
    llama = "M" not in spec.layers
    names = (
        ("post_attention_layernorm", "mlp", "norm")
        if llama
        else ("pre_ff_layernorm", "feed_forward", "final_layernorm")
    )
    yield "model.embed_tokens.weight", ours.embedding_VD
    yield f"model.{names[2]}.weight", ours.norm_weights[-1]
    for place, (symbol, layer) in enumerate(zip(spec.layers, ours.layers, strict=True)):
        block, at = spec.blocks[symbol], f"model.layers.{place // 2}"
        weights: Any = layer
        yield f"{at}.{'input_layernorm' if place % 2 == 0 else names[0]}.weight", ours.norm_weights[place]
        if isinstance(block, Mlp):
            gate, up = weights.in_proj.weight.chunk(2)
            yield from _projections(f"{at}.{names[1]}", gate_proj=gate, up_proj=up, down_proj=weights.out_proj.weight)
        elif isinstance(block, Attention):
            q, k, v = weights.in_proj.weight.split(weights.widths)
            yield from _projections(f"{at}.self_attn", q_proj=q, k_proj=k, v_proj=v, o_proj=weights.out_proj.weight)
        else:
            mixer = f"{at}.mamba"
            yield from _projections(mixer, in_proj=weights.in_proj.weight, out_proj=weights.out_proj.weight)
            yield from _projections(mixer, conv1d=weights.conv_weight_CW[:, None], norm=weights.norm_weight_I)
            yield f"{mixer}.conv1d.bias", weights.conv_bias_C
            yield f"{mixer}.dt_bias", weights.dt_bias_H
            yield f"{mixer}.A_log", weights.A_log_H
            yield f"{mixer}.D", weights.D_H


def _projections(at: str, **weights: Tensor) -> Iterator[tuple[str, Tensor]]:
    for name, weight in weights.items():
        yield f"{at}.{name}.weight", weight
