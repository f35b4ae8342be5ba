"""Every kind of model worth building twice: families, recipes, fusion axes, mixers, experts, odd patterns; all tiny."""

from __future__ import annotations

import itertools
from dataclasses import replace

from hybridbench.arch.blocks.attention import Attention
from hybridbench.arch.blocks.parallel import Parallel
from hybridbench.arch.families import ARCHS, MAMBA2, RECIPES, Options, build_spec, pattern_spec
from hybridbench.arch.kinds import MIXERS
from hybridbench.arch.model import ModelSpec

WINDOW, SINKS, CHUNK = 16, 4, 16
BLOCK = 2
"""Sublayers of a block: a mixer and an MLP."""


def small(spec: ModelSpec) -> ModelSpec:
    """The spec with a window and a chunk that short sequences outgrow."""

    def shrink(block: object) -> object:
        if isinstance(block, Attention) and block.window is not None:
            return replace(block, window=WINDOW, sinks=SINKS)
        if hasattr(block, "chunk_size"):
            return replace(block, chunk_size=CHUNK)
        if isinstance(block, Parallel):
            return replace(block, first=shrink(block.first), second=shrink(block.second))
        return block

    return replace(spec, blocks={symbol: shrink(block) for symbol, block in spec.blocks.items()})


def short(spec: ModelSpec) -> ModelSpec:
    """As many blocks as have something new, and one more: what repeats after that costs time and shows nothing."""
    layers = spec.layers
    new = max(layers.index(symbol) for symbol in layers)
    return replace(spec, pattern="".join(layers[: (new // BLOCK + 2) * BLOCK]))


def _variants() -> dict[str, ModelSpec]:
    found = {arch: build_spec(arch, "tiny") for arch in ARCHS}
    found |= {f"moe {arch}": build_spec(arch, "tiny", Options(moe=True)) for arch in ("transformer", "intra")}
    found |= {f"recipe {name}": build_spec("intra", "tiny", Options(recipe=name, ratio="1:0")) for name in RECIPES}
    axes = itertools.product(("vector", "scalar", "gate", "alpha"), ("add", "concat"), ("separate", "shared"))
    for scale, op, value in axes:
        out = "joint" if op == "concat" or value == "shared" else "separate"
        options = Options(fusion_scale=scale, fusion_op=op, fusion_value=value, fusion_out=out, fusion_norm="none")
        found[f"fusion {scale} {op} {value}"] = build_spec("intra", "tiny", options)
    found["window beside mamba"] = pattern_spec("(S&M)-M-S-", "tiny")
    shared = Options(recipe="diff-mamba", fusion_value="shared")
    found["mamba twice, one value"] = pattern_spec("(M&M)-*-", "tiny", shared)
    found["no mlp"] = pattern_spec("M*S", "tiny")
    others = [name for name in MIXERS if name != MAMBA2]
    found |= {f"{arch} {m}": build_spec(arch, "tiny", Options(mixer=m)) for arch in ("inter", "intra") for m in others}
    lent = Options(fusion_value="shared", fusion_norm="none", fusion_out="joint", fusion_op="add")
    pairs = "(*&m)-(*&G)-(*&K)-(*&3)-(*&L)-(*&7)-(K&G)-(G&m)-(m&K)-(3&m)-(G&3)-(L&G)-(K&L)-(K&7)-(7&G)-(7&7)-"
    found["lent values"] = pattern_spec(pairs, "tiny", lent)
    return {name: short(small(spec)) for name, spec in found.items()}


VARIANTS = _variants()
