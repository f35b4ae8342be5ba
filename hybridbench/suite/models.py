"""models: the models that lists of families, scales, ratios and mixers name, each once."""

from __future__ import annotations

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
    **options: Any,
) -> list[ModelSpec]:
    """Every model that lists of archs or patterns, scales, ratios and mixers name, each once.

    A ratio (or positions, a recipe or a mixer) applies to the families that have one. Giving one when no listed family
    has it is an error.

    Raises:
        BadInput: a name, ratio, pattern or option that does not fit.
    """
    made = Options(positions=None if positions is None else parse_positions(positions), **options)
    scales, mixers = _split(scale, "scale"), _split(mixer, "mixer")
    if pattern is not None:
        if arch != ALL_ARCHS:
            raise BadInput(f"--pattern spells the model, and --arch '{arch}' names another: give one of them.")
        return [
            pattern_spec(layers, one, replace(made, ratio=ratio, mixer=kind))
            for one in scales
            for layers in dict.fromkeys(part.strip() for part in pattern.split(","))
            for kind in mixers
        ]
    archs = _split(arch, "arch")
    for name in archs:
        if name not in ARCHS:
            raise unknown_name("arch", name, ARCHS)
    ratios = [None] if ratio is None else _split(ratio, "ratio")
    specs = [
        build_spec(name, one, _fitting(replace(made, ratio=part, mixer=kind), name, archs))
        for one in scales
        for name in archs
        for kind in mixers
        for part in (ratios if name in MIXED or not set(MIXED) & set(archs) else [None])
    ]
    unique: list[ModelSpec] = []
    for spec in specs:
        # Two ratios may round to the same stack: list that model once.
        if not any(replace(spec, ratio=known.ratio) == known for known in unique):
            unique.append(spec)
    return unique


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
