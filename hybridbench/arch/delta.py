"""delta: mixers of the gated delta rule, gated delta net and Kimi delta attention: their shape and what they must cost.

The state S of a head (keys x values) follows ``S = g S + beta k (v - (g S)^T k)^T, o = S^T q``: a decay g, one number a
head in gated delta net and one a key channel in KDA, and an update that first takes away what k already holds. Queries,
keys and values pass a causal depthwise conv without bias; the output is normed per head and gated.

Sources: arXiv 2412.06464, fla-org/flash-linear-attention ``ops/gated_delta_rule`` (chunk form), ``layers``, and
transformers' Qwen3-Next, OLMo-Hybrid and Kimi-Linear classes (parameters, state). The triangular solve inside a chunk
is left out of ``hardware``, and KDA's chunk form is priced as the gated delta net's.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from hybridbench.arch.block import Convention, Part, check_sizes
from hybridbench.arch.recurrent import Recurrent
from hybridbench.arch.terms import FLOAT, Activations, Term, padded
from hybridbench.errors import BadInput
from hybridbench.sizes import aligned

WIDE_SUMS = 6
"""Of gradients of beta a head and token, in float32: four parts of the triangular system's, the sum, the rule's own."""


def _chunk_form(tokens: int, chunk: int, n_heads: int, key: int, value: int) -> int:
    """FLOPs of the chunked delta rule over padded chunks, chunk x chunk products in full.

    Per token and head: K K^T, A K and Q K^T of 2 C k each; A V and (Q K^T) V of 2 C v; w S, Q S and K^T V of 2 k v.
    """
    return -(-tokens // chunk) * chunk * n_heads * (6 * chunk * key + 4 * chunk * value + 6 * key * value)


class DeltaRule(Recurrent):
    """What both mixers answer alike: value heads of ``v_head_dim``, and key heads of ``k_head_dim`` that they share."""

    low_rank: ClassVar[bool] = False
    """Gate and decay go through one head's columns each, and the decay is one of every key channel."""

    n_heads: int
    d_conv: int
    chunk_size: int

    if TYPE_CHECKING:  # fields of one, properties of the other

        @property
        def n_k_heads(self) -> int: ...

        @property
        def k_head_dim(self) -> int: ...

        @property
        def v_head_dim(self) -> int: ...

    @property
    def out_width(self) -> int:
        return self.n_heads * self.v_head_dim

    @property
    def out_heads(self) -> int:
        return self.n_heads

    def sizes(self) -> dict[str, int | None]:
        return {
            "head_dim": self.k_head_dim,
            "v_head_dim": self.v_head_dim,
            "n_heads": self.n_heads,
            "n_kv_heads": self.n_k_heads,
            "chunk_size": self.chunk_size,
            "d_conv": self.d_conv,
            "width": self.out_width,
        }

    @property
    @abstractmethod
    def gate_and_decay(self) -> tuple[int, int]:
        """Columns that the input projection has for the output gate and for the decay."""

    @property
    def packed_row(self) -> int:
        return aligned(self._in_width())

    def _in_width(self) -> int:
        """Columns of the input projection."""
        return self.conv_channels + sum(self.gate_and_decay) + self.n_heads

    @property
    def conv_channels(self) -> int:
        return 2 * self.n_k_heads * self.k_head_dim + self.out_width

    @property
    def conv_parts(self) -> tuple[int, ...]:
        """Queries, keys and values apart."""
        keys = self.n_k_heads * self.k_head_dim
        return keys, keys, self.out_width

    @property
    def taps(self) -> int:
        return self.d_conv

    @property
    def state_size(self) -> int:
        return self.n_heads * self.k_head_dim * self.v_head_dim

    def _recurrence(self) -> int:
        # Per state element: the decay, a two-FLOP read by k, a two-FLOP outer product and add, a two-FLOP read by q.
        return 7 * self.state_size

    def _parallel_scan(self, tokens: int) -> int:
        return _chunk_form(tokens, self.chunk_size, self.n_heads, self.k_head_dim, self.v_head_dim)

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


@dataclass(frozen=True, slots=True)
class GatedDelta(DeltaRule):
    """Gated delta net, whose state is a matrix of k_head_dim x v_head_dim per value head.

    Args:
        n_heads: value heads, of ``v_head_dim``.
        n_k_heads: query and key heads, of ``k_head_dim``; each serves as many value heads.
    """

    kind: ClassVar[str] = "gated_delta"
    sequence_ops: ClassVar[tuple[str, ...]] = ("conv1d", "gated_delta", "norm_gate")
    step_ops: ClassVar[tuple[str, ...]] = ("conv1d_step", "gated_delta_step", "norm_gate")

    d_model: int
    n_heads: int
    n_k_heads: int
    k_head_dim: int
    v_head_dim: int
    d_conv: int = 4
    chunk_size: int = 64

    def __post_init__(self) -> None:
        check_sizes(self, "d_model", "n_heads", "n_k_heads", "k_head_dim", "v_head_dim", "d_conv", "chunk_size")
        if self.n_heads % self.n_k_heads:
            raise BadInput(
                f"{self.n_heads} value heads cannot share {self.n_k_heads} key heads: "
                f"the first must be a multiple of the second."
            )

    @property
    def gate_and_decay(self) -> tuple[int, int]:
        return self.out_width, self.n_heads

    def sizes_scaled(self, part: Part) -> dict[str, int]:
        groups = part(self.n_k_heads)
        return {"n_k_heads": groups, "n_heads": groups * (self.n_heads // self.n_k_heads)}

    def in_matmul_params(self, borrows_value: bool = False) -> int:
        value_and_gate = self.out_width * (1 if borrows_value else 2)
        return self.d_model * (2 * self.n_k_heads * self.k_head_dim + value_and_gate + 2 * self.n_heads)

    def in_params(self, convention: Convention, borrows_value: bool = False) -> int:
        conv = self.d_conv * self.conv_channels
        return self.in_matmul_params(borrows_value) + conv + 2 * self.n_heads + self.v_head_dim

    def params_fp32(self) -> int:
        return 2 * self.n_heads


@dataclass(frozen=True, slots=True)
class Kda(DeltaRule):
    """Kimi delta attention: ``n_heads`` heads of ``head_dim`` keys and as many values, decay and gate of low rank.

    The decay's and the output gate's projections go through ``head_dim`` columns.
    """

    kind: ClassVar[str] = "kda"
    low_rank: ClassVar[bool] = True
    sequence_ops: ClassVar[tuple[str, ...]] = ("conv1d", "kda", "norm_gate")
    step_ops: ClassVar[tuple[str, ...]] = ("conv1d_step", "kda_step", "norm_gate")

    d_model: int
    n_heads: int
    head_dim: int
    d_conv: int = 4
    chunk_size: int = 64

    def __post_init__(self) -> None:
        check_sizes(self, "d_model", "n_heads", "head_dim", "d_conv", "chunk_size")

    @property
    def n_k_heads(self) -> int:
        return self.n_heads

    @property
    def k_head_dim(self) -> int:
        return self.head_dim

    @property
    def v_head_dim(self) -> int:
        return self.head_dim

    @property
    def gate_and_decay(self) -> tuple[int, int]:
        return self.head_dim, self.head_dim

    def sizes_scaled(self, part: Part) -> dict[str, int]:
        return {"n_heads": part(self.n_heads)}

    def in_matmul_params(self, borrows_value: bool = False) -> int:
        qkv = self.d_model * self.out_width * (2 if borrows_value else 3)
        low_rank = 2 * self.head_dim * (self.d_model + self.out_width)
        return qkv + low_rank + self.d_model * self.n_heads

    def in_params(self, convention: Convention, borrows_value: bool = False) -> int:
        decay = self.n_heads + self.out_width
        return self.in_matmul_params(borrows_value) + self.d_conv * self.conv_channels + decay + self.head_dim

    def params_fp32(self) -> int:
        return self.n_heads + self.out_width
