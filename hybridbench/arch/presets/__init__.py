"""presets: published hybrids and baselines by name, with the dimensions their authors state.

``configs`` has those that transformers has a class for, read like a config.json; ``specs`` has the others.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache

from hybridbench.arch.imports.huggingface import model_from_config
from hybridbench.arch.model import ModelSpec
from hybridbench.arch.presets.configs import CONFIGS
from hybridbench.arch.presets.preset import SCALE, Preset
from hybridbench.arch.presets.specs import SPECS
from hybridbench.errors import unknown_name

__all__ = ["PRESETS", "Preset", "preset_spec"]

PRESETS: dict[str, Preset] = {**CONFIGS, **SPECS}
"""Every published model by its name."""


def preset_spec(name: str) -> ModelSpec:
    """The model with a name, in upper or lower case.

    Raises:
        BadInput: no such model.
    """
    if name.lower() not in PRESETS:
        raise unknown_name("model", name, PRESETS)
    return _spec(name.lower())


@cache
def _spec(name: str) -> ModelSpec:
    model = PRESETS[name]
    if model.config is not None:
        # What a preset does not state was compared with its published count, or is inferred and says so.
        return replace(model_from_config(model.config, name, SCALE), notes=())
    assert model.build is not None
    return model.build(name)
