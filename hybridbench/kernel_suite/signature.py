"""signature: an operation's signature as a Python def that can be pasted, and whether a function has it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from hybridbench.errors import BadInput
from hybridbench.kernel_suite.cell import SIZES
from hybridbench.kernel_suite.problems import reads
from hybridbench.kernels.loading import reference_of
from hybridbench.operations import OPERATIONS
from hybridbench.operations.operation import DIMENSIONS, Operation, Tensor

SETTINGS = {
    "chunk_size": "positions of a chunk; any split gives the same result",
    "window": "a query sees this many latest keys, itself included; None sees all",
    "sinks": "first keys that stay visible outside the window",
    "eps": "added under the root of a norm",
    "activation": "of the gate: 'silu' or 'sigmoid'",
    "lr": "the learning rate",
    "heads": "how many heads either branch has",
    "head_dim": "channels of a head",
    "n_heads": "query heads",
    "n_kv_heads": "key/value heads",
    "n_groups": "groups of B and C",
}
"""What each setting is; a test holds every operation's to it."""


def signature_text(op: str) -> str:
    """An operation's signature: a def with a docstring that says shapes, dtypes, letters, settings and results."""
    row, parameters = OPERATIONS[op], inspect.signature(reference_of(op)).parameters.values()
    positional = [one.name for one in parameters if one.kind is one.POSITIONAL_OR_KEYWORD]
    named = [one.name if one.default is one.empty else f"{one.name}={one.default!r}" for one in _named(op)]
    arguments = ", ".join([*positional, *(["*", *named] if named else [])])
    inputs = row.tensors[: len(row.inputs)]
    outputs = row.tensors[len(row.inputs) :]
    lines = [f"def {op}({arguments}):", f'    """{_about(op)}', ""]
    if op == "adamw":
        lines += ["    It is called with all parameters and returns a torch.optim.Optimizer with AdamW's state.", ""]
    lines += ["    Arguments:", *(f"        {_described(tensor)}" for tensor in inputs)]
    lines += [f"        {name}: {SETTINGS[name]}" for name in row.settings]
    lines += [
        "",
        "    Returns, as a tuple where there are several:",
        *(f"        {_described(one)}" for one in outputs),
    ]
    lines += ["", "    Letters:", *(f"        {letter}: {text}" for letter, text in _letters(row).items())]
    if row.learns:
        lines += ["", "    Gradients flow to every floating-point input that is not constant."]
    return "\n".join([*lines, '    """', "    raise NotImplementedError"])


def _named(op: str) -> list[inspect.Parameter]:
    return [one for one in inspect.signature(reference_of(op)).parameters.values() if one.kind is one.KEYWORD_ONLY]


def _about(op: str) -> str:
    text = inspect.getdoc(reference_of(op)) or op
    return " ".join(text.split("\n\n")[0].split())


def _described(tensor: Tensor) -> str:
    sizes = tensor.dimensions
    shape = f"({', '.join(sizes)}{',' * (len(sizes) == 1)})" if sizes else "one number"
    notes = [
        shape,
        tensor.dtype or "the activations' dtype",
        *(["updated in place"] if tensor.in_place else []),
        *(["None where a sequence starts empty"] if tensor.optional else []),
        *(["a tuple of tensors, one for each of the first dimension"] if tensor.apart else []),
        *(["constant: no gradient"] if tensor.constant else []),
    ]
    return f"{tensor.name}: {', '.join(notes)}"


def _letters(row: Operation) -> dict[str, str]:
    used = dict.fromkeys(letter for tensor in row.tensors for letter in tensor.dimensions)

    def here(letter: str) -> str:
        names = [name for name in SIZES if name in reads(row.dimensions[letter])]
        return f"made of the problem's {', '.join(names)}"

    return {letter: here(letter) if letter in row.dimensions else DIMENSIONS[letter][0] for letter in used}


def check_signature(op: str, path: str, function: Callable[..., Any]) -> None:
    """Check that a function can be called as an operation is: tensors in order, settings by name.

    A tensor may be called by its name without the letters of its shape, and anything if it is positional only. A scan
    may leave out the state to start from.

    Raises:
        BadInput: one sentence for each argument that is missing, required though nobody gives it, or called otherwise.
    """
    try:
        given = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):  # a compiled function may have no signature that Python sees
        return
    wanted = [
        one.name
        for one in inspect.signature(reference_of(op)).parameters.values()
        if one.kind is one.POSITIONAL_OR_KEYWORD
    ]
    found = [*_wrong_tensors(wanted, given), *_wrong_settings(op, wanted, given)]
    if found:
        raise BadInput(
            f"kernel '{path}' has not the signature of {op}: {' '.join(found)} See hybridbench kernels {op} "
            "--signature."
        )


def _wrong_tensors(wanted: list[str], given: list[inspect.Parameter]) -> list[str]:
    positional = [one for one in given if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)]
    any_number = any(one.kind is one.VAR_POSITIONAL for one in given)
    found = []
    for place, name in enumerate(wanted):
        plain = name.rpartition("_")[0] if name.rpartition("_")[2].isupper() else name
        if place >= len(positional):
            if not any_number:
                found.append(f"Argument {place + 1}, {name}, is missing.")
            continue
        one = positional[place]
        if one.kind is one.POSITIONAL_OR_KEYWORD and one.name not in (name, plain):
            words = name if plain == name else f"{name} (or {plain})"
            found.append(f"Argument {place + 1} is called {one.name}, and {words} is what it gets.")
    return found


def _wrong_settings(op: str, wanted: list[str], given: list[inspect.Parameter]) -> list[str]:
    positional = [one for one in given if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)]
    rest = positional[len(wanted) :] + [one for one in given if one.kind is one.KEYWORD_ONLY]
    by_name = {one.name for one in rest if one.kind is not one.POSITIONAL_ONLY}
    anything = any(one.kind is one.VAR_KEYWORD for one in given)
    asked = [one.name for one in _named(op)]
    optional = [name for name in asked if name.startswith("initial")]
    missing = [name for name in asked if name not in by_name and name not in optional and not anything]
    extra = [one.name for one in rest if one.default is one.empty and one.name not in asked]
    return [
        *(f"Setting {name} is missing: it is given by name." for name in missing),
        *(f"{name} is required, and nobody gives it: give it a default." for name in extra),
    ]
