"""Released files are read as they are, to the parameters that their publisher and transformers' class state."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from released import RELEASED
from their_classes import their_parameters

from hybridbench.arch.imports import linear, nemotron, state_space, transformers
from hybridbench.arch.imports.huggingface import model_from_config, read_config
from hybridbench.arch.model import params
from hybridbench.arch.presets import PRESETS
from hybridbench.errors import BadInput

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize("name", RELEASED)
@pytest.mark.sampled
def test_a_released_file_has_its_published_parameters(name: str, library: SimpleNamespace) -> None:
    published, body = RELEASED[name]
    assert params(model_from_config(body)) == published
    assert their_parameters(library, body) == published


@pytest.mark.parametrize("name", RELEASED)
def test_a_released_file_is_read_from_disk(name: str, tmp_path: Path) -> None:
    """Files of Mamba-2 and its like write Infinity, which is no JSON."""
    published, body = RELEASED[name]
    (tmp_path / "config.json").write_text(json.dumps(body))
    assert params(read_config(tmp_path)) == published


@pytest.mark.parametrize("limit", [[0.0, float("nan")], [0.0, float("-inf")]])
def test_only_infinity_is_read_of_what_is_no_number(limit: list[float], tmp_path: Path) -> None:
    _, body = RELEASED["Mamba-Codestral-7B"]
    (tmp_path / "config.json").write_text(json.dumps(body | {"time_step_limit": limit}))
    with pytest.raises(BadInput, match=r"has time_step_limit\[1\] as (nan|-inf), which is no number"):
        read_config(tmp_path)


def test_every_model_type_has_a_released_file_or_preset() -> None:
    presets = {entry.config["model_type"] for entry in PRESETS.values() if entry.config is not None}
    released = {body["model_type"] for _, body in RELEASED.values()}
    types = {*transformers.TYPES, *state_space.TYPES, *nemotron.TYPES, *linear.TYPES}
    assert types - presets - released == {"qwen3_5_moe_text"}  # no published count of its text model
