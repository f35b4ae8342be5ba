"""mamba2: the Mamba-2 mixer as a module: fused projection, causal conv, SSD, gate and norm, output projection.

It follows state-spaces/mamba ``modules/mamba2.py`` (order z, x, B, C, dt; norm after the gate; dt_bias, A_log and D in
float32 whatever the weights' dtype).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override

from hybridbench.arch.blocks.mamba2 import Mamba2
from hybridbench.kernels.scan.reference import NO_STEP
from hybridbench.model.block import Factory, Step
from hybridbench.model.cache import Cache, RecurrentCache
from hybridbench.model.mixer import (
    RecurrentModule,
    aligned_product,
    carried,
    conv_front,
    convolved,
    keep_tail,
    log_uniform_steps,
)
from hybridbench.suite.ops import CORE


class Mamba2Module(RecurrentModule):
    """Mamba-2 over a sequence, or for one recurrent step.

    Its operations are ``mamba2_core``, or ``conv1d``, ``ssd`` and ``gate`` instead, and ``conv1d_step`` and
    ``ssd_step``.
    """

    spec: Mamba2

    @override
    def _in_widths(self) -> list[int]:
        """Widths of z, of x (unless borrowed) with B and C, and of dt."""
        spec = self.spec
        x = 0 if self.borrows_value else spec.d_inner
        return [spec.d_inner, x + 2 * spec.n_groups * spec.d_state, spec.n_heads]

    @override
    def _make_parameters(self, make: Factory) -> None:
        spec = self.spec
        self.conv_weight_CW = make.parameter(spec.conv_channels, spec.d_conv)
        self.conv_bias_C = make.parameter(spec.conv_channels)
        self.dt_bias_H = make.parameter(spec.n_heads, dtype=torch.float32)
        self.A_log_H = make.parameter(spec.n_heads, dtype=torch.float32)
        self.D_H = make.parameter(spec.n_heads, dtype=torch.float32)
        self.norm_weight_I = make.parameter(spec.d_inner) if spec.gated_norm else None

    @override
    def reset(self, generator: torch.Generator) -> None:
        """Mamba-2's own initialisation: dt log-uniform in ``dt_range`` through the inverse softplus, A uniform in
        ``a_range`` (the paper draws it from [0.01, 2], the original from [1, 16]), D one, conv as ``nn.Conv1d``.

        In the source paper quality depends on this heavily. It runs before the projections are drawn.
        """
        spec = self.spec
        with torch.no_grad():
            self.dt_bias_H.copy_(log_uniform_steps(self.dt_bias_H, *spec.dt_range, generator))
            self.A_log_H.uniform_(*spec.a_range, generator=generator).log_()
            self.D_H.fill_(1.0)
            bound = spec.d_conv**-0.5
            self.conv_weight_CW.uniform_(-bound, bound, generator=generator)
            self.conv_bias_C.uniform_(-bound, bound, generator=generator)
            if self.norm_weight_I is not None:
                self.norm_weight_I.fill_(1.0)

    @property
    @override
    def state_shape(self) -> tuple[int, ...]:
        return self.spec.n_heads, self.spec.head_dim, self.spec.d_state

    def _project(self, packed: Tensor, value: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Gate z, conv input (x, B, C) and raw dt of a packed projection (..., columns)."""
        z, conv_in, dt = torch.split(packed[..., : sum(self.widths)], self.widths, dim=-1)
        if self.borrows_value:
            conv_in = torch.cat((self._lent(value, packed.dim(), self.spec.d_inner), conv_in), dim=-1)
        return z, conv_in, dt

    def _split(self, mixed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x, B and C by head or group."""
        spec = self.spec
        states = spec.n_groups * spec.d_state
        x, b, c = torch.split(mixed, [spec.d_inner, states, states], dim=-1)
        groups = (spec.n_groups, spec.d_state)
        return (
            torch.unflatten(x, -1, (spec.n_heads, spec.head_dim)),
            torch.unflatten(b, -1, groups),
            torch.unflatten(c, -1, groups),
        )

    @property
    def _own_norm(self) -> Tensor | None:
        """The weight of the norm after the gate where this process has all of its channels."""
        return None if self.across is not None else self.norm_weight_I

    def _norm_across(self, gated: Tensor) -> Tensor:
        """The norm after the gate where other ranks have the other channels; nothing elsewhere."""
        if self.across is None or self.norm_weight_I is None:
            return gated
        return self.across.normed(gated, self.norm_weight_I, self.norm_eps)

    def _gate(self, y: Tensor, z: Tensor) -> Tensor:
        gated = y * F.silu(z)
        if self._own_norm is None:
            return self._norm_across(gated)
        return F.rms_norm(gated, (self.spec.d_inner,), self.norm_weight_I, self.norm_eps)

    @override
    def mix(
        self, x_BTD: Tensor, step: Step, cache: Cache | None = None, value: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        packed_BTC = aligned_product(self.in_proj, x_BTD)
        z_BTI, conv_in_BTC, dt_BTH = self._project(packed_BTC, value)
        front_BSC, going_on = None, {}
        if step.start:
            assert isinstance(cache, RecurrentCache)
            front_BSC = conv_front(cache.conv_BCW, self.spec.d_conv)
            going_on = {"initial_state_BHPN": carried(cache.state)}
        if CORE in self.ops and not self.borrows_value:
            out_BTI, state_BHPN = self.ops[CORE](
                packed_BTC if front_BSC is None else self._with_front(packed_BTC, front_BSC),
                self.conv_weight_CW,
                self.conv_bias_C,
                -self.A_log_H.exp(),
                self.D_H,
                self.dt_bias_H,
                self._own_norm,
                head_dim=self.spec.head_dim,
                n_groups=self.spec.n_groups,
                chunk_size=self.spec.chunk_size,
                eps=self.norm_eps,
                **going_on,
            )
            out_BTI = out_BTI[:, -x_BTD.shape[1] :]
        else:
            out_BTI, state_BHPN = self._core(z_BTI, conv_in_BTC, dt_BTH, front_BSC, going_on)
        if cache is not None:
            assert isinstance(cache, RecurrentCache)
            cache.state.copy_(state_BHPN)
            keep_tail(cache.conv_BCW, conv_in_BTC, step.start)
        return self._norm_across(out_BTI), self._value(conv_in_BTC)

    def _with_front(self, packed_BTC: Tensor, front_BSC: Tensor) -> Tensor:
        """Packed rows with the earlier rows in front that the convolution still reads.

        The dt of those is so negative that softplus makes it 0, so the scan's state does not change over them. Nothing
        else of them is read.
        """
        gate = self.widths[0]
        rows_BSC = packed_BTC.new_zeros(front_BSC.shape[0], front_BSC.shape[1], packed_BTC.shape[-1])
        rows_BSC[..., gate : gate + front_BSC.shape[-1]] = front_BSC
        rows_BSC[..., sum(self.widths[:2]) : sum(self.widths)] = NO_STEP
        return torch.cat((rows_BSC, packed_BTC), 1)

    def _core(
        self,
        z_BTI: Tensor,
        conv_in_BTC: Tensor,
        dt_BTH: Tensor,
        front_BSC: Tensor | None,
        going_on: dict[str, Tensor],
    ) -> tuple[Tensor, Tensor]:
        """The gated output and the final state, operation by operation, from ``going_on``'s state if there is one."""
        mixed_BTC = convolved(self.ops["conv1d"], conv_in_BTC, front_BSC, self.conv_weight_CW, self.conv_bias_C)
        x_BTHP, b_BTGN, c_BTGN = self._split(mixed_BTC)
        y_BTHP, state_BHPN = self.ops["ssd"](
            x_BTHP,
            dt_BTH,
            -self.A_log_H.exp(),
            b_BTGN,
            c_BTGN,
            self.D_H,
            self.dt_bias_H,
            chunk_size=self.spec.chunk_size,
            **going_on,
        )
        return self.ops["gate"](y_BTHP.flatten(2), z_BTI, self._own_norm, eps=self.norm_eps), state_BHPN

    @override
    def mix_step(self, x_BD: Tensor, step: Step, cache: Cache, value: Tensor | None = None) -> tuple[Tensor, Tensor]:
        assert isinstance(cache, RecurrentCache)
        z_BI, conv_in_BC, dt_BH = self._project(self.in_proj(x_BD), value)
        mixed_BC = self.ops["conv1d_step"](cache.conv_BCW, conv_in_BC, self.conv_weight_CW, self.conv_bias_C)
        x_BHP, b_BGN, c_BGN = self._split(mixed_BC)
        y_BHP = self.ops["ssd_step"](
            cache.state, x_BHP, dt_BH, -self.A_log_H.exp(), b_BGN, c_BGN, self.D_H, self.dt_bias_H
        )
        return self._gate(y_BHP.flatten(1), z_BI), self._value(conv_in_BC)

    def _value(self, conv_in: Tensor) -> Tensor:
        """The x channels before the conv, which a second Mamba branch may share."""
        return conv_in[..., : self.spec.d_inner]
