"""latent: multi-head latent attention (MLA), whose cache is one compressed latent a token: its shape and cost.

``[c, k_r] = kv_a(u)``; keys ``[W_k c, k_r]`` and values ``W_v c`` of every head come from the normed latent c, and k_r
is shared by the heads; queries come from u, through a latent of their own where ``q_rank`` is given.

The equations score a pair with head_dim = nope + rope channels and weigh v_head_dim: that is ``exact``, every token's
keys and values made once. A decode kernel that caches latents does not make them again: it absorbs W_k into the query
and W_v into the output and works in the latent, 2 (2 r + rope) FLOPs per pair and head: that is ``hardware``.

Sources: arXiv 2405.04434 (DeepSeek-V2), transformers' Kimi-Linear and DeepSeek-V3 classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from typing_extensions import override

from hybridbench.arch.block import (
    TILE,
    CacheBytes,
    Convention,
    Cut,
    Flops,
    Mixer,
    Storage,
    check_sizes,
    refuse_paper,
    variant,
)
from hybridbench.arch.reasons import SCORES_AGAIN, TILES, Reason
from hybridbench.arch.weights import Matrix


@dataclass(frozen=True, slots=True)
class LatentAttention(Mixer):
    """Causal attention of ``n_heads`` heads over cached latents.

    Args:
        nope_dim, rope_dim: channels of a query and key head without and with (or set aside for) rotary embedding.
        v_head_dim: width of a value head.
        kv_rank: width of the latent of keys and values.
        q_rank: width of the queries' latent, None for a plain projection.
        bias: biases of the projections into the latents and out of the block.
        head_gated: a sigmoid gate on every head of the output, projected from the input, as in Ling 3.
    """

    kind: ClassVar[str] = "latent_attention"

    d_model: int
    n_heads: int
    nope_dim: int
    rope_dim: int
    v_head_dim: int
    kv_rank: int
    q_rank: int | None = None
    bias: bool = variant(False)
    head_gated: bool = variant(False)

    def __post_init__(self) -> None:
        check_sizes(self, "d_model", "n_heads", "nope_dim", "rope_dim", "v_head_dim", "kv_rank", "q_rank")

    @property
    def head_dim(self) -> int:
        """Channels of a query and key head."""
        return self.nope_dim + self.rope_dim

    @property
    def latent_width(self) -> int:
        """Numbers cached per token."""
        return self.kv_rank + self.rope_dim

    @property
    @override
    def sees_all(self) -> bool:
        return True

    @property
    @override
    def out_width(self) -> int:
        return self.n_heads * self.v_head_dim

    @property
    @override
    def out_bias_params(self) -> int:
        return self.d_model if self.bias else 0

    @override
    def shard_sizes(self, cut: Cut) -> dict[str, int]:
        """Heads are divided; the latents that all heads read, and so the cache, are on every rank."""
        return {"n_heads": cut.divided("n_heads", self.n_heads)}

    @override
    def matrices(self, borrows_value: bool = False) -> tuple[Matrix, ...]:
        queries = self.n_heads * self.head_dim
        if self.q_rank is None:
            found = [Matrix("q_proj", queries, self.d_model, "attention")]
        else:
            found = [
                Matrix("q_a_proj", self.q_rank, self.d_model, "attention"),
                Matrix("q_b_proj", queries, self.q_rank, "attention"),
            ]
        if self.head_gated:
            found.append(Matrix("g_proj", self.n_heads, self.d_model, "attention"))
        values = 0 if borrows_value else self.v_head_dim
        return (
            *found,
            Matrix("kv_a_proj_with_mqa", self.latent_width, self.d_model, "attention"),
            Matrix("kv_b_proj", self.n_heads * (self.nope_dim + values), self.kv_rank, "attention"),
            Matrix("o_proj", self.d_model, self.out_width, "attention"),
        )

    @override
    def in_matmul_params(self, borrows_value: bool = False) -> int:
        queries = self.n_heads * self.head_dim
        down = self.d_model * (queries if self.q_rank is None else self.q_rank)
        up = 0 if self.q_rank is None else self.q_rank * queries
        values = 0 if borrows_value else self.v_head_dim
        latents = self.d_model * self.latent_width + self.kv_rank * self.n_heads * (self.nope_dim + values)
        gate = self.d_model * self.n_heads if self.head_gated else 0
        return down + up + latents + gate

    @override
    def in_params(self, convention: Convention, borrows_value: bool = False) -> int:
        norms = self.kv_rank + (self.q_rank or 0)
        bias = self.latent_width + (self.q_rank or 0) if self.bias else 0
        return self.in_matmul_params(borrows_value) + norms + bias

    def score_flops(self, pairs: int) -> Flops:
        """FLOPs to score ``pairs`` of a query and a key in every head, and to weigh the values."""
        return Flops(attention=2 * self.n_heads * (self.head_dim + self.v_head_dim) * pairs)

    @override
    def core_prefill(self, tokens: int, convention: Convention) -> Flops:
        refuse_paper(convention, "latent attention")
        if convention is Convention.EXACT:
            return self.score_flops(tokens * (tokens + 1) // 2)
        return self.score_flops(tile_pairs(tokens))

    @override
    def core_decode(self, context: int, convention: Convention) -> Flops:
        refuse_paper(convention, "latent attention")
        keys = context + 1
        if convention is Convention.EXACT:
            return self.score_flops(keys)
        return Flops(attention=2 * self.n_heads * (self.latent_width + self.kv_rank) * -(-keys // TILE) * TILE)

    @override
    def core_train(self, tokens: int, convention: Convention) -> Flops:
        forward = self.core_prefill(tokens, convention)
        if convention is not Convention.HARDWARE:
            return 3 * forward
        # As in attention: five products where the forward runs two.
        width = 3 * self.head_dim + 2 * self.v_head_dim
        return forward + Flops(attention=2 * self.n_heads * width * tile_pairs(tokens))

    @override
    def core_reasons(self, work: str, context: int) -> list[Reason]:
        core, count = f"{self.name} core", self.core_decode if work == "decode" else self.core_prefill
        exact, tiles = (count(context, each).attention for each in (Convention.EXACT, Convention.HARDWARE))
        if work == "decode":
            return [Reason(core, "scored and weighed in the latent, in whole tiles of 128", tiles - exact)]
        if work == "prefill":
            return [Reason(core, TILES, tiles - exact)]
        again = self.core_train(context, Convention.HARDWARE).attention - 3 * tiles
        return [Reason(core, TILES, 3 * (tiles - exact)), Reason(core, SCORES_AGAIN, again)]

    @override
    def full_mask_extra_flops(self, tokens: int) -> int:
        return self.score_flops(tokens * (tokens - 1) // 2).total

    @override
    def cache(self, context: int, storage: Storage) -> CacheBytes:
        return CacheBytes(kv=context * self.latent_width * storage.kv_bytes)

    @override
    def cache_traffic(self, context: int, storage: Storage) -> int:
        return (context + 1) * self.latent_width * storage.kv_bytes


def tile_pairs(tokens: int) -> int:
    """Pairs that whole tiles cover, those above the diagonal skipped."""
    rows = -(-tokens // TILE)
    return rows * (rows + 1) // 2 * TILE * TILE
