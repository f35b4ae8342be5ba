"""delta: the fused step's stages of gated delta net and of Kimi delta attention."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from hybridbench.arch.blocks.gated_delta import GatedDelta
from hybridbench.arch.blocks.kda import Kda
from hybridbench.model.cache import RecurrentCache
from hybridbench.model.delta import DeltaModule
from hybridbench.model.mixed import Mixed
from hybridbench.model.steps.row import MixerStep, large_state, odd_width, state_warps
from hybridbench.model.steps.second import second_products
from hybridbench.model.tiling import power_of_two

if TYPE_CHECKING:
    from hybridbench.model.chain import Chain  # it needs triton


PIECE = 64
"""Value channels of a head that one program updates: rows of the state of 128 bytes."""


def _unfused(block: GatedDelta | Kda) -> str | None:
    return odd_width(block.d_model, block.out_width) or large_state(block.k_head_dim, PIECE)


def _plan(chain: Chain, module: DeltaModule, cache: RecurrentCache, head_eps: float | None) -> Mixed:
    """Norm + q, k, v, gate, decay, beta + conv update | (second products) | state update + norm + gate.

    The second products of gate and decay are KDA's only.
    """
    from hybridbench.kernels.delta.reference import UNIT_EPS
    from hybridbench.kernels.step.triton_delta_rule import update_delta

    spec = module.spec
    H, P, V = spec.n_heads, spec.k_head_dim, spec.v_head_dim
    packed = chain.project(
        module.in_proj, active=(0, spec.conv_channels), conv=(cache.conv_BCW, module.conv_weight_CW, None)
    )
    y_BI = chain.new(spec.out_width)
    rank, second_width = 0, 0
    decay, gate = packed, packed
    if module.gate_proj is not None and module.decay_proj is not None:
        rank, width = module.gate_proj.in_features, max(H * P, H * V)
        weights = module.gate_proj.weight, module.decay_proj.weight
        gate = second_products(chain, packed[:, 2 * spec.n_k_heads * P + H * V :], weights, width)
        decay, second_width = gate[:, width:], gate.stride(0)
    chain.launch(
        update_delta,
        chain.B * H * -(-V // PIECE),
        packed,
        cache.state,
        decay,
        gate,
        module.A_log_H,
        module.dt_bias,
        module.norm_weight_V,
        y_BI,
        *chain.arrivals(H, V),
        1 / math.sqrt(P),
        UNIT_EPS,
        module.norm_eps,
        0.0 if head_eps is None else head_eps,
        warps=state_warps(power_of_two(P) * PIECE),
        H=H,
        G=spec.n_k_heads,
        P=P,
        V=V,
        WIDTH=packed.stride(0),
        RANK=rank,
        SECOND_WIDTH=second_width,
        PIECE=PIECE,
        P_TILE=power_of_two(P),
        V_TILE=power_of_two(V),
        HEAD_NORM=head_eps is not None,
    )
    return Mixed(y_BI)


STEP = MixerStep(_plan, _unfused)
