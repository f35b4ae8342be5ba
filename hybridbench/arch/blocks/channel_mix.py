"""channel_mix: RWKV-7's feed-forward block, which reads the token before its own too: ``down(relu(up(mixed x))^2)``.

Its input is mixed with the token before by learned shares of every channel, so a step keeps one token's input.

Sources: arXiv 2503.14456, flash-linear-attention's ``models/rwkv7``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from typing_extensions import override

from hybridbench.arch.block import Block, CacheBytes, Convention, Cut, Flops, Storage, check_sizes, refuse_paper
from hybridbench.arch.weights import Matrix


@dataclass(frozen=True, slots=True)
class ChannelMix(Block):
    """RWKV-7's channel mixing of width ``d_ff``.

    Args:
        after_embedding: parameters of the norm between embedding and first layer; 0 in the later layers' blocks.
    """

    kind: ClassVar[str] = "channel_mix"
    feed_forward: ClassVar[bool] = True

    d_model: int
    d_ff: int
    after_embedding: int = 0

    def __post_init__(self) -> None:
        check_sizes(self, "d_model", "d_ff")

    @override
    def shard_sizes(self, cut: Cut) -> dict[str, int]:
        return {"d_ff": cut.divided("d_ff", self.d_ff)}

    @override
    def params(self, convention: Convention = Convention.EXACT) -> int:
        refuse_paper(convention, "channel mixing")
        return 2 * self.d_model * self.d_ff + self.d_model + self.after_embedding

    @override
    def matrices(self, borrows_value: bool = False) -> tuple[Matrix, ...]:
        return (
            Matrix("key", self.d_ff, self.d_model, "mlp"),
            Matrix("value", self.d_model, self.d_ff, "mlp"),
        )

    @override
    def products(self, convention: Convention = Convention.EXACT, sequence: bool = True) -> dict[str, int]:
        refuse_paper(convention, "channel mixing")
        half = 2 * self.d_model * self.d_ff
        return {"channel mixing in_proj": half, "channel mixing out_proj": half}

    @override
    def prefill_flops(self, tokens: int, convention: Convention = Convention.EXACT) -> Flops:
        return Flops(matmul=sum(self.products(convention).values()) * tokens)

    @override
    def decode_flops(self, context: int, convention: Convention = Convention.EXACT) -> Flops:
        return self.prefill_flops(1, convention)

    @override
    def cache(self, context: int, storage: Storage) -> CacheBytes:
        """The input of the last token, as a convolution over two tokens keeps it."""
        return CacheBytes(conv=self.d_model * storage.conv_bytes)

    @override
    def cache_traffic(self, context: int, storage: Storage) -> int:
        return 2 * self.d_model * storage.conv_bytes
