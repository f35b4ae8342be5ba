"""storage: how a config.json says that its model is stored: the dtypes of its weights and states.

These fields change no shape, so they are taken out before a model type's function reads the others.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hybridbench.arch.block import DTYPE_BYTES
from hybridbench.arch.imports.quantization import FIELDS
from hybridbench.arch.stored import StoredDtypes
from hybridbench.errors import BadInput, unknown_name

WEIGHTS = ("dtype", "torch_dtype")
"""Names of the field with the dtype of weights: transformers wrote ``torch_dtype`` up to 4.55."""
STATES = ("mamba_ssm_cache_dtype", "mamba_ssm_dtype")
"""Names of the field with the dtype of recurrent states: Nemotron-H's, and Qwen 3.5's and Falcon-H1's."""


def read_stored(body: Mapping[str, Any]) -> tuple[StoredDtypes, dict[str, Any]]:
    """The dtypes that a config names, and its fields that do not say how it is stored.

    Raises:
        BadInput: a dtype that is not known, or two names of one field that contradict each other.
    """
    stored = StoredDtypes(dtype=_dtype(body, WEIGHTS), state=_dtype(body, STATES))
    return stored, {name: value for name, value in body.items() if name not in (*WEIGHTS, *STATES, *FIELDS)}


def _dtype(body: Mapping[str, Any], names: tuple[str, ...]) -> str | None:
    """The dtype that a field of several names holds; None where it is absent, null or ``auto``."""
    found = {name: body[name] for name in names if body.get(name) not in (None, "auto")}
    for name, value in found.items():
        if not isinstance(value, str):
            raise BadInput(f"{name} is {value!r}: give the name of a dtype, such as bfloat16.")
    dtypes = {name: value.removeprefix("torch.") for name, value in found.items()}
    for name, dtype in dtypes.items():
        if dtype not in DTYPE_BYTES:
            raise unknown_name(f"dtype in {name}", dtype, DTYPE_BYTES)
    if len(set(dtypes.values())) > 1:
        raise BadInput(f"{' and '.join(f'{name} {dtype}' for name, dtype in dtypes.items())} differ: keep one of them.")
    return next(iter(dtypes.values()), None)
