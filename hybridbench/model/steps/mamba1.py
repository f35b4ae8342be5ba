"""mamba1: the fused step's stages of Mamba-1."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hybridbench.arch.blocks.mamba1 import Mamba1
from hybridbench.model.cache import RecurrentCache
from hybridbench.model.mamba1 import Mamba1Module
from hybridbench.model.mixed import Mixed
from hybridbench.model.steps.row import MixerStep, large_state, odd_width, state_warps
from hybridbench.model.tiling import power_of_two

if TYPE_CHECKING:
    from hybridbench.model.chain import Chain  # it needs triton

CHANNELS = 32
"""Channels that one program updates."""
PER_SM = 7
"""Such programs on an SM, by their registers. Where more would load weights of their own than fit, each takes several
sequences, all at once, so that their states are in flight together.
"""


def _unfused(block: Mamba1) -> str | None:
    return odd_width(block.d_model, block.out_width) or large_state(CHANNELS, max(block.d_state, block.dt_rank))


def _plan(chain: Chain, module: Mamba1Module, cache: RecurrentCache, head_eps: float | None) -> Mixed:
    """Norm + in_proj + conv update | x_proj | dt_proj + state update + gate | (norm by heads).

    x_proj reads every channel after its conv, so that it cannot be part of the product before.
    """
    from hybridbench.kernels.step.triton_selective import update_selective

    spec = module.spec
    inner = spec.d_inner
    conv = (cache.conv_BCW, module.conv_weight_CW, module.conv_bias_C)
    packed = chain.project(module.in_proj, active=(0, inner), conv=conv)
    ranked = chain.project(module.x_proj, x=packed)
    y_BI = chain.new(inner)
    tiles = -(-inner // CHANNELS)
    sequences = power_of_two(chain.sequences_beside(tiles, PER_SM))
    chain.launch(
        update_selective,
        tiles * -(-chain.B // sequences),
        packed,
        ranked,
        cache.state,
        module.dt_weight_IR,
        module.dt_bias_I,
        module.A_log_IN,
        module.D_I,
        y_BI,
        warps=max(4, state_warps(sequences * CHANNELS * power_of_two(spec.d_state))),
        B=chain.B,
        I=inner,
        N=spec.d_state,
        RANK=spec.dt_rank,
        WIDTH=packed.stride(0),
        RANKED_WIDTH=ranked.stride(0),
        CHANNELS=CHANNELS,
        SEQUENCES=sequences,
        BESIDE=chain.most_beside,
        N_TILE=power_of_two(spec.d_state),
        RANK_TILE=power_of_two(max(spec.dt_rank, 16)),
    )
    return chain.by_heads(Mixed(y_BI), spec.out_heads, head_eps)


STEP = MixerStep(_plan, _unfused)
