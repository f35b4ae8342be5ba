"""Every mistake in a config.json gets one sentence that names it; nothing that counts is guessed."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from hybridbench.arch.imports.huggingface import MODEL_TYPES, model_from_config, read_config
from hybridbench.arch.model import params
from hybridbench.arch.presets import PRESETS
from hybridbench.errors import BadInput

LLAMA = {
    "model_type": "llama",
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "vocab_size": 100,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
NEMOTRON = {**(PRESETS["nemotron-h-8b"].config or {})}
KIMI = {**(PRESETS["kimi-linear-48b-a3b"].config or {})}
BAMBA = {**(PRESETS["bamba-9b"].config or {})}
GRANITE = {**(PRESETS["granite-4.0-h-tiny"].config or {})}
ZAMBA = {**(PRESETS["zamba2-1.2b"].config or {})}
JAMBA = {**(PRESETS["jamba-mini"].config or {})}
GRIFFIN = {**(PRESETS["recurrentgemma-2b"].config or {})}
GONE: Any = object()


def changed(body: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {name: value for name, value in {**body, **fields}.items() if value is not GONE}


def kimi_layers(full: list[int], linear: list[int]) -> dict[str, Any]:
    nested = {**KIMI["linear_attn_config"], "full_attn_layers": full, "kda_layers": linear}
    return changed(KIMI, linear_attn_config=nested)


MISTAKES = {
    "no model type": (changed(LLAMA, model_type=GONE), "it has no model_type"),
    "model type of no words": (changed(LLAMA, model_type=3), "it has no model_type"),
    "unknown model type": (changed(LLAMA, model_type="lama"), "unknown model type 'lama': did you mean 'llama'"),
    "text of an unknown type": (
        {"model_type": "qwen9", "text_config": {"model_type": "qwen9_text"}},
        "unknown model type in the text_config of qwen9 'qwen9_text': did you mean",
    ),
    "text of no type": (
        {"model_type": "qwen9", "text_config": {"hidden_size": 8}},
        "the text_config of model type qwen9 has no model_type: add that of its text model",
    ),
    "head tied in one place": (
        {"model_type": "llava", "tie_word_embeddings": True, "text_config": {**LLAMA, "tie_word_embeddings": False}},
        "tie_word_embeddings differs between the top of the file and its text_config",
    ),
    "missing size": (changed(LLAMA, num_hidden_layers=GONE), "it has no num_hidden_layers: a size is never guessed"),
    "missing width": (changed(LLAMA, hidden_size=GONE), "it has no hidden_size"),
    "null for a size": (changed(LLAMA, vocab_size=None), "vocab_size is None: give a whole number of 1 or more"),
    "words for a size": (changed(LLAMA, hidden_size="64"), "hidden_size is '64'"),
    "fraction for a size": (changed(LLAMA, intermediate_size=12.5), "intermediate_size is 12.5"),
    "true for a size": (changed(LLAMA, vocab_size=True), "vocab_size is True"),
    "negative size": (changed(LLAMA, num_hidden_layers=-1), "num_hidden_layers is -1"),
    "too deep": (changed(LLAMA, num_hidden_layers=10**9), "hybridbench reads up to 4096 layers"),
    "number for a flag": (changed(LLAMA, tie_word_embeddings=1), "tie_word_embeddings is 1: give true or false"),
    "unknown field": (changed(LLAMA, num_experts=8), "it has a field num_experts, which hybridbench does not know"),
    "quantised": (changed(LLAMA, quantization_config={"bits": 4}), "quantization_config has no quant_method"),
    "heads that do not divide": (changed(LLAMA, num_attention_heads=7), "7 heads do not divide hidden_size 64"),
    "heads that cannot share": (changed(LLAMA, num_key_value_heads=3), "4 query heads cannot share 3 KV heads"),
    "pattern too long": (
        changed(NEMOTRON, num_hidden_layers=51),
        "hybrid_override_pattern has 52 layers, longer than num_hidden_layers 51",
    ),
    "pattern too short": (
        changed(NEMOTRON, num_hidden_layers=53),
        "hybrid_override_pattern has 52 layers, shorter than num_hidden_layers 53",
    ),
    "letter of no layer": (changed(NEMOTRON, hybrid_override_pattern="M-Q"), "has 'Q': Nemotron-H's letters are"),
    "no pattern": (changed(NEMOTRON, hybrid_override_pattern=GONE), "neither hybrid_override_pattern nor"),
    "experts without a width": (
        changed(NEMOTRON, hybrid_override_pattern="ME", num_hidden_layers=2, n_routed_experts=8),
        "it has no moe_intermediate_size",
    ),
    "bias that the class ignores": (
        changed(NEMOTRON, attention_bias=True),
        "attention_bias is true: hybridbench reads nemotron_h with false only",
    ),
    "list too short": (changed(GRANITE, layer_types=["mamba"]), "layer_types has 1 entries for 40 layers"),
    "list that is none": (changed(GRANITE, layer_types="mamba"), "layer_types is 'mamba': give a list"),
    "unknown kind of layer": (
        changed(GRANITE, layer_types=["mambo"] * 40),
        "unknown kind of layer in layer_types 'mambo': did you mean 'mamba'",
    ),
    "more experts per token than experts": (changed(GRANITE, num_experts_per_tok=65), "top_k 65 of 64 experts"),
    "widths that disagree": (changed(BAMBA, mamba_d_head=32), "make 4096 channels, and the config says 8192"),
    "Mamba heads that do not divide": (changed(BAMBA, mamba_d_head="auto", mamba_n_heads=100), "do not divide"),
    "groups that do not divide": (changed(BAMBA, mamba_n_groups=3), "128 SSM heads cannot share 3 groups"),
    "layer beyond the depth": (
        changed(BAMBA, attn_layer_indices=[32]),
        "names layer 32, and the 32 layers are 0 to 31",
    ),
    "places that are none": (changed(BAMBA, attn_layer_indices="9"), "attn_layer_indices is '9': give a list"),
    "offset beyond its period": (changed(JAMBA, attn_layer_offset=8), "attn_layer_offset 8 is not below"),
    "no kinds of layers": (changed(ZAMBA, layers_block_type=GONE), "it has no layers_block_type"),
    "layer named twice": (kimi_layers([4, 4], [1, 2, 3]), "names layer 4 a second time"),
    "layer left out": (kimi_layers([4], [1, 2, 3]), "leave out layer 5 of 27"),
    "layers from zero": (kimi_layers([0], [1, 2, 3]), "full_attn_layers names layer 0, and the 27 layers are 1 to 27"),
    "nested field unknown": (
        changed(KIMI, linear_attn_config={**KIMI["linear_attn_config"], "expand": 2}),
        "a field linear_attn_config.expand, which",
    ),
    "nested field that is no object": (changed(KIMI, linear_attn_config=[1]), r"linear_attn_config is \[1\]: give an"),
    "cycle of no words": (changed(GRIFFIN, block_types=[]), r"block_types is \[\]: give a list"),
    "expand of zero": (changed(BAMBA, mamba_expand=0), "mamba_expand is 0: give a number above 0"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_named(name: str) -> None:
    body, said = MISTAKES[name]
    with pytest.raises(BadInput, match=said):
        model_from_config(body)


def test_a_pattern_of_a_hundred_thousand_letters_is_refused_at_once() -> None:
    """It once took a minute: the whole of it was written out for each of its letters."""
    began = time.process_time()
    with pytest.raises(BadInput, match=r"'x{30,}\.\.\. has 'x': Nemotron-H's letters are"):
        model_from_config(changed(NEMOTRON, hybrid_override_pattern="x" * 100_000))
    assert time.process_time() - began < 2


@pytest.mark.parametrize("body", [LLAMA, NEMOTRON, KIMI, BAMBA, GRANITE, ZAMBA, JAMBA, GRIFFIN])
def test_no_field_is_passed_over(body: dict[str, Any]) -> None:
    """Whatever nobody knows is refused, and whatever is taken away is asked for or has the library's default."""
    with pytest.raises(BadInput, match="a field extra_width"):
        model_from_config({**body, "extra_width": 1})
    for name in ("hidden_size", "vocab_size"):
        with pytest.raises(BadInput, match=f"it has no {name}"):
            model_from_config(changed(body, **{name: GONE}))


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_an_empty_config_is_no_model(model_type: str) -> None:
    with pytest.raises(BadInput, match=r"it has no (hidden_size|d_model)"):
        model_from_config({"model_type": model_type})
    with pytest.raises(BadInput):
        model_from_config({"model_type": model_type, "hidden_size": 64, "vocab_size": 10})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "is not JSON at line 1"),
        ("", "is not JSON"),
        ("[1]", "holds no JSON object"),
        ('"llama"', "holds no JSON object"),
        ("[" * 100_000, "more than 64 levels"),
        ('{"hidden_size": 4}', "it has no model_type"),
    ],
)
def test_files_that_are_no_config(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(BadInput, match=said) as caught:
        read_config(path)
    assert str(path) in str(caught.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="cannot be read"):
        read_config(tmp_path / "nothing.json")
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadInput, match="is not text"):
        read_config(tmp_path / "bytes.json")


def test_a_folder_is_as_good_as_its_config(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    spec = read_config(tmp_path)
    assert (spec.arch, spec.scale, spec.pattern) == ("llama", "config", "*-*-*-")
    assert params(spec) == params(model_from_config(LLAMA))


def test_shapes_that_differ_have_quotes() -> None:
    body = {**LLAMA, "model_type": "qwen3_moe", "num_experts": 9, "moe_intermediate_size": 16, "mlp_only_layers": [1]}
    assert model_from_config(body).pattern == "*E*-*E"
    zamba = model_from_config({**ZAMBA, "num_mem_blocks": 2})
    assert zamba.pattern.replace("M", "") == "ZZ'ZZ'ZZ'"
    assert params(zamba) > params(model_from_config(ZAMBA))
