"""Imported and published models against transformers' own classes: parameters to the unit, caches to the byte."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
from their_classes import Config, full_windows, their_cache, their_config, their_parameters

from hybridbench.arch import model
from hybridbench.arch.block import Storage
from hybridbench.arch.imports import linear, nemotron, state_space, transformers
from hybridbench.arch.imports.huggingface import model_from_config
from hybridbench.arch.presets import PRESETS, preset_spec

pytestmark = pytest.mark.filterwarnings("ignore")

BASE = {"num_hidden_layers": 5, "hidden_size": 48, "vocab_size": 97, "num_attention_heads": 6, "num_key_value_heads": 2}
PLAIN = {"num_hidden_layers": 2, "hidden_size": 48, "vocab_size": 97, "state_size": 8}
FF = {"intermediate_size": 40}
TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
MAMBA2 = {"mamba_n_heads": 6, "mamba_d_head": 16, "mamba_d_state": 8, "mamba_n_groups": 2, "mamba_chunk_size": 16}
DELTA = {"linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8, "linear_value_head_dim": 12}
MOE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
LATENT = {"kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "v_head_dim": 12}
KINDS = ["mamba", "attention", "mamba", "mamba", "attention"]

SMALL: dict[str, Config] = {
    # The name is a model type, and behind a colon what is special; every bias and option is on in some of them.
    "llama": BASE | FF | {"attention_bias": True, "mlp_bias": True},
    "llama: tied": BASE | FF | {"head_dim": 16, "tie_word_embeddings": True},
    "granite": BASE | FF,
    "mistral": BASE | FF | {"sliding_window": 16},
    "mistral: no window": BASE | FF | {"sliding_window": None},
    "mixtral": BASE | FF | {"num_local_experts": 4},
    "phi3": BASE | FF | TOKENS,
    "qwen2": BASE | FF | {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 2},
    "qwen2_moe": BASE | FF | MOE | {"shared_expert_intermediate_size": 24, "mlp_only_layers": [1]},
    "qwen3": BASE | FF,
    "qwen3_moe": BASE | FF | MOE | {"decoder_sparse_step": 2},
    "gemma": BASE | FF | {"head_dim": 8},
    "gemma2": BASE | FF | {"head_dim": 8, "sliding_window": 16},
    "gemma3_text": BASE | FF | {"head_dim": 8, "sliding_window": 16, "sliding_window_pattern": 3},
    "olmo2": BASE | FF | TOKENS,
    "olmo3": BASE | FF | TOKENS | {"sliding_window": 16},
    "deepseek_v3": (
        BASE
        | FF
        | LATENT
        | {"num_key_value_heads": 6, "n_routed_experts": 4, "num_experts_per_tok": 2}
        | {"moe_intermediate_size": 24, "n_group": 1, "topk_group": 1, "q_lora_rank": 24, "attention_bias": True}
        | {"first_k_dense_replace": 2}
    ),
    "mamba": PLAIN | {"use_bias": True},
    "falcon_mamba": PLAIN | {"use_conv_bias": False, "time_step_rank": 5},
    "mamba2": PLAIN | {"num_heads": 6, "head_dim": 16, "n_groups": 2, "chunk_size": 16, "use_bias": True},
    "jamba": (
        BASE
        | FF
        | {"num_experts": 4, "mamba_d_state": 8, "attn_layer_period": 3, "attn_layer_offset": 1}
        | {"mamba_proj_bias": True}
    ),
    "bamba": BASE | FF | MAMBA2 | {"attn_layer_indices": [1, 3], "attention_bias": True, "mlp_bias": True},
    "zamba2": (
        BASE
        | FF
        | {"num_key_value_heads": 6, "n_mamba_heads": 6, "mamba_d_state": 8, "mamba_ngroups": 2}
        | {"layers_block_type": ["mamba", "hybrid", "hybrid", "mamba", "hybrid"], "num_mem_blocks": 2}
        | {"use_shared_attention_adapter": True, "adapter_rank": 4, "chunk_size": 16, "add_bias_linear": True}
    ),
    "falcon_h1": (
        BASE
        | FF
        | MAMBA2
        | {"mamba_d_ssm": 96, "mamba_rms_norm": True, "projectors_bias": True}
        | {"mamba_proj_bias": True, "attention_bias": True, "mlp_bias": True}
    ),
    "nemotron_h": (
        BASE
        | FF
        | {"num_hidden_layers": 4, "head_dim": 16, "hybrid_override_pattern": "M-*E"}
        | {"mamba_num_heads": 6, "mamba_head_dim": 16, "ssm_state_size": 8, "n_groups": 2, "chunk_size": 16}
        | {"n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24, "moe_latent_size": 16}
        | {"moe_shared_expert_intermediate_size": 28, "use_bias": True}
    ),
    "granitemoehybrid": (
        BASE
        | FF
        | MAMBA2
        | {"layer_types": KINDS, "shared_intermediate_size": 24, "num_local_experts": 4}
        | {"num_experts_per_tok": 2}
    ),
    "granitemoehybrid: dense": (
        BASE | MAMBA2 | {"layer_types": KINDS, "shared_intermediate_size": 24, "num_local_experts": 0}
    ),
    "recurrent_gemma": BASE | FF | {"lru_width": 48, "attention_window_size": 16, "attention_bias": True},
    "qwen3_next": (
        BASE | FF | DELTA | MOE | {"head_dim": 16, "shared_expert_intermediate_size": 24, "mlp_only_layers": [2]}
    ),
    "qwen3_5_text": BASE | FF | DELTA | {"head_dim": 16, "full_attention_interval": 2},
    "qwen3_5_moe_text": BASE | DELTA | MOE | {"head_dim": 16, "shared_expert_intermediate_size": 24},
    "lfm2": BASE | {"intermediate_size": 100, "full_attn_idxs": [1, 4], "conv_bias": True, "block_multiple_of": 16},
    "lfm2_moe": (
        BASE
        | FF
        | MOE
        | {"tie_embedding": False}
        | {"layer_types": ["conv", "full_attention", "conv", "conv", "full_attention"]}
    ),
    "kimi_linear": (
        BASE
        | FF
        | TOKENS
        | LATENT
        | {"num_key_value_heads": 6, "moe_intermediate_size": 24, "num_experts": 4}
        | {"num_experts_per_token": 2, "num_shared_experts": 2, "linear_head_dim": 8, "linear_num_heads": 4}
    ),
    "olmo_hybrid": BASE | FF | TOKENS,
    "minimax": BASE | FF | {"num_local_experts": 4, "head_dim": 16, "block_size": 16},
}

STATE_BYTES = {"minimax": 2}
"""Bytes per element of the recurrent states that transformers keeps beside bfloat16; 4 in every other class."""


def body_of(name: str) -> Config:
    return {"model_type": name.partition(":")[0], **SMALL[name]}


def test_every_model_type_is_tried() -> None:
    assert {name.partition(":")[0] for name in SMALL} == {
        name for module in (transformers, state_space, nemotron, linear) for name in module.TYPES
    }


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.sampled
def test_parameters_are_those_of_the_class(name: str, library: SimpleNamespace) -> None:
    assert model.params(model_from_config(body_of(name))) == their_parameters(library, body_of(name))


@pytest.mark.parametrize("name", [name for name, entry in PRESETS.items() if entry.config is not None])
@pytest.mark.sampled
def test_parameters_of_published_models_are_those_of_the_class(name: str, library: SimpleNamespace) -> None:
    config = PRESETS[name].config
    assert config is not None
    assert model.params(preset_spec(name)) == their_parameters(library, config)


@pytest.mark.parametrize("name", SMALL)
def test_a_config_the_library_writes_is_read_to_the_same_model(name: str, library: SimpleNamespace) -> None:
    """Every field that the class has is known: none is refused, none changes the model."""
    written = json.loads(their_config(library, body_of(name)).to_json_string(use_diff=False))
    assert model_from_config(written) == model_from_config(body_of(name))


@pytest.mark.parametrize("tokens", [11, 37])
@pytest.mark.parametrize("name", SMALL)
@pytest.mark.sampled
def test_caches_are_as_the_library_keeps_them(name: str, tokens: int, library: SimpleNamespace) -> None:
    spec = model_from_config(body_of(name))
    ours = model.cache_bytes(spec, tokens, Storage(ssm_bytes=STATE_BYTES.get(name, 4)))
    theirs = their_cache(library, body_of(name), tokens)
    assert ours.kv - full_windows(spec, tokens) == theirs["keys"] + theirs["values"]
    assert ours.ssm == theirs["recurrent_states"]
    assert ours.conv == theirs["conv_states"]
