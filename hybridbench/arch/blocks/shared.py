"""shared: Zamba's transformer block, whose weights all its uses share: its shape and what it must cost.

The block reads the hidden state and the token's embedding side by side, runs attention and an MLP (no residual between
them), and a linear layer of each use's own takes the result back to the input of the Mamba layer that follows. Zamba2
adds low-rank adapters of each use's own to the MLP's first projection and, in some sizes, to queries, keys and values.

Weights count once however often the block is used; FLOPs, caches and the weights a decode step reads count per use.

Sources: arXiv 2405.16712 and 2411.15242, transformers' Zamba2 classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from typing_extensions import override

from hybridbench.arch.block import Block, CacheBytes, Convention, Cut, Flops, Mixer, Storage, refuse_paper
from hybridbench.arch.blocks.attention import Attention
from hybridbench.arch.blocks.mlp import Mlp
from hybridbench.arch.weights import Matrix
from hybridbench.errors import BadInput


@dataclass(frozen=True, slots=True)
class SharedBlock(Block):
    """Attention on a concatenation, an MLP, and what each use has of its own.

    Args:
        lora_rank: rank of the adapters, 0 for none.
        attention_lora: adapters on queries, keys and values too.
    """

    kind: ClassVar[str] = "shared"

    attention: Attention
    mlp: Mlp
    lora_rank: int = 0
    attention_lora: bool = False

    def __post_init__(self) -> None:
        if self.lora_rank < 0:
            raise BadInput(f"lora_rank is {self.lora_rank!r}: give a whole number, 0 for none.")
        if self.attention_lora and not self.lora_rank:
            raise BadInput("adapters on attention of rank 0: give a lora_rank.")

    @property
    @override
    def mixers(self) -> tuple[Mixer, ...]:
        return (self.attention,)

    @property
    @override
    def sees_all(self) -> bool:
        return self.attention.sees_all

    @property
    def _in_width(self) -> int:
        return self.attention.d_in or self.attention.d_model

    @override
    def shard_sizes(self, cut: Cut) -> dict[str, Block]:
        """Its attention's and its MLP's; the linear layer and the first halves of adapters are on every rank."""
        return {"attention": self.attention.shard(cut.tp), "mlp": self.mlp.shard(cut.tp)}

    @override
    def reduced_bytes(self, width: int, size: int, tp: int) -> int:
        return sum(part.reduced_bytes(width, size, tp) for part in (self.attention, self.mlp))

    def _own_params(self) -> int:
        """Weights of one use: its adapters and its linear layer; all of them multiply every token."""
        width, rank, d_model = self._in_width, self.lora_rank, self.mlp.d_model
        qkv = self.attention.head_dim * (self.attention.n_heads + 2 * self.attention.n_kv_heads)
        attention = rank * (3 * width + qkv) if self.attention_lora else 0
        return attention + rank * (d_model + 2 * self.mlp.d_ff) + d_model * d_model

    @override
    def matrices(self, borrows_value: bool = False) -> tuple[Matrix, ...]:
        """Those that its uses share, and the adapters and the linear layer of one use."""
        width, rank = self._in_width, self.lora_rank
        found = [*self._shared_matrices(), Matrix("linear", self.mlp.d_model, self.mlp.d_model, "mixer")]
        if rank:
            found.append(Matrix("gate_up_proj_adapter.0", rank, self.mlp.d_model, "mlp"))
            found.append(Matrix("gate_up_proj_adapter.1", 2 * self.mlp.d_ff, rank, "mlp"))
        if self.attention_lora:
            for name, heads in zip("qkv", (self.attention.n_heads, *[self.attention.n_kv_heads] * 2), strict=True):
                found.append(Matrix(f"linear_{name}_adapter.0", rank, width, "attention"))
                found.append(Matrix(f"linear_{name}_adapter.1", heads * self.attention.head_dim, rank, "attention"))
        return tuple(found)

    def _shared_matrices(self) -> tuple[Matrix, ...]:
        return self.attention.matrices() + self.mlp.matrices()

    @override
    def shared_bytes(self, storage: Storage) -> int:
        return self.shared_params() * storage.weight_bytes + storage.change(self._shared_matrices())

    @override
    def shared_params(self, convention: Convention = Convention.EXACT) -> int:
        return self.attention.params() + self.mlp.params() + self._in_width + self.mlp.d_model

    @override
    def params(self, convention: Convention = Convention.EXACT) -> int:
        """Parameters of one use, including those it shares."""
        refuse_paper(convention, "blocks that share weights")
        return self.shared_params(convention) + self._own_params()

    @override
    def norm_params(self, width: int) -> int:
        """0: its two norms are among the shared parameters."""
        return 0

    @override
    def products(self, convention: Convention = Convention.EXACT, sequence: bool = True) -> dict[str, int]:
        refuse_paper(convention, "blocks that share weights")
        own = {"shared own": 2 * self._own_params()}
        return self.attention.products(convention, sequence) | self.mlp.products(convention, sequence) | own

    @override
    def cores(self, work: str, context: int, convention: Convention = Convention.EXACT) -> dict[str, Flops]:
        return self.attention.cores(work, context, convention)

    @override
    def prefill_flops(self, tokens: int, convention: Convention = Convention.EXACT) -> Flops:
        refuse_paper(convention, "blocks that share weights")
        own = Flops(matmul=2 * self._own_params() * tokens)
        return self.attention.prefill_flops(tokens, convention) + self.mlp.prefill_flops(tokens, convention) + own

    @override
    def decode_flops(self, context: int, convention: Convention = Convention.EXACT) -> Flops:
        refuse_paper(convention, "blocks that share weights")
        own = Flops(matmul=2 * self._own_params())
        return self.attention.decode_flops(context, convention) + self.mlp.decode_flops(context, convention) + own

    @override
    def train_flops(self, tokens: int, convention: Convention = Convention.EXACT) -> Flops:
        refuse_paper(convention, "blocks that share weights")
        own = Flops(matmul=6 * self._own_params() * tokens)
        return self.attention.train_flops(tokens, convention) + self.mlp.train_flops(tokens, convention) + own

    @override
    def full_mask_extra_flops(self, tokens: int) -> int:
        return self.attention.full_mask_extra_flops(tokens)

    @override
    def cache(self, context: int, storage: Storage) -> CacheBytes:
        return self.attention.cache(context, storage)

    @override
    def cache_traffic(self, context: int, storage: Storage) -> int:
        return self.attention.cache_traffic(context, storage)
