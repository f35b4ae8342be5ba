"""Random configurations of every model type against transformers' classes, parameter by parameter."""

from __future__ import annotations

import random
from types import SimpleNamespace

import pytest
from test_huggingface import SMALL, body_of
from their_classes import Config, their_parameters

from hybridbench.arch.imports.huggingface import model_from_config
from hybridbench.arch.model import params
from hybridbench.errors import BadInput

pytestmark = pytest.mark.filterwarnings("ignore")

COMPARED = 3
"""Configurations of each kind that must be compared."""

REFUSALS = (ValueError, TypeError, ZeroDivisionError, RuntimeError, AttributeError, IndexError, AssertionError)
"""What classes raise for sizes that they cannot build."""


def drawn(body: Config, rng: random.Random) -> Config:
    """The configuration with some of its fields changed: sizes scaled, flags flipped, lists shuffled, some left out."""
    found = dict(body)
    for name in rng.sample([name for name in body if name != "model_type" and not name.endswith("_id")], k=4):
        value = body[name]
        if isinstance(value, bool):
            found[name] = not value
        elif isinstance(value, int):
            found[name] = max(1, rng.choice([value - 1, value + 1, value // 2, value * 2, value * 3]))
        elif isinstance(value, list):
            found[name] = rng.sample(value, k=len(value))
        if rng.random() < 0.2:
            del found[name]
    if "tie_embedding" not in found:
        found["tie_word_embeddings"] = rng.random() < 0.5
    return found


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.sampled
def test_random_configurations_have_the_parameters_of_the_class(name: str, library: SimpleNamespace) -> None:
    from huggingface_hub.errors import StrictDataclassError

    rng = random.Random(name)
    compared = 0
    for _ in range(200):
        body = drawn(body_of(name), rng)
        try:
            ours = params(model_from_config(body))
        except BadInput:
            continue
        if body["model_type"] == "zamba2" and not body["tie_word_embeddings"]:
            continue  # the class copies its shared blocks where it does not tie the head
        try:
            theirs = their_parameters(library, body)
        except (*REFUSALS, StrictDataclassError):
            continue
        assert ours == theirs, body
        compared += 1
        if compared == COMPARED:
            return
    pytest.fail(f"only {compared} configurations were built")
