"""kinds: one row per kind of block that runs: its spec and the module that is built of it.

A block's spec says what it costs and which operations it needs; its module runs it. ``tests/model/test_kinds.py``
checks both against each other row by row. Kinds without a row can be costed, not run.
"""

from __future__ import annotations

from collections.abc import Callable

from hybridbench.arch.block import Block
from hybridbench.arch.blocks.attention import Attention
from hybridbench.arch.blocks.gated_delta import GatedDelta
from hybridbench.arch.blocks.kda import Kda
from hybridbench.arch.blocks.lightning import Lightning
from hybridbench.arch.blocks.mamba1 import Mamba1
from hybridbench.arch.blocks.mamba2 import Mamba2
from hybridbench.arch.blocks.mamba3 import Mamba3
from hybridbench.arch.blocks.mlp import Mlp
from hybridbench.arch.blocks.moe import Moe
from hybridbench.arch.blocks.parallel import Parallel
from hybridbench.arch.blocks.rwkv7 import Rwkv7
from hybridbench.model.attention import AttentionModule
from hybridbench.model.block import BlockModule
from hybridbench.model.delta import DeltaModule
from hybridbench.model.lightning import LightningModule
from hybridbench.model.mamba1 import Mamba1Module
from hybridbench.model.mamba2 import Mamba2Module
from hybridbench.model.mamba3 import Mamba3Module
from hybridbench.model.mlp import MlpModule
from hybridbench.model.moe import MoeModule
from hybridbench.model.parallel import ParallelModule
from hybridbench.model.rwkv7 import Rwkv7Module

MODULES: dict[type[Block], Callable[..., BlockModule]] = {
    Attention: AttentionModule,
    Mamba1: Mamba1Module,
    Mamba2: Mamba2Module,
    Mamba3: Mamba3Module,
    GatedDelta: DeltaModule,
    Kda: DeltaModule,
    Lightning: LightningModule,
    Rwkv7: Rwkv7Module,
    Mlp: MlpModule,
    Moe: MoeModule,
    Parallel: ParallelModule,
}
"""Spec to module. A module is made by ``module(spec, ops, make)``."""
