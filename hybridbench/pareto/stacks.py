"""stacks: which model a row of quality figures names, and when two models are the same stack.

A row names a model in the words of a record: ``arch`` (``inter``, or ``inter kda`` where another mixer took Mamba-2's
place), ``scale``, ``ratio``, ``recipe`` and ``pattern``. ``mixer`` may be a column of its own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from hybridbench.arch.blocks.parallel import Fusion
from hybridbench.arch.families import ARCHS, MAMBA2, MIXED, Options, build_spec, pattern_spec
from hybridbench.arch.kinds import MIXERS
from hybridbench.arch.model import CUSTOM, ModelSpec
from hybridbench.arch.pattern import parse_pattern
from hybridbench.errors import BadInput, unknown_name

NAMING = ("arch", "scale", "ratio", "recipe", "mixer", "pattern")
"""The fields that name a stack."""


def stack_named(row: Mapping[str, str]) -> ModelSpec:
    """The model of a row; a field that is empty or missing does not apply.

    Raises:
        BadInput: an unknown name, or fields that name no stack together.
    """
    said = {name: row.get(name, "").strip() for name in NAMING}
    arch, mixer = _family(said["arch"].lower(), said["mixer"].lower() or MAMBA2)
    recipe = _recipe(said["recipe"])
    if arch == CUSTOM:
        if not said["pattern"]:
            raise BadInput("the row has neither arch nor pattern: one of them names the stack.")
        return pattern_spec(said["pattern"], said["scale"], recipe)
    layers = parse_pattern(said["pattern"]) if said["pattern"] else ()
    options = replace(recipe, mixer=mixer, moe="E" in layers)
    if arch != "intra" and said["recipe"]:
        raise BadInput(f"recipe '{said['recipe']}' of {arch}: only intra has one; leave it empty.")
    if layers and not said["ratio"] and arch in MIXED:
        options = replace(options, positions=_places(arch, layers))
    elif said["ratio"]:
        options = replace(options, ratio=said["ratio"])
    spec = build_spec(arch, said["scale"], options)
    if layers and parse_pattern(spec.pattern) != layers:
        raise BadInput(
            f"pattern {said['pattern']} is not that of {arch} {said['scale']} {said['ratio']}, which is "
            f"{spec.pattern}: leave one of them out."
        )
    return spec


def _family(arch: str, mixer: str) -> tuple[str, str]:
    """The family and the mixer that a record's ``arch`` names."""
    name, _, other = arch.partition(" ")
    if name in MIXERS:
        return "mamba", name
    if name not in ("", CUSTOM, *ARCHS):
        raise unknown_name("arch", arch, ARCHS)
    return name or CUSTOM, other or mixer


def _recipe(text: str) -> Options:
    """The options of a recipe as records spell it: ``paper``, or ``paper,op=concat``."""
    if not text:
        return Options()
    name, *changes = text.split(",")
    options = Options(recipe=name)
    axes = [axis.name for axis in fields(Fusion)]
    for change in changes:
        axis, _, value = change.partition("=")
        if axis not in (*axes, "split"):
            raise unknown_name("axis of a recipe", axis, (*axes, "split"))
        changed: dict[str, Any] = {"split" if axis == "split" else f"fusion_{axis}": value}
        options = replace(options, **changed)
    return options


def _places(arch: str, layers: tuple[str, ...]) -> tuple[int, ...]:
    """The 1-based places of the rarer blocks among the mixers of a pattern."""
    mixers = [layer for layer in layers if layer not in ("-", "E")]
    return tuple(
        place
        for place, mixer in enumerate(mixers, start=1)
        if (mixer.startswith("(") if arch == "intra" else mixer == "*")
    )


def identity(spec: ModelSpec) -> str:
    """A text that is equal for two models that are the same stack, however each was named."""
    body = spec.to_dict()
    return json.dumps({name: value for name, value in body.items() if name not in ("arch", "ratio", "recipe")})
