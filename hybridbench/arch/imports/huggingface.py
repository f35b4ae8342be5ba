"""huggingface: models from a Hugging Face config.json, one function per model type.

Each function returns the blocks that the class of its type in transformers 5.23 builds. The tests compare every
function with that class on the meta device, parameter by parameter. The blocks leave out rotary embedding, which
changes no count, and layers for multi-token prediction, which the classes leave out too.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from hybridbench.arch.block import Block
from hybridbench.arch.imports import linear, state_space, transformers
from hybridbench.arch.imports.parts import Layers
from hybridbench.arch.imports.quantization import read_quantised
from hybridbench.arch.imports.reader import Fields, read_json
from hybridbench.arch.imports.storage import read_stored
from hybridbench.arch.model import NAMED, ModelSpec
from hybridbench.errors import BadInput, unknown_name


def read_config(path: Path) -> ModelSpec:
    """Read the model that a config.json describes.

    Raises:
        BadInput: the file is not a config, a model type or field is unknown, or sizes contradict each other.
    """
    if os.path.isdir(path):  # unlike Path.is_dir, False for a name that is too long: reading it says why
        path = path / "config.json"
    body = read_json(path)
    try:
        return model_from_config(body)
    except BadInput as exc:
        raise BadInput(f"{path}: {exc}") from exc


def model_from_config(body: Mapping[str, Any], name: str | None = None, scale: str = NAMED[1]) -> ModelSpec:
    """Build the model that a config's fields describe. It is called ``name``, or by default by its model type.

    Raises:
        BadInput: see ``read_config``.
    """
    model_type = body.get("model_type")
    if not isinstance(model_type, str):
        raise BadInput("it has no model_type: give the config.json of a Hugging Face model.")
    if model_type not in MODEL_TYPES:
        if isinstance(body.get("text_config"), dict):
            raise BadInput(f"model type {model_type} covers more than text: save its text_config as a separate file.")
        raise unknown_name("model type", model_type, MODEL_TYPES)
    stored, described = read_stored(body)
    read = Fields(described)
    d_model = read.size("hidden_size")
    vocab_size = read.size("vocab_size")
    draft = MODEL_TYPES[model_type](read, d_model)
    symbols, blocks = _symbols(draft.layers)
    spec = ModelSpec(
        arch=name or model_type,
        scale=scale,
        d_model=d_model,
        vocab_size=vocab_size,
        pattern="".join(symbols),
        blocks=blocks,
        tied=draft.tied,
        norms=draft.norms,
        stored=stored,
    )
    quantised, kv = read_quantised(body, spec)
    return replace(spec, stored=replace(stored, quantised=quantised, kv=kv))


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


MODEL_TYPES = {**transformers.TYPES, **state_space.TYPES, **linear.TYPES}
"""Maps a model type to the function that reads it."""
