"""kinds: one row per kind of block that runs: its spec, the module that is built of it, and its part of a fused step.

A block's spec says what it costs and which operations it needs; its module runs it. ``tests/model/test_kinds.py``
checks both against each other row by row. Kinds without a row can be costed, not run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

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
from hybridbench.model.steps import attention, delta, lightning, mamba1, mamba2, mamba3, rwkv7
from hybridbench.model.steps.row import MixerStep


@dataclass(frozen=True)
class Running:
    """One row.

    Attributes:
        module: made by ``module(spec, ops, make)``.
        step: what the fused decode step knows of a mixer. A mixer without runs module by module, and so does a model
            that has it. Blocks that are no single mixer are planned in ``fused`` itself.
    """

    module: Callable[..., BlockModule]
    step: MixerStep | None = None


ROWS: dict[type[Block], Running] = {
    Attention: Running(AttentionModule, attention.STEP),
    Mamba1: Running(Mamba1Module, mamba1.STEP),
    Mamba2: Running(Mamba2Module, mamba2.STEP),
    Mamba3: Running(Mamba3Module, mamba3.STEP),
    GatedDelta: Running(DeltaModule, delta.STEP),
    Kda: Running(DeltaModule, delta.STEP),
    Lightning: Running(LightningModule, lightning.STEP),
    Rwkv7: Running(Rwkv7Module, rwkv7.STEP),
    Mlp: Running(MlpModule),
    Moe: Running(MoeModule),
    Parallel: Running(ParallelModule),
}
"""Spec to row."""

MODULES = {spec: row.module for spec, row in ROWS.items()}
"""Spec to module."""
STEPS = {spec: row.step for spec, row in ROWS.items() if row.step is not None}
"""Spec of a mixer to its part of the fused step."""
