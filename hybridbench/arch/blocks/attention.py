"""attention: grouped-query attention, full or over a sliding window with sinks: its shape and what it must cost.

Sources: arXiv 2510.04800 table 1 and appendix C (sliding window: a window of W plus s sink tokens behaves as one of
W + s); causal pairs and GQA bytes as in PaLM appendix B and FlashAttention-2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Self

from typing_extensions import override

from hybridbench.arch.block import (
    TILE,
    CacheBytes,
    CachePart,
    Convention,
    Cut,
    Flops,
    KernelSizes,
    Mixer,
    Packed,
    Packing,
    Rescale,
    Storage,
    check_sizes,
    refuse_paper,
    variant,
)
from hybridbench.arch.blocks.fused_attention import fused_activations
from hybridbench.arch.reasons import SCORES_AGAIN, TILES, Reason
from hybridbench.arch.rope import LLAMA_ROPE, WINDOW_ROPE, Rope
from hybridbench.arch.scales import Site
from hybridbench.arch.terms import FLOAT, Activations
from hybridbench.arch.weights import Matrix
from hybridbench.errors import BadInput, unknown_name

WINDOW, SINKS = 512, 64
"""Keys in the window of a window layer, and first tokens that it always sees, in the source paper's models."""

QK_NORMS = ("none", "head", "full")


@dataclass(frozen=True, slots=True)
class Attention(Mixer):
    """Causal attention with ``n_heads`` query heads sharing ``n_kv_heads`` key/value heads.

    Args:
        head_dim: width of a query and key head.
        v_head_dim: width of a value head; the output projection reads ``n_heads * v_head_dim`` channels.
        window: keys a query sees, itself included; None for all.
        sinks: first tokens every query sees besides its window.
        rope: rotary embedding, None for no position encoding.
        d_in: width of the input where it is not d_model, as in Zamba2's blocks on a concatenation.
        qkv_bias, out_bias: biases of the projections.
        qk_norm: ``head`` (one weight of head_dim each for queries and keys, as in Qwen3 and LFM2) or ``full`` (over all
            heads at once, as in OLMo).
        gated: a sigmoid gate on every channel of the output, projected from the input, as in Qwen3-Next.
        head_gated: a gate on every head of the output instead, as in LFM3.
        sink_logits: a learned logit of each head in its softmax, as in gpt-oss; no key, so no bytes and no pairs.
        keys_as_values: values from the projection of the keys, as in Gemma 4; both are cached.
        d_conv: taps of a causal conv with bias over queries, keys and values, as mamba_ssm's attention may have it;
            0 for none.
        reuses_kv: keys and values of an earlier layer, as in Hymba: no projections and no cache of its own, but the
            other's cache is read again.
        prefix: learned tokens before the first one (Hymba's meta tokens), always cached, seen by every query whatever
            the window. Running them once is no part of a prompt's cost.
    """

    kind: ClassVar[str] = "attention"
    sequence_ops: ClassVar[tuple[str, ...]] = ("attention", "rotary")
    step_ops: ClassVar[tuple[str, ...]] = ("attention_decode",)
    nested: ClassVar[Mapping[str, type]] = {"rope": Rope}
    keeps_values: ClassVar[bool] = True

    d_model: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    v_head_dim: int
    window: int | None = None
    sinks: int = 0
    rope: Rope | None = None
    d_in: int | None = variant(None)
    qkv_bias: bool = variant(False)
    out_bias: bool = variant(False)
    qk_norm: str = variant("none")
    gated: bool = variant(False)
    head_gated: bool = variant(False)
    sink_logits: bool = variant(False)
    keys_as_values: bool = variant(False)
    d_conv: int = variant(0)
    reuses_kv: bool = variant(False)
    prefix: int = variant(0)

    def __post_init__(self) -> None:
        check_sizes(self, "d_model", "n_heads", "n_kv_heads", "head_dim", "v_head_dim", "window", "d_in")
        for name in ("sinks", "d_conv", "prefix"):
            count = getattr(self, name)
            if not isinstance(count, int) or count < 0:
                raise BadInput(f"{name} is {count!r}: give a whole number, 0 for none.")
        if self.qk_norm not in QK_NORMS:
            raise unknown_name("qk_norm", self.qk_norm, QK_NORMS)
        if self.n_heads % self.n_kv_heads:
            raise BadInput(
                f"{self.n_heads} query heads cannot share {self.n_kv_heads} KV heads: "
                f"the first must be a multiple of the second."
            )
        if self.rope is not None and self.head_dim % 2:
            raise BadInput(f"head_dim {self.head_dim} is odd: rotary embedding turns pairs, give an even width.")
        if self.keys_as_values and self.v_head_dim != self.head_dim:
            raise BadInput(f"v_head_dim {self.v_head_dim} with keys as values: give the keys' {self.head_dim}.")
        if self.sinks and self.window is None:
            raise BadInput(f"{self.sinks} sinks without a window: full attention already sees every token.")

    @classmethod
    def at(cls, site: Site) -> Self:
        """The attention of a scale; as a branch with heads that divide the query/key width and all of d_model."""
        scale = site.scale
        if not site.branch:
            head_dim = scale.head_dim
            return cls(scale.d_model, scale.n_heads, scale.n_kv_heads, head_dim, head_dim, rope=LLAMA_ROPE)
        n_heads = scale.intra_heads
        widths = site.qk_width // n_heads, scale.d_model // n_heads
        return cls(scale.d_model, n_heads, scale.intra_kv_heads, *widths, rope=LLAMA_ROPE)

    @classmethod
    def window_at(cls, site: Site) -> Self:
        """``at`` over a window."""
        window = WINDOW if site.window is None else site.window
        sinks = SINKS if site.sinks is None else site.sinks
        return replace(cls.at(site), window=window, sinks=sinks, rope=WINDOW_ROPE)

    @property
    @override
    def name(self) -> str:
        return "attention" if self.window is None else "window attention"

    @property
    @override
    def out_width(self) -> int:
        return self.n_heads * self.v_head_dim

    @property
    @override
    def out_heads(self) -> int:
        return self.n_heads

    @override
    def absent_ops(self, borrows_value: bool = False) -> tuple[str, ...]:
        return ("rotary",) if self.rope is None else ()

    @override
    def sizes(self) -> KernelSizes:
        return {
            "head_dim": self.head_dim,
            "v_head_dim": self.v_head_dim,
            "n_heads": self.n_heads,
            "n_kv_heads": self.n_kv_heads,
            "window": self.window,
            "sinks": self.sinks,
        }

    @property
    @override
    def packed_row(self) -> int:
        return (self.n_heads + self.n_kv_heads) * self.head_dim + self.n_kv_heads * self.v_head_dim

    @override
    def shard_sizes(self, cut: Cut) -> dict[str, int]:
        return {
            "n_heads": cut.divided("n_heads", self.n_heads),
            "n_kv_heads": cut.shared("n_kv_heads", self.n_kv_heads),
        }

    @override
    def packing(self, borrows_value: bool = False) -> Packing:
        heads, groups = self.n_heads, self.n_kv_heads
        values = () if borrows_value else ((groups, self.v_head_dim),)
        return {
            "in_proj.weight": Packed(((heads, self.head_dim), (groups, self.head_dim), *values), self.d_model),
            "out_proj.weight": Packed(((heads, self.v_head_dim),), self.d_model, 1),
        }

    @override
    def core_reduced_bytes(self, size: int, tp: int) -> int:
        """A norm over all heads needs the sums of squares of queries and keys, two floats."""
        return 2 * FLOAT if self.qk_norm == "full" else 0

    @override
    def sizes_scaled(self, part: Rescale) -> dict[str, int]:
        groups = part(self.n_kv_heads)
        return {"n_kv_heads": groups, "n_heads": groups * (self.n_heads // self.n_kv_heads)}

    @property
    @override
    def span(self) -> int | None:
        """Most keys a query can see: window plus sinks, None for all."""
        return None if self.window is None else self.window + self.sinks

    @property
    @override
    def sees_all(self) -> bool:
        return self.window is None

    @property
    @override
    def rotation(self) -> tuple[Rope, int] | None:
        return None if self.rope is None else (self.rope, self.head_dim)

    @property
    @override
    def departures(self) -> tuple[str, ...]:
        if self.window is None:
            return ()
        sizes = (("window", self.window, WINDOW), ("sinks", self.sinks, SINKS))
        return tuple(f"{name} {size}" for name, size, usual in sizes if size != usual)

    @property
    @override
    def out_bias_params(self) -> int:
        return self.d_model if self.out_bias else 0

    def _qkv_width(self, borrows_value: bool = False) -> int:
        """Columns of the projections of queries, keys and values."""
        keys = 0 if self.reuses_kv else self.n_kv_heads * self.head_dim
        values = 0 if self.reuses_kv or self.keys_as_values or borrows_value else self.n_kv_heads * self.v_head_dim
        return self.n_heads * self.head_dim + keys + values

    def _gate_width(self) -> int:
        return self.out_width if self.gated else self.n_heads if self.head_gated else 0

    def _qk_norm_params(self) -> int:
        keys = 0 if self.reuses_kv else self.n_kv_heads
        heads = {"none": 0, "head": 1 + min(keys, 1), "full": self.n_heads + keys}[self.qk_norm]
        return heads * self.head_dim

    @override
    def matrices(self, borrows_value: bool = False) -> tuple[Matrix, ...]:
        width = self.d_in or self.d_model
        queries = self.n_heads * self.head_dim + (self.out_width if self.gated else 0)
        found = [Matrix("q_proj", queries, width, "attention")]
        if not self.reuses_kv:
            found.append(Matrix("k_proj", self.n_kv_heads * self.head_dim, width, "attention"))
        if not (self.reuses_kv or self.keys_as_values or borrows_value):
            found.append(Matrix("v_proj", self.n_kv_heads * self.v_head_dim, width, "attention"))
        if self.head_gated and not self.gated:
            found.append(Matrix("g_proj", self.n_heads, width, "attention"))
        return (*found, Matrix("o_proj", self.d_model, self.out_width, "attention"))

    @override
    def in_matmul_params(self, borrows_value: bool = False) -> int:
        return (self.d_in or self.d_model) * (self._qkv_width(borrows_value) + self._gate_width())

    @override
    def in_params(self, convention: Convention, borrows_value: bool = False) -> int:
        matmul = self.in_matmul_params(borrows_value)
        if convention is Convention.PAPER:
            return matmul
        width = self._qkv_width(borrows_value)
        # A gate on heads has no bias: it is a projection of its own, not a part of the queries'.
        bias = width + (self.out_width if self.gated else 0) if self.qkv_bias else 0
        logits = self.n_heads if self.sink_logits else 0
        conv = width * (self.d_conv + 1) if self.d_conv else 0
        return matmul + bias + conv + logits + self._qk_norm_params()

    def keys(self, context: int) -> int:
        """Keys a new token sees when ``context`` tokens are cached, itself included."""
        return self.prefix + (context + 1 if self.span is None else min(context + 1, self.span))

    def pairs(self, tokens: int) -> int:
        """Query-key pairs of a causal pass over ``tokens``: the sum of ``keys`` over all positions.

        The paper's sliding-window term Lw((Lw + 1)/2 + L - Lw) is the same sum.
        """
        span = tokens if self.span is None else min(tokens, self.span)
        return span * (span + 1) // 2 + span * (tokens - span) + self.prefix * tokens

    def tile_pairs(self, tokens: int) -> int:
        """Pairs that whole TILE x TILE tiles cover, tiles without a visible pair skipped."""
        rows = -(-tokens // TILE)
        most = rows if self.window is None else 1 - (-(self.window - 1) // TILE) - (-self.sinks // TILE)
        most = min(rows, most)
        prefix = rows * -(-self.prefix // TILE)
        return (most * (most + 1) // 2 + most * (rows - most) + prefix) * TILE * TILE

    def _score_flops(self, pairs: int) -> Flops:
        return Flops(attention=2 * self.n_heads * (self.head_dim + self.v_head_dim) * pairs)

    def _conv(self, tokens: int) -> Flops:
        return Flops(conv=2 * self.d_conv * self._qkv_width() * tokens)

    def _check_paper(self, convention: Convention) -> None:
        for name in ("d_in", "d_conv", "reuses_kv", "prefix"):
            if getattr(self, name):
                refuse_paper(convention, f"attention with {name}")

    @override
    def kernel_flops(
        self, parts: Sequence[str], shapes: Sequence[tuple[int, ...]], *, step: bool, training: bool, one_pass: bool
    ) -> dict[str, int]:
        if "core" not in parts:
            return {}
        if step:
            (batch, heads, width), keys, value = shapes[0], shapes[1][1], shapes[2][-1]
            return {f"{self.name} core": 2 * batch * heads * keys * (width + value)}
        (batch, queries, heads, width), keys, value = shapes[0], shapes[1][1], shapes[2][-1]
        channels = width + value + (3 * width + 2 * value if training else 0)
        return {f"{self.name} core": 2 * batch * heads * queries * keys * channels}

    @override
    def core_prefill(self, tokens: int, convention: Convention) -> Flops:
        self._check_paper(convention)
        pairs = self.tile_pairs(tokens) if convention is Convention.HARDWARE else self.pairs(tokens)
        return self._score_flops(pairs) + self._conv(tokens)

    @override
    def core_decode(self, context: int, convention: Convention) -> Flops:
        self._check_paper(convention)
        if convention is Convention.PAPER:
            # The paper's train term divided by three and by L counts the cached tokens, not the new one.
            return self._score_flops(context if self.span is None else min(context, self.span))
        keys = self.keys(context)
        scores = self._score_flops(-(-keys // TILE) * TILE if convention is Convention.HARDWARE else keys)
        return scores + self._conv(1)

    @override
    def core_train(self, tokens: int, convention: Convention) -> Flops:
        forward = self.core_prefill(tokens, convention)
        if convention is not Convention.HARDWARE:
            return 3 * forward
        return forward + self._backward_flops(tokens) + 2 * self._conv(tokens)

    def _backward_flops(self, tokens: int) -> Flops:
        return Flops(attention=2 * self.n_heads * self.backward_width * self.tile_pairs(tokens))

    @property
    def backward_width(self) -> int:
        """Channels that the products of a backward pass run over, of one pair and head.

        FlashAttention's runs five products where the forward runs two: scores again, dV, dP, dQ, dK. FlexAttention, the
        only kernel with sinks, makes dQ in a loop of its own and runs seven: scores and dP once more.
        """
        again = self.head_dim + self.v_head_dim if self.sinks else 0
        return 3 * self.head_dim + 2 * self.v_head_dim + again

    @override
    def full_mask_extra_flops(self, tokens: int) -> int:
        width = self.prefix + (tokens if self.span is None else min(tokens, self.span))
        return self._score_flops(tokens * width - self.pairs(tokens)).total

    def _token_bytes(self, storage: Storage) -> int:
        return self.n_kv_heads * (self.head_dim + self.v_head_dim) * storage.kv_bytes

    def _scale_bytes(self, storage: Storage) -> int:
        """Bytes of the scales that a sequence's keys have, one a head, and as many of its values."""
        return self.n_kv_heads * storage.kv_scale_bytes

    def _conv_bytes(self, storage: Storage) -> int:
        return self._qkv_width() * storage.columns(self.d_conv, self.d_conv) * storage.conv_bytes if self.d_conv else 0

    @override
    def core_reasons(self, work: str, context: int) -> list[Reason]:
        core = f"{self.name} core"
        if work == "decode":
            rounded = self.core_decode(context, Convention.HARDWARE).attention
            return [Reason(core, TILES, rounded - self._score_flops(self.keys(context)).attention)]
        exact, tiles = (self._score_flops(n).attention for n in (self.pairs(context), self.tile_pairs(context)))
        if work == "prefill":
            return [Reason(core, TILES, tiles - exact)]
        again = self._backward_flops(context).attention - 2 * tiles
        return [Reason(core, TILES, 3 * (tiles - exact)), Reason(core, SCORES_AGAIN, again)]

    def _cached_tokens(self, context: int) -> int:
        if self.reuses_kv:
            return 0
        return self.prefix + (context if self.span is None else min(context, self.span))

    @override
    def cache(self, context: int, storage: Storage) -> CacheBytes:
        kv = self._cached_tokens(context) * self._token_bytes(storage)
        kv += 0 if self.reuses_kv else 2 * self._scale_bytes(storage)
        return CacheBytes(kv=kv, conv=self._conv_bytes(storage))

    @override
    def kv_part(self, token_bytes: int, tokens: int, context: int) -> CachePart:
        return CachePart(token_bytes, tokens, self.span is not None and context >= self.span, self.sinks)

    @override
    def value_bytes(self, context: int, storage: Storage) -> int:
        values = self._cached_tokens(context) * self.n_kv_heads * self.v_head_dim * storage.kv_bytes
        return values + (0 if self.reuses_kv else self._scale_bytes(storage))

    @override
    def value_traffic(self, context: int, storage: Storage) -> int:
        return self.value_bytes(self.keys(context), storage)

    @override
    def cache_traffic(self, context: int, storage: Storage) -> int:
        # Every visible key but the new one is read, and the new one written: together keys(context) entries.
        kv = self.keys(context) * self._token_bytes(storage) + 2 * self._scale_bytes(storage)
        return kv + 2 * self._conv_bytes(storage)

    @override
    def core_activations(self, size: int, borrows_value: bool = False, keeps_output: bool = True) -> Activations | None:
        """Those of the fused kernels (``fused_attention``)."""
        values = 0 if borrows_value else self.v_head_dim  # a borrowed value is kept by the branch that lends it
        return fused_activations(
            size,
            queries=self.n_heads * self.head_dim,
            keys=self.n_kv_heads * (self.head_dim + values),
            out=self.out_width,
            heads=self.n_heads,
            grouped=self.n_kv_heads * (self.head_dim + self.v_head_dim) if self.n_heads > self.n_kv_heads else 0,
        )
