"""wrappers: files of models that cover more than text, whose text model stands in a section of its own.

transformers writes a section without the sizes that equal the defaults of its class: Gemma 3's leaves out its
vocabulary. Those sizes stand here, and a test compares them with the classes.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from hybridbench.errors import BadInput, unknown_name

SECTIONS = ("text_config", "llm_config", "language_config", "thinker_config")
"""The names under which files keep their text model."""

AT_TOP = ("tie_word_embeddings", "vocab_size", "dtype", "torch_dtype", "quantization_config", "quantization")
"""Fields of the text model that may stand beside its section only."""

LEFT_OUT = {"gemma3_text": ("vocab_size", "num_attention_heads")}
"""By model type, the sizes that a file of its own may leave out because released sections do."""

_SIZES = ("num_hidden_layers", "num_attention_heads", "hidden_size", "vocab_size", "intermediate_size")
CLASS_SIZES: dict[str, dict[str, int]] = {
    "llama": dict(zip(_SIZES, (32, 32, 4096, 32000, 11008), strict=True)),
    "granite": dict(zip(_SIZES, (32, 32, 4096, 32000, 11008), strict=True)),
    "mistral": dict(zip(_SIZES, (32, 32, 4096, 32000, 14336), strict=True)),
    "mixtral": dict(zip(_SIZES, (32, 32, 4096, 32000, 14336), strict=True)),
    "phi3": dict(zip(_SIZES, (32, 32, 3072, 32064, 8192), strict=True)),
    "qwen2": dict(zip(_SIZES, (32, 32, 4096, 151936, 22016), strict=True)),
    "qwen3": dict(zip(_SIZES, (32, 32, 4096, 151936, 22016), strict=True)),
    "qwen3_moe": dict(zip(_SIZES, (24, 32, 2048, 151936, 6144), strict=True)) | {"moe_intermediate_size": 768},
    "gemma": dict(zip(_SIZES, (28, 16, 3072, 256000, 24576), strict=True)),
    "gemma2": dict(zip(_SIZES, (26, 8, 2304, 256000, 9216), strict=True)),
    "gemma3_text": dict(zip(_SIZES, (26, 8, 2304, 262208, 9216), strict=True)),
    "gemma3n_text": dict(zip(_SIZES, (35, 8, 2048, 262400), strict=False)),
    "gemma4_text": dict(zip(_SIZES, (30, 8, 2304, 262144, 9216), strict=True)),
    "ministral3": dict(zip(_SIZES, (34, 32, 4096, 131072, 14336), strict=True)),
    "deepseek_v3": dict(zip(_SIZES, (61, 128, 7168, 129280, 18432), strict=True)) | {"moe_intermediate_size": 2048},
    "qwen3_5_text": dict(zip(_SIZES, (32, 16, 4096, 248320, 12288), strict=True)),
    "qwen3_5_moe_text": dict(zip(_SIZES, (40, 16, 2048, 248320), strict=False))
    | {"moe_intermediate_size": 512, "shared_expert_intermediate_size": 512},
    "lfm2": dict(zip(_SIZES, (32, 32, 2560, 65536, 12288), strict=True)),
}
"""By model type, the sizes that its class in transformers sets where a section leaves them out."""


@dataclass(frozen=True)
class TextModel:
    """The text model of a file.

    Args:
        body: its fields, ``model_type`` among them.
        class_sizes: the sizes of its class that the file may leave out.
        left_out: sections of the file that are no part of it.
    """

    body: Mapping[str, Any]
    class_sizes: Mapping[str, int]
    left_out: tuple[str, ...] = ()


def text_model(body: Mapping[str, Any], known: Collection[str]) -> TextModel:
    """Find the text model of a file, which is the file itself if its model type is ``known``.

    Raises:
        BadInput: there is none of a known type, or a field at the top contradicts its section.
    """
    model_type = body.get("model_type")
    if not isinstance(model_type, str):
        raise BadInput("it has no model_type: give the config.json of a Hugging Face model.")
    if model_type in known:
        sizes = CLASS_SIZES.get(model_type, {})
        return TextModel(body, {name: sizes[name] for name in LEFT_OUT.get(model_type, ())})
    section = next((name for name in SECTIONS if isinstance(body.get(name), dict)), None)
    if section is None:
        raise unknown_name("model type", model_type, known)
    inner = dict(body[section])
    inner_type = inner.get("model_type")
    if not isinstance(inner_type, str):
        raise BadInput(f"the {section} of model type {model_type} has no model_type: add that of its text model.")
    for name in AT_TOP:
        if body.get(name) is None:
            continue
        if name == "tie_word_embeddings" and inner.get(name) not in (None, body[name]):
            raise BadInput(f"{name} differs between the top of the file and its {section}: make the two agree.")
        if inner.get(name) is None:
            inner[name] = body[name]
    others = tuple(
        name
        for name, value in body.items()
        if isinstance(value, dict) and name.endswith("_config") and name not in (section, *AT_TOP)
    )
    if inner_type not in known and not any(isinstance(inner.get(name), dict) for name in SECTIONS):
        raise unknown_name(f"model type in the {section} of {model_type}", inner_type, known)
    found = text_model(inner, known)
    return TextModel(found.body, CLASS_SIZES.get(str(found.body["model_type"]), {}), (*others, *found.left_out))
