"""attention: grouped-query attention as a module: one fused projection, rotary, a kernel, an output projection."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override

from hybridbench.arch.block import Storage
from hybridbench.arch.blocks.attention import Attention
from hybridbench.model.block import Step
from hybridbench.model.cache import AttentionCache, Cache, GrowingCache
from hybridbench.model.mixer import MixerModule
from hybridbench.model.quantised_cache import QuantisedAttentionCache
from hybridbench.model.rotary import rotate


def _continued(
    q_BTHP: Tensor, k_BTKP: Tensor, v_BTKV: Tensor, before: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values of one sequence whose last T outputs are those of the new tokens.

    The cached keys come first. Queries of zeros are put in front to match, because attention kernels take equally many
    queries and keys. With a window the keys between the sinks and the window are left out; distances within the window
    stay the same.
    """
    k_before, v_before = before
    queries = F.pad(q_BTHP, (0, 0, 0, 0, k_before.shape[1], 0))
    return queries, torch.cat((k_before, k_BTKP), 1), torch.cat((v_before, v_BTKV), 1)


class AttentionModule(MixerModule):
    """Causal attention over a sequence or one step against its cache. Its operations are ``attention``, ``rotary`` and
    ``attention_decode``.
    """

    spec: Attention

    @override
    def _in_widths(self) -> list[int]:
        spec = self.spec
        values = [] if self.borrows_value else [spec.n_kv_heads * spec.v_head_dim]
        return [spec.n_heads * spec.head_dim, spec.n_kv_heads * spec.head_dim, *values]

    @override
    def make_turns(self, step: Step) -> None:
        if self.spec.rope is not None:
            step.turn(self.spec.rope, self.spec.head_dim)

    def _project(self, x: Tensor, step: Step, value: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of (..., d_model), each (..., heads, width), rotated where the spec has RoPE.

        This is the plain form, which a decode step runs operator by operator.
        """
        spec = self.spec
        parts = torch.split(self.in_proj(x), self.widths, dim=-1)
        q = torch.unflatten(parts[0], -1, (spec.n_heads, spec.head_dim))
        k = torch.unflatten(parts[1], -1, (spec.n_kv_heads, spec.head_dim))
        v = self._value(value if self.borrows_value else parts[2], x)
        if spec.rope is not None:
            turn = step.turn(spec.rope, spec.head_dim)
            q, k = rotate(q, turn), rotate(k, turn)
        return q, k, v

    def _value(self, value: Tensor | None, x: Tensor) -> Tensor:
        """The value split into heads, if it is not yet."""
        assert value is not None, "a borrowing branch is called with a value"
        if value.dim() > x.dim():
            return value
        return torch.unflatten(value, -1, (self.spec.n_kv_heads, self.spec.v_head_dim))

    def _project_sequence(self, x_BTD: Tensor, step: Step, value: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """``_project`` of a sequence, with the splitting and the rotation as one operation."""
        spec = self.spec
        if spec.rope is None:
            return self._project(x_BTD, step, value)
        cos_TR, sin_TR = (angle.squeeze(-2) for angle in step.turn(spec.rope, spec.head_dim))
        q_BTHP, k_BTKP, rest_BTC = self.ops["rotary"](
            self.in_proj(x_BTD),
            cos_TR,
            sin_TR,
            n_heads=spec.n_heads,
            n_kv_heads=spec.n_kv_heads,
            head_dim=spec.head_dim,
        )
        return q_BTHP, k_BTKP, self._value(value if self.borrows_value else rest_BTC, x_BTD)

    @override
    def mix(
        self, x_BTD: Tensor, step: Step, cache: Cache | None = None, value: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        q_BTHP, k_BTKP, v_BTKV = self._project_sequence(x_BTD, step, value)
        seen = q_BTHP, k_BTKP, v_BTKV
        if step.start:
            assert isinstance(cache, AttentionCache)
            seen = _continued(q_BTHP, k_BTKP, v_BTKV, cache.before(step.start))
        if cache is not None:
            assert isinstance(cache, AttentionCache | GrowingCache)
            cache.store(k_BTKP, v_BTKV, step.start)
        out_BTHV = self.ops["attention"](*seen, window=self.spec.window, sinks=self.spec.sinks)
        return out_BTHV[:, -x_BTD.shape[1] :].flatten(2), v_BTKV

    @override
    def mix_step(self, x_BD: Tensor, step: Step, cache: Cache, value: Tensor | None = None) -> tuple[Tensor, Tensor]:
        q_BHP, k_BKP, v_BKV = self._project(x_BD, step, value)
        if isinstance(cache, GrowingCache):
            # Every slot is in use, so this kernel is called without lengths.
            return self.ops["attention_decode"](q_BHP, *cache.append(k_BKP, v_BKV)).flatten(1), v_BKV
        assert isinstance(cache, AttentionCache)
        cache.append(k_BKP, v_BKV, step.position)
        length_B = cache.lengths(step.position)
        out_BHV = cache.attended(self.ops["attention_decode"], q_BHP, length_B)
        return out_BHV.flatten(1), v_BKV

    @override
    def new_cache(
        self,
        batch: int,
        capacity: int,
        storage: Storage,
        device: torch.device,
        shared: AttentionCache | None = None,
    ) -> AttentionCache:
        """``shared`` is the cache whose value slots this one uses, in a branch that borrows its value."""
        spec = self.spec
        slots = capacity if spec.span is None else min(capacity, spec.span)
        codes: torch.dtype | None = getattr(torch, storage.kv_codes) if storage.kv_codes else None

        def zeros(width: int) -> Tensor:
            sizes = batch, slots, spec.n_kv_heads, width
            if codes is None:
                return torch.zeros(*sizes, device=device, dtype=self.dtype)
            return torch.zeros(*sizes, device=device, dtype=torch.uint8).view(codes)

        k = zeros(spec.head_dim)
        v = zeros(spec.v_head_dim) if shared is None else shared.v_BSKV
        kept = k, v, spec.sinks, spec.window or 0, shared is None
        if codes is None:
            return AttentionCache(*kept)
        k_scale, v_scale = torch.ones(2, batch, spec.n_kv_heads, device=device, dtype=torch.float32).unbind()
        if shared is not None:
            assert isinstance(shared, QuantisedAttentionCache), "both branches keep keys and values alike"
            v_scale = shared.v_scale_BK
        return QuantisedAttentionCache(*kept, k_scale_BK=k_scale, v_scale_BK=v_scale, dtype=self.dtype)
