"""Blocks of every kind at sizes where a sum over all positions is quick."""

from __future__ import annotations

import itertools

import pytest

from hybridbench.arch.attention import Attention
from hybridbench.arch.block import Block
from hybridbench.arch.mamba2 import Mamba2
from hybridbench.arch.mlp import Mlp
from hybridbench.arch.moe import Moe
from hybridbench.arch.parallel import NORMS, OPS, OUTS, SCALES, VALUES, Fusion, Parallel

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
    for norm, scale, op, value, out in itertools.product(NORMS, SCALES, OPS, VALUES, OUTS)
    if (op, out) != ("concat", "separate")
}
PARALLEL: dict[str, Block] = {
    **{name: Parallel(MAMBA, ATTENTION, fusion) for name, fusion in FUSIONS.items()},
    "attention-twice-one-value": Parallel(ATTENTION, ATTENTION, Fusion(value="shared", out="joint")),
    "mamba-twice-one-value": Parallel(MAMBA, MAMBA, Fusion(value="shared", out="joint")),
    "window-beside-mamba": Parallel(MAMBA, Attention(D_MODEL, 6, 2, 8, 16, window=40, sinks=3)),
}
EVERY_BLOCK = {**PLAIN, **PARALLEL}


@pytest.fixture(params=EVERY_BLOCK.values(), ids=EVERY_BLOCK.keys())
def block(request: pytest.FixtureRequest) -> Block:
    """One block of every kind, and a parallel block of every fusion there is."""
    found: Block = request.param
    return found


@pytest.fixture(params=[name for name, spec in PLAIN.items() if isinstance(spec, Attention)])
def attention(request: pytest.FixtureRequest) -> Attention:
    """Attention of every shape."""
    found = PLAIN[request.param]
    assert isinstance(found, Attention)
    return found
