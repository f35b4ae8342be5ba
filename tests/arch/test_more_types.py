"""Model types read in modules called ``_types`` against transformers' own classes.

A type's fields are drawn from lists: each seed gives another configuration, and every list is of values that the class
accepts together. Parameters are compared to the unit, caches to the byte.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from their_classes import Config, full_windows, their_cache, their_config, their_parameters

from hybridbench.arch import model
from hybridbench.arch.block import Storage
from hybridbench.arch.imports import attention_types, expert_types, gemma_types, recurrent_types
from hybridbench.arch.imports.huggingface import model_from_config, read_config

pytestmark = pytest.mark.filterwarnings("ignore")

YES_OR_NO = [False, True]
Draws = dict[str, list[Any]]

ALL: Draws = {
    "num_hidden_layers": [3, 5, 7],
    "hidden_size": [48, 96],
    "vocab_size": [97],
    "intermediate_size": [40, 56],
    "tie_word_embeddings": YES_OR_NO,
    "pad_token_id": [0],
    "bos_token_id": [1],
    "eos_token_id": [2],
}
HEADS: Draws = {"num_attention_heads": [6], "num_key_value_heads": [1, 2, 3, 6]}
HEAD_DIM: Draws = {"head_dim": [8, 16]}
WINDOW: Draws = {"sliding_window": [7, 16]}
LATENT: Draws = {
    "num_attention_heads": [6],
    "num_key_value_heads": [6],
    "kv_lora_rank": [16, 24],
    "qk_nope_head_dim": [8, 12],
    "qk_rope_head_dim": [4],
    "v_head_dim": [10, 12],
    "attention_bias": YES_OR_NO,
}
EXPERTS: Draws = {
    "n_routed_experts": [4, 6],
    "num_experts_per_tok": [1, 2],
    "moe_intermediate_size": [24],
    "n_shared_experts": [1, 2],
    "n_group": [1],
    "topk_group": [1],
}
DELTA: Draws = {
    "linear_num_key_heads": [2],
    "linear_num_value_heads": [2, 4],
    "linear_key_head_dim": [8],
    "linear_value_head_dim": [12],
}


def _renamed(draws: Draws, before: str, after: str) -> Draws:
    return {after if name == before else name: values for name, values in draws.items()}


DRAWN: dict[str, Draws] = {
    "smollm3": (
        ALL
        | HEADS
        | WINDOW
        | {"use_sliding_window": YES_OR_NO, "no_rope_layer_interval": [2, 4]}
        | {"attention_bias": YES_OR_NO, "mlp_bias": YES_OR_NO}
    ),
    "seed_oss": (
        ALL | HEADS | HEAD_DIM | {"attention_bias": YES_OR_NO, "attention_out_bias": YES_OR_NO, "mlp_bias": YES_OR_NO}
    ),
    "arcee": ALL | HEADS | HEAD_DIM | {"attention_bias": YES_OR_NO, "mlp_bias": YES_OR_NO},
    "ministral3": ALL | HEADS | HEAD_DIM | {"sliding_window": [None, 7]},
    "exaone4": ALL | HEADS | WINDOW | {"sliding_window_pattern": [2, 3]},
    "cohere2": ALL | HEADS | WINDOW | {"attention_bias": YES_OR_NO, "sliding_window_pattern": [2, 4]},
    "granite_swa": ALL | HEADS | WINDOW | {"attention_bias": YES_OR_NO, "mlp_bias": YES_OR_NO},
    "gpt_oss": (
        ALL
        | HEADS
        | HEAD_DIM
        | WINDOW
        | {"num_local_experts": [4, 5], "num_experts_per_tok": [1, 2], "attention_bias": YES_OR_NO}
    ),
    "minimax_m2": ALL | HEADS | HEAD_DIM | {"num_local_experts": [4, 5], "num_experts_per_tok": [1, 2]},
    "glm4_moe": (
        ALL
        | HEADS
        | EXPERTS
        | {"use_qk_norm": YES_OR_NO, "attention_bias": YES_OR_NO, "first_k_dense_replace": [0, 1, 3]}
    ),
    "glm4_moe_lite": (
        ALL
        | LATENT
        | EXPERTS
        | {
            "q_lora_rank": [None, 20],
            "num_hidden_layers": [3],
            "mlp_layer_types": [None, ["sparse", "dense", "sparse"]],
        }
    ),
    "deepseek_v2": ALL | LATENT | EXPERTS | {"q_lora_rank": [None, 20], "first_k_dense_replace": [0, 2]},
    "deepseek_v32": (
        ALL
        | LATENT
        | EXPERTS
        | {"q_lora_rank": [20], "index_n_heads": [2, 3], "index_head_dim": [8, 12], "index_topk": [6, 64]}
        | {"first_k_dense_replace": [0, 2], "n_group": [2], "topk_group": [1], "num_experts_per_tok": [2]}
    ),
    "jetmoe": (
        ALL
        | {"num_key_value_heads": [2, 3], "kv_channels": [8, 16], "num_local_experts": [4]}
        | {"num_experts_per_tok": [1, 2]}
    ),
    "bailing_hybrid": (
        ALL
        | LATENT
        | _renamed(EXPERTS, "n_routed_experts", "num_local_experts")
        | HEAD_DIM
        | {"q_lora_rank": [None, 20], "layer_group_size": [2, 3]}
    ),
    "lfm3": (
        ALL
        | HEADS
        | HEAD_DIM
        | WINDOW
        | {"use_sandwich_norm": YES_OR_NO, "use_attention_gate": YES_OR_NO, "conv_bias": YES_OR_NO}
        | {"attention_bias": YES_OR_NO, "conv_L_cache": [3, 5]}
    ),
    "lara_mini": (
        {name: values for name, values in ALL.items() if name != "intermediate_size"}
        | HEADS
        | HEAD_DIM
        | WINDOW
        | DELTA
        | {"num_experts": [4, 5], "num_experts_per_tok": [2], "moe_intermediate_size": [24]}
        | {"shared_expert_intermediate_size": [20], "attention_bias": YES_OR_NO}
    ),
    "gemma4_text": (
        ALL
        | HEADS
        | HEAD_DIM
        | WINDOW
        | {"num_hidden_layers": [9, 12], "global_head_dim": [8, 24], "num_global_key_value_heads": [None, 1]}
        | {"attention_k_eq_v": YES_OR_NO, "num_kv_shared_layers": [0, 2, 3], "use_double_wide_mlp": YES_OR_NO}
        | {"enable_moe_block": YES_OR_NO, "num_experts": [4], "top_k_experts": [2], "moe_intermediate_size": [24]}
        | {"hidden_size_per_layer_input": [0, 10], "vocab_size_per_layer_input": [97], "attention_bias": YES_OR_NO}
    ),
    "gemma3n_text": (
        ALL
        | HEADS
        | HEAD_DIM
        | WINDOW
        | {"num_hidden_layers": [10, 12], "num_kv_shared_layers": [0, 3, 4], "laurel_rank": [3, 5]}
        | {"altup_num_inputs": [2, 3], "hidden_size_per_layer_input": [10], "vocab_size_per_layer_input": [97]}
        | {"attention_bias": YES_OR_NO}
    ),
}

INCOMPLETE: dict[str, Config] = {
    "deepseek_v2": {"num_experts_per_tok": 6},
    "glm4_moe": {"head_dim": 128},
}
"""Fields that a default configuration lacks or contradicts: 96 heads do not divide GLM's width."""

SEEDS = range(6)
each_type = pytest.mark.parametrize("model_type", DRAWN)


def drawn(model_type: str, seed: int) -> Config:
    choose = random.Random(f"{model_type} {seed}")
    return {"model_type": model_type} | {name: choose.choice(values) for name, values in DRAWN[model_type].items()}


def test_every_type_of_these_modules_is_drawn() -> None:
    modules = (attention_types, expert_types, gemma_types, recurrent_types)
    assert set(DRAWN) == {name for module in modules for name in module.TYPES}


@each_type
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.sampled
def test_parameters_are_those_of_the_class(model_type: str, seed: int, library: SimpleNamespace) -> None:
    body = drawn(model_type, seed)
    assert model.params(model_from_config(body)) == their_parameters(library, body), body


def their_linear_weights(library: SimpleNamespace, body: Config) -> int:
    """Elements of what the class multiplies by: no biases, convolutions or embeddings, and no head."""
    with library.torch.device("meta"):
        built = library.transformers.AutoModelForCausalLM.from_config(their_config(library, body))
    other = (library.torch.nn.Embedding, library.torch.nn.Conv1d)
    return sum(
        parameter.numel()
        for name, module in built.named_modules()
        for own, parameter in module.named_parameters(recurse=False)
        if parameter.ndim > 1 and not own.endswith("bias") and not isinstance(module, other) and name != "lm_head"
    )


@each_type
def test_matrices_are_the_linear_layers_of_the_class(model_type: str, library: SimpleNamespace) -> None:
    """They are what quantisation stores in fewer bits."""
    body = drawn(model_type, 3)
    matrices = [matrix for block in model_from_config(body).placed for matrix in block.matrices()]
    ours = sum(matrix.size for matrix in matrices if matrix.part != "rows")
    assert ours == their_linear_weights(library, body), body


@each_type
@pytest.mark.sampled
def test_the_default_configuration_has_the_parameters_of_the_class(model_type: str, library: SimpleNamespace) -> None:
    """As the class writes it, so that every field that the class has is known."""
    given = {"model_type": model_type} | INCOMPLETE.get(model_type, {})
    body = json.loads(their_config(library, given).to_json_string(use_diff=False))
    assert model.params(model_from_config(body)) == their_parameters(library, given)


CASES = Path(__file__).parents[1] / "cases/configs"
PUBLISHED = {
    # The type whose class in transformers is compared, and the parameters that the authors publish: in all, and active
    # ones without the input embedding.
    "gpt-oss-20b": ("gpt_oss", 20.91e9, 3.61e9),
    "kimi-k2": ("deepseek_v3", 1.03e12, 32e9),
}


def test_a_gemma4_file_of_sizes_only_is_read_as_the_class_reads_it(library: SimpleNamespace) -> None:
    """It names key heads of full layers, which count only where values are the keys, and no per-layer width."""
    path = CASES / "gemma4-text.json"
    body = json.loads(path.read_text(encoding="utf-8"))
    assert model.params(read_config(path)) == their_parameters(library, body)
    alone = model_from_config(body | {"attention_k_eq_v": True, "hidden_size_per_layer_input": 0})
    assert round(model.params(alone) / 1e9) == 31  # Gemma 4 31B, by its name


@pytest.mark.parametrize("name", PUBLISHED)
def test_released_configurations_have_the_parameters_of_the_class(name: str, library: SimpleNamespace) -> None:
    model_type, total, active = PUBLISHED[name]
    path = CASES / f"{name}.json"
    spec = read_config(path)
    body = json.loads(path.read_text(encoding="utf-8")) | {"model_type": model_type}
    body.pop("auto_map", None)
    assert model.params(spec) == their_parameters(library, body)
    assert model.params(spec) == pytest.approx(total, rel=0.01)
    without_input = model.cost(spec, 1).params_active - spec.vocab_size * spec.d_model
    assert without_input == pytest.approx(active, rel=0.01)


@pytest.mark.parametrize("wrapper", ["gemma3", "gemma3n", "gemma4", "qwen3_5", "qwen3_5_moe"])
def test_the_text_model_of_a_wrapper_has_the_parameters_of_its_class(wrapper: str, library: SimpleNamespace) -> None:
    theirs = their_config(library, {"model_type": wrapper})
    body = json.loads(theirs.to_json_string(use_diff=False))
    inner = json.loads(theirs.get_text_config().to_json_string(use_diff=False))
    assert model.params(model_from_config(body)) == their_parameters(library, inner)


@each_type
def test_a_config_the_library_writes_is_read_to_the_same_model(model_type: str, library: SimpleNamespace) -> None:
    body = drawn(model_type, 0)
    written = json.loads(their_config(library, body).to_json_string(use_diff=False))
    assert model_from_config(written) == model_from_config(body)


@each_type
@pytest.mark.parametrize("tokens", [5, 37])
@pytest.mark.sampled
def test_caches_are_as_the_library_keeps_them(model_type: str, tokens: int, library: SimpleNamespace) -> None:
    body = drawn(model_type, 1)
    spec = model_from_config(body)
    ours = model.cache_bytes(spec, tokens, Storage(ssm_bytes=4))
    theirs = their_cache(library, body, tokens)
    assert ours.kv - full_windows(spec, tokens) == theirs["keys"] + theirs["values"] + theirs["indexer_keys"]
    assert ours.ssm == theirs["recurrent_states"]
    assert ours.conv == theirs["conv_states"]


@each_type
def test_layers_add_up_to_the_whole(model_type: str) -> None:
    """Also where layers share parameters or look rows up, as per-layer embeddings do."""
    spec = model_from_config(drawn(model_type, 2))
    whole, rows = model.cost(spec, 40), model.layer_costs(spec, 40)
    assert sum(row.params for row in rows) == whole.params
    assert sum(row.decode_flops for row in rows) == whole.decode_flops
    assert sum(row.kv_cache_bytes for row in rows) == whole.kv_cache_bytes
