"""delta: gated delta net and Kimi delta attention as a module: projection, conv, delta rule, norm and gate, output.

Both follow flash-linear-attention's layers and transformers' Qwen3-Next and Kimi-Linear (no bias in the conv; A_log and
dt_bias in float32 whatever the weights' dtype; q and k normalised to length one; a norm per head before the gate, which
is silu in gated delta net and sigmoid in KDA). One projection yields a packed row: q, k and v, then the inputs of gate,
decay and beta. KDA's decay and gate go through ``head_dim`` columns each.
"""

from __future__ import annotations

import torch
from torch import Tensor
from typing_extensions import override

from hybridbench.arch.blocks.gated_delta import GatedDelta
from hybridbench.arch.blocks.kda import Kda
from hybridbench.model.block import Factory, Step
from hybridbench.model.cache import Cache, RecurrentCache
from hybridbench.model.mixer import (
    DT_RANGE,
    RecurrentModule,
    aligned_product,
    carried,
    conv_front,
    convolved,
    keep_tail,
    log_uniform_steps,
)

A_RANGE = {"gated_delta": (0.01, 16.0), "kda": (1.0, 16.0)}
"""Kind of block to the range that A is drawn from uniformly. It starts at 0.01, since log 0 is infinite."""


class DeltaModule(RecurrentModule):
    """The mixer of gated delta net or KDA, as its spec says, over a sequence or for one recurrent step.

    Its operations are ``conv1d`` and ``conv1d_step``, ``gated_delta`` and ``gated_delta_step`` or ``kda`` and
    ``kda_step``, and ``norm_gate``.
    """

    spec: GatedDelta | Kda
    traceable = False

    @override
    def _in_widths(self) -> list[int]:
        """Widths of q, k and (unless borrowed) v, gate, decay and beta."""
        spec = self.spec
        self.conv_widths = list(spec.conv_parts)
        conv_in = spec.conv_channels - (spec.out_width if self.borrows_value else 0)
        return [conv_in, *spec.gate_and_decay, spec.n_heads]

    @override
    def _make_parameters(self, make: Factory) -> None:
        spec, heads = self.spec, self.spec.n_heads
        low_rank = spec.low_rank
        self.activation = "sigmoid" if low_rank else "silu"
        self.gate_proj = make.linear(spec.k_head_dim, spec.out_width) if low_rank else None
        self.decay_proj = make.linear(spec.k_head_dim, spec.out_width) if low_rank else None
        self.conv_weight_CW = make.parameter(spec.conv_channels, spec.d_conv)
        self.A_log_H = make.parameter(heads, dtype=torch.float32)
        self.dt_bias = make.parameter(*((heads, spec.k_head_dim) if low_rank else (heads,)), dtype=torch.float32)
        self.norm_weight_V = make.parameter(spec.v_head_dim)

    @override
    def reset(self, generator: torch.Generator) -> None:
        """The published initialisation: A uniform in ``A_RANGE``, dt log-uniform through the inverse softplus, conv as
        ``nn.Conv1d``, norm one.
        """
        with torch.no_grad():
            self.A_log_H.uniform_(*A_RANGE[self.spec.kind], generator=generator).log_()
            self.dt_bias.copy_(log_uniform_steps(self.dt_bias, *DT_RANGE, generator))
            bound = self.spec.d_conv**-0.5
            self.conv_weight_CW.uniform_(-bound, bound, generator=generator)
            self.norm_weight_V.fill_(1.0)

    @property
    @override
    def state_shape(self) -> tuple[int, ...]:
        return self.spec.n_heads, self.spec.k_head_dim, self.spec.v_head_dim

    def _project(self, packed: Tensor, value: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Conv input (q, k, v), gate by head, decay by head (and channel) and beta of a packed row."""
        conv_in, gate, decay, beta = torch.split(packed[..., : sum(self.widths)], self.widths, dim=-1)
        if self.borrows_value:
            conv_in = torch.cat((conv_in, self._lent(value, packed.dim(), self.spec.out_width)), dim=-1)
        heads = (self.spec.n_heads, -1)
        if self.gate_proj is not None and self.decay_proj is not None:
            gate, decay = self.gate_proj(gate), torch.unflatten(self.decay_proj(decay), -1, heads)
        return conv_in, torch.unflatten(gate, -1, heads), decay, beta

    def _heads(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        keys = (self.spec.n_k_heads, self.spec.k_head_dim)
        return (
            torch.unflatten(q, -1, keys),
            torch.unflatten(k, -1, keys),
            torch.unflatten(v, -1, (self.spec.n_heads, self.spec.v_head_dim)),
        )

    def _finish(self, out: Tensor, gate: Tensor) -> Tensor:
        settings = {"eps": self.norm_eps, "activation": self.activation}
        gated: Tensor = self.ops["norm_gate"](out, gate, self.norm_weight_V, **settings)
        return gated.flatten(-2)

    @override
    def mix(
        self, x_BTD: Tensor, step: Step, cache: Cache | None = None, value: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        conv_in_BTC, gate_BTHV, decay, beta_BTH = self._project(aligned_product(self.in_proj, x_BTD), value)
        fronts: tuple[Tensor | None, ...] = (None,) * len(self.conv_widths)
        going_on = {}
        if step.start:
            assert isinstance(cache, RecurrentCache)
            fronts = torch.split(conv_front(cache.conv_BCW, self.spec.d_conv), self.conv_widths, dim=-1)
            going_on = {"initial_state_BHPV": carried(cache.state)}
        # One conv each: the kernels of the rule need contiguous q, k and v, so the output of one conv would be copied.
        parts = zip(
            torch.split(conv_in_BTC, self.conv_widths, dim=-1),
            fronts,
            torch.split(self.conv_weight_CW, self.conv_widths),
            strict=True,
        )
        conv1d = self.ops["conv1d"]
        q_BTGP, k_BTGP, v_BTHV = self._heads(*(convolved(conv1d, part, front, w, None) for part, front, w in parts))
        rule = self.ops[self.spec.kind]
        out_BTHV, state_BHPV = rule(
            q_BTGP,
            k_BTGP,
            v_BTHV,
            decay,
            beta_BTH,
            self.A_log_H,
            self.dt_bias,
            chunk_size=self.spec.chunk_size,
            **going_on,
        )
        if cache is not None:
            assert isinstance(cache, RecurrentCache)
            cache.state.copy_(state_BHPV)
            keep_tail(cache.conv_BCW, conv_in_BTC, step.start)
        return self._finish(out_BTHV, gate_BTHV), self._value(conv_in_BTC)

    @override
    def mix_step(self, x_BD: Tensor, step: Step, cache: Cache, value: Tensor | None = None) -> tuple[Tensor, Tensor]:
        assert isinstance(cache, RecurrentCache)
        conv_in_BC, gate_BHV, decay, beta_BH = self._project(self.in_proj(x_BD), value)
        mixed_BC = self.ops["conv1d_step"](cache.conv_BCW, conv_in_BC, self.conv_weight_CW, None)
        q_BGP, k_BGP, v_BHV = self._heads(*torch.split(mixed_BC, self.conv_widths, dim=-1))
        rule = self.ops[f"{self.spec.kind}_step"]
        out_BHV = rule(cache.state, q_BGP, k_BGP, v_BHV, decay, beta_BH, self.A_log_H, self.dt_bias)
        return self._finish(out_BHV, gate_BHV), self._value(conv_in_BC)

    def _value(self, conv_in: Tensor) -> Tensor:
        """The v channels before the conv, which a second branch may share."""
        return conv_in[..., -self.spec.out_width :]
