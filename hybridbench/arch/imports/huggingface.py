"""huggingface: models from a Hugging Face config.json, one function per model type.

Each function returns the blocks that the class of its type in transformers 5.24 builds. The tests compare every
function with that class on the meta device, parameter by parameter. The blocks leave out rotary embedding, which
changes no count, and layers for multi-token prediction, which the classes leave out too.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hybridbench.arch.block import Block
from hybridbench.arch.imports import (
    attention_types,
    expert_types,
    fla_types,
    gemma_types,
    linear,
    mamba_ssm,
    nemotron,
    recurrent_types,
    state_space,
    transformers,
    without_class,
)
from hybridbench.arch.imports.parts import Layers
from hybridbench.arch.imports.quantization import read_quantised
from hybridbench.arch.imports.reader import Fields, read_json, shown
from hybridbench.arch.imports.storage import read_stored
from hybridbench.arch.imports.wrappers import text_model
from hybridbench.arch.model import NAMED, ModelSpec
from hybridbench.errors import BadInput


def read_config(path: Path) -> ModelSpec:
    """Read the model that a config.json describes.

    Its ``notes`` name what the file leaves out and its class sets, and sections that are no part of the text model.

    Raises:
        BadInput: the file is not a config, a model type or field is unknown, or sizes contradict each other.
    """
    if os.path.isdir(path):  # unlike Path.is_dir, False for a name that is too long: reading it says why
        path = path / "config.json"
    _refuse_hub_name(path)
    body = read_json(path)
    try:
        return model_from_config(body)
    except BadInput as exc:
        raise BadInput(f"{path}: {exc}") from exc


def _refuse_hub_name(path: Path) -> None:
    """Raise for what is no path here and reads as a name on the Hugging Face Hub: an owner and a model."""
    if path.suffix != ".json" and re.fullmatch(r"[\w.-]+/[\w.-]+", str(path)) and not os.path.lexists(path.parent):
        raise BadInput(
            f"there is no {path} here, and nothing is downloaded: get the file of a model on the Hugging Face Hub with "
            f"hf download {path} config.json --local-dir {path.name}, and give --config {path.name}."
        )


def model_from_config(body: Mapping[str, Any], name: str | None = None, scale: str = NAMED[1]) -> ModelSpec:
    """Build the model that a config's fields describe. It is called ``name``, or by default by its model type.

    Raises:
        BadInput: see ``read_config``.
    """
    body = mamba_ssm.with_type(body)
    named = body.get("model_type")
    if isinstance(named, str) and named in without_class.REFUSED:
        raise BadInput(f"model type {named} is not read: {without_class.REFUSED[named]}")
    text = text_model(body, MODEL_TYPES)
    model_type = str(text.body["model_type"])
    stored, described = read_stored(text.body)
    read = Fields(described, text.class_sizes)
    try:
        d_model = read.size("d_model" if model_type == mamba_ssm.NAME else "hidden_size")
        vocab_size = read.size("vocab_size")
        draft = MODEL_TYPES[model_type](read, d_model)
        read.check()
    except BadInput as exc:
        read.failed(exc)
        raise
    symbols, blocks = _symbols(draft.layers)
    spec = ModelSpec(
        arch=name or model_type,
        scale=scale,
        d_model=d_model,
        vocab_size=draft.vocab_size or vocab_size,
        pattern="".join(symbols),
        blocks=blocks,
        tied=draft.tied,
        norms=draft.norms,
        norm_bias=draft.norm_bias,
        notes=_notes(read.defaulted, text.left_out),
        stored=stored,
    )
    quantised, kv = read_quantised(text.body, spec)
    return replace(spec, stored=replace(stored, quantised=quantised, kv=kv))


def _notes(defaulted: Mapping[str, Any], left_out: Sequence[str]) -> tuple[str, ...]:
    notes = []
    if left_out:
        notes.append(f"the text model alone, without {', '.join(left_out)}")
    if defaulted:
        listed = ", ".join(f"{name} {_value(value)}" for name, value in defaulted.items())
        notes.append(f"not in its file, so as its class in transformers has it: {listed}")
    return tuple(notes)


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if isinstance(value, str) else shown(value)


def _symbols(layers: Layers) -> tuple[list[str], dict[str, Block]]:
    """A symbol for each sublayer: its letter, with one quote for each earlier, different block of that letter."""
    blocks: dict[str, Block] = {}
    symbols = []
    for letter, block in layers:
        symbol = letter
        while blocks.setdefault(symbol, block) != block:
            symbol += "'"
        symbols.append(symbol)
    return symbols, blocks


MODEL_TYPES = {
    **transformers.TYPES,
    **state_space.TYPES,
    **nemotron.TYPES,
    **linear.TYPES,
    **attention_types.TYPES,
    **expert_types.TYPES,
    **fla_types.TYPES,
    **gemma_types.TYPES,
    **recurrent_types.TYPES,
    **mamba_ssm.TYPES,
    **without_class.TYPES,
}
"""Maps a model type to the function that reads it."""
