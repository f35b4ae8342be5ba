"""every_block: a block of every kind and variant, at sizes where a sum over all positions is quick."""

from __future__ import annotations

import itertools

from hybridbench.arch.block import Block
from hybridbench.arch.blocks.altup import AltUp
from hybridbench.arch.blocks.attention import Attention
from hybridbench.arch.blocks.channel_mix import ChannelMix
from hybridbench.arch.blocks.gated_delta import GatedDelta
from hybridbench.arch.blocks.indexed import IndexedAttention
from hybridbench.arch.blocks.kda import Kda
from hybridbench.arch.blocks.latent import LatentAttention
from hybridbench.arch.blocks.lightning import Lightning
from hybridbench.arch.blocks.mamba1 import Mamba1
from hybridbench.arch.blocks.mamba2 import Mamba2
from hybridbench.arch.blocks.mamba3 import Mamba3
from hybridbench.arch.blocks.mlp import Mlp
from hybridbench.arch.blocks.moe import Moe
from hybridbench.arch.blocks.parallel import (
    FUSION_NORMS,
    FUSION_OPS,
    FUSION_OUTS,
    FUSION_SCALES,
    FUSION_VALUES,
    Fusion,
    Parallel,
)
from hybridbench.arch.blocks.per_layer import PerLayerInput
from hybridbench.arch.blocks.rg_lru import RgLru
from hybridbench.arch.blocks.routed_attention import RoutedAttention
from hybridbench.arch.blocks.rwkv7 import Rwkv7
from hybridbench.arch.blocks.shared import SharedBlock
from hybridbench.arch.blocks.short_conv import ShortConv

D_MODEL = 96
ATTENTION = Attention(D_MODEL, n_heads=6, n_kv_heads=2, head_dim=8, v_head_dim=16)
MAMBA = Mamba2(D_MODEL, d_inner=96, head_dim=16, d_state=24, chunk_size=64, gated_norm=False)

PLAIN: dict[str, Block] = {
    "attention": Attention(D_MODEL, n_heads=6, n_kv_heads=6, head_dim=16, v_head_dim=16),
    "attention-gqa": Attention(D_MODEL, n_heads=6, n_kv_heads=2, head_dim=16, v_head_dim=16),
    "attention-wide-value": ATTENTION,
    "window": Attention(D_MODEL, 6, 2, 16, 16, window=50),
    "window-one": Attention(D_MODEL, 6, 2, 16, 16, window=1),
    "window-sinks": Attention(D_MODEL, 6, 3, 8, 16, window=130, sinks=9),
    "mamba2": Mamba2(D_MODEL, d_inner=192, head_dim=32, d_state=24, chunk_size=64),
    "mamba2-groups": Mamba2(D_MODEL, d_inner=128, head_dim=16, d_state=24, n_groups=4, d_conv=3, chunk_size=32),
    "mamba2-ungated": MAMBA,
    "mlp": Mlp(D_MODEL, 256),
    "moe": Moe(D_MODEL, 128, n_experts=8, top_k=1, d_shared=128),
    "moe-two-of-four": Moe(D_MODEL, 64, n_experts=4, top_k=2),
}
FUSIONS = {
    f"fused-{norm}-{scale}-{op}-{value}-{out}": Fusion(norm, scale, op, value, out)
    for norm, scale, op, value, out in itertools.product(
        FUSION_NORMS, FUSION_SCALES, FUSION_OPS, FUSION_VALUES, FUSION_OUTS
    )
    if (op, out) != ("concat", "separate")
}
PARALLEL: dict[str, Block] = {
    **{name: Parallel(MAMBA, ATTENTION, fusion) for name, fusion in FUSIONS.items()},
    "attention-twice-one-value": Parallel(ATTENTION, ATTENTION, Fusion(value="shared", out="joint")),
    "mamba-twice-one-value": Parallel(MAMBA, MAMBA, Fusion(value="shared", out="joint")),
    "window-beside-mamba": Parallel(MAMBA, Attention(D_MODEL, 6, 2, 8, 16, window=40, sinks=3)),
}
ON_BOTH = Attention(D_MODEL, 6, 6, 32, 32, d_in=2 * D_MODEL)
OTHERS: dict[str, Block] = {
    # What the paper does not compare, and variants that imported models have.
    "attention-gated": Attention(D_MODEL, 6, 2, 16, 16, qkv_bias=True, out_bias=True, qk_norm="head", gated=True),
    "attention-conv": Attention(D_MODEL, 6, 6, 16, 16, qk_norm="full", d_conv=4),
    "attention-on-both": ON_BOTH,
    "window-prefix": Attention(D_MODEL, 6, 2, 16, 16, window=50, prefix=9, reuses_kv=True),
    "latent": LatentAttention(D_MODEL, 6, nope_dim=16, rope_dim=8, v_head_dim=16, kv_rank=32),
    "latent-queries": LatentAttention(D_MODEL, 6, 16, 8, 24, kv_rank=32, q_rank=40, bias=True),
    "mamba1": Mamba1(D_MODEL, d_inner=192, dt_rank=6),
    "mamba1-norms": Mamba1(D_MODEL, 192, 6, d_state=8, d_conv=3, inner_norms=True, conv_bias=False, proj_bias=True),
    "mamba2-biases": Mamba2(D_MODEL, 192, 32, 24, conv_bias=False, in_bias=True, out_bias=True, chunk_size=64),
    "mamba3": Mamba3(D_MODEL, d_inner=192, head_dim=32, d_state=64, n_angles=16),
    "mamba3-mimo": Mamba3(D_MODEL, 192, 32, 64, rank=4, n_angles=16, chunk_size=16),
    "gated-delta": GatedDelta(D_MODEL, n_heads=6, n_k_heads=2, k_head_dim=16, v_head_dim=32),
    "kda": Kda(D_MODEL, n_heads=6, head_dim=32),
    "rwkv7": Rwkv7(D_MODEL, 6, 32, decay_rank=8, rate_rank=10, value_rank=12, gate_rank=14, chunk_size=16),
    "rwkv7-first": Rwkv7(D_MODEL, 6, 32, decay_rank=8, rate_rank=10, value_rank=0, gate_rank=14),
    "rg-lru": RgLru(D_MODEL, width=120, n_blocks=6),
    "short-conv": ShortConv(D_MODEL),
    "short-conv-bias": ShortConv(D_MODEL, d_conv=4, bias=True),
    "lightning": Lightning(D_MODEL, n_heads=6, head_dim=32, chunk_size=64),
    "mlp-ungated": Mlp(D_MODEL, 256, gated=False, bias=True),
    "moe-latent": Moe(D_MODEL, 64, n_experts=4, top_k=2, d_shared=80, gated=False, shared_gate=True, latent=32),
    "attention-head-gate": Attention(D_MODEL, 6, 2, 16, 16, head_gated=True, sink_logits=True, qkv_bias=True),
    "attention-keys-as-values": Attention(D_MODEL, 6, 2, 16, 16, window=50, keys_as_values=True),
    "latent-head-gate": LatentAttention(D_MODEL, 6, 16, 8, 24, kv_rank=32, head_gated=True),
    "indexed": IndexedAttention(D_MODEL, 6, 16, 8, 24, 32, 40, index_heads=3, index_dim=12, top_k=50),
    "routed-attention": RoutedAttention(D_MODEL, n_kv_heads=2, head_dim=16, n_experts=4, top_k=3),
    "kda-full-rank": Kda(D_MODEL, n_heads=6, head_dim=32, full_rank=True),
    "kda-gate-bias": Kda(D_MODEL, n_heads=6, head_dim=32, gate_bias=True),
    "channel-mix": ChannelMix(D_MODEL, 256),
    "mlp-without-norm": Mlp(D_MODEL, 256, own_norm=False),
    "moe-biases": Moe(D_MODEL, 64, n_experts=4, top_k=2, bias=True, out_bias=True),
    "moe-norms": Moe(D_MODEL, 64, n_experts=4, top_k=2, d_shared=80, inner_norms=True),
    "per-layer-input": PerLayerInput(D_MODEL, width=20, rows=97),
    "altup": AltUp(D_MODEL, copies=4, laurel_rank=8),
    "altup-first": AltUp(D_MODEL, copies=4, laurel_rank=8, first=True),
    "shared": SharedBlock(ON_BOTH, Mlp(D_MODEL, 256), lora_rank=8, attention_lora=True),
    "mamba1-beside-attention": Parallel(
        Mamba1(D_MODEL, 96, 6), ATTENTION, Fusion("none", "vector", "add", out="joint")
    ),
}
EVERY_BLOCK = {**PLAIN, **PARALLEL, **OTHERS}
