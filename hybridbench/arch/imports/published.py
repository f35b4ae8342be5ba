"""published: model types without a class in transformers, exact to what their authors publish."""

from __future__ import annotations

from collections.abc import Callable

from hybridbench.arch.imports import transformers
from hybridbench.arch.imports.parts import Draft
from hybridbench.arch.imports.reader import Fields

TYPES: dict[str, Callable[[Fields, int], Draft]] = {
    "kimi_k2": transformers.TYPES["deepseek_v3"],  # its code is DeepSeek-V3's, under another name
}
"""Maps a model type to the function that reads it."""
