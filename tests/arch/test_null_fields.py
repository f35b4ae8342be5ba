"""JSON's null in every field of a config and under every other name of one: read, or refused, as the class does."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from test_huggingface import SMALL, body_of
from test_random_configs import REFUSALS
from their_classes import Config, their_parameters

from hybridbench.arch.imports.huggingface import model_from_config
from hybridbench.arch.model import params
from hybridbench.errors import BadInput

pytestmark = pytest.mark.filterwarnings("ignore")

OFTEN = ("head_dim", "tie_word_embeddings", "num_experts_per_tok", "mamba_chunk_size", "mamba_expand")
BUILT_ONLY = {"num_experts_per_tok", "num_experts_per_token", "sliding_window"}
"""Fields that a class builds a model without but cannot run it: how many experts a token has, or how wide a window is.
No count of active parameters or caches exists then, so they may be refused."""


def ours(body: Config) -> int | str:
    try:
        return params(model_from_config(body))
    except BadInput as exc:
        return str(exc)


def theirs(library: SimpleNamespace, body: Config) -> int | None:
    from huggingface_hub.errors import StrictDataclassError

    try:
        return their_parameters(library, body)
    except (*REFUSALS, StrictDataclassError):
        return None


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_null_is_read_as_the_class_reads_it(name: str, library: SimpleNamespace) -> None:
    body = body_of(name)
    aliases = type(library.transformers.AutoConfig.for_model(body["model_type"])).attribute_map
    wrong = []
    for field in dict.fromkeys((*body, *aliases, *aliases.values(), *OFTEN)):
        if field == "model_type":
            continue
        found = ours({**body, field: None})
        if isinstance(found, str) and f"a field {field}, which hybridbench does not know" in found:
            continue
        expected = theirs(library, {**body, field: None})
        refused = isinstance(found, str)
        if refused and expected is not None and field in BUILT_ONLY:
            continue
        if refused != (expected is None) or not (refused or found == expected):
            wrong.append((field, found, expected))
    assert not wrong


@pytest.mark.parametrize(
    ("name", "field", "said"),
    [
        ("jamba", "num_local_experts", "num_local_experts is None"),
        ("nemotron_h", "mamba_n_groups", "mamba_n_groups is None"),
        ("qwen2", "head_dim", "head_dim is None: give its value, or take it out"),
        ("lfm2", "tie_word_embeddings", "tie_word_embeddings is None: give true or false"),
        ("lfm2", "block_ffn_dim_multiplier", "block_ffn_dim_multiplier is None: give a number above 0"),
    ],
)
def test_a_null_that_the_class_refuses_is_named(name: str, field: str, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        model_from_config({**body_of(name), field: None})


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("bamba", "mamba_chunk_size"),
        ("falcon_h1", "mamba_chunk_size"),
        ("falcon_h1", "mamba_expand"),
        ("granitemoehybrid: dense", "num_experts_per_tok"),
        ("llama", "head_dim"),
    ],
)
def test_a_null_that_the_class_takes_is_read(name: str, field: str, library: SimpleNamespace) -> None:
    body = {**body_of(name), field: None}
    assert params(model_from_config(body)) == their_parameters(library, body)
