"""delta: the fused step's stages of gated delta net and of Kimi delta attention."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from torch import Tensor

from hybridbench.arch.blocks.gated_delta import GatedDelta
from hybridbench.arch.blocks.kda import Kda
from hybridbench.model.cache import RecurrentCache
from hybridbench.model.delta import DeltaModule
from hybridbench.model.mixed import Mixed
from hybridbench.model.steps.row import MixerStep, large_state, odd_width, state_warps
from hybridbench.model.steps.second import multiplied_alone, second_products
from hybridbench.model.tiling import power_of_two

if TYPE_CHECKING:
    from hybridbench.model.chain import Chain  # it needs triton


def _unfused(block: GatedDelta | Kda) -> str | None:
    return odd_width(block.d_model, block.out_width) or large_state(block.k_head_dim, block.v_head_dim)


PIECE = 64
"""Value channels of a head that one program of many sequences updates: rows of the state of 128 bytes."""


def _plan(chain: Chain, module: DeltaModule, cache: RecurrentCache, head_eps: float | None) -> Mixed:
    """Norm + q, k, v, gate, decay, beta + conv update | state update + norm + gate.

    KDA's second products of gate and decay are part of the state's update, whose program loads their weights before it
    waits; with many sequences they have a launch before it.
    """
    spec = module.spec
    packed = chain.project(
        module.in_proj, active=(0, spec.conv_channels), conv=(cache.conv_BCW, module.conv_weight_CW, None)
    )
    y_BI = chain.new(spec.out_width)
    update = _in_pieces if multiplied_alone(chain) else _whole_heads
    update(chain, module, cache, packed, y_BI, head_eps)
    return Mixed(y_BI)


def _whole_heads(
    chain: Chain, module: DeltaModule, cache: RecurrentCache, packed: Tensor, y_BI: Tensor, head_eps: float | None
) -> None:
    """A program updates a head of a few sequences, one after the other."""
    from hybridbench.kernels.step.triton_delta_rule import update_delta

    spec = module.spec
    H, P, V = spec.n_heads, spec.k_head_dim, spec.v_head_dim
    rank, sequences = 0, 1
    decay, gate = packed, packed
    if module.gate_proj is not None and module.decay_proj is not None:
        rank, sequences = module.gate_proj.in_features, chain.sequences_beside(H)
        gate, decay = module.gate_proj.weight, module.decay_proj.weight
    chain.launch(
        update_delta,
        H * -(-chain.B // sequences),
        packed,
        cache.state,
        decay,
        gate,
        *_of_module(module, y_BI),
        *_numbers(module, head_eps),
        warps=state_warps(power_of_two(P) * power_of_two(V)),
        B=chain.B,
        **_sizes(module, packed, rank, head_eps),
        SEQUENCES=sequences,
        HALF=power_of_two(V) // 2,
        RANK_TILE=power_of_two(max(rank, 16)),
        BESIDE=chain.most_beside,
    )


def _in_pieces(
    chain: Chain, module: DeltaModule, cache: RecurrentCache, packed: Tensor, y_BI: Tensor, head_eps: float | None
) -> None:
    """A program updates ``PIECE`` value channels of a head of one sequence."""
    from hybridbench.kernels.step.triton_delta_rule import update_delta_pieces

    spec = module.spec
    H, P, V = spec.n_heads, spec.k_head_dim, spec.v_head_dim
    rank, second_width = 0, 0
    decay, gate = packed, packed
    if module.gate_proj is not None and module.decay_proj is not None:
        rank, width = module.gate_proj.in_features, max(H * P, H * V)
        weights = module.gate_proj.weight, module.decay_proj.weight
        gate = second_products(chain, packed[:, 2 * spec.n_k_heads * P + H * V :], weights, width)
        decay, second_width = gate[:, width:], gate.stride(0)
    raw, count = chain.arrivals(H, V)
    chain.launch(
        update_delta_pieces,
        chain.B * H * -(-V // PIECE),
        packed,
        cache.state,
        decay,
        gate,
        *_of_module(module, y_BI),
        raw,
        count,
        *_numbers(module, head_eps),
        warps=state_warps(power_of_two(P) * PIECE),
        **_sizes(module, packed, rank, head_eps),
        SECOND_WIDTH=second_width,
        PIECE=PIECE,
        V_TILE=power_of_two(V),
    )


def _of_module(module: DeltaModule, y_BI: Tensor) -> tuple[Tensor, ...]:
    return module.A_log_H, module.dt_bias, module.norm_weight_V, y_BI


def _numbers(module: DeltaModule, head_eps: float | None) -> tuple[float, ...]:
    from hybridbench.kernels.delta.reference import UNIT_EPS

    return 1 / math.sqrt(module.spec.k_head_dim), UNIT_EPS, module.norm_eps, 0.0 if head_eps is None else head_eps


def _sizes(module: DeltaModule, packed: Tensor, rank: int, head_eps: float | None) -> dict[str, Any]:
    spec = module.spec
    sizes = {"H": spec.n_heads, "G": spec.n_k_heads, "P": spec.k_head_dim, "V": spec.v_head_dim}
    sizes |= {"WIDTH": packed.stride(0), "RANK": rank, "P_TILE": power_of_two(spec.k_head_dim)}
    return {**sizes, "HEAD_NORM": head_eps is not None}


STEP = MixerStep(_plan, _unfused)
