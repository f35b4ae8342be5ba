"""summed: stages of a fused decode step where each rank has a part of every sublayer: sums over ranks, and the head.

A sublayer's end is three launches where one rank needs one: this rank's summand of the output projection, the
all-reduce, and what follows it. The step begins with this rank's summand of the embedding and an all-reduce. All are on
the step's stream, so that a graph captures them; sums are in float32. Each rank multiplies by its own rows of the head,
and every rank picks the same next token of the best of each.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hybridbench.kernels.step import triton_across, triton_ends, triton_words
from hybridbench.model.across import Across
from hybridbench.model.launches import Launches
from hybridbench.model.quantised import Weight
from hybridbench.model.tiling import power_of_two

Projected = tuple[Tensor, Weight, int]
"""What an output projection reads, its weight, and the columns of both."""


class SummedStages(Launches):
    """The stages that differ where ``across`` is set; ``launches`` and buffers are those of the step."""

    across: Across

    def _sum_embedding(self, token_B: Tensor, weight_VD: Tensor) -> Tensor:
        """The launches that embed the tokens, before the step's first kernel; a row for each sequence (B, D)."""
        across, (rows, D) = self.across, weight_VD.shape
        sums = torch.zeros(self.B, D, **self.wide)
        first = across.rank * rows
        self._launch(
            triton_words.embed_words, self.B, token_B, weight_VD, sums, first, rows, D=D, D_TILE=power_of_two(D)
        )
        self._transfer(lambda: across.add(sums))
        return sums

    def _sum_residual(
        self,
        first: Projected,
        second: Projected,
        next_norm: Tensor,
        stream: tuple[Tensor, Tensor, Tensor],
        *,
        subtract: bool,
        squares: Tensor | None,
        eps: float,
    ) -> int:
        """The launches of ``Stages._residual``; how many parts the next norm's squares have.

        Args:
            stream: the residual stream, that times the next norm's weight, and the squares that are left for it.
        """
        (x1, of_first, k1), (x2, of_second, k2) = first, second
        w1, w2 = of_first.matrix_RK, of_second.matrix_RK
        D, across, normed = next_norm.shape[0], self.across, squares is not None
        tiling = self._product("residual", of_first, k1 + k2)
        block_k = next(block for block in (tiling.block_k, 64, 32, 16) if k1 % block == 0 and k2 % block == 0)
        tiles = -(-D // tiling.rows)
        part, count = self._parts("residual", tiles, tiling, tiling.rows)
        sums = torch.zeros(self.B * (D + normed), **self.wide)
        self._launch(
            triton_across.project_summand,
            tiles * tiling.splits,
            x1,
            x2,
            sums if squares is None else squares,
            w1,
            w2,
            sums,
            part,
            count,
            w1.stride(0),
            w2.stride(0),
            warps=tiling.warps,
            D=D,
            K1=k1,
            K2=k2,
            SUBTRACT=subtract,
            NORMED=normed,
            PARTS=1 if squares is None else squares.shape[0],
            PARTS_TILE=1 if squares is None else power_of_two(squares.shape[0]),
            B=self.B,
            TOKENS=self.tokens,
            ROWS=tiling.rows,
            **{**tiling.constants, "BLOCK_K": block_k},
        )
        self._transfer(lambda: across.add(sums))
        self._launch(
            triton_across.join_residual,
            tiles,
            sums,
            next_norm,
            *stream,
            eps,
            warps=tiling.warps,
            D=D,
            WIDTH=k1 * across.size,
            NORMED=normed,
            B=self.B,
            TOKENS=self.tokens,
            ROWS=tiling.rows,
        )
        return tiles

    def _pick_across(
        self,
        weight_VD: Tensor,
        stream: tuple[Tensor, Tensor],
        logits_BV: Tensor,
        token_B: Tensor,
        position_B: Tensor,
        *,
        advance: bool,
        norm_eps: float,
        consumed: dict[str, int],
    ) -> None:
        """The launches of ``Stages._head``.

        Args:
            weight_VD, logits_BV: of this rank's words.
            stream: the normed stream but for its scale, and the squares that give it.
            consumed: arguments of a product that finishes the stream's norm.
        """
        across, (V, D) = self.across, weight_VD.shape
        tiling = self._product("head", Weight(weight_VD))
        tiles = -(-V // tiling.rows)
        best = torch.zeros(self.B, tiles, **self.wide)
        best_at = torch.zeros(self.B, tiles, dtype=torch.int32, device=weight_VD.device)
        cut = tiling.constants
        del cut["SPLITS"]
        self._launch(
            triton_ends.project_head,
            tiles,
            *stream,
            weight_VD,
            None,
            logits_BV,
            best,
            best_at,
            norm_eps,
            tiles,
            warps=tiling.warps,
            D=D,
            VOCABULARY=V,
            **consumed,
            ROWS=tiling.rows,
            **cut,
        )

        def pick() -> None:
            token_B.copy_(across.pick(logits_BV))
            position_B.add_(int(advance))

        self._transfer(pick)
