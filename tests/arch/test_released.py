"""Released files are read as they are, to the parameters that their publisher and transformers' class state."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from released import RELEASED
from their_classes import their_parameters

from hybridbench.arch.imports import linear, nemotron, state_space, transformers
from hybridbench.arch.imports.huggingface import model_from_config
from hybridbench.arch.model import params
from hybridbench.arch.presets import PRESETS

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize("name", RELEASED)
def test_a_released_file_has_its_published_parameters(name: str, library: SimpleNamespace) -> None:
    published, body = RELEASED[name]
    assert params(model_from_config(body)) == published
    assert their_parameters(library, body) == published


def test_every_model_type_has_a_released_file_or_preset() -> None:
    presets = {entry.config["model_type"] for entry in PRESETS.values() if entry.config is not None}
    released = {body["model_type"] for _, body in RELEASED.values()}
    types = {*transformers.TYPES, *state_space.TYPES, *nemotron.TYPES, *linear.TYPES}
    assert types - presets - released == {"qwen3_5_moe_text"}  # no published count of its text model
