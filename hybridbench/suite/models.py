"""models: the models that lists of families, scales, ratios, recipes and mixers name, and which are the same."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from hybridbench.arch.families import (
    ARCHS,
    FUSION_DEFAULTS,
    MAMBA2,
    MIXED,
    RECURRENT,
    Options,
    build_spec,
    pattern_spec,
)
from hybridbench.arch.model import ModelSpec
from hybridbench.arch.pattern import parse_positions
from hybridbench.arch.presets import PRESETS, preset_spec
from hybridbench.errors import BadInput, unknown_name

ALL_ARCHS = ",".join(ARCHS)
"""Every family, with commas between them, as for --arch."""


def model_specs(
    *,
    arch: str,
    scale: str,
    ratio: str | None = None,
    positions: str | None = None,
    pattern: str | None = None,
    mixer: str = MAMBA2,
    recipe: str = "paper",
    every_ratio: bool = False,
    **options: Any,
) -> list[ModelSpec]:
    """Every model that lists of archs or patterns, scales, ratios, recipes and mixers name, each once.

    A ratio (or positions, a recipe or a mixer) applies to the families that have one. Giving one when no listed family
    has it is an error. Two ratios may round to the same stack: it is listed once, with the first of them, or with
    ``every_ratio`` once for each. ``same_stacks`` says which these are.

    Raises:
        BadInput: a name, ratio, pattern or option that does not fit.
    """
    made = Options(positions=None if positions is None else parse_positions(positions), **options)
    scales, mixers, recipes = _split(scale, "scale"), _split(mixer, "mixer"), _split(recipe, "recipe")
    if pattern is not None:
        if arch != ALL_ARCHS:
            raise BadInput(f"--pattern spells the model, and --arch '{arch}' names another: give one of them.")
        return [
            pattern_spec(layers, one, replace(made, ratio=ratio, mixer=kind, recipe=fusion))
            for one in scales
            for layers in dict.fromkeys(part.strip() for part in pattern.split(","))
            for kind in mixers
            for fusion in recipes
        ]
    archs = _split(arch, "arch")
    for name in archs:
        if name not in ARCHS:
            raise unknown_name("arch", name, ARCHS)
    ratios = [None] if ratio is None else _split(ratio, "ratio")
    specs = [
        build_spec(name, one, _fitting(replace(made, ratio=part, mixer=kind, recipe=fusion), name, archs))
        for one in scales
        for name in archs
        for kind in mixers
        for part in (ratios if name in MIXED or not set(MIXED) & set(archs) else [None])
        for fusion in recipes
    ]
    return [spec for place, spec in enumerate(specs) if not any(_same(spec, one, every_ratio) for one in specs[:place])]


def preset_specs(names: str) -> list[ModelSpec]:
    """The published models of a list of names with commas, each once; ``all`` stands for every one.

    Raises:
        BadInput: an unknown name, or an empty part of the list.
    """
    parts = _split(names, "model")
    listed = [known for name in parts for known in (PRESETS if name == "all" else (name,))]
    return [preset_spec(name) for name in dict.fromkeys(listed)]


def _same(spec: ModelSpec, other: ModelSpec, with_ratio: bool) -> bool:
    return spec == (other if with_ratio else replace(other, ratio=spec.ratio))


def distinct(specs: Iterable[ModelSpec]) -> list[ModelSpec]:
    """Each model once, in order. The rows of a table share their models, so the same object is compared once."""
    return list(dict.fromkeys({id(spec): spec for spec in specs}.values()))


def ratios_by_stack(specs: Iterable[ModelSpec]) -> list[tuple[ModelSpec, tuple[str, ...]]]:
    """The first model of each stack, and the ratios of all those that are this stack; none where it is one model."""
    found: list[list[ModelSpec]] = []
    for spec in distinct(specs):
        alike = next((models for models in found if _same(models[0], spec, with_ratio=False)), None)
        if alike is None:
            found.append([spec])
        elif spec not in alike:
            alike.append(spec)
    return [(alike[0], tuple(str(spec.ratio) for spec in alike) if len(alike) > 1 else ()) for alike in found]


def same_stacks(specs: Sequence[ModelSpec]) -> list[str]:
    """A sentence for each stack that several ratios round to."""
    return [same_stack(spec, ratios) for spec, ratios in ratios_by_stack(specs) if ratios]


def same_stack(spec: ModelSpec, ratios: Sequence[str]) -> str:
    """The sentence for one stack that these ratios round to."""
    return f"ratios {', '.join(ratios)} are the same stack, {spec.label} {spec.scale}"


def _fitting(options: Options, arch: str, archs: list[str]) -> Options:
    """The options that apply to this family; the others apply to other families of the list."""
    if arch != "swa" and "swa" in archs:
        options = replace(options, window=None, sinks=None)
    if arch not in MIXED and set(MIXED) & set(archs):
        options = replace(options, positions=None)
    if arch not in RECURRENT and set(RECURRENT) & set(archs):
        options = replace(options, mixer=MAMBA2)
    if arch != "intra" and "intra" in archs:
        options = replace(options, **FUSION_DEFAULTS)
    return options


def _split(text: str, what: str) -> list[str]:
    parts = [part.strip().lower() for part in text.split(",")]
    if not all(parts):
        raise BadInput(f"{what} '{text}' has an empty part: write names with single commas between them.")
    return list(dict.fromkeys(parts))
