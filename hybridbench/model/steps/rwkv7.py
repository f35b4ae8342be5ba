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
from hybridbench.model.steps.second import multiplied_alone, second_products
from hybridbench.model.tiling import power_of_two

if TYPE_CHECKING:
    from torch import Tensor

    from hybridbench.model.chain import Chain  # it needs triton

WEIGHT_ELEMENTS = 65_536
"""The most of a head's rows of the second products that the registers of a program hold, padded to powers of two."""

MIXED_COLUMNS = 1024
"""Columns of a token that one program mixes with the token before."""

ALONE_SEQUENCES, ALONE_REGISTERS = 1, 96
"""Sequences of a program of the state's update that does not multiply, and registers of its threads. They have 32
elements each beside the many vectors of a head's channels, 4 warps a program: 41 us a layer at 64 sequences at 1b on an
H200; 69 with 8 warps of 64 registers, 106 with 4 sequences one after the other.
"""


def _unfused(block: Rwkv7) -> str | None:
    ranks = (block.decay_rank, block.rate_rank, block.value_rank, block.gate_rank)
    held = block.head_dim * sum(power_of_two(rank) for rank in ranks if rank)
    if held > WEIGHT_ELEMENTS:
        return f"a program holds a head's weights of low rank in its registers, and {held} elements are too many"
    return odd_width(block.d_model, block.out_width) or large_state(block.head_dim, block.head_dim)


def _plan(chain: Chain, module: Rwkv7Module, cache: RecurrentCache, head_eps: float | None) -> Mixed:
    """Norm + token shift + r, k, v, low ranks | second products + state update + norm + bonus + gate + token kept.

    With many sequences: norm + token shift + token kept | r, k, v, low ranks | second products | state update + norm +
    bonus + gate.
    """
    from hybridbench.kernels.step.triton_rwkv7 import update_rwkv7

    spec = module.spec
    H, P, D = spec.n_heads, spec.head_dim, spec.d_model
    packed = _project(chain, module, cache)
    first = chain.shared.setdefault(module.first_value, packed)
    y_BI = chain.new(spec.out_width)
    consumed = chain.consumed()
    elements = power_of_two(P) ** 2
    if multiplied_alone(chain):
        ranks = packed[:, 3 * spec.out_width :]
        ups = module.decay_up, module.rate_up, module.value_up, module.gate_up
        second = second_products(chain, ranks, [None if up is None else up.weight for up in ups], spec.out_width)
        sequences, second_width = ALONE_SEQUENCES, second.stride(0)
        warps, registers = state_warps(2 * elements), ALONE_REGISTERS
    else:
        sequences, second, second_width = chain.sequences_beside(H), packed, 0
        warps, registers = 8, None
    chain.launch(
        update_rwkv7,
        H * -(-chain.B // sequences),
        packed,
        first[:, 2 * spec.out_width :],
        cache.state,
        second,
        module.decay_up.weight,
        module.rate_up.weight,
        packed if module.value_up is None else module.value_up.weight,
        module.gate_up.weight,
        module.decay_I,
        module.rate_I,
        packed if module.value_I is None else module.value_I,
        module.removal_I,
        module.added_I,
        module.bonus_HP,
        module.norm_weight_HV,
        module.norm_bias_HV,
        y_BI,
        chain.stream.xw_BD,
        chain.stream.squares,
        cache.conv_BCW,
        chain.model.norm_eps,
        EPS_PER_CHANNEL * P,
        0.0 if head_eps is None else head_eps,
        -RATE,
        warps=warps,
        registers=registers,
        D=D,
        H=H,
        P=P,
        **_ranks(spec),
        WIDTH=packed.stride(0),
        FIRST_WIDTH=first.stride(0),
        SECOND_WIDTH=second_width,
        COLUMNS=cache.conv_BCW.shape[-1],
        SEQUENCES=sequences,
        BESIDE=chain.most_beside,
        P_TILE=power_of_two(P),
        **{f"{name}_TILE": power_of_two(max(rank, 16)) for name, rank in _ranks(spec).items()},
        SLICE=-(-D // H),
        SLICE_TILE=power_of_two(-(-D // H)),
        PARTS=consumed["PARTS"],
        PARTS_TILE=consumed["PARTS_TILE"],
        B=chain.B,
        HEAD_NORM=head_eps is not None,
    )
    return Mixed(y_BI)


def _ranks(spec: Rwkv7) -> dict[str, int]:
    return {"DECAY": spec.decay_rank, "RATE": spec.rate_rank, "VALUE": spec.value_rank, "GATE": spec.gate_rank}


def _project(chain: Chain, module: Rwkv7Module, cache: RecurrentCache) -> Tensor:
    """The packed row of a token, which ``project_rwkv7`` describes."""
    from hybridbench.kernels.step.triton_rwkv7 import mix_rwkv7, project_rwkv7
    from hybridbench.model.quantised import stored

    spec = module.spec
    inner, ranks, x = spec.out_width, _ranks(spec), chain.stream.xw_BD
    mixed = multiplied_alone(chain)
    if mixed:
        mixes, D = module.share_LD.shape
        name = f"mixes of {mixes} x {D}"
        x = chain.shared.setdefault(name, chain.new(mixes * D))
        block, consumed = min(MIXED_COLUMNS, power_of_two(D)), chain.consumed()
        chain.launch(
            mix_rwkv7,
            chain.B * -(-D // block),
            chain.stream.xw_BD,
            chain.stream.squares,
            cache.conv_BCW,
            module.share_LD,
            x,
            chain.model.norm_eps,
            D=D,
            COLUMNS=cache.conv_BCW.shape[-1],
            MIXES=mixes,
            PARTS=consumed["PARTS"],
            PARTS_TILE=consumed["PARTS_TILE"],
            B=chain.B,
            BLOCK=block,
        )
    low_rank = (module.decay_down, module.rate_down, module.value_down, module.gate_down)
    main, down = stored(module.in_proj), [None if one is None else stored(one) for one in low_rank]
    scales = [one.scale_R for one in (main, *down) if one is not None and one.scale_R is not None]
    tiling = chain.tiling("rwkv7", 3 * inner + sum(ranks.values()), main)
    tiles = 3 * -(-inner // tiling.rows) + sum(-(-rank // tiling.rows) for rank in ranks.values())
    packed = chain.packed(3 * inner + sum(ranks.values()))
    chain.launch(
        project_rwkv7,
        tiles * tiling.splits,
        x,
        chain.stream.squares,
        cache.conv_BCW[..., -1],
        module.share_LD,
        main.matrix_RK,
        *((one or main).matrix_RK for one in down),  # the first layer has no VALUE, whose weight nothing reads there
        torch.cat(scales) if scales else None,
        packed,
        *chain.parts_of("rwkv7", tiles, tiling),
        chain.model.norm_eps,
        warps=tiling.warps,
        D=spec.d_model,
        I=inner,
        **ranks,
        WIDTH=packed.stride(0),
        COLUMNS=cache.conv_BCW.shape[-1],
        **chain.consumed(),
        ROWS=tiling.rows,
        **tiling.constants,
        MIXED=mixed,
    )
    return packed


STEP = MixerStep(_plan, _unfused)
