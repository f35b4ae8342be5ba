"""routed_attention: JetMoE's mixture of attention heads: each token picks the experts that make its queries.

An expert is a query projection and an output projection of ``n_kv_heads`` heads. ``top_k`` of ``n_experts`` are picked
per token, so there are ``top_k * n_kv_heads`` query heads. All experts share keys and values, and so the cache.

Sources: arXiv 2404.07413 (JetMoE), transformers' JetMoE class.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from typing_extensions import override

from hybridbench.arch.block import CacheBytes, Convention, Cut, Flops, Mixer, Storage, check_sizes, refuse_paper
from hybridbench.arch.blocks.attention import Attention
from hybridbench.arch.blocks.moe import expert_traffic
from hybridbench.arch.reasons import Reason
from hybridbench.arch.weights import Matrix
from hybridbench.errors import BadInput


@dataclass(frozen=True, slots=True)
class RoutedAttention(Mixer):
    """Causal attention whose queries and outputs are made by ``top_k`` of ``n_experts`` experts.

    Args:
        n_kv_heads: key and value heads, and the query heads of one expert.
        head_dim: width of a query, key and value head.
        n_experts, top_k: experts, and those that a token picks.
    """

    kind: ClassVar[str] = "routed_attention"

    d_model: int
    n_kv_heads: int
    head_dim: int
    n_experts: int
    top_k: int

    def __post_init__(self) -> None:
        check_sizes(self, "d_model", "n_kv_heads", "head_dim", "n_experts", "top_k")
        if self.top_k > self.n_experts:
            raise BadInput(f"top_k {self.top_k} of {self.n_experts} experts: give 1 to {self.n_experts}.")

    @property
    def attention(self) -> Attention:
        """Attention of as many heads as a token has, for what does not depend on the experts."""
        heads, width = self.top_k * self.n_kv_heads, self.head_dim
        return Attention(self.d_model, heads, self.n_kv_heads, width, width)

    @property
    def _expert(self) -> int:
        """Weights of one expert's query projection; as many as those of its output projection."""
        return self.d_model * self.n_kv_heads * self.head_dim

    @property
    def _always(self) -> int:
        """Weights of keys, values and the router."""
        return 2 * self._expert + self.n_experts * self.d_model

    @property
    @override
    def sees_all(self) -> bool:
        return True

    @property
    @override
    def out_width(self) -> int:
        return self.top_k * self.n_kv_heads * self.head_dim

    @property
    @override
    def out_bias_params(self) -> int:
        return self.d_model

    @override
    def shard_sizes(self, cut: Cut) -> dict[str, int]:
        """Each rank has part of the heads of every expert."""
        return {"n_kv_heads": cut.divided("n_kv_heads", self.n_kv_heads)}

    @override
    def matrices(self, borrows_value: bool = False) -> tuple[Matrix, ...]:
        return (*self._shared(borrows_value), *self._experts())

    def _shared(self, borrows_value: bool = False) -> tuple[Matrix, ...]:
        """The matrices that every token is multiplied by."""
        keys = self.n_kv_heads * self.head_dim
        return (
            Matrix("kv_proj", keys if borrows_value else 2 * keys, self.d_model, "attention"),
            Matrix("experts.router.layer", self.n_experts, self.d_model, "attention router"),
        )

    def _experts(self) -> tuple[Matrix, ...]:
        queries = self.n_kv_heads * self.head_dim
        return (
            Matrix("experts.input_linear", queries, self.d_model, "attention", self.n_experts),
            Matrix("experts.output_linear", self.d_model, queries, "attention", self.n_experts),
        )

    @override
    def in_matmul_params(self, borrows_value: bool = False) -> int:
        value = self._expert if borrows_value else 0
        return self._always - value + self.top_k * self._expert

    @override
    def in_params(self, convention: Convention, borrows_value: bool = False) -> int:
        return self.in_matmul_params(borrows_value) + (self.n_experts - self.top_k) * self._expert

    @override
    def params(self, convention: Convention = Convention.EXACT) -> int:
        refuse_paper(convention, "attention with experts")
        return self._always + 2 * self.n_experts * self._expert + self.out_bias_params

    @override
    def params_active(self, convention: Convention = Convention.EXACT) -> int:
        return self._always + 2 * self.top_k * self._expert + self.out_bias_params

    @override
    def weight_traffic(self, batch: int, storage: Storage) -> int:
        """Expected bytes: those of the experts that are read (``moe.expert_traffic``), and all else."""
        experts = expert_traffic(2 * self._expert, self._experts(), self.top_k, batch, storage)
        always = (self._always + self.out_bias_params) * storage.weight_bytes
        return experts + always + storage.change(self._shared())

    @override
    def core_prefill(self, tokens: int, convention: Convention) -> Flops:
        refuse_paper(convention, "attention with experts")
        return self.attention.core_prefill(tokens, convention)

    @override
    def core_decode(self, context: int, convention: Convention) -> Flops:
        refuse_paper(convention, "attention with experts")
        return self.attention.core_decode(context, convention)

    @override
    def core_train(self, tokens: int, convention: Convention) -> Flops:
        refuse_paper(convention, "attention with experts")
        return self.attention.core_train(tokens, convention)

    @override
    def core_reasons(self, work: str, context: int) -> list[Reason]:
        found = self.attention.core_reasons(work, context)
        return [Reason(f"{self.name} core", reason.text, reason.flops) for reason in found]

    @override
    def full_mask_extra_flops(self, tokens: int) -> int:
        return self.attention.full_mask_extra_flops(tokens)

    @override
    def cache(self, context: int, storage: Storage) -> CacheBytes:
        return self.attention.cache(context, storage)

    @override
    def cache_traffic(self, context: int, storage: Storage) -> int:
        return self.attention.cache_traffic(context, storage)
