"""mamba1: the Mamba-1 mixer as a module: projection, causal conv, input-dependent dt, B and C, selective scan, output.

It follows state-spaces/mamba ``modules/mamba_simple.py`` (order x, z; A_log and D in float32 whatever the weights'
dtype, but not the bias of dt). Over a sequence tensors are stored channel by channel with contiguous positions, as the
third-party scan reads them: each product is the weight times the transposed input, so nothing is copied.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override

from hybridbench.arch.blocks.mamba1 import Mamba1
from hybridbench.model.block import Factory, Step
from hybridbench.model.cache import Cache, RecurrentCache
from hybridbench.model.mixer import (
    DT_RANGE,
    RecurrentModule,
    carried,
    conv_front,
    convolved,
    keep_tail,
    log_uniform_steps,
)


def across(weight: Tensor, x_BTC: Tensor) -> Tensor:
    """``F.linear`` with a result (B, T, R) stored channel by channel. An input in the same layout is not copied."""
    B, T = x_BTC.shape[:2]
    product = torch.mm(weight, x_BTC.flatten(0, 1).t())
    return torch.unflatten(product, 1, (B, T)).permute(1, 2, 0)


class Mamba1Module(RecurrentModule):
    """Mamba-1 over a sequence, or for one recurrent step. Its operations are ``conv1d``, ``selective_scan``,
    ``conv1d_step`` and ``selective_step``.
    """

    projections = ("in_proj", "x_proj", "out_proj")
    spec: Mamba1
    traceable = False

    @override
    def _in_widths(self) -> list[int]:
        """Widths of the conv's input (unless borrowed) and of the gate."""
        return [self.spec.d_inner] * (1 if self.borrows_value else 2)

    @override
    def _make_parameters(self, make: Factory) -> None:
        spec = self.spec
        self.dt_widths = [spec.dt_rank, spec.d_state, spec.d_state]
        self.conv_weight_CW = make.parameter(spec.d_inner, spec.d_conv)
        self.conv_bias_C = make.parameter(spec.d_inner)
        self.x_proj = make.linear(spec.d_inner, sum(self.dt_widths))
        self.dt_weight_IR = make.parameter(spec.d_inner, spec.dt_rank)
        self.dt_bias_I = make.parameter(spec.d_inner)
        self.A_log_IN = make.parameter(spec.d_inner, spec.d_state, dtype=torch.float32)
        self.D_I = make.parameter(spec.d_inner, dtype=torch.float32)

    @override
    def reset(self, generator: torch.Generator) -> None:
        """Mamba-1's own initialisation: A from 1 to N in every channel (S4D-real), dt log-uniform through the inverse
        softplus, its projection uniform in +-R^-0.5, D one, conv as ``nn.Conv1d``.
        """
        spec = self.spec
        with torch.no_grad():
            states = torch.arange(1, spec.d_state + 1, dtype=torch.float32, device=self.A_log_IN.device)
            self.A_log_IN.copy_(states.log().expand_as(self.A_log_IN))
            self.D_I.fill_(1.0)
            self.dt_bias_I.copy_(log_uniform_steps(self.dt_bias_I, *DT_RANGE, generator))
            for tensor, fan_in in ((self.dt_weight_IR, spec.dt_rank), *((c, spec.d_conv) for c in self._conv)):
                tensor.uniform_(-(fan_in**-0.5), fan_in**-0.5, generator=generator)

    @property
    def _conv(self) -> tuple[Tensor, Tensor]:
        return self.conv_weight_CW, self.conv_bias_C

    @property
    @override
    def state_shape(self) -> tuple[int, ...]:
        return self.spec.d_inner, self.spec.d_state

    def _project(self, packed: Tensor, value: Tensor | None) -> tuple[Tensor, Tensor]:
        """Conv input x and gate z of a projection."""
        if not self.borrows_value:
            x, z = packed.chunk(2, dim=-1)
            return x, z
        return self._lent(value, packed.dim(), self.spec.d_inner), packed

    @override
    def mix(
        self, x_BTD: Tensor, step: Step, cache: Cache | None = None, value: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        conv_in_BTI, z_BTI = self._project(across(self.in_proj.weight, x_BTD), value)
        front_BSI, going_on = None, {}
        if step.start:
            assert isinstance(cache, RecurrentCache)
            front_BSI = conv_front(cache.conv_BCW, self.spec.d_conv)
            going_on = {"initial_state_BIN": carried(cache.state)}
        mixed_BTI = convolved(self.ops["conv1d"], conv_in_BTI, front_BSI, *self._conv)
        rank_BTR, b_BTN, c_BTN = torch.split(across(self.x_proj.weight, mixed_BTI), self.dt_widths, dim=-1)
        out_BTI, state_BIN = self.ops["selective_scan"](
            mixed_BTI,
            across(self.dt_weight_IR, rank_BTR),
            -self.A_log_IN.exp(),
            b_BTN,
            c_BTN,
            self.D_I,
            z_BTI,
            self.dt_bias_I,
            **going_on,
        )
        if cache is not None:
            assert isinstance(cache, RecurrentCache)
            cache.state.copy_(state_BIN)
            keep_tail(cache.conv_BCW, conv_in_BTI, step.start)
        return out_BTI, conv_in_BTI

    @override
    def mix_step(self, x_BD: Tensor, step: Step, cache: Cache, value: Tensor | None = None) -> tuple[Tensor, Tensor]:
        assert isinstance(cache, RecurrentCache)
        conv_in_BI, z_BI = self._project(self.in_proj(x_BD), value)
        mixed_BI = self.ops["conv1d_step"](cache.conv_BCW, conv_in_BI, *self._conv)
        rank_BR, b_BN, c_BN = torch.split(self.x_proj(mixed_BI), self.dt_widths, dim=-1)
        dt_BI = F.linear(rank_BR, self.dt_weight_IR)
        out_BI = self.ops["selective_step"](
            cache.state, mixed_BI, dt_BI, -self.A_log_IN.exp(), b_BN, c_BN, self.D_I, z_BI, self.dt_bias_I
        )
        return out_BI, conv_in_BI
