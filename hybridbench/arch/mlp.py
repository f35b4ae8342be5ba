"""mlp: the gated feed-forward block (SwiGLU): ``down(silu(gate(x)) * up(x))``, three matrices and no cache."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from hybridbench.arch.block import Block, Convention, Flops, check_sizes


@dataclass(frozen=True, slots=True)
class Mlp(Block):
    """SwiGLU of width ``d_ff``; 3 d_model d_ff weights, two FLOPs each per token."""

    kind: ClassVar[str] = "mlp"

    d_model: int
    d_ff: int

    def __post_init__(self) -> None:
        check_sizes(self, "d_model", "d_ff")

    def params(self, convention: Convention = Convention.EXACT) -> int:
        return 3 * self.d_model * self.d_ff

    def prefill_flops(self, tokens: int, convention: Convention = Convention.EXACT) -> Flops:
        return Flops(matmul=2 * self.params() * tokens)

    def decode_flops(self, context: int, convention: Convention = Convention.EXACT) -> Flops:
        return Flops(matmul=2 * self.params())
