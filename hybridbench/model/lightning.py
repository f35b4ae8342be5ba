"""lightning: lightning attention as a module: projection, silu, a recurrence of fixed decay, norm and gate, output.

Follows transformers' ``MiniMaxLightningAttention``. Its projection interleaves q, k and v by head; a row here is
q | k | v | gate. Head h of H (from 1) in mixer i of n (from 0) decays by
``exp(-2^(-8 h / H) (1 - i / (n - 1) + 1e-5))`` a position, so the last mixer forgets almost nothing. transformers
counts decoder layers, of one mixer and one MLP each; here only the sublayers that mix positions count.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override

from hybridbench.arch.block import Storage
from hybridbench.arch.blocks.lightning import Lightning
from hybridbench.model.block import Factory, Step
from hybridbench.model.cache import Cache
from hybridbench.model.checkpoint import cheap
from hybridbench.model.mixer import MixerModule, aligned_product, carried, state_dtype

SMALL = 1e-5
"""transformers adds this to the factor of a mixer's place, and to the number of places that it divides by."""


def log_decays(n_heads: int, place: int, places: int) -> Tensor:
    """The logarithm of each head's decay of one position, float32.

    Args:
        place: of the mixer among the model's, from 0.
        places: mixers in the model.
    """
    head = torch.arange(1, n_heads + 1, dtype=torch.float32)
    return -torch.exp2(-8 / n_heads * head) * (1 - place / (places - 1 + SMALL) + SMALL)


@dataclass
class LightningCache(Cache):
    """The state of every head, keys by values."""

    state_BHPP: Tensor

    @override
    def tensors(self) -> dict[str, list[Tensor]]:
        return {"ssm": [self.state_BHPP]}

    @override
    def compared(self) -> dict[str, Tensor]:
        return {"state": self.state_BHPP}

    @override
    def fill(self, generator: torch.Generator) -> None:
        self.state_BHPP.normal_(generator=generator)


class LightningModule(MixerModule):
    """Lightning attention over a sequence, or one recurrent step. Its operations are ``lightning``, ``lightning_step``
    and ``norm_gate``. The norm is over the channels of all heads.
    """

    spec: Lightning
    traceable = False
    log_decay_H: Tensor

    @override
    def _in_widths(self) -> list[int]:
        """q, k and, where it is not borrowed, v; gate."""
        width = self.spec.out_width
        return [width, width, 0 if self.borrows_value else width, width]

    @override
    def _make_parameters(self, make: Factory) -> None:
        mixes = [bool(block.mixers) for block in make.layers]
        self.place, self.places = sum(mixes[: make.index]), max(1, sum(mixes))
        self.norm_weight_I = make.parameter(self.spec.out_width)
        empty_H = torch.empty(self.spec.n_heads, device=make.device, dtype=torch.float32)
        self.register_buffer("log_decay_H", empty_H, persistent=False)

    @override
    def reset(self, generator: torch.Generator) -> None:
        """Decays by the mixer's place in the model, and norm weights of one."""
        with torch.no_grad():
            self.log_decay_H.copy_(log_decays(self.spec.n_heads, self.place, self.places))
            self.norm_weight_I.fill_(1.0)

    def _project(self, packed: Tensor, value: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """q, k and v before silu, and the gate, of a packed row."""
        q, k, v, gate = torch.split(packed[..., : sum(self.widths)], self.widths, dim=-1)
        if self.borrows_value:
            v = self._lent(value, packed.dim(), self.spec.out_width)
        return q, k, v, gate

    def _heads(self, x: Tensor) -> Tensor:
        """Silu of q, k or v (..., I), by head (..., H, P). One at a time, because the kernels need contiguous inputs:
        parts of one silu of all three would be copied.
        """
        return torch.unflatten(cheap(F.silu, x), -1, (self.spec.n_heads, -1))

    def _finish(self, out: Tensor, gate: Tensor) -> Tensor:
        """Norm over all heads' channels, and gate."""
        settings = {"eps": self.norm_eps, "activation": "sigmoid"}
        gated: Tensor = self.ops["norm_gate"](
            out.flatten(-2).unsqueeze(-2), gate.unsqueeze(-2), self.norm_weight_I, **settings
        )
        return gated.squeeze(-2)

    @override
    def mix(
        self, x_BTD: Tensor, step: Step, cache: Cache | None = None, value: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        q_BTI, k_BTI, v_BTI, gate_BTI = self._project(aligned_product(self.in_proj, x_BTD), value)
        going_on: dict[str, Tensor] = {}
        if step.start:
            assert isinstance(cache, LightningCache)
            going_on = {"initial_state_BHPP": carried(cache.state_BHPP)}
        inputs = [self._heads(x) for x in (q_BTI, k_BTI, v_BTI)]
        out_BTHP, state_BHPP = self.ops["lightning"](
            *inputs, self.log_decay_H, chunk_size=self.spec.chunk_size, **going_on
        )
        if cache is not None:
            assert isinstance(cache, LightningCache)
            cache.state_BHPP.copy_(state_BHPP)
        return self._finish(out_BTHP, gate_BTI), v_BTI

    @override
    def mix_step(self, x_BD: Tensor, step: Step, cache: Cache, value: Tensor | None = None) -> tuple[Tensor, Tensor]:
        assert isinstance(cache, LightningCache)
        q_BI, k_BI, v_BI, gate_BI = self._project(self.in_proj(x_BD), value)
        inputs = [self._heads(x) for x in (q_BI, k_BI, v_BI)]
        out_BHP = self.ops["lightning_step"](cache.state_BHPP, *inputs, self.log_decay_H)
        return self._finish(out_BHP, gate_BI), v_BI

    @override
    def new_cache(self, batch: int, capacity: int, storage: Storage, device: torch.device) -> LightningCache:
        """Zeros, in the weights' dtype or in the wider one that ``storage`` asks for."""
        spec, dtype = self.spec, state_dtype(self.dtype, storage, self.spec.kind)
        return LightningCache(
            torch.zeros(batch, spec.n_heads, spec.head_dim, spec.head_dim, device=device, dtype=dtype)
        )
