"""mamba1: the Mamba-1 mixer (selective scan): its shape and what it must cost.

``[x, z] = in_proj(u)``; a causal depthwise conv over x; ``[dt, B, C] = x_proj(x)``, ``dt = dt_proj(dt)``; the
recurrence ``h = exp(dt A) h + dt x B, y = C h + D x`` with a decay per channel and state; a gate; out_proj.

Sources: arXiv 2312.00752 section 3.3, state-spaces/mamba ``modules/mamba_simple.py`` (parameters, state); work of the
parallel scan as its author counts it in that repository's issue 110.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Self

from typing_extensions import override

from hybridbench.arch.block import Convention, Cut, KernelSizes, Rescale, check_sizes, variant
from hybridbench.arch.plain_scan import PlainScan, pieces
from hybridbench.arch.recurrent import Recurrent
from hybridbench.arch.scales import Site
from hybridbench.arch.terms import FLOAT, Activations, Term
from hybridbench.arch.weights import Matrix
from hybridbench.sizes import CHUNK_ELEMENTS, SELECTIVE_SCAN_CHUNK


@dataclass(frozen=True, slots=True)
class Mamba1(Recurrent):
    """Mamba-1 over ``d_inner`` channels of ``d_state`` states each.

    Args:
        dt_rank: rank of the step's projection, d_model / 16 rounded up in plain blocks.
        inner_norms: RMSNorms of dt, B and C, as in Jamba and Hymba.
        conv_bias: bias of the conv.
        proj_bias: biases of in_proj and out_proj.
    """

    kind: ClassVar[str] = "mamba1"
    sequence_ops: ClassVar[tuple[str, ...]] = ("conv1d", "selective_scan")
    step_ops: ClassVar[tuple[str, ...]] = ("conv1d_step", "selective_step")

    d_model: int
    d_inner: int
    dt_rank: int
    d_state: int = 16
    d_conv: int = 4
    inner_norms: bool = variant(False)
    conv_bias: bool = variant(True)
    proj_bias: bool = variant(False)

    def __post_init__(self) -> None:
        check_sizes(self, "d_model", "d_inner", "dt_rank", "d_state", "d_conv")

    @classmethod
    def at(cls, site: Site) -> Self:
        """A block as wide as the scale's Mamba-2, with its authors' other defaults."""
        return cls(site.scale.d_model, site.d_inner, dt_rank=-(-site.scale.d_model // 16))

    @property
    @override
    def out_width(self) -> int:
        return self.d_inner

    @override
    def sizes(self) -> KernelSizes:
        return {
            "d_state": self.d_state,
            "d_conv": self.d_conv,
            "conv_channels": self.conv_channels,
            "width": self.d_inner,
        }

    @override
    def shard_sizes(self, cut: Cut) -> dict[str, int]:
        return {"d_inner": cut.divided("d_inner", self.d_inner)}

    @override
    def core_reduced_bytes(self, size: int, tp: int) -> int:
        """The rank of dt, B and C, which are projected from all channels."""
        return (self.dt_rank + 2 * self.d_state) * size

    @override
    def sizes_scaled(self, part: Rescale) -> dict[str, int]:
        return {"d_inner": part(self.d_inner), "dt_rank": part(self.dt_rank)}

    @property
    @override
    def out_bias_params(self) -> int:
        return self.d_model if self.proj_bias else 0

    @property
    @override
    def conv_channels(self) -> int:
        return self.d_inner

    @property
    @override
    def taps(self) -> int:
        return self.d_conv

    @property
    @override
    def state_size(self) -> int:
        return self.d_inner * self.d_state

    @override
    def matrices(self, borrows_value: bool = False) -> tuple[Matrix, ...]:
        x_and_gate = self.d_inner * (1 if borrows_value else 2)
        return (
            Matrix("in_proj", x_and_gate, self.d_model, "mixer"),
            Matrix("x_proj", self.dt_rank + 2 * self.d_state, self.d_inner, "mixer"),
            Matrix("dt_proj", self.d_inner, self.dt_rank, "mixer"),
            Matrix("out_proj", self.d_model, self.out_width, "mixer"),
        )

    @override
    def in_matmul_params(self, borrows_value: bool = False) -> int:
        x_and_gate = self.d_inner * (1 if borrows_value else 2)
        return self.d_model * x_and_gate + self.d_inner * (2 * self.dt_rank + 2 * self.d_state)

    @override
    def in_params(self, convention: Convention, borrows_value: bool = False) -> int:
        conv = self.d_inner * (self.d_conv + self.conv_bias)
        recurrence = self.d_inner * (1 + self.d_state + 1)  # bias of dt, A and D
        norms = self.dt_rank + 2 * self.d_state if self.inner_norms else 0
        bias = self.d_inner * (1 if borrows_value else 2) if self.proj_bias else 0
        return self.in_matmul_params(borrows_value) + conv + recurrence + norms + bias

    @override
    def params_fp32(self) -> int:
        return self.d_inner * (self.d_state + 1)

    @override
    def _recurrence(self) -> int:
        # Per channel and state: dt A, its exponential, times B, decay and add, and a two-FLOP read; then the D skip.
        return 7 * self.d_inner * self.d_state + 2 * self.d_inner

    @override
    def _parallel_scan(self, tokens: int) -> int:
        # About two combines of three FLOPs per element, then times B and the read.
        return tokens * (9 * self.d_inner * self.d_state + 2 * self.d_inner)

    @override
    def plain_scan(self, tokens: int, sequences: int) -> PlainScan:
        """``selective_scan``: a product reads the states, and all else is elementwise.

        Segments of T positions are filled to chunks of the root of T. Where a segment is computed again for its
        backward, that ends before the product, whose operands are the last tensors to keep.
        """
        states = self.d_inner * self.d_state
        lengths = pieces(tokens, max(1, CHUNK_ELEMENTS // (sequences * states)))
        return PlainScan(
            forward=2 * states * tokens,
            elementwise=tokens * (5 * states + 2 * self.d_inner),
            padding=2 * states * sum(-length % math.isqrt(length) for length in lengths),
        )

    @override
    def core_activations(self, size: int, borrows_value: bool = False, keeps_output: bool = True) -> Activations | None:
        """Conv, projection of dt's rank, B and C, dt, scan with gate (``SelectiveScanFn``), all channel by channel."""
        if borrows_value:
            return None
        inner, states = self.d_inner, self.d_inner * self.d_state
        packed = Term("x and z", 2 * size * inner)
        convolved = Term("conv output", size * inner, cheap=True)
        ranked = Term("rank of dt, B and C", size * (self.dt_rank + 2 * self.d_state))
        steps = Term("dt", size * inner)
        decay = Term("A and its exponential, bias of dt", fixed=FLOAT * (2 * states + inner))
        scanned = Term("scan output before the gate", size * inner)
        kept = Term("states between chunks", 2 * FLOAT * states // SELECTIVE_SCAN_CHUNK)
        gated = Term("gated output", size * inner)
        saved = (packed, convolved, ranked, steps, decay, scanned, kept, gated)
        return Activations(
            saved=saved,
            forward=(saved,),
            backward=(
                (
                    Term("gradient of the gated output", gated.per_token),
                    Term("gated output, freed", -gated.per_token),
                    Term("gradients of the conv output, dt and z", 3 * size * inner),
                    Term("gradients of B and C in float32", 2 * FLOAT * self.d_state),
                    Term("gradient of A", fixed=FLOAT * states),
                ),
            ),
        )
