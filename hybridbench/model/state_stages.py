"""state_stages: the update of Mamba-2's state in a fused decode step."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hybridbench.kernels.step import triton_mixers, triton_state
from hybridbench.model.cache import RecurrentCache
from hybridbench.model.launches import Launches
from hybridbench.model.mamba2 import Mamba2Module
from hybridbench.model.tiling import power_of_two, state_tiling
from hybridbench.sizes import FEW_TOKENS

WHOLE_STATE = 128 * 128
"""Elements of a head's state that one program may hold in registers; larger ones are updated a few rows at a time."""

EVEN = 0.85
"""SMs count as evenly filled where all programs run at once, and else where their number is at least this share of
whole waves. On H200s a step of 4 sequences took 2% longer with programs of half a head at 350m (192 of them on 132 SMs:
0.73) and 2% less at 1b (256: 0.97); of 16 it took 3% less at 350m (768: 0.97)."""


class StateStages(Launches):
    """Launches that update states."""

    def _update_state(
        self,
        module: Mamba2Module,
        cache: RecurrentCache,
        inputs: tuple[Tensor, Tensor, Tensor],
        *,
        norm: str,
        eps: float,
    ) -> tuple[Tensor, Tensor]:
        """The state's update and the gate; y (B, I) and the sums of squares of its parts, one or more of each head."""
        spec = module.spec
        H, P, N = spec.n_heads, spec.head_dim, spec.d_state
        y, widths = self._passed("y", spec.d_inner, dtype=self.multiplied), (power_of_two(P), power_of_two(N))
        weight = y if module.norm_weight_I is None else module.norm_weight_I
        at = cache.state, module.A_log_H, module.D_H, module.dt_bias_H, weight, y
        sizes = {"B": self.B, "I": spec.d_inner, "H": H, "G": spec.n_groups, "P": P, "N": N}
        sizes |= {"P_TILE": widths[0], "N_TILE": widths[1]}
        whole = norm == "head"
        rule = state_tiling(P, N, whole=whole)
        if self._takes_heads(self.B * H * (P // rule.rows), widths[0] * widths[1], whole=whole):
            squares = self._squares(H)
            kernel = triton_mixers.update_state
            self._launch(kernel, self.B * H, *inputs, *at, squares, eps, warps=8, **sizes, NORM=norm)
            return y, squares
        name = "whole-state" if whole else "state"
        tiling = self._tiling(name, P, N, lambda: rule)
        parts = H * (P // tiling.rows)
        squares = self._squares(parts)
        kept = self._passed("kept", spec.d_inner if whole else 1, dtype=torch.float32)
        self._launch(
            triton_state.update_state_rows,
            self.B * (H if whole else parts),
            *inputs,
            *at,
            squares,
            kept,
            eps,
            warps=tiling.warps,
            **sizes,
            SLICE=tiling.rows,
            STAGES=tiling.stages,
            NORM=norm,
        )
        return y, squares

    def _takes_heads(self, programs: int, elements: int, *, whole: bool) -> bool:
        """Whether programs update whole heads, of up to ``FEW_TOKENS`` sequences.

        Args:
            programs: how many there are if they do not.
            elements: of a head's state.
            whole: the norm needs a whole head.
        """
        waves = programs / self.n_sms
        uneven = waves > 1 and waves / math.ceil(waves) < EVEN
        return self.tokens <= FEW_TOKENS and elements <= WHOLE_STATE and (whole or uneven)

    def _squares(self, parts: int) -> Tensor:
        """Sums of squares (parts, B) of one launch for the next."""
        return self._passed("squares", parts, dtype=torch.float32).view(parts, self.B)
