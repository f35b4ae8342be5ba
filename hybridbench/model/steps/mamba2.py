"""mamba2: the fused step's stages of Mamba-2."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hybridbench.arch.blocks.mamba2 import Mamba2
from hybridbench.model.cache import RecurrentCache
from hybridbench.model.mamba2 import Mamba2Module
from hybridbench.model.mixed import Mixed
from hybridbench.model.steps.row import MixerStep, odd_width

if TYPE_CHECKING:
    from hybridbench.model.chain import Chain  # it needs triton


def _unfused(block: Mamba2) -> str | None:
    return odd_width(block.d_model, block.out_width)


def _unfused_branch(block: Mamba2) -> str | None:
    return "a Mamba-2 branch with a norm of its own is not fused" if block.gated_norm else None


def _plan(chain: Chain, module: Mamba2Module, cache: RecurrentCache, head_eps: float | None) -> Mixed:
    """Norm + in_proj + conv update | state update + gate."""
    if head_eps is not None:
        return Mixed(chain.mamba2(module, cache, norm="head", eps=head_eps)[0])
    normed = module.norm_weight_I is not None
    y_BI, squares = chain.mamba2(module, cache, norm="row" if normed else "none", eps=module.norm_eps)
    return Mixed(y_BI, squares if normed else None, module.norm_eps)


STEP = MixerStep(_plan, _unfused, _unfused_branch)
