"""kinds: one row per letter of a pattern: what it stands for, and how its dimensions follow from a scale.

Every list of kinds is derived from these rows: in patterns, families, ``--mixer``, specs read from JSON, and the tests.
A kind that can run also has a row in ``hybridbench.model.kinds``, which needs torch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from hybridbench.arch.block import Block
from hybridbench.arch.blocks.altup import AltUp
from hybridbench.arch.blocks.attention import Attention
from hybridbench.arch.blocks.channel_mix import ChannelMix
from hybridbench.arch.blocks.gated_delta import GatedDelta
from hybridbench.arch.blocks.indexed import IndexedAttention
from hybridbench.arch.blocks.kda import Kda
from hybridbench.arch.blocks.latent import LatentAttention
from hybridbench.arch.blocks.lightning import Lightning
from hybridbench.arch.blocks.mamba1 import Mamba1
from hybridbench.arch.blocks.mamba2 import Mamba2
from hybridbench.arch.blocks.mamba3 import Mamba3
from hybridbench.arch.blocks.mlp import Mlp
from hybridbench.arch.blocks.moe import Moe
from hybridbench.arch.blocks.parallel import Parallel
from hybridbench.arch.blocks.per_layer import PerLayerInput
from hybridbench.arch.blocks.rg_lru import RgLru
from hybridbench.arch.blocks.routed_attention import RoutedAttention
from hybridbench.arch.blocks.rwkv7 import Rwkv7
from hybridbench.arch.blocks.shared import SharedBlock
from hybridbench.arch.blocks.short_conv import ShortConv
from hybridbench.arch.scales import Site


@dataclass(frozen=True)
class BlockKind:
    """One row.

    Args:
        letter: in patterns; empty for parallel blocks, which are written ``(*&M)``.
        about: what it is, in the words of a legend.
        spec: the class of its blocks.
        at: makes the block at a site of a scale; None if no scale has dimensions for it.
        mixer: its name in ``--mixer`` if it can replace Mamba-2, else empty.
        branches: it may be a branch of a parallel block.
    """

    letter: str
    about: str
    spec: type[Block]
    at: Callable[[Site], Block] | None = None
    mixer: str = ""
    branches: bool = False


KINDS = (
    BlockKind("M", "Mamba-2", Mamba2, Mamba2.at, mixer="mamba2", branches=True),
    BlockKind("m", "Mamba-1", Mamba1, Mamba1.at, mixer="mamba1", branches=True),
    BlockKind("3", "Mamba-3", Mamba3, Mamba3.at, mixer="mamba3", branches=True),
    BlockKind("G", "gated delta net", GatedDelta, GatedDelta.at, mixer="gated-delta", branches=True),
    BlockKind("K", "Kimi delta attention", Kda, Kda.at, mixer="kda", branches=True),
    BlockKind("L", "lightning attention", Lightning, Lightning.at, mixer="lightning", branches=True),
    BlockKind("7", "RWKV-7", Rwkv7, Rwkv7.at, mixer="rwkv7", branches=True),
    BlockKind("R", "RG-LRU", RgLru, RgLru.at),
    BlockKind("C", "short convolution", ShortConv, ShortConv.at),
    BlockKind("*", "attention", Attention, Attention.at, branches=True),
    BlockKind("S", "sliding-window attention", Attention, Attention.window_at, branches=True),
    BlockKind("A", "latent attention", LatentAttention),
    BlockKind("I", "latent attention behind an indexer", IndexedAttention),
    BlockKind("J", "attention with routed queries", RoutedAttention),
    BlockKind("Z", "a block of shared weights", SharedBlock),
    BlockKind("", "two mixers in parallel", Parallel),
    BlockKind("-", "MLP", Mlp, Mlp.at),
    BlockKind("E", "mixture of experts", Moe, Moe.at),
    BlockKind("c", "channel mixing", ChannelMix),
    BlockKind("P", "per-layer embeddings", PerLayerInput),
    BlockKind("U", "AltUp and Laurel", AltUp),
)

BLOCK_LETTERS = "".join(kind.letter for kind in KINDS)
FEED_FORWARD = "".join(kind.letter for kind in KINDS if kind.spec.feed_forward)
BRANCHES = "".join(kind.letter for kind in KINDS if kind.branches)
"""Letters of the mixers that may stand in parallel."""
RUNNING = "".join({kind.spec: kind.letter for kind in reversed(KINDS) if kind.at and kind.spec.step_ops}.values())[::-1]
"""A letter of every kind that runs by itself."""
MIXERS = {kind.mixer: kind.letter for kind in KINDS if kind.mixer}
"""The values of ``--mixer``, with their letters."""
SHAPES = {kind.letter: kind.at for kind in KINDS if kind.at is not None}
"""For each letter, the function that makes its block at a site of a scale."""
SHAPELESS = {kind.letter: kind.about for kind in KINDS if kind.letter and kind.at is None}
"""Letters whose dimensions only presets and imported models define, with what they are."""
BLOCKS: dict[str, type[Block]] = {kind.spec.kind: kind.spec for kind in KINDS}
"""The name of a kind in a spec's JSON form to its class."""
