"""Kernels that are right at the lengths at which kernels are verified, and wrong beyond, each in its own way.

They are named on a case as ``--backend OP=wrong_at_size:NAME``. What is wrong is planted where the offsets of 32 bits
put it: in the last sequence, or late in one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from hybridbench.kernels.attention import reference as attention_reference
from hybridbench.kernels.attention import sdpa
from hybridbench.kernels.rwkv7 import reference as rwkv7_reference
from hybridbench.kernels.scan import reference as scan_reference

RIGHT_TO = 700
"""Tokens; verification ends before."""
LONG_CACHE = 1600
"""Slots; verification of decode attention ends before."""


def _attention(spoil: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    def attention(q_BTHP: Tensor, k_BTKP: Tensor, v_BTKV: Tensor, **options: Any) -> Tensor:
        out = attention_reference.attention(q_BTHP, k_BTKP, v_BTKV, **options)
        return spoil(out) if q_BTHP.shape[1] > RIGHT_TO else out

    return attention


def _in_the_last_row(out: Tensor) -> Tensor:
    scale = torch.ones(len(out), 1, 1, 1)
    scale[-1] = 1.0 if len(out) == 1 else 1.1
    return out * scale.to(out)


def _at_the_end_of_the_last_row(out: Tensor) -> Tensor:
    if len(out) == 1:
        return out
    scale = torch.ones(len(out), out.shape[1], 1, 1)
    scale[-1, -8:] = 1.5
    return out * scale.to(out)


def _late_in_a_long_sequence(out: Tensor) -> Tensor:
    scale = torch.ones(1, out.shape[1], 1, 1)
    scale[:, 1000:] = 1.1
    return out * scale.to(out)


class _Wrong(torch.autograd.Function):
    """The last row's gradient is off."""

    @staticmethod
    def forward(_ctx: Any, out: Tensor) -> Tensor:
        return out.clone()

    @staticmethod
    def backward(_ctx: Any, d_out: Tensor) -> Tensor:
        return _in_the_last_row(d_out)


def _out_of_memory_alone(out: Tensor) -> Tensor:
    if len(out) == 1:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
    return out


def _illegal_access(_out: Tensor) -> Tensor:
    raise RuntimeError("CUDA error: an illegal memory access was encountered\nmore of it")


right = _attention(lambda out: out)
last_row = _attention(_in_the_last_row)
end_of_last_row = _attention(_at_the_end_of_the_last_row)
late = _attention(_late_in_a_long_sequence)
gradient = _attention(_Wrong.apply)
no_room = _attention(_out_of_memory_alone)
breaks = _attention(_illegal_access)


def windowed(q_BTHP: Tensor, k_BTKP: Tensor, v_BTKV: Tensor, *, window: int | None = None, sinks: int = 0) -> Tensor:
    """Right, with a mask that is kept for the next call."""
    sdpa._window_mask(q_BTHP.shape[1], window or q_BTHP.shape[1], sinks, q_BTHP.device)
    return attention_reference.attention(q_BTHP, k_BTKP, v_BTKV, window=window, sinks=sinks)


def attention_decode(q_BHP: Tensor, k_cache_BSKP: Tensor, v_cache_BSKV: Tensor, length_B: Tensor) -> Tensor:
    """The last tenth of a long cache is not read."""
    if k_cache_BSKP.shape[1] > LONG_CACHE:
        length_B = (length_B * 9 // 10).to(length_B.dtype)
    return attention_reference.attention_decode(q_BHP, k_cache_BSKP, v_cache_BSKV, length_B)


def ssd(x_BTHP: Tensor, *rest: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
    """Right outputs; the last row of a batch leaves a state that is a little off."""
    y, state = scan_reference.ssd(x_BTHP, *rest, **options)
    return (y, _in_the_last_row(state)) if x_BTHP.shape[1] > RIGHT_TO else (y, state)


def ssd_step(state_BHPN: Tensor, x_BHP: Tensor, *rest: Tensor) -> Tensor:
    """Wrong in the last row of four sequences and more, as an offset that wraps is."""
    y = scan_reference.ssd_step(state_BHPN, x_BHP, *rest)
    if len(x_BHP) > 3:
        state_BHPN[-1] *= 1.2
    return y


def rwkv7_keys(k: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
    """Of a step, whose keys have no positions, the second output is off."""
    removal, key, a = rwkv7_reference.rwkv7_keys(k, *rest)
    return removal, key * 1.1 if k.dim() == 3 else key, a
