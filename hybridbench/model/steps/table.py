"""table: one row per kind of mixer that the fused decode step can run."""

from __future__ import annotations

from hybridbench.arch.block import Block
from hybridbench.arch.blocks.attention import Attention
from hybridbench.arch.blocks.gated_delta import GatedDelta
from hybridbench.arch.blocks.kda import Kda
from hybridbench.arch.blocks.lightning import Lightning
from hybridbench.arch.blocks.mamba1 import Mamba1
from hybridbench.arch.blocks.mamba2 import Mamba2
from hybridbench.arch.blocks.mamba3 import Mamba3
from hybridbench.arch.blocks.rwkv7 import Rwkv7
from hybridbench.model.steps import attention, delta, lightning, mamba1, mamba2, mamba3, rwkv7
from hybridbench.model.steps.row import MixerStep

STEPS: dict[type[Block], MixerStep] = {
    Attention: attention.STEP,
    Mamba2: mamba2.STEP,
    GatedDelta: delta.STEP,
    Kda: delta.STEP,
    Lightning: lightning.STEP,
    Mamba3: mamba3.STEP,
    Rwkv7: rwkv7.STEP,
    Mamba1: mamba1.STEP,
}
"""Spec of a mixer to its row. A mixer without one runs module by module, and so does a model that has it."""
