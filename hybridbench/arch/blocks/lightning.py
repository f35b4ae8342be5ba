"""lightning: linear attention whose state decays at a fixed rate of each head: shape and cost.

``[q, k, v, gate] = in_proj(u)``, then silu of q, k and v. Each head computes ``S = g S + k v^T, o = S^T q`` without a
scale; its decay g is fixed, and depends on the head and on the mixer's place in the model. An RMSNorm over the channels
of all heads, a product with ``sigmoid(gate)`` and out_proj follow. There is no convolution and no position embedding.

Sources: arXiv 2501.08313, transformers' MiniMax (parameters, state), fla-org/flash-linear-attention ``ops/simple_gla``
(chunk form, its backward, what it keeps).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

from typing_extensions import override

from hybridbench.arch.block import Convention, Cut, Flops, KernelSizes, Rescale, check_sizes
from hybridbench.arch.blocks.delta import heads_at
from hybridbench.arch.plain_scan import PlainScan, pieces
from hybridbench.arch.recurrent import SquareHeads
from hybridbench.arch.scales import Site
from hybridbench.arch.terms import FLOAT, Activations, Term, padded
from hybridbench.arch.weights import Matrix
from hybridbench.sizes import aligned

KERNELS_CHUNK = 64
"""Positions per chunk in the third-party kernels. MiniMax's own kernels have 256."""


@dataclass(frozen=True, slots=True)
class Lightning(SquareHeads):
    """Lightning attention with ``n_heads`` heads of ``head_dim`` key and ``head_dim`` value channels.

    Args:
        chunk_size: positions per chunk, the side of a tile; MiniMax calls it ``block_size``.
    """

    kind: ClassVar[str] = "lightning"
    sequence_ops: ClassVar[tuple[str, ...]] = ("lightning", "norm_gate")
    step_ops: ClassVar[tuple[str, ...]] = ("lightning_step", "norm_gate")

    d_model: int
    n_heads: int
    head_dim: int
    chunk_size: int = 256

    def __post_init__(self) -> None:
        check_sizes(self, "d_model", "n_heads", "head_dim", "chunk_size")

    @classmethod
    def at(cls, site: Site) -> Self:
        """As wide as the scale's Mamba-2, like every mixer that may replace it. Heads have 128 channels, as in MiniMax,
        or as many as Mamba-2's where those are narrower. Chunks are as long as the third-party kernels'.
        """
        return cls(site.scale.d_model, *heads_at(site), chunk_size=KERNELS_CHUNK)

    @override
    def sizes(self) -> KernelSizes:
        return {
            "head_dim": self.head_dim,
            "n_heads": self.n_heads,
            "chunk_size": self.chunk_size,
            "norm_width": self.out_width,
        }

    @property
    @override
    def packed_row(self) -> int:
        return aligned(self._in_width())

    def _in_width(self, borrows_value: bool = False) -> int:
        """Columns of the input projection."""
        return self.out_width * (3 if borrows_value else 4)

    @override
    def shard_sizes(self, cut: Cut) -> dict[str, int]:
        return {"n_heads": cut.divided("n_heads", self.n_heads)}

    @override
    def core_reduced_bytes(self, size: int, tp: int) -> int:
        """The norm over the channels of all heads needs their sum of squares, a float."""
        return FLOAT

    @override
    def sizes_scaled(self, part: Rescale) -> dict[str, int]:
        return {"n_heads": part(self.n_heads)}

    @override
    def matrices(self, borrows_value: bool = False) -> tuple[Matrix, ...]:
        return (
            Matrix("qkv_proj", self._in_width(borrows_value) - self.out_width, self.d_model, "mixer"),
            Matrix("output_gate", self.out_width, self.d_model, "mixer"),
            Matrix("out_proj", self.d_model, self.out_width, "mixer"),
        )

    @override
    def in_matmul_params(self, borrows_value: bool = False) -> int:
        return self.d_model * self._in_width(borrows_value)

    @override
    def in_params(self, convention: Convention, borrows_value: bool = False) -> int:
        return self.in_matmul_params(borrows_value) + self.out_width

    @override
    def _recurrence(self) -> int:
        # Per state element: the decay, an outer product, an add and a two-FLOP read.
        return 5 * self.state_size

    @override
    def _parallel_scan(self, tokens: int) -> int:
        # Per token and head: Q K^T and its product with V in full, the state's update and its read.
        chunk, head = self.chunk_size, self.head_dim
        return -(-tokens // chunk) * chunk * self.n_heads * (4 * chunk * head + 4 * head * head)

    @override
    def core_train(self, tokens: int, convention: Convention) -> Flops:
        """In ``hardware`` 3.5 times the forward, in other conventions 3 times.

        Per token and head the forward has two products of 2 C P FLOPs and two of 2 P P, with chunks of C positions and
        heads of P channels. The backward (``chunk_simple_gla_bwd``) has five of each: Q K^T again, dO V^T, and one for
        each gradient of q, k and v; the states again, their gradients, and one for each gradient of q, k and v.
        """
        forward = self.core_prefill(tokens, convention)
        return Flops(scan=forward.scan * 7 // 2) if convention is Convention.HARDWARE else 3 * forward

    @override
    def plain_scan(self, tokens: int, sequences: int) -> PlainScan:
        """``lightning``: scores, outputs, state read and state added, chunk by chunk; the last chunk is shorter."""
        inner = self.out_width
        lengths = pieces(tokens, self.chunk_size)
        state = 2 * inner * self.head_dim
        return PlainScan(
            forward=sum(4 * length * length * inner + 2 * state * length for length in lengths),
            constant=state * lengths[0],
            unneeded=2 * state * lengths[-1],
            untraced=state * lengths[-1],
        )

    @override
    def core_activations(self, size: int, borrows_value: bool = False, keeps_output: bool = True) -> Activations | None:
        """Silu of q, k and v one by one, the chunk kernels, norm and gate.

        ``ChunkSimpleGLAFunction`` keeps q, k and v. Its backward computes the states before chunks again, in float32,
        and holds the states and their gradients until the gradients of q, k and v are done.
        """
        if borrows_value:
            return None
        width = self.out_width
        columns, copied = padded(self._in_width(), self.d_model, size)
        packed = Term("packed q, k, v, gate", size * columns, fixed=copied)
        inputs = Term("silu of q, k and v", 3 * size * width, cheap=True)
        out = Term("output before norm and gate", size * width)
        gated = Term("gated output", size * width, cheap=True)
        states = width * self.head_dim // self.chunk_size
        return Activations(
            saved=(packed, inputs, out, gated),
            forward=(
                (packed, inputs, Term("states before chunks", size * states), out),
                (packed, inputs, out, gated),
            ),
            backward=(
                (
                    Term("gradients of that output and of the gate", 2 * size * width),
                    Term("gated output and output, freed", -2 * size * width),
                    Term("states before chunks and their gradients, float32", 2 * FLOAT * states),
                    Term("gradients of q, k and v", 3 * size * width),
                ),
            ),
        )
