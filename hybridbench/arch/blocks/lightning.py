"""lightning: linear attention whose state decays at a fixed rate of each head: its shape and what it must cost.

``[q, k, v, gate] = in_proj(u)``; q, k and v pass silu; per head ``S = g S + k v^T, o = S^T q`` without a scale, where g
is fixed by the head and by the mixer's place in the model; an RMSNorm over the channels of all heads, times
``sigmoid(gate)``; out_proj. There is no conv, and no position is embedded.

Sources: arXiv 2501.08313, transformers' MiniMax (parameters, state), fla-org/flash-linear-attention ``ops/simple_gla``
(chunk form, its backward, what it keeps).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

from typing_extensions import override

from hybridbench.arch.block import Convention, Flops, KernelSizes, Rescale, check_sizes
from hybridbench.arch.blocks.delta import heads_at
from hybridbench.arch.recurrent import Recurrent
from hybridbench.arch.scales import Site
from hybridbench.arch.terms import FLOAT, Activations, Term, padded
from hybridbench.arch.weights import Matrix
from hybridbench.sizes import aligned

KERNELS_CHUNK = 64
"""Positions of a chunk of the published kernels; MiniMax's own have 256."""


@dataclass(frozen=True, slots=True)
class Lightning(Recurrent):
    """Lightning attention with ``n_heads`` heads of ``head_dim`` keys and as many values.

    Args:
        chunk_size: positions per chunk, which is the side of a tile; MiniMax's ``block_size``.
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
        """As wide as the scale's Mamba-2, like every mixer that may take its place; heads are MiniMax's 128 channels
        wide, or Mamba-2's where those are narrower, and chunks as long as those of the kernels that run here.
        """
        return cls(site.scale.d_model, *heads_at(site), chunk_size=KERNELS_CHUNK)

    @property
    @override
    def out_width(self) -> int:
        return self.n_heads * self.head_dim

    @property
    @override
    def out_heads(self) -> int:
        return self.n_heads

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
    def sizes_scaled(self, part: Rescale) -> dict[str, int]:
        return {"n_heads": part(self.n_heads)}

    @property
    @override
    def state_size(self) -> int:
        return self.out_width * self.head_dim

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
        """In ``hardware`` 3.5 forwards. ``chunk_simple_gla_bwd`` makes per token and head five products of 2 C P (Q K^T
        again, dO V^T, and one each for the gradients of q, k and v) and five of 2 P P (the states again, their
        gradients, and one each for q, k and v), where the forward has two of either.
        """
        forward = self.core_prefill(tokens, convention)
        return Flops(scan=forward.scan * 7 // 2) if convention is Convention.HARDWARE else 3 * forward

    @override
    def core_activations(self, size: int, borrows_value: bool = False, keeps_output: bool = True) -> Activations | None:
        """Silu of q, k and v one by one, the chunk kernels, norm and gate.

        ``ChunkSimpleGLAFunction`` keeps q, k and v. Its backward makes the states before chunks again, now in float32,
        and holds them and their gradients until those of q, k and v are done.
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
