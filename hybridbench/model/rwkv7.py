"""rwkv7: RWKV-7's time mixing as a module: token shift, projections, value residual, rule, norm, bonus, gate, output.

Follows RWKV-LM's ``RWKV_Tmix_x070`` (arXiv 2503.14456, section 4). Only the projections of decay, rate and the value's
share have a bias; the norm's epsilon is 1e-5 for each channel of a head; everything is in the dtype of the weights. The
first layer of a width stores its projected value in the step, and each later layer of that width mixes its own value
with the stored one. A branch that borrows its value uses the other branch's value in place of its own projection; the
residual is the same.

The token shift with its mixes, and the keys with the rate, are one operation each (``rwkv7_shift``, ``rwkv7_keys``);
the rest of the elementwise work is plain PyTorch. fla's fused token shift cannot be used: its backward
(``addcmul_bwd1``) overwrites its input, which the other branch of a parallel block still reads.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override

from hybridbench.arch.blocks.rwkv7 import Rwkv7
from hybridbench.model.block import Factory, Step
from hybridbench.model.cache import Cache, RecurrentCache
from hybridbench.model.checkpoint import cheap
from hybridbench.model.mixer import RecurrentModule, carried, keep_tail

EPS_PER_CHANNEL = 1e-5
"""Added to the variance in the norm of a head, per channel of the head: 64e-5 with 64 channels."""
SHARE_POWERS = {"r": 0.2, "w": 0.9, "k": 0.7, "v": 0.7, "a": 0.9, "g": 0.2}
"""By input, the power in the initial share of the token before: ``1 - (channel / d_model)^(power x left)``, where left
is the share of the layers from this one on."""


class Rwkv7Module(RecurrentModule):
    """RWKV-7's mixer over a sequence, or one recurrent step. Its operations are ``rwkv7_shift``, ``rwkv7_keys``,
    ``rwkv7``, ``rwkv7_step`` and ``rwkv7_output``.
    """

    projections = ("in_proj", "decay_down", "rate_down", "value_down", "gate_down", "out_proj")
    spec: Rwkv7
    traceable = False

    @override
    def _in_widths(self) -> list[int]:
        """r, k and, where it is not borrowed, v."""
        return [self.spec.out_width] * (2 if self.borrows_value else 3)

    @override
    def _make_parameters(self, make: Factory) -> None:
        spec, wide = self.spec, self.spec.out_width
        self.first_value = f"first value of {wide} channels"
        self.shares = (self.first_value,)
        self.place = make.index, len(make.layers)
        self.mixed = spec.mixed(self.borrows_value)
        self.share_LD = make.parameter(len(self.mixed), spec.d_model)
        self.decay_down, self.decay_up = make.linear(spec.d_model, spec.decay_rank), make.linear(spec.decay_rank, wide)
        self.rate_down, self.rate_up = make.linear(spec.d_model, spec.rate_rank), make.linear(spec.rate_rank, wide)
        self.gate_down, self.gate_up = make.linear(spec.d_model, spec.gate_rank), make.linear(spec.gate_rank, wide)
        self.decay_I, self.rate_I = make.parameter(wide), make.parameter(wide)
        rank = spec.value_rank
        self.value_down = make.linear(spec.d_model, rank) if rank else None
        self.value_up = make.linear(rank, wide) if rank else None
        self.value_I = make.parameter(wide) if rank else None
        self.removal_I, self.added_I = make.parameter(wide), make.parameter(wide)
        heads = (spec.n_heads, spec.head_dim)
        self.bonus_HP, self.norm_weight_HV, self.norm_bias_HV = (make.parameter(*heads) for _ in range(3))

    @override
    def reset(self, generator: torch.Generator) -> None:
        """RWKV-LM's initial values by channel, head and layer. Projections are drawn as in every other module."""
        index, layers = self.place
        passed, left = index / max(1, layers - 1), 1 - index / max(1, layers)
        spec, device = self.spec, self.decay_I.device
        channel = torch.arange(spec.d_model, device=device) / spec.d_model
        along = torch.arange(spec.out_width, device=device) / max(1, spec.out_width - 1)
        zigzag = torch.linspace(-1, 1, spec.head_dim, device=device).repeat(spec.n_heads)
        zigzag = zigzag * zigzag.abs()
        with torch.no_grad():
            for share_D, name in zip(self.share_LD, self.mixed, strict=True):
                share_D.copy_(1 - channel ** (SHARE_POWERS[name] * left))
            self.decay_I.copy_(-5.5 + 6 * along ** (1 + passed**0.3) + 2.5 * zigzag)
            self.rate_I.copy_(-0.19 + 0.3 * zigzag + 0.4 * (along - 0.5))
            if self.value_I is not None:
                self.value_I.copy_(0.73 - 0.4 * (along - 0.5))
            self.removal_I.copy_(0.71 - 0.1 * (along - 0.5))
            self.added_I.fill_(1.02)
            self.bonus_HP.fill_(-0.04)
            self.norm_weight_HV.fill_(((1 + index) / max(1, layers)) ** 0.7)
            self.norm_bias_HV.zero_()

    @property
    @override
    def state_shape(self) -> tuple[int, ...]:
        return self.spec.n_heads, self.spec.head_dim, self.spec.head_dim

    def _by_head(self, x: Tensor) -> Tensor:
        return torch.unflatten(x, -1, (self.spec.n_heads, self.spec.head_dim))

    def _read(self, shifted: Sequence[Tensor], step: Step, value: Tensor | None) -> tuple[list[Tensor], Tensor, Tensor]:
        """From the outputs (..., D) of the shift the rule's inputs r, w, k, v, kk and a, and the gate, (..., H, P); the
        value as projected or borrowed.
        """
        mixed = dict(zip(self.mixed, shifted, strict=True))
        weights = torch.split(self.in_proj.weight, self.widths)
        r, k = F.linear(mixed["r"], weights[0]), F.linear(mixed["k"], weights[1])
        dims, wide = k.dim(), self.spec.out_width
        own = self._lent(value, dims, wide) if len(weights) < 3 else F.linear(mixed["v"], weights[2])
        w = F.linear(self.decay_down(mixed["w"]).tanh(), self.decay_up.weight, self.decay_I)
        rate = F.linear(self.rate_down(mixed["a"]), self.rate_up.weight, self.rate_I)
        gate = self.gate_up(self.gate_down(mixed["g"]).sigmoid())
        v = own
        if self.value_down is None or self.value_up is None:
            step.share(self.first_value, own)
        else:
            of_first = F.linear(self.value_down(mixed["v"]), self.value_up.weight, self.value_I).sigmoid()
            v = cheap(torch.lerp, own, step.shared[self.first_value], of_first)
        given = (self._by_head(part) for part in (k, rate, self.removal_I, self.added_I))
        removal, key, a = self.ops["rwkv7_keys"](*given)
        r, w, v = (self._by_head(part) for part in (r, w, v))
        return [r, w, key, v, removal, a], self._by_head(gate), own

    def _finish(self, out: Tensor, read: list[Tensor], gate: Tensor) -> Tensor:
        r, _, k, v, *_ = read
        parameters = self.norm_weight_HV, self.norm_bias_HV, self.bonus_HP
        ended: Tensor = self.ops["rwkv7_output"](
            out, r, k, v, gate, *parameters, eps=EPS_PER_CHANNEL * self.spec.head_dim
        )
        return ended.flatten(-2)

    @override
    def mix(
        self, x_BTD: Tensor, step: Step, cache: Cache | None = None, value: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        behind, going_on = {}, {}
        if step.start:
            assert isinstance(cache, RecurrentCache)
            behind = {"front_BD": cache.conv_BCW[..., -1].to(x_BTD.dtype)}
            going_on = {"initial_state_BHPV": carried(cache.state)}
        shifted = self.ops["rwkv7_shift"](x_BTD, self.share_LD, **behind)
        read, gate_BTHV, own_BTI = self._read(shifted, step, value)
        out_BTHV, state_BHPV = self.ops["rwkv7"](*read, chunk_size=self.spec.chunk_size, **going_on)
        if cache is not None:
            assert isinstance(cache, RecurrentCache)
            cache.state.copy_(state_BHPV)
            keep_tail(cache.conv_BCW, x_BTD, step.start)
        return self._finish(out_BTHV, read, gate_BTHV), own_BTI

    @override
    def mix_step(self, x_BD: Tensor, step: Step, cache: Cache, value: Tensor | None = None) -> tuple[Tensor, Tensor]:
        assert isinstance(cache, RecurrentCache)
        front_BD = cache.conv_BCW[..., -1].to(x_BD.dtype)
        shifted = self.ops["rwkv7_shift"](x_BD.unsqueeze(1), self.share_LD, front_BD=front_BD)
        read, gate_BHV, own_BI = self._read([mixed.squeeze(1) for mixed in shifted], step, value)
        out_BHV = self.ops["rwkv7_step"](cache.state, *read)
        keep_tail(cache.conv_BCW, x_BD.unsqueeze(1), 1)
        return self._finish(out_BHV, read, gate_BHV), own_BI
