"""mamba3: the fused step's stages of Mamba-3."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hybridbench.arch.blocks.mamba3 import Mamba3
from hybridbench.kernels.scan.reference.mamba3 import A_FLOOR
from hybridbench.model.mamba3 import Mamba3Cache, Mamba3Module
from hybridbench.model.mixed import Mixed
from hybridbench.model.steps.row import MixerStep, large_state, odd_width
from hybridbench.model.tiling import power_of_two

if TYPE_CHECKING:
    from hybridbench.model.chain import Chain  # it needs triton


def _unfused(block: Mamba3) -> str | None:
    return odd_width(block.d_model, block.out_width) or large_state(block.head_dim, block.d_state)


OF_THREAD, MOST_WARPS = 32, 16
"""Elements of a state that a thread updates, and warps of a program. Its sums go along rows of the state, which one
warp holds, so that many warps do not wait for one another.
"""


def _warps(elements: int) -> tuple[int, int | None]:
    """Warps of a program, and the most registers of a thread, so that 32 warps fit on an SM; None where the program's
    threads have more elements than ``OF_THREAD``, which need more.
    """
    fits = elements <= 32 * MOST_WARPS * OF_THREAD
    return max(1, min(MOST_WARPS, elements // (32 * OF_THREAD))), 64 if fits else None


def _plan(chain: Chain, module: Mamba3Module, cache: Mamba3Cache, head_eps: float | None) -> Mixed:
    """Norm + in_proj | norms of B and C + state update + gate."""
    from hybridbench.kernels.step.triton_mamba3 import update_mamba3

    spec = module.spec
    H, P, N = spec.n_heads, spec.head_dim, spec.d_state
    packed = chain.project(module.in_proj)
    y_BI = chain.new(spec.out_width)
    warps, registers = _warps(power_of_two(P) * power_of_two(N))
    chain.launch(
        update_mamba3,
        chain.B * H,
        packed,
        *cache.parts,
        module.B_norm_weight_N,
        module.C_norm_weight_N,
        module.dt_bias_H,
        module.B_bias_HN,
        module.C_bias_HN,
        module.D_H,
        y_BI,
        module.norm_eps,
        0.0 if head_eps is None else head_eps,
        A_FLOOR,
        warps=warps,
        registers=registers,
        H=H,
        G=spec.n_groups,
        P=P,
        N=N,
        TURNS=spec.n_angles,
        WIDTH=packed.stride(0),
        HALF=power_of_two(P) // 2,
        N_TILE=power_of_two(N),
        HEAD_NORM=head_eps is not None,
    )
    return Mixed(y_BI)


STEP = MixerStep(_plan, _unfused)
