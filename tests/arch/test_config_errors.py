"""Fields of every known configuration, made wrong one at a time: every error names a field of the file."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from test_huggingface import SMALL, body_of
from test_more_types import DRAWN, drawn
from test_types_without_class import MAMBA_SSM, OF_FLA
from their_classes import Config

from hybridbench.arch.imports.huggingface import model_from_config
from hybridbench.arch.presets import PRESETS
from hybridbench.errors import BadInput

KNOWN: dict[str, Config] = {name: body_of(name) for name in SMALL} | {
    name: entry.config for name, entry in PRESETS.items() if entry.config is not None
}
KNOWN |= {name: drawn(name, 0) for name in DRAWN} | {
    f"mamba_ssm: {name}": {"model_type": "mamba_ssm", **body} for name, body in MAMBA_SSM.items()
}
KNOWN |= {name: {"model_type": name.partition(":")[0], **body} for name, (body, _) in OF_FLA.items()}

WRONG: list[Any] = [
    None,
    0,
    -1,
    1,
    3,
    5,
    7,
    8,
    13,
    1.5,
    "8",
    "auto",
    "",
    True,
    False,
    [],
    {},
    [["a"]],
    ["mamba"],
    [0, 99],
]
WRONG += [10**9, 10**30, float("nan"), float("inf")]

REQUIRED = {"intermediate_size", "layers_block_type"}
"""Fields that a change of another one asks for, beside those of the known configurations."""

SECTIONS = ("linear_attn_config", "attn", "attn_cfg", "ssm_cfg")
NESTED = {field for body in KNOWN.values() for section in SECTIONS for field in body.get(section, {})}
FIELDS = {field for body in KNOWN.values() for field in body} - {"model_type"} | REQUIRED | NESTED
NAMES = re.compile(rf"\b({'|'.join(FIELDS | {field[:-1] for field in FIELDS})})\b")


def changed(body: Config) -> Iterator[Config]:
    """The configuration with each field wrong, gone or misspelt."""
    for name in body:
        if name == "model_type":
            continue
        yield from ({**body, name: value} for value in WRONG)
        rest = {other: value for other, value in body.items() if other != name}
        yield rest
        yield {**rest, name[:-1]: body[name]}


@pytest.mark.parametrize("name", KNOWN)
@pytest.mark.sampled
def test_every_error_names_a_field(name: str) -> None:
    errors = 0
    for body in changed(KNOWN[name]):
        try:
            model_from_config(body)
        except BadInput as exc:
            errors += 1
            lines = str(exc).splitlines()
            for line in lines[1:] if len(lines) > 1 else lines:
                assert NAMES.search(line), (line, {key: body[key] for key in body if body[key] != KNOWN[name].get(key)})
    assert errors >= 8 * (len(KNOWN[name]) - 2)  # most changes are errors, or this tests nothing


@pytest.mark.parametrize("name", KNOWN)
def test_a_misspelt_size_is_offered_its_name(name: str) -> None:
    body = KNOWN[name]
    for size in [key for key, value in body.items() if type(value) is int and "_" in key]:
        rest = {key: value for key, value in body.items() if key != size}
        with pytest.raises(BadInput, match=f"did you mean {size}[?]"):
            model_from_config({**rest, size[:-1] + "_": body[size]})
