"""huggingface: models from a Hugging Face config.json, one function per model type.

Each function says which blocks a config stands for, as the class of that type in transformers 5.23 builds them; the
tests hold every one to that class on the meta device, parameter by parameter. Rotary embedding changes no count and is
left out of the blocks. Layers for multi-token prediction are left out, as the classes leave them out.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hybridbench.arch.block import Block
from hybridbench.arch.imports import linear, state_space, transformers
from hybridbench.arch.imports.parts import Layers
from hybridbench.arch.imports.reader import Fields, read_json
from hybridbench.arch.model import NAMED, ModelSpec
from hybridbench.errors import BadInput, unknown_name


def read_config(path: Path) -> ModelSpec:
    """The model a config.json describes.

    Raises:
        BadInput: a file that is no config, a model type or field that is not known, or sizes that do not fit.
    """
    if os.path.isdir(path):  # unlike Path.is_dir, False for a name that is too long: reading it says why
        path = path / "config.json"
    body = read_json(path)
    try:
        return model_from_config(body)
    except BadInput as exc:
        raise BadInput(f"{path}: {exc}") from exc


def model_from_config(body: Mapping[str, Any], name: str | None = None, scale: str = NAMED[1]) -> ModelSpec:
    """The model of a config's fields; called ``name``, or by its model type.

    Raises:
        BadInput: see ``read_config``.
    """
    model_type = body.get("model_type")
    if not isinstance(model_type, str):
        raise BadInput("it has no model_type: give the config.json of a Hugging Face model.")
    if model_type not in MODEL_TYPES:
        if isinstance(body.get("text_config"), dict):
            raise BadInput(f"model type {model_type} is of more than text: put its text_config into a file of its own.")
        raise unknown_name("model type", model_type, MODEL_TYPES)
    read = Fields(body)
    d_model = read.size("hidden_size")
    vocab_size = read.size("vocab_size")
    draft = MODEL_TYPES[model_type](read, d_model)
    symbols, blocks = _symbols(draft.layers)
    return ModelSpec(
        arch=name or model_type,
        scale=scale,
        d_model=d_model,
        vocab_size=vocab_size,
        pattern="".join(symbols),
        blocks=blocks,
        tied=draft.tied,
        norms=draft.norms,
    )


def _symbols(layers: Layers) -> tuple[list[str], dict[str, Block]]:
    """A symbol for each sublayer: its letter, with a quote for every other shape of the kind that came before."""
    blocks: dict[str, Block] = {}
    symbols = []
    for letter, block in layers:
        symbol = letter
        while blocks.setdefault(symbol, block) != block:
            symbol += "'"
        symbols.append(symbol)
    return symbols, blocks


MODEL_TYPES = {**transformers.TYPES, **state_space.TYPES, **linear.TYPES}
"""Model type to the function that reads it."""
