"""lightning: the fused step's stages of lightning attention."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from hybridbench.arch.blocks.lightning import Lightning
from hybridbench.model.lightning import LightningCache, LightningModule
from hybridbench.model.mixed import Mixed
from hybridbench.model.steps.row import MixerStep, large_state, odd_width, state_warps
from hybridbench.model.tiling import power_of_two

if TYPE_CHECKING:
    from hybridbench.model.chain import Chain  # it needs triton

VALUES = 64
"""Value channels of a head that one program updates: 128-byte rows of a 16-bit state."""


def _unfused(block: Lightning) -> str | None:
    return odd_width(block.d_model, block.out_width) or large_state(block.head_dim, min(VALUES, block.head_dim))


def _plan(chain: Chain, module: LightningModule, cache: LightningCache, head_eps: float | None) -> Mixed:
    """Norm + q, k, v, gate + silu | state update + gate | (norm by heads)."""
    from hybridbench.kernels.step.triton_lightning import update_lightning

    spec = module.spec
    H, P, inner = spec.n_heads, spec.head_dim, spec.out_width
    packed = chain.project(module.in_proj, active=(0, 3 * inner))
    y_BI = chain.new(inner)
    values = min(VALUES, power_of_two(P))
    chunks = -(-P // values)
    squares = torch.zeros(H * chunks, chain.B, **chain.wide)
    chain.launch(
        update_lightning,
        chain.B * H * chunks,
        packed,
        cache.state_BHPP,
        module.log_decay_H,
        module.norm_weight_I,
        y_BI,
        squares,
        warps=state_warps(power_of_two(P) * values),
        B=chain.B,
        H=H,
        P=P,
        WIDTH=packed.stride(0),
        P_TILE=power_of_two(P),
        VALUES=values,
        CHUNKS=chunks,
    )
    return chain.by_heads(Mixed(y_BI, squares, module.norm_eps), spec.out_heads, head_eps)


STEP = MixerStep(_plan, _unfused)
