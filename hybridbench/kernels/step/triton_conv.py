"""triton_conv: the causal convolution of a decode step over a state whose channels are words of 8 bytes.

Importing this module needs triton.
"""

from __future__ import annotations

import triton.language as tl

from hybridbench.kernels.triton_jit import jit

HELD = tl.constexpr(64)
"""Tokens of a tile whose words of the state a program holds at once."""


@jit
def token_halves(tile: tl.tensor, ROWS: tl.constexpr, TOKENS: tl.constexpr) -> tl.tensor:
    """The columns of the first half of the tokens, and those of the second."""
    return tl.split(tl.permute(tl.reshape(tile, (ROWS, 2, TOKENS // 2)), (0, 2, 1)))


@jit
def convolve_words(
    new: tl.tensor,
    mixed_ptr: tl.tensor,
    state_ptr: tl.tensor,
    weight_ptr: tl.tensor,
    bias_ptr: tl.tensor,
    channel: tl.tensor,
    first: tl.tensor,
    C: tl.constexpr,
    TAPS: tl.constexpr,
    B: tl.constexpr,
    TOKENS: tl.constexpr,
) -> None:
    """Moves ``new`` (channels, tokens) into the state; the convolution's output after SiLU goes to ``mixed`` (B, C).

    The state is (B, C, 4) in a 16-bit dtype, newest last, so that a channel is one word: it is loaded once, shifted by
    one column, and stored once. More than ``HELD`` tokens go by halves, one after the other.

    Args:
        new: the newest input, in the state's dtype.
        channel: those of its rows; what lies outside C is left out.
        first: the first of its TOKENS tokens.
    """
    if TOKENS > HELD:
        lower, upper = token_halves(new, new.shape[0], TOKENS)
        convolve_words(lower, mixed_ptr, state_ptr, weight_ptr, bias_ptr, channel, first, C, TAPS, B, TOKENS // 2)
        convolve_words(
            upper, mixed_ptr, state_ptr, weight_ptr, bias_ptr, channel, first + TOKENS // 2, C, TAPS, B, TOKENS // 2
        )
    else:
        _convolve_held(new, mixed_ptr, state_ptr, weight_ptr, bias_ptr, channel, first, C, TAPS, B, TOKENS)


@jit
def _convolve_held(
    new: tl.tensor,
    mixed_ptr: tl.tensor,
    state_ptr: tl.tensor,
    weight_ptr: tl.tensor,
    bias_ptr: tl.tensor,
    channel: tl.tensor,
    first: tl.tensor,
    C: tl.constexpr,
    TAPS: tl.constexpr,
    B: tl.constexpr,
    TOKENS: tl.constexpr,
) -> None:
    """``convolve_words`` of one tile at once."""
    token = first + tl.arange(0, TOKENS)
    kind: tl.constexpr = state_ptr.dtype.element_ty
    channel_ok = (channel >= 0) & (channel < C)
    ok = channel_ok[:, None] & (token < B)[None, :]
    at = (token * C)[None, :] + channel[:, None]
    word = state_ptr.to(tl.pointer_type(tl.int64), bitcast=True) + at
    old = tl.load(word, mask=ok, other=0)
    out = tl.load(bias_ptr + channel, mask=channel_ok, other=0.0).to(tl.float32)[:, None]
    for tap in tl.static_range(TAPS - 1):
        column = (old >> (16 * (5 - TAPS + tap))).to(tl.int16).to(kind, bitcast=True).to(tl.float32)
        out += column * tl.load(weight_ptr + channel * TAPS + tap, mask=channel_ok, other=0.0).to(tl.float32)[:, None]
    newest = tl.load(weight_ptr + channel * TAPS + TAPS - 1, mask=channel_ok, other=0.0).to(tl.float32)
    out += new.to(tl.float32) * newest[:, None]
    bits = new.to(tl.int16, bitcast=True).to(tl.int64) << 48
    tl.debug_barrier()  # every thread has loaded its words before one is overwritten
    tl.store(word, ((old >> 16) & 0xFFFFFFFFFFFF) | bits, mask=ok)
    tl.store(mixed_ptr + at, (out * tl.sigmoid(out)).to(kind), mask=ok)
