"""delta: the fused step's stages of gated delta net and of Kimi delta attention."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from hybridbench.arch.blocks.gated_delta import GatedDelta
from hybridbench.arch.blocks.kda import Kda
from hybridbench.model.cache import RecurrentCache
from hybridbench.model.delta import DeltaModule
from hybridbench.model.mixed import Mixed
from hybridbench.model.steps.row import MixerStep, large_state, odd_width, state_registers, state_warps
from hybridbench.model.steps.second import multiplied_alone, second_products
from hybridbench.model.tiling import power_of_two

if TYPE_CHECKING:
    from hybridbench.model.chain import Chain  # it needs triton


def _unfused(block: GatedDelta | Kda) -> str | None:
    return odd_width(block.d_model, block.out_width) or large_state(block.k_head_dim, block.v_head_dim)


def _plan(chain: Chain, module: DeltaModule, cache: RecurrentCache, head_eps: float | None) -> Mixed:
    """Norm + q, k, v, gate, decay, beta + conv update | state update + norm + gate.

    KDA's second products of gate and decay are part of the state's update, whose program loads their weights before it
    waits; with many sequences they have a launch before it.
    """
    from hybridbench.kernels.delta.reference import UNIT_EPS
    from hybridbench.kernels.step.triton_delta_rule import update_delta

    spec = module.spec
    H, P, V = spec.n_heads, spec.k_head_dim, spec.v_head_dim
    packed = chain.project(
        module.in_proj, active=(0, spec.conv_channels), conv=(cache.conv_BCW, module.conv_weight_CW, None)
    )
    y_BI = chain.new(spec.out_width)
    rank, sequences, second_width = 0, 1, 0
    elements = power_of_two(P) * power_of_two(V)
    warps, registers = state_warps(elements), state_registers(elements)
    decay, gate = packed, packed
    if module.gate_proj is not None and module.decay_proj is not None:
        rank = module.gate_proj.in_features
        gate, decay = module.gate_proj.weight, module.decay_proj.weight
        if multiplied_alone(chain):
            width = max(H * P, H * V)
            second = second_products(chain, packed[:, 2 * spec.n_k_heads * P + H * V :], [gate, decay], width)
            gate, decay, second_width = second, second[:, width:], second.stride(0)
        else:
            sequences = chain.sequences_beside(H)
            warps, registers = state_warps(elements, 8), None  # a program holds weights too
    chain.launch(
        update_delta,
        H * -(-chain.B // sequences),
        packed,
        cache.state,
        decay,
        gate,
        module.A_log_H,
        module.dt_bias,
        module.norm_weight_V,
        y_BI,
        1 / math.sqrt(P),
        UNIT_EPS,
        module.norm_eps,
        0.0 if head_eps is None else head_eps,
        warps=warps,
        registers=registers,
        B=chain.B,
        H=H,
        G=spec.n_k_heads,
        P=P,
        V=V,
        WIDTH=packed.stride(0),
        RANK=rank,
        SECOND_WIDTH=second_width,
        SEQUENCES=sequences,
        P_TILE=power_of_two(P),
        HALF=power_of_two(V) // 2,
        RANK_TILE=power_of_two(max(rank, 16)),
        BESIDE=chain.most_beside,
        HEAD_NORM=head_eps is not None,
    )
    return Mixed(y_BI)


STEP = MixerStep(_plan, _unfused)
