"""mamba2: the Mamba-2 mixer: its shape, its initialisation ranges and what it must cost.

``[z, x, B, C, dt] = in_proj(u)``; a causal depthwise conv over x, B and C; the SSD recurrence
``h = exp(dt A) h + dt x B^T, y = C h + D x`` with one decay per head; a gate and (optionally) an RMSNorm; out_proj.

Sources: arXiv 2405.21060 section 6 (chunked form), state-spaces/mamba ``modules/mamba2.py`` (parameters, state),
``ops/triton/ssd_*.py`` (what the kernels execute), arXiv 2510.04800 table 1 (the ``paper`` convention).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Self

from typing_extensions import override

from hybridbench.arch.block import Convention, Cut, Flops, KernelSizes, Packed, Packing, check_sizes, variant
from hybridbench.arch.blocks.ssd_kernels import (
    BLOCK_TOKENS,
    SLICE,
    Chunked,
    OnePass,
    Tiles,
    fits_in_pieces,
    fits_one_pass,
    up,
)
from hybridbench.arch.plain_scan import PlainScan
from hybridbench.arch.recurrent import PackedHeads
from hybridbench.arch.scales import Site
from hybridbench.arch.terms import FLOAT, Activations, Moment, Term, padded
from hybridbench.errors import BadInput
from hybridbench.sizes import aligned

TILE_COLUMNS = 256
"""The ``hardware`` convention rounds columns up to this: the wide side of a tile of 128 x 256, or two tiles in a
cluster, as cuBLAS uses them on Hopper. An H200 computed 4,608 columns for 4,368 (100m), and 6,560 for 6,424 (350m)."""


@dataclass(frozen=True, slots=True)
class Mamba2(PackedHeads):
    """Mamba-2 with ``n_heads`` heads of ``head_dim`` channels and ``d_state`` states each.

    Args:
        d_inner: channels of x, ``expand * d_model`` in plain blocks.
        n_groups: groups that share B and C.
        d_conv: taps of the causal conv.
        chunk_size: positions per chunk of the matrix form (training and prefill).
        gated_norm: RMSNorm after the gate, as by default in mamba_ssm.
        a_range: range A is drawn from uniformly at initialisation; the paper uses [0.01, 2].
        dt_range: range the initial step is drawn from log-uniformly.
        conv_bias: bias of the conv.
        in_bias, out_bias: biases of the projections.
    """

    kind: ClassVar[str] = "mamba2"
    sequence_ops: ClassVar[tuple[str, ...]] = ("mamba2_core", "conv1d", "ssd", "gate")
    step_ops: ClassVar[tuple[str, ...]] = ("conv1d_step", "ssd_step")

    d_model: int
    d_inner: int
    head_dim: int
    d_state: int
    n_groups: int = 1
    d_conv: int = 4
    chunk_size: int = 256
    gated_norm: bool = True
    a_range: tuple[float, float] = (0.01, 2.0)
    dt_range: tuple[float, float] = (0.001, 0.1)
    conv_bias: bool = variant(True)
    in_bias: bool = variant(False)
    out_bias: bool = variant(False)

    def __post_init__(self) -> None:
        check_sizes(self, "d_model", "d_inner", "head_dim", "d_state", "n_groups", "d_conv", "chunk_size")
        if self.d_inner % self.head_dim:
            raise BadInput(
                f"d_inner {self.d_inner} does not divide into SSM heads of {self.head_dim}: "
                f"give a d_inner that is a multiple of {self.head_dim}."
            )
        if self.n_heads % self.n_groups:
            raise BadInput(f"{self.n_heads} SSM heads cannot share {self.n_groups} groups: give a divisor.")

    @classmethod
    def at(cls, site: Site) -> Self:
        """The paper's block; as a branch it has no norm of its own."""
        scale = site.scale
        shape = scale.d_model, site.d_inner, site.ssm_head_dim, scale.d_state
        return cls(*shape, chunk_size=scale.chunk_size, gated_norm=not site.branch)

    @property
    @override
    def conv_channels(self) -> int:
        """Channels the conv sees: x, B and C."""
        return self.d_inner + 2 * self.n_groups * self.d_state

    @property
    @override
    def taps(self) -> int:
        return self.d_conv

    @property
    @override
    def state_size(self) -> int:
        return self.d_inner * self.d_state

    @override
    def absent_ops(self, borrows_value: bool = False) -> tuple[str, ...]:
        return ("mamba2_core",) if borrows_value else ()  # its input is not one packed row

    @override
    def sizes(self) -> KernelSizes:
        return {
            "head_dim": self.head_dim,
            "n_heads": self.n_heads,
            "d_state": self.d_state,
            "n_groups": self.n_groups,
            "chunk_size": self.chunk_size,
            "d_conv": self.d_conv,
            "conv_channels": self.conv_channels,
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
        channels, heads = (self.n_heads, self.head_dim), (self.n_heads, 1)
        b_and_c = ((self.n_groups, self.d_state),) * 2
        x = () if borrows_value else (channels,)
        found = {
            "in_proj.weight": Packed((channels, *x, *b_and_c, heads), self.d_model),
            "conv_weight_CW": Packed((channels, *b_and_c), self.d_conv),
            "conv_bias_C": Packed((channels, *b_and_c)),
            **dict.fromkeys(("dt_bias_H", "A_log_H", "D_H"), Packed((heads,))),
            "out_proj.weight": Packed((channels,), self.d_model, 1),
        }
        return found | ({"norm_weight_I": Packed((channels,))} if self.gated_norm else {})

    @override
    def core_reduced_bytes(self, size: int, tp: int) -> int:
        """A group's channels are normed together: where ranks share a group they need its sum of squares, a float."""
        return FLOAT * self.n_groups if self.gated_norm and self.n_groups % tp else 0

    @property
    @override
    def out_bias_params(self) -> int:
        return self.d_model if self.out_bias else 0

    @override
    def _in_width(self, borrows_value: bool = False) -> int:
        x_and_gate = self.d_inner * (1 if borrows_value else 2)
        return x_and_gate + 2 * self.n_groups * self.d_state + self.n_heads

    @override
    def in_params(self, convention: Convention, borrows_value: bool = False) -> int:
        projections = self.in_matmul_params(borrows_value)
        if convention is Convention.PAPER:
            # The paper counts the conv over x alone and leaves out conv bias, D or dt_bias, and the gated norm.
            return projections + self.d_inner * self.d_conv + 2 * self.n_heads
        conv = self.conv_channels * (self.d_conv + self.conv_bias)
        bias = self._in_width(borrows_value) if self.in_bias else 0
        return projections + bias + conv + 3 * self.n_heads + (self.d_inner if self.gated_norm else 0)

    @override
    def params_fp32(self) -> int:
        return 3 * self.n_heads

    @override
    def _recurrence(self) -> int:
        # Per state: the decay, an outer product, an add and a two-FLOP read; then the D skip.
        return 5 * self.d_inner * self.d_state + 2 * self.d_inner

    @override
    def _parallel_scan(self, tokens: int) -> int:
        return self._kernels(tokens, training=False)

    def in_columns(self, borrows_value: bool = False) -> int:
        """Columns of the input projection of a sequence as it is dispatched on a GPU."""
        return aligned(self._in_width(borrows_value))

    @override
    def in_padding(self, borrows_value: bool = False) -> int:
        return up(self.in_columns(borrows_value), TILE_COLUMNS) - self._in_width(borrows_value)

    def scan_kernels(self, sequences: int = 1, tiles: Tiles | None = None, training: bool = True) -> Chunked | OnePass:
        """What the scan's kernels execute: those of the scan in one pass where it has tiles for this block, or in
        pieces where nothing is kept for gradients.

        Args:
            sequences: of the batch that runs at once.
            tiles: of mamba_ssm's kernels by name, as autotuned, where these run.
            training: whether gradients are needed.
        """
        in_pieces = not training and fits_in_pieces(self.head_dim, self.d_state, self.n_groups)
        if tiles is None and (in_pieces or fits_one_pass(self.head_dim, self.d_state)):
            return self._one_pass(sequences)
        return Chunked(self.n_heads, self.n_groups, self.head_dim, self.d_state, self.chunk_size, tiles or {})

    def _one_pass(self, sequences: int) -> OnePass:
        return OnePass(self.n_heads, self.n_groups, self.head_dim, self.d_state, sequences)

    @override
    def core_prefill(self, tokens: int, convention: Convention) -> Flops:
        if convention is Convention.PAPER:
            return Flops(scan=tokens * (9 * self.d_inner * self.d_state + 2 * self.d_inner))
        return PackedHeads.core_prefill(self, tokens, convention)

    @override
    def core_decode(self, context: int, convention: Convention) -> Flops:
        if convention is Convention.PAPER:
            return self.core_prefill(1, convention)
        return PackedHeads.core_decode(self, context, convention)

    @override
    def core_train(self, tokens: int, convention: Convention) -> Flops:
        if convention is not Convention.HARDWARE:
            return 3 * self.core_prefill(tokens, convention)
        return Flops(scan=self._kernels(tokens, training=True), conv=3 * tokens * self._conv())

    def _kernels(self, tokens: int, training: bool) -> int:
        """Scan FLOPs of its kernels."""
        kernels = self.scan_kernels(training=training)
        return sum(kernels.flops(tokens, training).values()) + kernels.elementwise(tokens, training)

    @override
    def executed_scan(self, tokens: int, *, training: bool, sequences: int = 1, one_pass: bool = False) -> int:
        """FLOPs of tensor cores alone, in one pass or in mamba_ssm's chunks."""
        kernels = self._one_pass(sequences) if one_pass else self.scan_kernels(sequences, {})
        return sum(kernels.flops(tokens, training).values())

    @override
    def plain_scan(self, tokens: int, sequences: int) -> PlainScan:
        """``ssd``: scores by group, and outputs, added states and states read by head."""
        return self._scan_of_chunks(tokens, sequences, self.n_groups)

    @property
    @override
    def plain_step_products(self) -> int:
        """The state is read by a product."""
        return 2 * self.d_inner * self.d_state

    @override
    def core_activations(self, size: int, borrows_value: bool = False, keeps_output: bool = True) -> Activations | None:
        """One projection of z, x, B, C and dt; conv, scan, gate and norm as one operation (``scan.mamba2_fused``),
        which keeps the conv's output and the scan's.

        The scan in one pass (``kernels.scan.triton_ssd``) keeps states too. mamba_ssm's scan, which runs where the
        other has no tiles or x is another branch's value, recomputes states and scores (``ssd_combined.py``).
        """
        inner, conv = self.d_inner, self.conv_channels
        # If x is another branch's value, the conv's input is a new tensor.
        columns, copied = padded(self._in_width(borrows_value), self.d_model, size)
        packed = Term("packed z, x, B, C, dt", size * columns, fixed=copied)
        lent = Term("conv input with a lent value, decays", size * conv + FLOAT * self.n_heads if borrows_value else 0)
        convolved = Term("conv output", size * conv, cheap=True)
        scanned = Term("scan output", size * inner)
        gated = Term("gated output", size * inner, cheap=True)
        steps = Term("steps and decays in float32", 2 * FLOAT * self.n_heads)
        kept: Moment
        scans: tuple[Moment, ...]
        undone: Moment
        if fits_one_pass(self.head_dim, self.d_state) and not borrows_value:
            states = Term("states before blocks", size * inner * self.d_state // BLOCK_TOKENS)
            slices = self.n_heads * self.head_dim // math.gcd(self.head_dim, SLICE)
            kept, scans = (states,), ((scanned, steps),)
            undone = (
                Term("gradients of the states", states.per_token),
                Term("gradients of B and C in float32", 2 * FLOAT * self.n_groups * self.d_state),
                Term("gradients of the scores", size * self.n_groups * BLOCK_TOKENS),
                Term("steps, decays and their gradients", steps.per_token + 3 * FLOAT * slices),
            )
        else:
            # A state per chunk, in float32 as computed and in the dtype once passed on, which alone stays beside the
            # scores of each group's chunks.
            states = Term("chunk states", (FLOAT + size) * inner * self.d_state // self.chunk_size)
            passed = Term("chunk states passed on", size * inner * self.d_state // self.chunk_size)
            scores = Term("chunk scores", FLOAT * self.n_groups * self.chunk_size)
            kept, scans = (), ((states, steps), (scanned, passed, scores, steps))
            undone = (
                states,
                Term("gradients of the chunk states", states.per_token),
                scores,
                Term("gradients of the chunk scores", scores.per_token),
                Term("steps, decays and their gradients", 2 * steps.per_token),
            )
        return Activations(
            saved=(packed, lent, convolved, scanned, *kept, *((gated,) if keeps_output else ())),
            forward=(
                *((packed, lent, convolved, *moment) for moment in scans),
                (packed, lent, convolved, scanned, gated),
            ),
            backward=(
                (
                    Term("gradient of the gated output", gated.per_token),
                    Term("gated output, freed", -gated.per_token),
                    Term("gradients of z, x, B, C, dt", packed.per_token),
                    Term("gradient of the scan output", scanned.per_token),
                    Term("gradient of the conv output", convolved.per_token),
                    *undone,
                ),
            ),
        )
