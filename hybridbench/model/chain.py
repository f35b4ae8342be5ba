"""chain: the stages that the plan of any mixer names: a projection of its input, launches of its own, a norm by heads.

Plans are in ``steps``, one file a mixer. ``fused`` puts them in order.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from hybridbench.kernels.step import triton_segments
from hybridbench.model.stages import Stages

PROGRAMS = 2
"""Programs per SM beyond which one goes over several sequences, so that it loads what they share once."""

ALIGNED = 16
"""Columns to which a packed row is padded, so that every row starts on 16 bytes."""


class Chain(Stages):
    """The launches of a decode step, with the stages that mixers share.

    ``shared`` holds buffers that the stages of one layer leave for those of later ones, by name.
    """

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self.shared: dict[str, Tensor] = {}

    def new(self, *shape: int) -> Tensor:
        """A buffer (B, ...) in the model's dtype."""
        return self._new(*shape)

    def launch(self, kernel: Any, programs: int, *args: Any, warps: int = 4, **constants: Any) -> None:
        """Plans the launch of a kernel, which is given whether it overlaps the one before as ``PDL`` too."""
        self._launch(kernel, programs, *args, warps=warps, **constants)

    def sequences_beside(self, heads: int) -> int:
        """How many sequences a program of one head goes over, where heads have weights of their own to load."""
        return max(1, min(self.B, 8, heads * self.B // (PROGRAMS * self.n_sms)))

    def project(
        self,
        w: Tensor,
        *,
        x: Tensor | None = None,
        active: tuple[int, int] = (0, 0),
        conv: tuple[Tensor, Tensor, Tensor | None] | None = None,
    ) -> Tensor:
        """A product with a weight (R, K); the packed row (B, R), in rows that are ``ALIGNED``.

        Args:
            x: what it reads, (B, K or more); None is the residual stream after its norm.
            active: rows that end in silu, from the first up to the last.
            conv: state (B, C, columns), taps (C, taps) and bias (C) of a causal conv over the active rows before silu.
        """
        R, K = w.shape
        tiling = self._tiling("segments", R, K)
        tiles = -(-R // tiling.rows)
        packed = self._new(-(-R // ALIGNED) * ALIGNED)
        part, count = self._parts("segments", tiles, tiling, tiling.rows)
        state, taps, bias = conv or (packed, packed, None)
        consumed = self._consumed()
        if x is not None:
            consumed |= {"PARTS": 1, "PARTS_TILE": 1}
        self._launch(
            triton_segments.project_segments,
            tiles * tiling.splits,
            self.stream.xw_BD if x is None else x,
            self.stream.squares,
            w,
            packed,
            state,
            taps,
            taps if bias is None else bias,
            part,
            count,
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
