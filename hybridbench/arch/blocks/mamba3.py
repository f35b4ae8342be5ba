"""mamba3: the Mamba-3 mixer, SISO or MIMO of some rank, without a conv: its shape and what it must cost.

``[z, x, B, C, dd_dt, dd_A, trap, angles] = in_proj(u)``; B and C are normed, biased per head and rotated; the state is
updated by a trapezoidal rule from this token's and the last one's input; with ``rank`` R above 1 a step adds R outer
products and reads R outputs, which vectors per head map from and to x, z and o.

Sources: arXiv 2603.15569 and state-spaces/mamba ``modules/mamba3.py`` (parameters, state). The FLOPs are our reading of
that module, an SSD core with R copies of B and C, and no measurement; no class of transformers stands beside it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

from typing_extensions import override

from hybridbench.arch.block import (
    CacheBytes,
    Convention,
    Cut,
    KernelSizes,
    Packed,
    Packing,
    Storage,
    check_sizes,
    variant,
)
from hybridbench.arch.plain_scan import PlainScan
from hybridbench.arch.recurrent import PackedHeads
from hybridbench.arch.scales import Site
from hybridbench.arch.terms import FLOAT, Activations, Term, padded
from hybridbench.errors import BadInput

ANGLE_BYTES = 4
"""The accumulated angles are kept in float32 at least: they add up turns of a thousandth of a radian."""


@dataclass(frozen=True, slots=True)
class Mamba3(PackedHeads):
    """Mamba-3 with heads of ``head_dim`` channels and ``d_state`` states, ``rank`` inputs and outputs a step.

    Args:
        n_angles: rotary angles projected per token, d_state / 4 at the module's default rope_fraction of one half.
        chunk_size: positions per chunk; times ``rank`` it is the side of a tile.
    """

    kind: ClassVar[str] = "mamba3"
    sequence_ops: ClassVar[tuple[str, ...]] = ("mamba3_scan",)
    step_ops: ClassVar[tuple[str, ...]] = ("mamba3_step",)

    d_model: int
    d_inner: int
    head_dim: int
    d_state: int
    n_groups: int = 1
    rank: int = variant(1, ", because its kernels are TileLang's (MIMO)")
    n_angles: int = 32
    chunk_size: int = 64

    def __post_init__(self) -> None:
        check_sizes(self, "d_model", "d_inner", "head_dim", "d_state", "n_groups", "rank", "n_angles", "chunk_size")
        if self.d_inner % self.head_dim:
            raise BadInput(
                f"d_inner {self.d_inner} does not divide into SSM heads of {self.head_dim}: "
                f"give a d_inner that is a multiple of {self.head_dim}."
            )
        if self.n_heads % self.n_groups:
            raise BadInput(f"{self.n_heads} SSM heads cannot share {self.n_groups} groups: give a divisor.")

    @classmethod
    def at(cls, site: Site) -> Self:
        """Mamba-2's channels and states, half of a head's states turning as in the public module.

        Heads are as wide as Mamba-2's or, where that is no power of two, as the largest that divides it: the public
        kernels take no others.
        """
        scale, head_dim = site.scale, site.ssm_head_dim & -site.ssm_head_dim
        return cls(scale.d_model, site.d_inner, head_dim, scale.d_state, n_angles=scale.d_state // 4)

    @override
    def sizes(self) -> KernelSizes:
        return {
            "head_dim": self.head_dim,
            "n_heads": self.n_heads,
            "d_state": self.d_state,
            "n_groups": self.n_groups,
            "n_angles": self.n_angles,
            "chunk_size": self.chunk_size,
            "width": self.d_inner,
        }

    @override
    def shard_sizes(self, cut: Cut) -> dict[str, int]:
        return {
            "d_inner": cut.divided("n_heads", self.n_heads) * self.head_dim,
            "n_groups": cut.shared("n_groups", self.n_groups),
        }

    @override
    def packing(self, borrows_value: bool = False) -> Packing:
        channels, heads, states = (self.n_heads, self.head_dim), (self.n_heads, 1), (1, self.d_state)
        b_and_c = ((self.n_groups, self.d_state),) * 2
        x = () if borrows_value else (channels,)
        return {
            "in_proj.weight": Packed((channels, *x, *b_and_c, *(heads,) * 3, (1, self.n_angles)), self.d_model),
            **dict.fromkeys(("B_norm_weight_N", "C_norm_weight_N"), Packed((states,))),
            **dict.fromkeys(("dt_bias_H", "D_H"), Packed((heads,))),
            **dict.fromkeys(("B_bias_HN", "C_bias_HN"), Packed((heads,), self.d_state)),
            "out_proj.weight": Packed((channels,), self.d_model, 1),
        }

    @override
    def _in_width(self, borrows_value: bool = False) -> int:
        """Columns of the input projection."""
        x_and_gate = self.d_inner * (1 if borrows_value else 2)
        b_and_c = 2 * self.d_state * self.n_groups * self.rank
        return x_and_gate + b_and_c + 3 * self.n_heads + self.n_angles

    @property
    @override
    def state_size(self) -> int:
        """The SSM state, and the accumulated angles of every head."""
        return self.d_inner * self.d_state + self.n_heads * self.n_angles

    @property
    def last_step_size(self) -> int:
        """B and x of the last token, which the trapezoidal rule reads once more."""
        return self.rank * self.n_heads * self.d_state + self.d_inner

    @override
    def in_params(self, convention: Convention, borrows_value: bool = False) -> int:
        biases = 2 * self.n_heads * self.rank * self.d_state
        maps = 3 * self.rank * self.d_inner if self.rank > 1 else 0
        return self.in_matmul_params(borrows_value) + biases + 2 * self.d_state + maps + 2 * self.n_heads

    @override
    def params_fp32(self) -> int:
        maps = 3 * self.rank * self.d_inner if self.rank > 1 else 0
        return 2 * self.n_heads + 2 * self.n_heads * self.rank * self.d_state + maps

    @override
    def _recurrence(self) -> int:
        # Per channel and state: the decay, and for each of R inputs an outer product, an add and a two-FLOP read.
        return (1 + 4 * self.rank) * self.d_inner * self.d_state + 2 * self.d_inner

    @override
    def _parallel_scan(self, tokens: int) -> int:
        chunks = -(-tokens // self.chunk_size)
        rows = self.chunk_size * self.rank
        scores = 2 * rows * rows * self.d_state * self.n_heads  # B and C turn by the angles of each head
        diagonal = 2 * rows * rows * self.d_inner
        states = 2 * 2 * rows * self.d_state * self.d_inner
        passing = 2 * self.d_state * self.d_inner
        return chunks * (scores + diagonal + states + passing) + 2 * tokens * self.d_inner

    @override
    def plain_scan(self, tokens: int, sequences: int) -> PlainScan:
        """``mamba3_scan``: as Mamba-2's, with the scores by head, since each head has biases of its own."""
        return self._scan_of_chunks(tokens, sequences, self.n_heads)

    @override
    def cache(self, context: int, storage: Storage) -> CacheBytes:
        angles = self.n_heads * self.n_angles
        size = storage.state_bytes(self.kind)
        state = self.d_inner * self.d_state * size + angles * max(ANGLE_BYTES, size)
        return CacheBytes(ssm=state, conv=self.last_step_size * storage.conv_bytes)

    @override
    def core_activations(self, size: int, borrows_value: bool = False, keeps_output: bool = True) -> Activations | None:
        """Norms of B and C, steps and decays in float32, a scan that turns B and C of every head and keeps them, its
        states and its output with and without the gate (``_Mamba3Function``). It keeps them in a prefill too, since
        parameters ask for gradients; x and z, which lie in the packed row, are copied for it while it runs.
        """
        if borrows_value:
            return None
        heads, inner, groups = self.n_heads, self.d_inner, self.n_groups * self.d_state
        columns, copied = padded(self._in_width(), self.d_model, size)
        packed = Term("packed z, x, B, C, dt, decay, share, angles", size * columns, fixed=copied)
        normed = Term("normed B and C, their lengths", 2 * size * groups + 2 * FLOAT * self.n_groups)
        steps = Term("steps and decays in float32, made in six parts", 6 * FLOAT * heads)
        turned = Term("B and C of every head", 2 * size * heads * self.d_state)
        angles = Term("angles added up", size * heads * self.n_angles)
        outputs = Term("output with and without the gate", 2 * size * inner)
        states = Term("states before chunks", 2 * inner * self.d_state // self.chunk_size)
        sums = Term("decays and products in float32", 4 * FLOAT * heads)
        saved = (packed, normed, steps, turned, angles, outputs, states, sums)
        return Activations(
            saved=saved,
            forward=((*saved, Term("copies of x and z", 2 * size * inner)),),
            backward=(
                (
                    Term("gradients of the output, gated and scaled", 2 * size * inner),
                    Term("copy of z, gradients of z and x", 3 * size * inner),
                    Term("gradients of B and C of every head", turned.per_token),
                    Term("gradients of decays and products", 2 * FLOAT * heads),
                ),
            ),
        )
