"""What every row of ``arch.kinds`` must have, and that lists of kinds elsewhere are those of its rows."""

from __future__ import annotations

import contextlib
from collections import Counter
from dataclasses import fields

import pytest

from hybridbench.arch.block import Block, Mixer, spec_to_dict
from hybridbench.arch.blocks.attention import Attention
from hybridbench.arch.families import MAMBA2, RECURRENT, Options, build_spec, pattern_spec
from hybridbench.arch.kinds import BLOCKS, KINDS, MIXERS, SHAPELESS, BlockKind
from hybridbench.arch.model import block_from_dict
from hybridbench.arch.pattern import parse_pattern
from hybridbench.arch.scales import SCALES, Site
from hybridbench.errors import BadInput

each_kind = pytest.mark.parametrize("kind", KINDS, ids=[kind.about for kind in KINDS])
RESERVED = "(&)'|+/ "
"""Characters of a pattern that are no letter."""


def made(kind: BlockKind, scale: str, branch: bool = False) -> Block:
    shape = SCALES[scale]
    inner, head = (shape.intra_d_inner, shape.intra_ssm_head_dim) if branch else (shape.d_inner, shape.ssm_head_dim)
    assert kind.at is not None
    return kind.at(Site(shape, inner, head, branch, shape.intra_d_inner // 2))


def every_subclass(cls: type[Block]) -> set[type[Block]]:
    return {cls, *(deeper for sub in cls.__subclasses__() for deeper in every_subclass(sub))}


def test_every_class_of_block_that_can_be_made_has_a_row() -> None:
    # By name: a dataclass with slots leaves the class that it was made of behind.
    concrete = {cls.__qualname__ for cls in every_subclass(Block) if "kind" in vars(cls)}
    assert concrete == {kind.spec.__qualname__ for kind in KINDS} == {cls.__qualname__ for cls in BLOCKS.values()}
    assert len(BLOCKS) == len({kind.spec for kind in KINDS}), "two classes of one name"


def test_letters_and_names_are_of_one_kind_each() -> None:
    for name in ("letter", "mixer", "about"):
        given = Counter(getattr(kind, name) for kind in KINDS)
        assert {value for value, times in given.items() if times > 1} <= {""}
    assert all(len(kind.letter) == 1 and kind.letter not in RESERVED for kind in KINDS if kind.letter)


@each_kind
def test_a_letter_is_read_in_a_pattern(kind: BlockKind) -> None:
    if kind.letter:
        assert parse_pattern(f"M{kind.letter}") == ("M", kind.letter)
        with pytest.raises(BadInput) if kind.spec.feed_forward else contextlib.nullcontext():
            parse_pattern(kind.letter)


@each_kind
@pytest.mark.parametrize("scale", SCALES)
def test_a_scale_gives_a_block_of_the_kind(kind: BlockKind, scale: str) -> None:
    if kind.at is None:
        assert not kind.mixer
        assert not kind.branches
        if kind.letter:
            with pytest.raises(BadInput, match=f"{SHAPELESS[kind.letter]} has no dimensions at a scale"):
                pattern_spec(f"M{kind.letter}", scale)
        return
    block = made(kind, scale)
    assert type(block) is kind.spec
    assert vars_of(block)["d_model"] == SCALES[scale].d_model
    assert block_from_dict(spec_to_dict(block)) == block
    assert pattern_spec(f"*{kind.letter}", scale).blocks[kind.letter] == block


@each_kind
@pytest.mark.parametrize("scale", SCALES)
def test_a_branch_stands_beside_attention_in_every_scale(kind: BlockKind, scale: str) -> None:
    symbol = f"(*&{kind.letter})"
    if not kind.branches:
        with pytest.raises(BadInput):
            parse_pattern(symbol)
        return
    block = made(kind, scale, branch=True)
    assert type(block) is kind.spec
    assert isinstance(block, Mixer)
    parallel = pattern_spec(symbol, scale).blocks[symbol]
    assert block in parallel.branches
    assert isinstance(parallel.branches[0], Attention) == (kind.spec is Attention), "a recurrent branch stands first"


@pytest.mark.parametrize("mixer", MIXERS)
def test_a_mixer_takes_mamba2_s_place_in_every_family(mixer: str) -> None:
    (kind,) = (kind for kind in KINDS if kind.mixer == mixer)
    assert kind.branches, "the intra family has it as a branch"
    assert kind.spec.sequence_ops, "a family is there to be run"
    for arch in RECURRENT:
        spec = build_spec(arch, "tiny", Options(mixer=mixer))
        mixers = {type(part) for block in spec.blocks.values() for part in block.mixers}
        assert mixers == {kind.spec} | ({Attention} if arch != "mamba" else set())
        assert mixer == MAMBA2 or mixer in spec.label


def vars_of(block: Block) -> dict[str, object]:
    return {field.name: getattr(block, field.name) for field in fields(block)}
