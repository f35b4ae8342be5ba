"""attention: grouped-query attention, full or over a sliding window with sinks: its shape and what it must cost.

Sources: arXiv 2510.04800 table 1 and appendix C (sliding window: a window of W plus s sink tokens behaves as one of
W + s); causal pairs and GQA bytes as in PaLM appendix B and FlashAttention-2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from hybridbench.arch.block import TILE, CacheBytes, Convention, Flops, Mixer, Storage, check_sizes
from hybridbench.errors import BadInput


@dataclass(frozen=True, slots=True)
class Rope:
    """Rotary embedding; ``factor`` 1 means no frequency scaling (Llama-3 scaling otherwise)."""

    theta: float = 500_000.0
    factor: float = 32.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_context: int = 8192


@dataclass(frozen=True, slots=True)
class Attention(Mixer):
    """Causal attention with ``n_heads`` query heads sharing ``n_kv_heads`` key/value heads.

    Args:
        head_dim: width of a query and key head.
        v_head_dim: width of a value head; the output projection reads ``n_heads * v_head_dim`` channels.
        window: keys a query sees, itself included; None for all.
        sinks: first tokens every query sees besides its window.
        rope: rotary embedding, None for no position encoding.
    """

    kind: ClassVar[str] = "attention"

    d_model: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    v_head_dim: int
    window: int | None = None
    sinks: int = 0
    rope: Rope | None = None

    def __post_init__(self) -> None:
        check_sizes(self, "d_model", "n_heads", "n_kv_heads", "head_dim", "v_head_dim", "window")
        if not isinstance(self.sinks, int) or self.sinks < 0:
            raise BadInput(f"sinks is {self.sinks!r}: give a whole number, 0 for none.")
        if self.n_heads % self.n_kv_heads:
            raise BadInput(
                f"{self.n_heads} query heads cannot share {self.n_kv_heads} KV heads: "
                f"the first must be a multiple of the second."
            )
        if self.rope is not None and self.head_dim % 2:
            raise BadInput(f"head_dim {self.head_dim} is odd: rotary embedding turns pairs, give an even width.")
        if self.sinks and self.window is None:
            raise BadInput(f"{self.sinks} sinks without a window: full attention already sees every token.")

    @property
    def out_width(self) -> int:
        return self.n_heads * self.v_head_dim

    @property
    def span(self) -> int | None:
        """Most keys a query can see: window plus sinks, None for all."""
        return None if self.window is None else self.window + self.sinks

    def _value_params(self) -> int:
        return self.d_model * self.n_kv_heads * self.v_head_dim

    def in_matmul_params(self, borrows_value: bool = False) -> int:
        queries_keys = self.d_model * self.head_dim * (self.n_heads + self.n_kv_heads)
        return queries_keys + (0 if borrows_value else self._value_params())

    def in_params(self, convention: Convention, borrows_value: bool = False) -> int:
        return self.in_matmul_params(borrows_value)

    def keys(self, context: int) -> int:
        """Keys a new token sees when ``context`` tokens are cached, itself included."""
        return context + 1 if self.span is None else min(context + 1, self.span)

    def pairs(self, tokens: int) -> int:
        """Query-key pairs of a causal pass over ``tokens``: the sum of ``keys`` over all positions.

        The paper's sliding-window term Lw((Lw + 1)/2 + L - Lw) is the same sum.
        """
        span = tokens if self.span is None else min(tokens, self.span)
        return span * (span + 1) // 2 + span * (tokens - span)

    def _tile_pairs(self, tokens: int) -> int:
        """Pairs that whole TILE x TILE tiles cover, tiles without a visible pair skipped."""
        rows = -(-tokens // TILE)
        most = rows if self.window is None else 1 - (-(self.window - 1) // TILE) - (-self.sinks // TILE)
        most = min(rows, most)
        return (most * (most + 1) // 2 + most * (rows - most)) * TILE * TILE

    def _score_flops(self, pairs: int) -> Flops:
        return Flops(attention=2 * self.n_heads * (self.head_dim + self.v_head_dim) * pairs)

    def core_prefill(self, tokens: int, convention: Convention) -> Flops:
        return self._score_flops(self._tile_pairs(tokens) if convention is Convention.HARDWARE else self.pairs(tokens))

    def core_decode(self, context: int, convention: Convention) -> Flops:
        if convention is Convention.PAPER:
            # The paper's train term divided by three and by L counts the cached tokens, not the new one.
            return self._score_flops(context if self.span is None else min(context, self.span))
        keys = self.keys(context)
        return self._score_flops(-(-keys // TILE) * TILE if convention is Convention.HARDWARE else keys)

    def core_train(self, tokens: int, convention: Convention) -> Flops:
        forward = self.core_prefill(tokens, convention)
        if convention is not Convention.HARDWARE:
            return 3 * forward
        # FlashAttention's backward runs five products where the forward runs two: scores again, dV, dP, dQ, dK.
        score, value = self.head_dim, self.v_head_dim
        backward = 2 * self.n_heads * (3 * score + 2 * value) * self._tile_pairs(tokens)
        return forward + Flops(attention=backward)

    def full_mask_extra_flops(self, tokens: int) -> int:
        width = tokens if self.span is None else min(tokens, self.span)
        return self._score_flops(tokens * width - self.pairs(tokens)).total

    def _token_bytes(self, storage: Storage) -> int:
        return self.n_kv_heads * (self.head_dim + self.v_head_dim) * storage.kv_bytes

    def cache(self, context: int, storage: Storage) -> CacheBytes:
        tokens = context if self.span is None else min(context, self.span)
        return CacheBytes(kv=tokens * self._token_bytes(storage))

    def value_bytes(self, context: int, storage: Storage) -> int:
        """The values' part of ``cache``."""
        tokens = context if self.span is None else min(context, self.span)
        return tokens * self.n_kv_heads * self.v_head_dim * storage.kv_bytes

    def cache_traffic(self, context: int, storage: Storage) -> int:
        # Every visible key but the new one is read, and the new one written: together keys(context) entries.
        return self.keys(context) * self._token_bytes(storage)
