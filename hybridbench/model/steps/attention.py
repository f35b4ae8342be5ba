"""attention: the fused step's stages of attention."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hybridbench.arch.blocks.attention import Attention
from hybridbench.model.attention import AttentionModule
from hybridbench.model.cache import AttentionCache
from hybridbench.model.mixed import Mixed
from hybridbench.model.steps.row import MixerStep, odd_width

if TYPE_CHECKING:
    from hybridbench.model.chain import Chain  # it needs triton


def _unfused(block: Attention) -> str | None:
    if block.head_dim % 8 or block.v_head_dim % 8:
        return f"its heads must be multiples of 8 wide, and one is {block.head_dim} or {block.v_head_dim}"
    return odd_width(block.d_model, block.out_width)


def _plan(chain: Chain, module: AttentionModule, cache: AttentionCache, head_eps: float | None) -> Mixed:
    """Norm + QKV + rotary + cache write | split-KV attention, combined."""
    return Mixed(chain.attention(module, cache, norm_eps=head_eps))


STEP = MixerStep(_plan, _unfused)
