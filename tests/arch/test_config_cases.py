"""Small files, each with one thing that a reader may get wrong: read to the right count, or refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from their_classes import their_config, their_parameters

from hybridbench.arch.imports.huggingface import MODEL_TYPES, model_from_config, read_config
from hybridbench.arch.imports.wrappers import CLASS_SIZES
from hybridbench.arch.model import params
from hybridbench.arch.presets import PRESETS
from hybridbench.errors import BadInput

pytestmark = pytest.mark.filterwarnings("ignore")

CASES = Path(__file__).parents[1] / "cases" / "configs"

READ = {
    # Released files. Falcon-Mamba's card says 7.27 billion; the others are as their classes build them.
    "falcon_mamba": 7_272_665_088,
    "gemma3_4b_text_config_as_shipped": 3_880_263_168,
    "qwen3_5_output_gate_type": 4_205_751_296,
    "bom": 1_235_814_400,
    "mamba2_intermediate": 28_838,
    "mamba_rms_norm": 33_280,
    "mamba_conv_bias_null": 2_350,
    "kimi_linear_tied": 886,
    "nemotron_h_tied": 806,
    "mistral_window_1_cache": 1_960,
}
"""Parameters of files that are read as transformers' class reads them."""

REFUSED = {
    "synonyms_contradict": "num_experts is 2 and num_local_experts is 4: they are two names of one field",
    "nemotron_groups_contradict": "n_groups is 1 and mamba_n_groups is 2: they are two names of one field",
    "qwen2_moe_num_local_experts_alias": "a field num_local_experts, which hybridbench does not know",
    "granite_num_experts_alias": "a field num_experts, which hybridbench does not know",
    "nemotron_attention_head_dim": "attention_head_dim is 4: hybridbench reads nemotron_h with 128 only",
    "lfm2_moe_block_ff_dim": "block_ff_dim is 16: hybridbench reads lfm2_moe with 8 only",
    "lfm2_multiplier_digit_string": "block_ffn_dim_multiplier is '8': give a number above 0",
    "lfm2_multiplier_string": "block_ffn_dim_multiplier is 'one': give a number above 0",
    "jamba_null_kv_heads": "num_key_value_heads is None: give a whole number of 1 or more",
    "mistral_null_kv_heads": "num_key_value_heads is None: give a whole number of 1 or more",
    "mixtral_null_kv_heads": "num_key_value_heads is None: give a whole number of 1 or more",
    "minimax_null_kv_heads": "num_key_value_heads is None: give a whole number of 1 or more",
    "nemotron_h_attention_bias": "attention_bias is true: hybridbench reads nemotron_h with false only",
    "nemotron_h_mamba_proj_bias": "mamba_proj_bias is true: hybridbench reads nemotron_h with false only",
    "nemotron_h_moe_mlp_bias": "mlp_bias is true in a model with experts",
    "nemotron_h_two_shared": "n_shared_experts is 2: hybridbench reads nemotron_h with 1 only",
    "nemotron_h_depth_differs_from_list": "layers_block_type has 2 entries for 5 layers.*num_hidden_layers 5",
    "nemotron_h_only_mlp": "hybrid_override_pattern -- has no layer that mixes positions",
    "mamba2_no_num_heads": "it has no num_heads: a size is never guessed",
    "misspelt_kv": "a field num_key_value_head, .*: did you mean num_key_value_heads[?]$",
    "misspelt_kv_mistral": "a field num_key_value_head, .*: did you mean num_key_value_heads[?]$",
    "block_types_nested": "block_types is .*: give a list of 'recurrent' and 'attention'",
    "layer_types_nested": "layer_types has .*: give a word for each layer",
    "expand_inf": "has expand as inf, which is no number to compute with",
    "expand_nan": "has expand as nan, which is no number to compute with",
    "hugeint": "has hidden_size as a number of 5,000 digits, where at most 40 can be used",
    "integer_of_4301_digits": "has vocab_size as a number of 4,301 digits, where at most 40 can be used",
}
"""What the one sentence about a file says."""

OWN = {
    # The first states its layers under the name that classes of transformers 4 kept them by, and 5.24 does not read.
    "recurrentgemma": 63_424,
    "taken_out": 68_160,
    # The class keeps 3940, because it copies the shared block that it does not tie: see _zamba2.
    "zamba2_untied_shared_block_used_twice": 2_732,
    # The head is tied at the top of the file, so the section alone is read untied.
    "qwen3_5_4b_text_tie_at_top": 4_841_450_496,
    "size_guessed_kv_lora": 874_728,
}
"""Parameters of files that are read otherwise than by the class, or whose right value needs a word."""


def test_every_case_has_its_right_value() -> None:
    assert {path.stem for path in CASES.glob("*.json")} >= {*READ, *REFUSED, *OWN}


@pytest.mark.parametrize("name", READ)
@pytest.mark.sampled
def test_files_are_read_as_their_class_reads_them(name: str, library: SimpleNamespace) -> None:
    path = CASES / f"{name}.json"
    assert params(read_config(path)) == READ[name]
    assert their_parameters(library, json.loads(path.read_text("utf-8-sig"))) == READ[name]


@pytest.mark.parametrize("name", OWN)
def test_files_are_read_as_they_say(name: str) -> None:
    assert params(read_config(CASES / f"{name}.json")) == OWN[name]


@pytest.mark.parametrize("name", REFUSED)
def test_files_are_refused_by_name(name: str) -> None:
    with pytest.raises(BadInput, match=REFUSED[name]) as caught:
        read_config(CASES / f"{name}.json")
    assert "\n" not in str(caught.value)


def test_defaults_of_the_class_are_said() -> None:
    said = " ".join(read_config(CASES / "size_guessed_kv_lora.json").notes)
    for default in ("kv_lora_rank 512", "q_lora_rank 1536", "n_routed_experts 256", "tie_word_embeddings false"):
        assert default in said
    assert "hidden_size" not in said
    assert read_config(CASES / "bom.json").notes == ()


@pytest.mark.parametrize("model_type", CLASS_SIZES)
def test_sizes_of_classes_are_theirs(model_type: str, library: SimpleNamespace) -> None:
    theirs = their_config(library, {"model_type": model_type})
    assert {name: getattr(theirs, name) for name in CLASS_SIZES[model_type]} == CLASS_SIZES[model_type]
    assert model_type in MODEL_TYPES


def wrapped(section: str = "text_config", **top: object) -> dict[str, object]:
    """A file of Qwen 3.5's shape around the section of the 4B model."""
    text = json.loads((CASES / "qwen3_5_4b_text_tie_at_top.json").read_text())
    return {"model_type": "qwen3_5", section: text, "vision_config": {"depth": 24}, "image_token_id": 7, **top}


@pytest.mark.parametrize("section", ["text_config", "llm_config", "language_config"])
def test_the_text_model_of_a_wrapper_is_read(section: str) -> None:
    spec = model_from_config(wrapped(section, tie_word_embeddings=True))
    assert params(spec) == READ["qwen3_5_output_gate_type"]  # the same model, tied: as Qwen3.5-4B is released
    assert spec.notes == ("the text model alone, without vision_config",)
    assert params(model_from_config(wrapped(section))) == OWN["qwen3_5_4b_text_tie_at_top"]


def test_a_section_in_a_section_is_read() -> None:
    inner = {**wrapped(tie_word_embeddings=True), "audio_config": {}}
    spec = model_from_config({"model_type": "qwen3_5_omni", "thinker_config": inner, "talker_config": {"a": 1}})
    assert spec.notes == ("the text model alone, without talker_config, vision_config, audio_config",)
    assert params(spec) == READ["qwen3_5_output_gate_type"]


def test_a_section_takes_the_sizes_of_its_class(library: SimpleNamespace) -> None:
    """LLaVA 1.5's section names its type and its vocabulary only."""
    body = {"model_type": "llava", "text_config": {"model_type": "llama", "vocab_size": 32064}, "vision_config": {}}
    spec = model_from_config(body)
    assert params(spec) == their_parameters(library, {"model_type": "llama", "vocab_size": 32064})
    assert "hidden_size 4096" in spec.notes[1]


def test_everything_wrong_is_told_at_once() -> None:
    llama = {"model_type": "llama", "hidden_size": "64", "num_hidden_layers": 2, "vocab_size": None, "mlp_bias": 3}
    with pytest.raises(BadInput) as caught:
        model_from_config(
            {**llama, "num_attention_heads": 6, "num_key_value_heads": 4, "head_dim": 8, "intermediat_size": 9}
        )
    lines = str(caught.value).splitlines()
    assert lines[0] == "5 things are wrong:"
    named = ("hidden_size is", "vocab_size is", "mlp_bias is", "did you mean intermediate_size?", "cannot share 4 KV")
    for said in named:
        assert sum(said in line for line in lines) == 1, said


def test_what_follows_from_a_wrong_field_is_not_told() -> None:
    body = {**(PRESETS["bamba-9b"].config or {}), "mamba_n_heads": "128"}
    with pytest.raises(BadInput) as caught:
        model_from_config(body)
    assert str(caught.value) == "mamba_n_heads is '128': give a whole number of 1 or more."
