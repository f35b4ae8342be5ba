"""rwkv7: RWKV-7's time mixing, a delta rule whose every channel has a decay and a rate of its own: shape and cost.

The state S of a head (keys x values) follows ``S = diag(w) S - (kk * a) (kk^T S) + k v^T, o = S^T r``: it decays by
channel, loses a share a of its content along the removal key kk (which has length one; a is called the rate), and gains
k v^T. Each of r, w, k, v, a and the gate g is projected from a mix of the token with the token before it (the token
shift); every channel learns its share of the mix. Decay, rate, gate and the share of the value residual go through a
low rank. Layers of one width share a value residual: the first layer has none (``leading``), and each later layer mixes
its value with the first layer's. Every head is normed, gets a bonus ``(r . k rho) v`` of its own token, and is gated.

The mixer is as wide as the scale's Mamba-2; published models are as wide as d_model. So a swap of mixers keeps the
number of value channels, and a parallel block can share a value between branches. Heads have the 64 channels of every
published model, so the state has 64 numbers a channel. The MLP is the model's SwiGLU, not RWKV's channel mixing.

Sources: arXiv 2503.14456 (sections 3 and 4, appendix on parameters), BlinkDL/RWKV-LM ``RWKV-v7`` (ranks by d_model, no
value residual in layer 0, norm, initial values), fla-org/flash-linear-attention 0.6.0 ``ops/rwkv7`` and
``ops/generalized_delta_rule/dplr`` (chunk form).
"""

from __future__ import annotations

from collections.abc import Collection, Hashable
from dataclasses import dataclass, replace
from typing import ClassVar, Self

from typing_extensions import override

from hybridbench.arch.block import Convention, Cut, Flops, KernelSizes, Packed, Packing, Rescale, check_sizes
from hybridbench.arch.plain_scan import PlainScan, segments
from hybridbench.arch.recurrent import SquareHeads
from hybridbench.arch.scales import Site
from hybridbench.arch.terms import FLOAT, Activations, Term
from hybridbench.arch.weights import Matrix
from hybridbench.errors import BadInput
from hybridbench.sizes import RWKV7_PLAIN_CHUNK

HEAD_DIM = 64
"""Channels of a head in every published model."""


def low_ranks(d_model: int) -> dict[str, int]:
    """The low ranks of a mixer by d_model, as in RWKV-LM's ``RWKV_Tmix_x070`` and in the published models (but the one
    with d_model 1024 has a gate of 128).
    """

    def rank(columns: float) -> int:
        return max(32, round(columns / 32) * 32)

    return {
        "decay_rank": rank(1.8 * d_model**0.5),
        "rate_rank": rank(1.8 * d_model**0.5),
        "value_rank": rank(1.3 * d_model**0.5),
        "gate_rank": rank(0.6 * d_model**0.8),
    }


@dataclass(frozen=True, slots=True)
class Rwkv7(SquareHeads):
    """RWKV-7's time mixing with ``n_heads`` heads of ``head_dim`` key and ``head_dim`` value channels.

    Args:
        decay_rank, rate_rank, gate_rank: columns that w, a and g go through.
        value_rank: the same for the share of the value residual; 0 in the first layer, which has no residual.
        chunk_size: positions per chunk of the kernels.
    """

    kind: ClassVar[str] = "rwkv7"
    sequence_ops: ClassVar[tuple[str, ...]] = ("rwkv7_shift", "rwkv7_keys", "rwkv7", "rwkv7_output")
    step_ops: ClassVar[tuple[str, ...]] = ("rwkv7_shift", "rwkv7_keys", "rwkv7_step", "rwkv7_output")

    d_model: int
    n_heads: int
    head_dim: int
    decay_rank: int
    rate_rank: int
    value_rank: int
    gate_rank: int
    chunk_size: int = 64

    def __post_init__(self) -> None:
        check_sizes(self, "d_model", "n_heads", "head_dim", "decay_rank", "rate_rank", "gate_rank", "chunk_size")
        if not isinstance(self.value_rank, int) or self.value_rank < 0:
            raise BadInput(f"value_rank is {self.value_rank!r}: give a whole number, 0 for the first layer.")

    @classmethod
    def at(cls, site: Site) -> Self:
        """As wide as the scale's Mamba-2. Heads have 64 channels, or Mamba-2's where 64 does not divide the width."""
        width = site.ssm_head_dim if site.d_inner % HEAD_DIM else HEAD_DIM
        return cls(site.scale.d_model, site.d_inner // width, width, **low_ranks(site.scale.d_model))

    @property
    @override
    def line(self) -> Hashable:
        """Layers of equal width share a value residual; branches of parallel blocks, which are narrower, another."""
        return type(self), self.out_width

    @override
    def leading(self, lines: Collection[Hashable]) -> Rwkv7:
        """The first layer of a line has no value residual."""
        return replace(self, value_rank=0) if self.line in lines else self

    @override
    def shard_sizes(self, cut: Cut) -> dict[str, int]:
        return {"n_heads": cut.divided("n_heads", self.n_heads)}

    @override
    def packing(self, borrows_value: bool = False) -> Packing:
        channels, heads = (self.n_heads, self.head_dim), (self.n_heads, 1)
        ranks = {"decay": self.decay_rank, "rate": self.rate_rank, "gate": self.gate_rank, "value": self.value_rank}
        found = {
            "in_proj.weight": Packed((channels,) * (2 if borrows_value else 3), self.d_model),
            "share_LD": Packed(((1, len(self.mixed(borrows_value))),), self.d_model),
            **dict.fromkeys(("decay_I", "rate_I", "removal_I", "added_I"), Packed((channels,))),
            **dict.fromkeys(("bonus_HP", "norm_weight_HV", "norm_bias_HV"), Packed((heads,), self.head_dim)),
            "out_proj.weight": Packed((channels,), self.d_model, 1),
        }
        for name, rank in ranks.items():
            if rank:
                found[f"{name}_down.weight"] = Packed(((1, rank),), self.d_model)
                found[f"{name}_up.weight"] = Packed((channels,), rank)
        return found | ({"value_I": Packed((channels,))} if self.value_rank else {})

    @override
    def sizes_scaled(self, part: Rescale) -> dict[str, int]:
        ranks = low_ranks(part(self.d_model))
        return {"n_heads": part(self.n_heads), **ranks, "value_rank": ranks["value_rank"] if self.value_rank else 0}

    @property
    @override
    def packed_row(self) -> int:
        """Each input of the kernels is a projection by itself."""
        return self.out_width

    @override
    def sizes(self) -> KernelSizes:
        return {
            "head_dim": self.head_dim,
            "n_heads": self.n_heads,
            "chunk_size": self.chunk_size,
            "width": self.out_width,
            "d_model": self.d_model,
        }

    def mixed(self, borrows_value: bool = False) -> tuple[str, ...]:
        """The inputs that mix in the token before. v is not among them where it is borrowed and has no residual."""
        return tuple("rkwag" if borrows_value and not self.value_rank else "rkvwag")

    @property
    def ranks(self) -> int:
        """Columns of all low ranks."""
        return self.decay_rank + self.rate_rank + self.value_rank + self.gate_rank

    @override
    def matrices(self, borrows_value: bool = False) -> tuple[Matrix, ...]:
        whole = ("r_proj", "k_proj") if borrows_value else ("r_proj", "k_proj", "v_proj")
        ranks = {"w": self.decay_rank, "a": self.rate_rank, "v": self.value_rank, "g": self.gate_rank}
        low_rank = tuple(
            matrix
            for name, rank in ranks.items()
            if rank
            for matrix in (
                Matrix(f"{name}_lora.0", rank, self.d_model, "mixer"),
                Matrix(f"{name}_lora.2", self.out_width, rank, "mixer"),
            )
        )
        return (
            *(Matrix(name, self.out_width, self.d_model, "mixer") for name in whole),
            *low_rank,
            Matrix("o_proj", self.d_model, self.out_width, "mixer"),
        )

    @override
    def in_matmul_params(self, borrows_value: bool = False) -> int:
        whole = self.d_model * self.out_width * (2 if borrows_value else 3)
        return whole + self.ranks * (self.d_model + self.out_width)

    @override
    def in_params(self, convention: Convention, borrows_value: bool = False) -> int:
        # By channel: the bases of decay, rate and the value's share; two of the key, the bonus, the norm's two.
        vectors = (3 if self.value_rank else 2) + 2 + 1 + 2
        shares = len(self.mixed(borrows_value)) * self.d_model
        return self.in_matmul_params(borrows_value) + shares + vectors * self.out_width

    # The conv state holds the token before. The token shift is elementwise, so its FLOPs are not counted.

    @property
    @override
    def conv_channels(self) -> int:
        return self.d_model

    @property
    @override
    def conv_columns(self) -> int:
        return 1

    @override
    def _recurrence(self) -> int:
        # Per state element: the decay; two FLOPs each of the read by kk, of the two outer products that are added, and
        # of the read by r.
        return 9 * self.state_size

    def _chunked(self, tokens: int, across: int, within: int, states: int) -> int:
        """FLOPs of a chunk form over padded chunks of C positions, with heads of P channels.

        Args:
            across: products of 2 C P FLOPs per token and head.
            within: products of 2 C C.
            states: products of 2 P P.
        """
        size, chunk = self.head_dim, self.chunk_size
        one = across * chunk * size + within * chunk * chunk + states * size * size
        return -(-tokens // chunk) * chunk * self.n_heads * 2 * one

    @override
    def _parallel_scan(self, tokens: int) -> int:
        """The products of ``chunk_dplr_fwd`` on tensor cores. The inversion of the triangle inside a chunk is left out.

        Across (10): two cumulative sums of decays, four products of r and kk with k and kk a, w, u, and two for the
        output. Within (1): the inverse times a matrix. States (4): w S, two updates, and r S.
        """
        return self._chunked(tokens, across=10, within=1, states=4)

    @override
    def core_train(self, tokens: int, convention: Convention) -> Flops:
        """In ``hardware`` the forward, the forward again without the output, and the products of ``chunk_dplr_bwd_*``.

        Across (16): 3 in dAu, 1 in dv, 4 in wy, 8 inside chunks. Within (5): wy. States (8): 3 in dhu, 1 in dv, 4 in o.
        """
        if convention is not Convention.HARDWARE:
            return 3 * self.core_prefill(tokens, convention)
        again = self._chunked(tokens, across=8, within=1, states=3)
        backward = self._chunked(tokens, across=16, within=5, states=8)
        return Flops(scan=self._parallel_scan(tokens) + again + backward)

    @override
    def plain_scan(self, tokens: int, sequences: int) -> PlainScan:
        """``rwkv7``: in every chunk four products of keys or receptances with keys, three with values, one with what
        reads the state, three that make what a chunk does to the state, and one read of it: for many chunks at once.
        One after the other, a product of the state with a matrix of its width.
        """
        inner, chunk = self.out_width, min(RWKV7_PLAIN_CHUNK, tokens)
        square, state = 2 * chunk * inner, 2 * inner * self.head_dim  # of a position
        lengths = segments(tokens, RWKV7_PLAIN_CHUNK, sequences * inner * self.head_dim)
        first, last = (chunk if length <= chunk else 0 for length in (lengths[0], lengths[-1]))
        chunks, short = -(-tokens // chunk), -tokens % chunk
        step = state * self.head_dim  # of a chunk
        return PlainScan(
            forward=tokens * (8 * square + 4 * state) + chunks * step,
            padding=short * (8 * square + 4 * state),
            solved=2 * square * (tokens + short),
            constant=state * first + (step if chunks > 1 else 0),
            unneeded=2 * (step + 3 * state * last),
            untraced=step + 3 * state * last,
        )

    @override
    def core_activations(self, size: int, borrows_value: bool = False, keeps_output: bool = True) -> Activations | None:
        """Token shift and keys as one operation each, the rule by fla's chunks, fla's norm and gate.

        The token shift keeps the block's input, and the projections its outputs. The keys keep k and the rate as they
        are projected, the rule its six inputs. The rule's backward (``ChunkDPLRDeltaRuleFunction``) computes the rest
        again: sums of decays, four matrices a chunk and an inverse, gated inputs, w, states and new values.
        """
        if borrows_value:
            return None
        d_model, wide, heads, chunk = self.d_model, size * self.out_width, self.n_heads, self.chunk_size
        leads = not self.value_rank
        matrix, exact = size * heads * chunk, FLOAT * heads * chunk
        states, logs = Term("states before chunks", wide * self.head_dim // chunk), FLOAT * self.out_width
        stats = Term("means and scales of heads", 2 * FLOAT * heads)
        residual = Term("share of the value residual", 0 if leads else wide)
        mixed_value = Term("mixed value", 0 if leads else wide, cheap=True)
        own = (Term("r, k, value, rate before its sigmoid, gate", 5 * wide), residual, mixed_value)
        keys = Term("removal and added key, rate", 3 * wide, cheap=True)
        rule = Term("decay twice, removal key and its negative with the rate", 4 * wide)
        outputs = Term("rule's output, normed", 2 * wide)
        gated = (Term("gated output", wide, cheap=True),) if keeps_output else ()
        return Activations(
            saved=(
                Term("inputs mixed with the token before", size * d_model * len(self.mixed()), cheap=True),
                Term("low ranks", size * self.ranks),
                *own,
                keys,
                rule,
                outputs,
                stats,
                *gated,
            ),
            forward=(
                (
                    Term("r, w, added and removal key, value, rate, gate", 7 * wide),
                    mixed_value,
                    Term("decay, negative key, key with the rate", 3 * wide),
                    Term("decays added up, float32", 2 * logs),
                    Term("matrices within chunks and an inverse", 2 * matrix + 3 * exact),
                    Term("gated inputs, w, u", 6 * wide),
                    states,
                    Term("new values, output", 2 * wide),
                ),
            ),
            backward=(
                (
                    Term("gradients of output, r, k, v, gate", 5 * wide),
                    Term("outputs and gate, freed", -3 * wide - sum(term.per_token for term in (stats, *gated))),
                    Term("decays added up, float32", 2 * logs),
                    Term("a matrix within chunks and the inverse", matrix + exact),
                    Term("gated inputs, w", 5 * wide),
                    Term("states before chunks and their gradients", 2 * states.per_token),
                    Term("gradients of the matrices, float32", 4 * exact),
                    Term("gradients of new values, twice, and of v", 3 * wide),
                    Term("gradients of gated inputs and w", 5 * wide),
                    Term("gradients of r, both keys and their product with the rate", 4 * wide),
                    Term("gradients of decays, float32, three times", 3 * logs),
                    Term("gradients of last decays, float32", logs // chunk),
                ),
            ),
            lent=(Term("first value", wide),) if leads else (),
        )
