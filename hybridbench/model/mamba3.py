"""mamba3: the Mamba-3 mixer as a module, at rank 1: one projection, norms of B and C, scan with gate, output.

It follows state-spaces/mamba ``modules/mamba3.py`` without MIMO and output norm (order z, x, B, C, dt, rate of decay,
share in the trapezoidal rule, angles; no conv; dt_bias, D, biases of B and C in float32 whatever the weights' dtype).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override

from hybridbench.arch.block import Storage
from hybridbench.arch.blocks.mamba3 import Mamba3
from hybridbench.model.block import Factory, Step
from hybridbench.model.cache import Cache
from hybridbench.model.mixer import DT_RANGE, MixerModule, aligned_product, carried, log_uniform_steps, state_dtype


@dataclass
class Mamba3Cache(Cache):
    """The accumulated angles in radians, the state, and the turned B and the x of the last token.

    The trapezoidal rule reads the last two once more. They count as its conv state.
    """

    angle_BHR: Tensor
    state_BHPN: Tensor
    last_k_BHN: Tensor
    last_x_BHP: Tensor

    @property
    def parts(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """In the order of the scan's results."""
        return self.angle_BHR, self.state_BHPN, self.last_k_BHN, self.last_x_BHP

    @override
    def tensors(self) -> dict[str, list[Tensor]]:
        return {"ssm": [self.angle_BHR, self.state_BHPN], "conv": [self.last_k_BHN, self.last_x_BHP]}

    @override
    def compared(self) -> dict[str, Tensor]:
        """Angles as points on the circle: one just above 0 and one just below 2 pi are close."""
        circle = torch.stack((self.angle_BHR.cos(), self.angle_BHR.sin()), -1)
        return {"angles": circle, "state": self.state_BHPN, "last B": self.last_k_BHN, "last x": self.last_x_BHP}

    @override
    def fill(self, generator: torch.Generator) -> None:
        self.angle_BHR.uniform_(0, 2 * math.pi, generator=generator)
        for tensor in self.parts[1:]:
            tensor.normal_(generator=generator)


class Mamba3Module(MixerModule):
    """Mamba-3 of rank 1 over a sequence, or for one recurrent step. Its operations are ``mamba3_scan`` and
    ``mamba3_step``.
    """

    spec: Mamba3
    traceable = False

    @override
    def _in_widths(self) -> list[int]:
        """Widths of z, x (unless borrowed), B, C, dt, rate of decay, share in the trapezoidal rule, and angles."""
        spec = self.spec
        x = 0 if self.borrows_value else spec.d_inner
        return [spec.d_inner, x, *[spec.n_groups * spec.d_state] * 2, *[spec.n_heads] * 3, spec.n_angles]

    @override
    def _make_parameters(self, make: Factory) -> None:
        heads, states = self.spec.n_heads, self.spec.d_state
        self.B_norm_weight_N = make.parameter(states)
        self.C_norm_weight_N = make.parameter(states)
        self.dt_bias_H = make.parameter(heads, dtype=torch.float32)
        self.B_bias_HN = make.parameter(heads, states, dtype=torch.float32)
        self.C_bias_HN = make.parameter(heads, states, dtype=torch.float32)
        self.D_H = make.parameter(heads, dtype=torch.float32)

    @override
    def reset(self, generator: torch.Generator) -> None:
        """Mamba-3's own initialisation: dt log-uniform through the inverse softplus, all other vectors one."""
        with torch.no_grad():
            self.dt_bias_H.copy_(log_uniform_steps(self.dt_bias_H, *DT_RANGE, generator))
            for ones in (self.B_norm_weight_N, self.C_norm_weight_N, self.B_bias_HN, self.C_bias_HN, self.D_H):
                ones.fill_(1.0)

    def _inputs(self, packed: Tensor, value: Tensor | None) -> list[Tensor]:
        """The inputs of a scan or step from a packed row (..., columns), in their order: x first, z last."""
        z, x, b, c, dt, rate, trap, angle = torch.split(packed[..., : sum(self.widths)], self.widths, dim=-1)
        if self.borrows_value:
            x = self._lent(value, packed.dim(), self.spec.d_inner)
        b, c = (
            F.rms_norm(torch.unflatten(v, -1, (self.spec.n_groups, -1)), weight.shape, weight, self.norm_eps)
            for v, weight in ((b, self.B_norm_weight_N), (c, self.C_norm_weight_N))
        )
        x, z = (torch.unflatten(v, -1, (self.spec.n_heads, -1)) for v in (x, z))
        return [x, dt, rate, trap, b, c, angle, z]

    @property
    def _parameters_of_heads(self) -> tuple[Tensor, ...]:
        return self.dt_bias_H, self.B_bias_HN, self.C_bias_HN, self.D_H

    @override
    def mix(
        self, x_BTD: Tensor, step: Step, cache: Cache | None = None, value: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        inputs = self._inputs(aligned_product(self.in_proj, x_BTD), value)
        going_on = {}
        if step.start:
            assert isinstance(cache, Mamba3Cache)
            going_on = {"initial": tuple(carried(part) for part in cache.parts)}
        out_BTHP, *kept = self.ops["mamba3_scan"](
            *inputs, *self._parameters_of_heads, chunk_size=self.spec.chunk_size, **going_on
        )
        if cache is not None:
            assert isinstance(cache, Mamba3Cache)
            for old, new in zip(cache.parts, kept, strict=True):
                old.copy_(new)
        return out_BTHP.flatten(2), inputs[0].flatten(2)

    @override
    def mix_step(self, x_BD: Tensor, step: Step, cache: Cache, value: Tensor | None = None) -> tuple[Tensor, Tensor]:
        assert isinstance(cache, Mamba3Cache)
        inputs = self._inputs(self.in_proj(x_BD), value)
        out_BHP = self.ops["mamba3_step"](*cache.parts, *inputs, *self._parameters_of_heads)
        return out_BHP.flatten(1), inputs[0].flatten(1)

    @override
    def new_cache(self, batch: int, capacity: int, storage: Storage, device: torch.device) -> Mamba3Cache:
        """The state in the dtype that ``storage`` asks for; the angles, which sum small turns, at least in float32."""
        spec, dtype = self.spec, self.dtype
        wide = state_dtype(dtype, storage, self.spec.kind)

        def zeros(dtype: torch.dtype, *sizes: int) -> Tensor:
            return torch.zeros(batch, spec.n_heads, *sizes, device=device, dtype=dtype)

        return Mamba3Cache(
            zeros(torch.promote_types(wide, torch.float32), spec.n_angles),
            zeros(wide, spec.head_dim, spec.d_state),
            zeros(dtype, spec.d_state),
            zeros(dtype, spec.head_dim),
        )
