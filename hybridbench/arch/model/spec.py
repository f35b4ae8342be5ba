"""spec: a whole model, as a layer string and one spec per letter.

A model is embedding, sublayers (each RMSNorm -> block -> residual), a final RMSNorm and a head tied to the embedding;
imported models may have an untied head, more norms, or blocks whose weights all their uses share.
"""

from __future__ import annotations

import functools
import json
from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any, TypeVar

from typing_extensions import override

from hybridbench.arch.block import (
    Block,
    Mixer,
    check_sizes,
    spec_to_dict,
    variant,
)
from hybridbench.arch.kinds import BLOCKS
from hybridbench.arch.pattern import parse_pattern, spread
from hybridbench.arch.stored import StoredDtypes
from hybridbench.errors import BadInput

BlockT = TypeVar("BlockT")

CUSTOM = "custom"
"""The ``arch`` of a typed pattern."""

LONGEST_NAME = 26
"""Characters of a pattern that a table shows in full."""

NAMED = ("preset", "config", "published")
"""Used in place of a scale for models with their own names; earlier versions call a preset published."""


@dataclass(frozen=True)
class ModelSpec:
    """All that defines a model; equal specs build equal models.

    Args:
        arch: family name, or ``custom`` for a typed pattern.
        scale: name of the scale its dimensions come from.
        pattern: the expanded layer string, without spaces.
        blocks: one spec per symbol of the pattern.
        ratio: as asked for, None where the family has none.
        recipe: fusion recipe, None without a parallel block.
        tied: the head is the embedding; else a matrix of its own.
        norms: norms around each sublayer; Gemma has one before and one after.
        norm_bias: norms have a bias (LayerNorm).
        head_bias: the head has a bias.
        meta_tokens: learned tokens before every sequence (Hymba), one embedding row each.
        notes: what a reader of its numbers has to know of the file it was read from; neither compared nor written.
        stored: the dtypes its file names: how it is kept and not what it is, so neither compared nor written.
    """

    arch: str
    scale: str
    d_model: int
    vocab_size: int
    pattern: str
    blocks: dict[str, Block]
    ratio: str | None = None
    recipe: str | None = None
    norm_eps: float = 1e-5
    tied: bool = variant(True)
    norms: int = variant(1)
    norm_bias: bool = variant(False)
    head_bias: bool = variant(False)
    meta_tokens: int = variant(0)
    notes: tuple[str, ...] = field(default=(), compare=False, repr=False)
    stored: StoredDtypes = field(default=StoredDtypes(), compare=False, repr=False)

    def __post_init__(self) -> None:
        check_sizes(self, "d_model", "vocab_size", "norms")
        missing = set(self.layers) - set(self.blocks)
        if missing:
            raise BadInput(f"pattern {self.pattern} uses {sorted(missing)[0]} but the model has no spec for it.")

    @override
    def __hash__(self) -> int:
        """Of the fields that differ most; the one that dataclasses make would need blocks that are no dict."""
        return hash((self.arch, self.scale, self.pattern, self.d_model))

    @cached_property
    def layers(self) -> tuple[str, ...]:
        """Symbols of the sublayers in order."""
        return parse_pattern(self.pattern)

    @property
    def counts(self) -> Counter[str]:
        """How often each symbol stands in the pattern."""
        return Counter(self.layers)

    @cached_property
    def placed(self) -> tuple[Block, ...]:
        """The block of every sublayer in order: its symbol's, or what leads in its place (``leading``)."""
        seen: set[Hashable] = set()
        found = []
        for symbol in self.layers:
            block = self.blocks[symbol]
            new = {mixer.line for mixer in block.mixers} - seen
            seen |= new
            found.append(block.leading(new))
        return tuple(found)

    @cached_property
    def uses(self) -> tuple[tuple[Block, int], ...]:
        """Every block as it stands in the model, with its number of sublayers; equal ones of two symbols stay apart."""
        return tuple((block, n) for (_, block), n in Counter(zip(self.layers, self.placed, strict=True)).items())

    @cached_property
    def label(self) -> str:
        """Short name for tables: the family, the count of its blocks where it mixes two kinds, and what is not the
        family's default: places, fusion, window, sinks, experts.

        A typed pattern is its own name. A long one is shown as its repeated part, or cut, with the count of its blocks.
        """
        kinds = Counter(symbol.rstrip("'") for symbol in self.layers if not self.blocks[symbol].feed_forward)
        ranks = {symbol.rstrip("'"): self.rank(symbol) for symbol in self.counts}
        order = sorted(kinds, key=lambda symbol: (*ranks[symbol], symbol))
        counts = ["+".join(str(kinds[symbol]) for symbol in order)] if len(kinds) > 1 else []
        names = (
            [self.arch, *counts, *self._places(order)] if self.arch != CUSTOM else _pattern_name(self.pattern, counts)
        )
        return " ".join([*names, *self._departures()])

    def _places(self, order: list[str]) -> list[str]:
        """Where the first of two kinds of block stands, if it was placed by hand and elsewhere than it would be."""
        if self.scale in NAMED or self.ratio is not None or len(order) != 2:
            return []
        mixing = [symbol.rstrip("'") for symbol in self.layers if not self.blocks[symbol].feed_forward]
        places = tuple(number for number, symbol in enumerate(mixing, 1) if symbol == order[0])
        return [f"at {','.join(map(str, places))}"] if places != spread(len(places), len(mixing)) else []

    def rank(self, symbol: str) -> tuple[bool, bool]:
        """The order of the kinds a model mixes: parallel blocks, then those that see every token, then the rest."""
        block = self.blocks[symbol]
        return not block.branches, not block.sees_all

    def _departures(self) -> list[str]:
        if self.scale in NAMED:
            return []
        found = [] if self.recipe in (None, "paper") else [str(self.recipe).removeprefix("paper,")]
        used = [self.blocks[symbol] for symbol in self.counts]
        parts = [*(part for _, part in mixers(self)), *(block for block in used if block.feed_forward)]
        return found + list(dict.fromkeys(departure for part in parts for departure in part.departures))

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; ``from_dict`` gives an equal spec back."""
        variants = [field for field in fields(self) if "variant" in field.metadata]
        return {
            "arch": self.arch,
            "scale": self.scale,
            "ratio": self.ratio,
            "recipe": self.recipe,
            "pattern": self.pattern,
            "d_model": self.d_model,
            "vocab_size": self.vocab_size,
            "norm_eps": self.norm_eps,
            "blocks": {symbol: spec_to_dict(block) for symbol, block in self.blocks.items()},
            **{
                field.name: getattr(self, field.name)
                for field in variants
                if getattr(self, field.name) != field.default
            },
        }

    @classmethod
    def from_dict(cls, body: dict[str, Any]) -> ModelSpec:
        """Rebuilds a spec. Equal bodies give the same spec: thousands of records are of a few models.

        Raises:
            KeyError, TypeError, ValueError: a field is missing, unknown or of the wrong type.
            BadInput: the fields are there but do not make a model.
        """
        return _rebuilt(json.dumps(body))


@functools.lru_cache(maxsize=1024)
def _rebuilt(body: str) -> ModelSpec:
    """A spec from JSON: as text 1, 1.0 and true are three values, of which only one may be right."""
    fields_of = json.loads(body)
    blocks = {symbol: block_from_dict(block) for symbol, block in fields_of["blocks"].items()}
    return ModelSpec(**{**fields_of, "blocks": blocks})


def _pattern_name(pattern: str, counts: list[str]) -> list[str]:
    """A pattern, shortened if it is too long for a table.

    >>> _pattern_name("M-M-M-*-" * 4, ["4+12"]), _pattern_name("*-" + "M-" * 20, ["1+20"])
    (['M-M-M-*-', 'x4'], ['*-M-M-M-M-M-M-M-M-M-M-M-M-…', '1+20'])
    """
    if len(pattern) <= LONGEST_NAME:
        return [pattern]
    period = (pattern * 2).find(pattern, 1)
    if period <= LONGEST_NAME:
        return [pattern[:period], f"x{len(pattern) // period}"]
    return [pattern[:LONGEST_NAME] + "…", *counts]


def block_from_dict(body: dict[str, Any]) -> Block:
    """One block's spec from the dict ``spec_to_dict`` made of it."""
    values = dict(body)
    kind = values.pop("kind")
    if kind not in BLOCKS:
        raise ValueError(f"unknown kind of block {kind!r}")
    for name, value in values.items():
        if isinstance(value, dict):
            nested = BLOCKS[kind].nested.get(name)
            values[name] = block_from_dict(value) if nested is None else nested(**value)
        elif isinstance(value, list):
            values[name] = tuple(value)
    return BLOCKS[kind](**values)


def mixers(spec: ModelSpec) -> list[tuple[str, Mixer]]:
    """Every distinct mixer of a model with its symbol: both branches of a parallel block, a shared one's attention."""
    blocks = dict.fromkeys(zip(spec.layers, spec.placed, strict=True))
    return [(symbol, mixer) for symbol, block in blocks for mixer in block.mixers]


def uses_of(spec: ModelSpec, kind: type[BlockT]) -> list[tuple[BlockT, int]]:
    """Every distinct mixer of one kind with the number of layers that hold it."""
    return [(mixer, n) for block, n in spec.uses for mixer in block.mixers if isinstance(mixer, kind)]
