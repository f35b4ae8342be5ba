"""quantised_cache: keys and values of one attention in codes of 8 bits, with a scale for each sequence and head.

A sequence's prompt sets its scales: the largest key of a head, and the largest value, become codes ``HEADROOM`` times
below the largest one, so that a token that is appended may be larger. Beyond that it saturates. Scales are powers of
two: codes times such a scale are exact in 16 bit, and E4M3's rounding, which is relative, loses nothing by it. Scales
by token too, as some engines keep, take 4 bytes of every 64 or 128 and make E4M3 no more exact: attention in fp8 moves
the logits of a transformer (tiny) by 2.4e-2 with them and by 2.5e-2 without.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor
from typing_extensions import override

from hybridbench.errors import Unsupported
from hybridbench.model.cache import AttentionCache
from hybridbench.model.quantised import coded, largest
from hybridbench.sizes import DEQUANTISED_ELEMENTS

HEADROOM = 4
"""By how much a later key or value may be larger than all of the prompt's."""


@dataclass
class QuantisedAttentionCache(AttentionCache):
    """An ``AttentionCache`` whose slots hold codes.

    Args:
        k_scale_BK, v_scale_BK: float32, what a code of 1 stands for; the values' are another cache's where the value is
            shared.
        dtype: of keys and values before and after.
    """

    k_scale_BK: Tensor = field(kw_only=True)
    v_scale_BK: Tensor = field(kw_only=True)
    dtype: torch.dtype = field(kw_only=True)

    @classmethod
    def of(
        cls, plain: AttentionCache, codes: torch.dtype, lender: QuantisedAttentionCache | None = None
    ) -> QuantisedAttentionCache:
        """A plain cache's keys and values as codes.

        Args:
            lender: the cache whose values it shares; None where it has its own.
        """
        B, _, K, _ = plain.k_BSKP.shape
        new: Callable[[Tensor], Tensor] = lambda x: torch.empty(x.shape, dtype=codes, device=x.device)  # noqa: E731
        one = torch.ones(2, B, K, dtype=torch.float32, device=plain.k_BSKP.device)
        made = cls(
            new(plain.k_BSKP),
            new(plain.v_BSKV) if lender is None else lender.v_BSKV,
            plain.sinks,
            plain.ring,
            lender is None,
            k_scale_BK=one[0],
            v_scale_BK=one[1] if lender is None else lender.v_scale_BK,
            dtype=plain.k_BSKP.dtype,
        )
        made._put(slice(None), plain.k_BSKP, plain.v_BSKV)
        return made

    @override
    def tensors(self) -> dict[str, list[Tensor]]:
        owned = [self.k_BSKP, self.k_scale_BK, *([self.v_BSKV, self.v_scale_BK] if self.owns_value else [])]
        return {"kv": owned}

    @override
    def compared(self) -> dict[str, Tensor]:
        keys, values = self.keys_values()
        return {"keys": keys, "values": values} if self.owns_value else {"keys": keys}

    @override
    def fill(self, generator: torch.Generator) -> None:
        """Random keys and values, sequence by sequence: no generator draws codes."""
        for row in range(self.k_BSKP.shape[0]):
            shapes = [self.k_BSKP.shape[1:], self.v_BSKV.shape[1:]][: 2 if self.owns_value else 1]
            made = [torch.empty(1, *shape, device=generator.device).normal_(generator=generator) for shape in shapes]
            self._put(slice(row, row + 1), *made)

    def _put(self, rows: slice, k_BSKP: Tensor, v_BSKV: Tensor | None = None) -> None:
        """Sets scales of some sequences from all of their keys and values, and fills their slots with these."""
        self._scale(k_BSKP, v_BSKV, rows)
        self.k_BSKP[rows].copy_(self._codes(k_BSKP, self.k_scale_BK[rows]))
        if self.owns_value and v_BSKV is not None:
            self.v_BSKV[rows].copy_(self._codes(v_BSKV, self.v_scale_BK[rows]))

    def _scale(self, k_BSKP: Tensor, v_BSKV: Tensor | None, rows: slice = slice(None)) -> None:
        """Sets scales of some sequences from all of their keys and values."""
        self.k_scale_BK[rows] = scales_of(k_BSKP, self.k_BSKP.dtype)
        if self.owns_value and v_BSKV is not None:
            self.v_scale_BK[rows] = scales_of(v_BSKV, self.v_BSKV.dtype)

    def _codes(self, x: Tensor, scale_BK: Tensor) -> Tensor:
        """Keys or values (B, ..., K, width) as codes of these scales."""
        return coded(x.float() / scale_BK.view(-1, *[1] * (x.dim() - 3), scale_BK.shape[1], 1), self.k_BSKP.dtype)

    def _coded(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """New keys and values as codes of the scales there are, in bytes."""
        pairs = (k, self.k_scale_BK), (v, self.v_scale_BK)
        k, v = (self._codes(x, scale_BK).view(torch.uint8) for x, scale_BK in pairs)
        return k, v

    def _bytes(self) -> AttentionCache:
        """The same slots as bytes, which every operator of a GPU can move."""
        k, v = (x.view(torch.uint8) for x in (self.k_BSKP, self.v_BSKV))
        return AttentionCache(k, v, self.sinks, self.ring, self.owns_value)

    @override
    def append(self, k_BKP: Tensor, v_BKV: Tensor, position_B: Tensor) -> None:
        self._bytes().append(*self._coded(k_BKP, v_BKV), position_B)

    @override
    def store(self, k_BTKP: Tensor, v_BTKV: Tensor, start: int = 0) -> None:
        if start == 0:
            self._scale(k_BTKP, v_BTKV)
        self._bytes().store(*self._coded(k_BTKP, v_BTKV), start)

    @override
    def before(self, start: int) -> tuple[Tensor, Tensor]:
        raise Unsupported("a prefill cannot continue from quantised keys and values: nothing here prefills with them.")

    @property
    @override
    def scales(self) -> tuple[Tensor | None, Tensor | None]:
        return self.k_scale_BK, self.v_scale_BK

    @override
    def keys_values(self, rows: slice = slice(None)) -> tuple[Tensor, Tensor]:
        k, v = (
            codes[rows].to(self.dtype) * scale[rows, None, :, None].to(self.dtype)
            for codes, scale in ((self.k_BSKP, self.k_scale_BK), (self.v_BSKV, self.v_scale_BK))
        )
        return k, v

    @override
    def attended(self, attend: Callable[..., Tensor], q_BHP: Tensor, length_B: Tensor) -> Tensor:
        """As of a plain cache, over some sequences at a time, so that few keys and values are dequantised at once."""
        B, S, K, P = self.k_BSKP.shape
        rows = max(1, DEQUANTISED_ELEMENTS // (S * K * P))
        parts = [slice(first, first + rows) for first in range(0, B, rows)]
        return torch.cat([attend(q_BHP[part], *self.keys_values(part), length_B[part]) for part in parts])


def scales_of(x_BSKP: Tensor, codes: torch.dtype) -> Tensor:
    """Scales (B, K) of keys or values: powers of two, with ``HEADROOM``; 1 where all are 0."""
    most_BK = x_BSKP.abs().amax((1, 3)).float() * HEADROOM / largest(codes)
    return torch.where(most_BK > 0, torch.exp2(torch.ceil(torch.log2(most_BK))), 1.0)
