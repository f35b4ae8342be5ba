"""delta: what the mixers of the gated delta rule, gated delta net and Kimi delta attention, share in shape and cost.

The state S of a head (keys x values) follows ``S = g S + beta k (v - (g S)^T k)^T, o = S^T q``: a decay g, one number a
head in gated delta net and one a key channel in KDA, and an update that first takes away what k already holds. Queries,
keys and values pass a causal depthwise conv without bias; the output is normed per head and gated.

Sources: arXiv 2412.06464, fla-org/flash-linear-attention ``ops/gated_delta_rule`` (chunk form), ``layers``, and
transformers' Qwen3-Next, OLMo-Hybrid and Kimi-Linear classes (parameters, state). The triangular solve inside a chunk
is left out of ``hardware``, and KDA's chunk form is priced as the gated delta net's.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar

from typing_extensions import override

from hybridbench.arch.block import KernelSizes, Packed, Packing
from hybridbench.arch.plain_scan import PlainScan
from hybridbench.arch.recurrent import Recurrent
from hybridbench.arch.scales import Site
from hybridbench.arch.terms import FLOAT, Activations, Term, padded
from hybridbench.sizes import KDA_PLAIN_CHUNK, aligned

WIDE_SUMS = 6
"""Of gradients of beta a head and token, in float32: four parts of the triangular system's, the sum, the rule's own."""


def _chunk_form(tokens: int, chunk: int, n_heads: int, key: int, value: int) -> int:
    """FLOPs of the chunked delta rule over padded chunks, chunk x chunk products in full.

    Per token and head: K K^T, A K and Q K^T of 2 C k each; A V and (Q K^T) V of 2 C v; w S, Q S and K^T V of 2 k v.
    """
    return -(-tokens // chunk) * chunk * n_heads * (6 * chunk * key + 4 * chunk * value + 6 * key * value)


def heads_at(site: Site) -> tuple[int, int]:
    """Number and width of heads that have Mamba-2's channels together: Mamba-2's width, but at most 128."""
    width = 128 if site.ssm_head_dim > 128 and site.d_inner % 128 == 0 else site.ssm_head_dim
    return site.d_inner // width, width


class DeltaRule(Recurrent):
    """What both mixers share: value heads of ``v_head_dim``, and key heads of ``k_head_dim`` that they share."""

    low_rank: ClassVar[bool] = False
    """Whether gate and decay are of low rank (one head's columns), and the decay has one number per key channel."""

    n_heads: int
    d_conv: int
    chunk_size: int

    if TYPE_CHECKING:  # fields of GatedDelta, properties of Kda

        @property
        def n_k_heads(self) -> int:
            """Query and key heads."""

        @property
        def k_head_dim(self) -> int:
            """Channels of a query or key head."""

        @property
        def v_head_dim(self) -> int:
            """Channels of a value head."""

    @property
    @override
    def out_width(self) -> int:
        return self.n_heads * self.v_head_dim

    @property
    @override
    def out_heads(self) -> int:
        return self.n_heads

    @override
    def sizes(self) -> KernelSizes:
        return {
            "head_dim": self.k_head_dim,
            "v_head_dim": self.v_head_dim,
            "n_heads": self.n_heads,
            "n_kv_heads": self.n_k_heads,
            "chunk_size": self.chunk_size,
            "d_conv": self.d_conv,
            "conv_channels": self.conv_channels,
            "width": self.out_width,
        }

    @property
    @abstractmethod
    def gate_and_decay(self) -> tuple[int, int]:
        """Columns that the input projection has for the output gate and for the decay."""

    @override
    def packing(self, borrows_value: bool = False) -> Packing:
        keys, values, heads = (self.n_k_heads, self.k_head_dim), (self.n_heads, self.v_head_dim), (self.n_heads, 1)
        low_rank = (1, self.k_head_dim)
        gate, decay = (low_rank, low_rank) if self.low_rank else (values, heads)
        found = {
            "in_proj.weight": Packed(
                (keys, keys, *(() if borrows_value else (values,)), gate, decay, heads), self.d_model
            ),
            "conv_weight_CW": Packed((keys, keys, values), self.d_conv),
            "A_log_H": Packed((heads,)),
            "dt_bias": Packed((heads,), self.k_head_dim if self.low_rank else 1),
            "norm_weight_V": Packed(((1, self.v_head_dim),)),
            "out_proj.weight": Packed((values,), self.d_model, 1),
        }
        up = Packed((values,), self.k_head_dim)
        return found | (dict.fromkeys(("gate_proj.weight", "decay_proj.weight"), up) if self.low_rank else {})

    @property
    @override
    def packed_row(self) -> int:
        return aligned(self._in_width())

    def _in_width(self) -> int:
        """Columns of the input projection."""
        return self.conv_channels + sum(self.gate_and_decay) + self.n_heads

    @property
    @override
    def conv_parts(self) -> tuple[int, ...]:
        """Queries, keys and values, each with a convolution of its own."""
        keys = self.n_k_heads * self.k_head_dim
        return keys, keys, self.out_width

    @property
    @override
    def conv_channels(self) -> int:
        return sum(self.conv_parts)

    @property
    @override
    def taps(self) -> int:
        return self.d_conv

    @property
    @override
    def state_size(self) -> int:
        return self.n_heads * self.k_head_dim * self.v_head_dim

    @override
    def _recurrence(self) -> int:
        # Per state element: the decay, a two-FLOP read by k, a two-FLOP outer product and add, a two-FLOP read by q.
        return 7 * self.state_size

    @override
    def _parallel_scan(self, tokens: int) -> int:
        return _chunk_form(tokens, self.chunk_size, self.n_heads, self.k_head_dim, self.v_head_dim)

    @override
    def plain_scan(self, tokens: int, sequences: int) -> PlainScan:
        """Both delta rules: products that read the state and add to it run chunk by chunk; the last chunk is padded.

        With a decay for every key channel scores and products among keys are elementwise, and chunks are shorter.
        """
        heads, k, v = self.n_heads, self.k_head_dim, self.v_head_dim
        q = min(tokens, self.chunk_size, KDA_PLAIN_CHUNK) if self.low_rank else min(tokens, self.chunk_size)
        state = 2 * q * heads * k * v
        among = 0 if self.low_rank else 2 * 2 * q * q * k * self.n_k_heads
        per_chunk = among + 2 * q * q * heads * v + 3 * state
        chunks = -(-tokens // q)
        padding = (chunks * q - tokens) * per_chunk // q
        return PlainScan(
            forward=chunks * per_chunk - padding,
            padding=padding,
            solved=chunks * 2 * q * q * heads * (k + v),
            constant=2 * state,
            unneeded=2 * state,
            untraced=state,
        )

    @override
    def core_activations(self, size: int, borrows_value: bool = False, keeps_output: bool = True) -> Activations | None:
        """Conv of q, k and v one by one, the delta rule by chunks, norm and gate.

        The rule keeps q and k of length one, beta, two triangles a chunk and its output, and makes decays, the chunks'
        inputs, states and new values again in its backward (``ChunkKDAFunction``). A gated delta net trains on KDA's
        kernels, with its decay in every channel (``kernels.delta.WRONG_ON_HOPPER``); a prefill of it takes its own.
        """
        if borrows_value:
            return None
        heads, chunk, kda = self.n_heads, self.chunk_size, self.low_rank
        keys, wide, values = self.n_k_heads * self.k_head_dim, heads * self.k_head_dim, self.out_width
        columns, copied = padded(self._in_width(), self.d_model, size)
        packed = Term("packed q, k, v, gate, decay, beta", size * columns, fixed=copied)
        gate = Term("gate", size * values if kda else 0)
        decay = Term("decay of every channel", size * wide)
        convolved = Term("convolved v", size * values, cheap=True)
        units = Term("q and k of length one", 2 * size * keys)
        small = Term("lengths, beta", 2 * FLOAT * self.n_k_heads + (size + FLOAT) * heads)
        triangles = Term("products within chunks", 2 * size * heads * chunk)
        out = Term("rule's output", size * values)
        gated = Term("gated output", size * values, cheap=True)
        states = Term("states before chunks", size * heads * self.k_head_dim * self.v_head_dim // chunk)
        logs = Term("decays added up, float32", FLOAT * (wide if kda else heads))
        fresh = Term("new values", size * values)
        inputs = Term("chunks' inputs w, u, k", size * (wide + values + (wide if kda else 0)))
        within = Term("products within chunks", triangles.per_token if kda else size * heads * chunk)
        mixed = Term("convolved q and k", 2 * size * keys)
        own = (packed, gate, decay) if kda else (packed,)
        return Activations(
            saved=(packed, gate, decay, convolved, units, small, triangles, out, gated),
            forward=((*own, mixed, convolved, units, small, logs, within, inputs, states, fresh, out),),
            backward=(
                (
                    Term("gradients of the rule's output and of the gate", out.per_token + size * values),
                    Term("gated output, output and gate, freed", -gated.per_token - out.per_token - gate.per_token),
                    Term("decays added up, float32", FLOAT * wide),
                    Term("chunks' inputs w, u, q, k", size * (3 * wide + values)),
                    Term("states before chunks and their gradients", 2 * states.per_token),
                    Term("new values, their gradients", fresh.per_token + size * values),
                    Term("gradients of the products within chunks", 2 * FLOAT * heads * chunk),
                    Term("gradients of q, k and decays in float32, twice", 2 * 3 * FLOAT * wide),
                    Term("gradients of beta", WIDE_SUMS * FLOAT * heads),
                ),
            ),
        )
