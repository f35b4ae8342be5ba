"""moe: a feed-forward block of routed experts plus shared ones, each a SwiGLU.

The paper's variant (arXiv 2510.04800 section on MoE): 8 routed experts, top-1, one shared, half the dense width each,
a sigmoid router whose selection bias is balanced without an auxiliary loss (the bias is a buffer, no parameter).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from hybridbench.arch.block import Block, Convention, Flops, Storage, check_sizes
from hybridbench.errors import BadInput


@dataclass(frozen=True, slots=True)
class Moe(Block):
    """``n_experts`` routed experts of width ``d_expert``, ``top_k`` per token; shared ones of ``d_shared`` in all."""

    kind: ClassVar[str] = "moe"

    d_model: int
    d_expert: int
    n_experts: int = 8
    top_k: int = 1
    d_shared: int = 0
    bias_update_rate: float = 1e-3

    def __post_init__(self) -> None:
        check_sizes(self, "d_model", "d_expert", "n_experts", "top_k")
        if self.d_shared:
            check_sizes(self, "d_shared")
        if not 1 <= self.top_k <= self.n_experts:
            raise BadInput(f"top_k {self.top_k} of {self.n_experts} experts: give 1 to {self.n_experts}.")

    def _expert(self) -> int:
        return 3 * self.d_model * self.d_expert

    def _always(self, convention: Convention) -> int:
        """Parameters every token meets; the paper leaves the router out."""
        router = 0 if convention is Convention.PAPER else self.n_experts * self.d_model
        return router + 3 * self.d_model * self.d_shared

    def params(self, convention: Convention = Convention.EXACT) -> int:
        return self.n_experts * self._expert() + self._always(convention)

    def params_active(self, convention: Convention = Convention.EXACT) -> int:
        return self.top_k * self._expert() + self._always(convention)

    def prefill_flops(self, tokens: int, convention: Convention = Convention.EXACT) -> Flops:
        return Flops(matmul=2 * self.params_active(convention) * tokens)

    def decode_flops(self, context: int, convention: Convention = Convention.EXACT) -> Flops:
        return Flops(matmul=2 * self.params_active(convention))

    def weight_traffic(self, batch: int, storage: Storage) -> int:
        """Expected bytes under uniform routing: E (1 - (1 - k/E)^B) distinct experts, router and shared ones."""
        distinct = self.n_experts * (1 - (1 - self.top_k / self.n_experts) ** batch)
        return (round(distinct * self._expert()) + self._always(Convention.EXACT)) * storage.weight_bytes
