"""chain: the stages that the plan of any mixer names: a projection of its input, launches of its own, a norm by heads.

Plans are in ``steps``, one file a mixer. ``fused`` puts them in order.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from hybridbench.kernels.step import triton_head_norm, triton_segments
from hybridbench.model.mixed import Mixed
from hybridbench.model.quantised import Weight, stored
from hybridbench.model.stages import Stages
from hybridbench.model.tiling import Tiling, power_of_two

ALIGNED = 16
"""Columns to which a packed row is padded, so that every row starts on 16 bytes."""


class Chain(Stages):
    """The launches of a decode step, with the stages that mixers share.

    ``shared`` holds buffers that the stages of one layer leave for those of later ones, by name.
    """

    most_beside = 8
    """The most sequences of a program that has weights of its own to load; columns of a product for all of them."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self.shared: dict[str, Tensor] = {}

    def new(self, *shape: int) -> Tensor:
        """A buffer (B, ...) that an output projection reads."""
        return self._new(*shape, dtype=self.multiplied)

    def between(self, name: str, width: int) -> Tensor:
        """A buffer like ``new`` that one launch fills for the next, the same in every layer."""
        return self._passed(name, width, dtype=self.multiplied)

    def launch(
        self, kernel: Any, programs: int, *args: Any, warps: int = 4, registers: int | None = None, **constants: Any
    ) -> None:
        """Plans the launch of a kernel, which is given whether it overlaps the one before as ``PDL`` too.

        Args:
            registers: the most of a thread, so that more programs fit on an SM; None leaves them to the assembler.
        """
        limit = {} if registers is None else {"maxnreg": registers}
        self._launch(kernel, programs, *args, warps=warps, **limit, **constants)

    def packed(self, width: int) -> Tensor:
        """A buffer (B, width or a little more), whose rows start on 16 bytes."""
        return self._new(-(-width // ALIGNED) * ALIGNED)

    def tiling(self, name: str, n_rows: int, weight: Weight) -> Tiling:
        """How a product of so many rows with a weight and others like it is cut: as searched, or by rules."""
        return self._product(name, weight, n_rows=n_rows)

    def parts_of(self, name: str, tiles: int, tiling: Tiling) -> tuple[Tensor, Tensor]:
        """Where the splits of a product leave their parts, and the counts of those that have."""
        return self._parts(name, tiles, tiling, tiling.rows)

    def arrivals(self, heads: int, width: int) -> tuple[Tensor, Tensor]:
        """Where programs that share a head leave ``width`` numbers of each head, (B, heads x width) in float32, and the
        counts (B, heads) of those that have, zero between launches.
        """
        return (
            self._passed("parts of heads", heads * width, dtype=torch.float32),
            self._passed("arrivals", heads, dtype=torch.int32),
        )

    def consumed(self) -> dict[str, int]:
        """The constants of a kernel that finishes the norm of the residual stream."""
        return self._consumed()

    def sequences_beside(self, groups: int, per_sm: int) -> int:
        """How many sequences a program takes where groups of channels have weights of their own to load.

        Args:
            groups: of channels, a program each.
            per_sm: programs that fit on an SM; with more than fit, each loads its weights for several sequences.
        """
        return max(1, min(self.B, self.most_beside, -(-groups * self.B // (per_sm * self.n_sms))))

    def project(
        self,
        linear: nn.Module,
        *,
        x: Tensor | None = None,
        active: tuple[int, int] = (0, 0),
        conv: tuple[Tensor, Tensor, Tensor | None] | None = None,
    ) -> Tensor:
        """A product with the weight (R, K) of a linear layer; the packed row (B, R), in rows that are ``ALIGNED``.

        Args:
            x: what it reads, (B, K or more); None is the residual stream after its norm.
            active: rows that end in silu, from the first up to the last.
            conv: state (B, C, columns), taps (C, taps) and bias (C) of a causal conv over the active rows before silu.
        """
        w = stored(linear)
        R, K = w.matrix_RK.shape
        tiling = self._product("segments", w)
        tiles = -(-R // tiling.rows)
        packed = self.packed(R)
        state, taps, bias = conv or (packed, packed, None)
        consumed = self.consumed()
        if x is not None:
            consumed |= {"PARTS": 1, "PARTS_TILE": 1}
        self._launch(
            triton_segments.project_segments,
            tiles * tiling.splits,
            self.stream.xw_BD if x is None else x,
            self.stream.squares,
            w.matrix_RK,
            w.scale_R,
            packed,
            state,
            taps,
            taps if bias is None else bias,
            *self.parts_of("segments", tiles, tiling),
            self.model.norm_eps,
            warps=tiling.warps,
            K=K,
            X_WIDTH=K if x is None else x.stride(0),
            R=R,
            WIDTH=packed.stride(0),
            FIRST=active[0],
            LAST=active[1],
            TAPS=0 if conv is None else taps.shape[1],
            COLUMNS=0 if conv is None else state.shape[-1],
            BIAS=bias is not None,
            NORMED=x is None,
            **consumed,
            ROWS=tiling.rows,
            **tiling.constants,
        )
        return packed

    def by_heads(self, mixed: Mixed, heads: int, head_eps: float | None) -> Mixed:
        """An output whose heads are divided by their own root mean square, in place; as it is without ``head_eps``."""
        if head_eps is None:
            return mixed
        width = mixed.y_BI.shape[1] // heads
        parts = 1 if mixed.squares is None else mixed.squares.shape[0]
        self._launch(
            triton_head_norm.norm_heads,
            self.B * heads,
            mixed.y_BI,
            self.stream.squares if mixed.squares is None else mixed.squares,
            mixed.eps,
            head_eps,
            B=self.B,
            H=heads,
            P=width,
            P_TILE=power_of_two(width),
            NORMED=mixed.squares is not None,
            PARTS=parts,
            PARTS_TILE=power_of_two(parts),
        )
        return Mixed(mixed.y_BI)
