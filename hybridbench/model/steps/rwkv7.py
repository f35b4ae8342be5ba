"""rwkv7: the fused step's stages of RWKV-7's time mixing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from hybridbench.arch.blocks.rwkv7 import Rwkv7
from hybridbench.kernels.rwkv7.reference import RATE
from hybridbench.model.cache import RecurrentCache
from hybridbench.model.mixed import Mixed
from hybridbench.model.rwkv7 import EPS_PER_CHANNEL, Rwkv7Module
from hybridbench.model.steps.row import MixerStep, large_state, odd_width, state_warps
from hybridbench.model.steps.second import large_rank, second_products
from hybridbench.model.tiling import power_of_two

if TYPE_CHECKING:
    from torch import Tensor

    from hybridbench.model.chain import Chain  # it needs triton

MIXED_COLUMNS = 1024
"""Columns of a token that one program mixes with the token before."""

REGISTERS = 96
"""Of a thread of the state's update. It has 32 elements beside the many vectors of a head's channels, 4 warps a
program: 41 us a layer at 64 sequences at 1b on an H200; 69 with 8 warps of 64 registers, 106 with 4 sequences one after
the other.
"""


def _unfused(block: Rwkv7) -> str | None:
    ranks = (block.decay_rank, block.rate_rank, block.value_rank, block.gate_rank)
    odd = odd_width(block.d_model, block.out_width)
    return odd or large_state(block.head_dim, block.head_dim) or large_rank(*ranks)


def _plan(chain: Chain, module: Rwkv7Module, cache: RecurrentCache, head_eps: float | None) -> Mixed:
    """Norm + token shift + token kept | r, k, v, low ranks | second products | state update + norm + bonus + gate."""
    from hybridbench.kernels.step.triton_rwkv7 import update_rwkv7

    spec = module.spec
    H, P, inner = spec.n_heads, spec.head_dim, spec.out_width
    packed = _project(chain, module, _mix(chain, module, cache))
    first = chain.shared.setdefault(module.first_value, packed)
    y_BI = chain.new(inner)
    ups = module.decay_up, module.rate_up, module.value_up, module.gate_up
    second = second_products(chain, packed[:, 3 * inner :], [None if up is None else up.weight for up in ups], inner)
    chain.launch(
        update_rwkv7,
        chain.B * H,
        packed,
        first[:, 2 * inner :],
        cache.state,
        second,
        module.decay_I,
        module.rate_I,
        packed if module.value_I is None else module.value_I,
        module.removal_I,
        module.added_I,
        module.bonus_HP,
        module.norm_weight_HV,
        module.norm_bias_HV,
        y_BI,
        EPS_PER_CHANNEL * P,
        0.0 if head_eps is None else head_eps,
        -RATE,
        warps=state_warps(2 * power_of_two(P) ** 2),
        registers=REGISTERS,
        H=H,
        P=P,
        VALUE=module.value_I is not None,
        WIDTH=packed.stride(0),
        FIRST_WIDTH=first.stride(0),
        SECOND_WIDTH=second.stride(0),
        P_TILE=power_of_two(P),
        HEAD_NORM=head_eps is not None,
    )
    return Mixed(y_BI)


def _mix(chain: Chain, module: Rwkv7Module, cache: RecurrentCache) -> Tensor:
    """The mixes of a token with the one before, which ``mix_rwkv7`` describes."""
    from hybridbench.kernels.step.triton_rwkv7 import mix_rwkv7

    mixes, D = module.share_LD.shape
    mixed = chain.between("mixes", mixes * D)
    block, consumed = min(MIXED_COLUMNS, power_of_two(D)), chain.consumed()
    chain.launch(
        mix_rwkv7,
        chain.B * -(-D // block),
        chain.stream.xw_BD,
        chain.stream.squares,
        cache.conv_BCW,
        module.share_LD,
        mixed,
        chain.model.norm_eps,
        D=D,
        COLUMNS=cache.conv_BCW.shape[-1],
        MIXES=mixes,
        PARTS=consumed["PARTS"],
        PARTS_TILE=consumed["PARTS_TILE"],
        B=chain.B,
        BLOCK=block,
    )
    return mixed


def _project(chain: Chain, module: Rwkv7Module, mixed: Tensor) -> Tensor:
    """The packed row of a token, which ``project_rwkv7`` describes."""
    from hybridbench.kernels.step.triton_rwkv7 import project_rwkv7
    from hybridbench.model.quantised import stored

    spec = module.spec
    inner = spec.out_width
    ranks = {"DECAY": spec.decay_rank, "RATE": spec.rate_rank, "VALUE": spec.value_rank, "GATE": spec.gate_rank}
    low_rank = (module.decay_down, module.rate_down, module.value_down, module.gate_down)
    main, down = stored(module.in_proj), [None if one is None else stored(one) for one in low_rank]
    scales = [one.scale_R for one in (main, *down) if one is not None and one.scale_R is not None]
    tiling = chain.tiling("rwkv7", 3 * inner + sum(ranks.values()), main)
    tiles = 3 * -(-inner // tiling.rows) + sum(-(-rank // tiling.rows) for rank in ranks.values())
    packed = chain.packed(3 * inner + sum(ranks.values()))
    chain.launch(
        project_rwkv7,
        tiles * tiling.splits,
        mixed,
        main.matrix_RK,
        *((one or main).matrix_RK for one in down),  # the first layer has no VALUE, whose weight nothing reads there
        torch.cat(scales) if scales else None,
        packed,
        *chain.parts_of("rwkv7", tiles, tiling),
        warps=tiling.warps,
        D=spec.d_model,
        I=inner,
        **ranks,
        WIDTH=packed.stride(0),
        B=chain.B,
        TOKENS=chain.tokens,
        ROWS=tiling.rows,
        **tiling.constants,
    )
    return packed


STEP = MixerStep(_plan, _unfused)
