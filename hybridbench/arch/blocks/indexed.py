"""indexed: latent attention to the tokens that an indexer picks (DeepSeek sparse attention): its shape and cost.

A small indexer scores every token before a query: ``index_heads`` heads of ``index_dim`` channels, one key a token for
all of them, and a weighted sum over heads. The query then attends to the ``top_k`` tokens of the highest score. So a
step reads the indexer's key of every token, and the latents of ``top_k`` tokens only.

Kernels gather the latents that were picked and work in the latent, in prefill too: that is ``hardware``, which counts
the indexer's scores in whole tiles.

Sources: DeepSeek-V3.2-Exp's report, transformers' DeepSeek-V3.2 class.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from typing_extensions import override

from hybridbench.arch.block import TILE, CacheBytes, Convention, Flops, Storage, check_sizes, refuse_paper
from hybridbench.arch.blocks.latent import LatentAttention, tile_pairs
from hybridbench.arch.reasons import SCORES_AGAIN, Reason
from hybridbench.arch.weights import Matrix
from hybridbench.errors import BadInput

IN_LATENT = "the latents that were picked, in the latent, and the indexer's scores in whole tiles of 128"


@dataclass(frozen=True, slots=True)
class IndexedAttention(LatentAttention):
    """Latent attention to at most ``top_k`` tokens a query; ``q_rank`` must be given: the indexer reads that latent.

    Args:
        index_heads, index_dim: the indexer's query heads, and the width of each and of its one key.
        top_k: the most tokens that a query attends to.
    """

    kind: ClassVar[str] = "indexed_attention"

    index_heads: int = 64
    index_dim: int = 128
    top_k: int = 2048

    @override
    def __post_init__(self) -> None:
        LatentAttention.__post_init__(self)
        check_sizes(self, "index_heads", "index_dim", "top_k")
        if self.q_rank is None:
            raise BadInput("q_rank is None: the indexer reads the latent of the queries, so give its width.")

    @override
    def matrices(self, borrows_value: bool = False) -> tuple[Matrix, ...]:
        assert self.q_rank is not None
        return (
            Matrix("indexer.wq_b", self.index_heads * self.index_dim, self.q_rank, "attention"),
            Matrix("indexer.wk", self.index_dim, self.d_model, "attention"),
            Matrix("indexer.weights_proj", self.index_heads, self.d_model, "attention router"),
            *LatentAttention.matrices(self, borrows_value),
        )

    @override
    def in_matmul_params(self, borrows_value: bool = False) -> int:
        assert self.q_rank is not None
        index = self.q_rank * self.index_heads * self.index_dim + self.d_model * (self.index_dim + self.index_heads)
        return LatentAttention.in_matmul_params(self, borrows_value) + index

    @override
    def in_params(self, convention: Convention, borrows_value: bool = False) -> int:
        # A LayerNorm of the indexer's key, with a bias.
        return LatentAttention.in_params(self, convention, borrows_value) + 2 * self.index_dim

    def _index_flops(self, pairs: int) -> Flops:
        return Flops(attention=2 * self.index_heads * (self.index_dim + 1) * pairs)

    def _picked_flops(self, pairs: int) -> Flops:
        """FLOPs of a kernel that scores and weighs latents."""
        return Flops(attention=2 * self.n_heads * (self.latent_width + self.kv_rank) * pairs)

    def pairs(self, tokens: int) -> int:
        """Pairs of a query and a token that it attends to."""
        most = min(tokens, self.top_k)
        return most * (most + 1) // 2 + most * (tokens - most)

    @override
    def core_prefill(self, tokens: int, convention: Convention) -> Flops:
        refuse_paper(convention, "latent attention")
        if convention is Convention.EXACT:
            return self.score_flops(self.pairs(tokens)) + self._index_flops(tokens * (tokens + 1) // 2)
        return self._picked_flops(self.pairs(tokens)) + self._index_flops(tile_pairs(tokens))

    @override
    def core_decode(self, context: int, convention: Convention) -> Flops:
        refuse_paper(convention, "latent attention")
        keys = context + 1
        picked = min(keys, self.top_k)
        if convention is Convention.EXACT:
            return self.score_flops(picked) + self._index_flops(keys)
        return self._picked_flops(picked) + self._index_flops(-(-keys // TILE) * TILE)

    @override
    def core_train(self, tokens: int, convention: Convention) -> Flops:
        forward = self.core_prefill(tokens, convention)
        if convention is not Convention.HARDWARE:
            return 3 * forward
        return forward + self._backward_flops(tokens)

    def _backward_flops(self, tokens: int) -> Flops:
        """Five products over the picked latents where the forward runs two, as in attention; the indexer's are two."""
        width = 3 * self.latent_width + 2 * self.kv_rank
        picked = Flops(attention=2 * self.n_heads * width * self.pairs(tokens))
        return picked + 2 * self._index_flops(tile_pairs(tokens))

    @override
    def core_reasons(self, work: str, context: int) -> list[Reason]:
        core, count = f"{self.name} core", self.core_decode if work == "decode" else self.core_prefill
        exact, executed = (count(context, each).attention for each in (Convention.EXACT, Convention.HARDWARE))
        if work != "train":
            return [Reason(core, IN_LATENT, executed - exact)]
        again = self.core_train(context, Convention.HARDWARE).attention - 3 * executed
        return [Reason(core, IN_LATENT, 3 * (executed - exact)), Reason(core, SCORES_AGAIN, again)]

    @override
    def full_mask_extra_flops(self, tokens: int) -> int:
        attended = tokens * min(tokens, self.top_k) - self.pairs(tokens)
        return self.score_flops(attended).total + self._index_flops(tokens * (tokens - 1) // 2).total

    @override
    def cache(self, context: int, storage: Storage) -> CacheBytes:
        return CacheBytes(kv=context * (self.latent_width + self.index_dim) * storage.kv_bytes)

    @override
    def cache_traffic(self, context: int, storage: Storage) -> int:
        # All of the indexer's keys; of the latents those picked, the new one among them.
        keys = context + 1
        return (keys * self.index_dim + min(keys, self.top_k) * self.latent_width) * storage.kv_bytes
