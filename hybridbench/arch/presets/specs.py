"""specs: published models that transformers has no class for; their specs follow their authors' code."""

from __future__ import annotations

from typing import Any

from hybridbench.arch.block import Block
from hybridbench.arch.blocks.attention import Attention
from hybridbench.arch.blocks.mamba1 import Mamba1
from hybridbench.arch.blocks.mamba2 import Mamba2
from hybridbench.arch.blocks.mamba3 import Mamba3
from hybridbench.arch.blocks.mlp import Mlp
from hybridbench.arch.blocks.parallel import Fusion, Parallel
from hybridbench.arch.model import ModelSpec
from hybridbench.arch.presets.preset import SCALE, Preset


def _stack(name: str, d_model: int, vocab: int, pattern: str, blocks: dict[str, Block], **fields: Any) -> ModelSpec:
    return ModelSpec(name, SCALE, d_model, vocab, pattern, blocks, **fields)


def _hymba(name: str) -> ModelSpec:
    """32 parallel blocks; three attend to everything, the others to a window; of 2 or 3 neighbours one has keys."""
    d_model, meta_tokens = 1600, 128
    mamba = Mamba1(d_model, 3200, dt_rank=100, inner_norms=True)
    fusion = Fusion(scale="vector", op="add", out="joint")

    def block(window: int | None, reuses: bool) -> Parallel:
        attention = Attention(d_model, 25, 5, 64, 128, window=window, reuses_kv=reuses, prefix=meta_tokens)
        return Parallel(mamba, attention, fusion)

    blocks: dict[str, Block] = {
        "(*&m)": block(None, False),
        "(S&m)": block(1024, False),
        "(S&m)'": block(1024, True),
        "-": Mlp(d_model, 5504),
    }
    pair, triple = "(S&m)-(S&m)'-", "(S&m)-(S&m)'-(S&m)'-"
    pattern = "(*&m)-" + 7 * pair + "(*&m)-" + triple + 6 * pair + "(*&m)-"
    return _stack(name, d_model, 32_001, pattern, blocks, meta_tokens=meta_tokens)


def _samba(name: str) -> ModelSpec:
    blocks: dict[str, Block] = {
        "m": Mamba1(1536, 3072, dt_rank=96),
        "S": Attention(1536, 12, 12, 128, 128, window=2048),
        "-": Mlp(1536, 4096),
    }
    return _stack(name, 1536, 32_000, 6 * "m-S-", blocks)


def _mamba2attn(name: str) -> ModelSpec:
    """Attention with a conv over queries, keys and values in 6 of 64 layers, no MLPs."""
    blocks: dict[str, Block] = {
        "M": Mamba2(2560, 5120, 64, 128),
        "*": Attention(2560, 30, 30, 128, 128, d_conv=4),
    }
    places = (9, 18, 27, 36, 45, 56)
    return _stack(name, 2560, 50_288, "".join("*" if place in places else "M" for place in range(64)), blocks)


def _mamba3(name: str) -> ModelSpec:
    blocks: dict[str, Block] = {
        "3": Mamba3(2048, 4096, 64, 128, rank=4, n_angles=32, chunk_size=16),
        "-": Mlp(2048, 3840),
    }
    return _stack(name, 2048, 128_256, 24 * "3-", blocks)


SPECS: dict[str, Preset] = {
    "hymba-1.5b": Preset(
        "nvidia/Hymba-1.5B-Base",
        build=_hymba,
        total="1.52B",
        inferred="5 KV heads, window, meta tokens, vocabulary, tied head",
    ),
    "samba-421m": Preset("microsoft/Samba", build=_samba, total="421M"),
    "mamba2attn-2.7b": Preset("state-spaces/mamba2attn-2.7b", build=_mamba2attn, total="2.7B"),
    "mamba3-mimo-1.5b": Preset(
        "state-spaces/mamba3-mimo-1.5b",
        build=_mamba3,
        total="1.50B",
        inferred="width of the MLPs, vocabulary, the module's defaults",
    ),
}
