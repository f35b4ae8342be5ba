"""triton_conv: the causal convolution of a decode step over a state whose channels are words of 8 bytes.

Importing this module needs triton.
"""

from __future__ import annotations

import triton.language as tl

from hybridbench.kernels.triton_jit import jit

HELD = tl.constexpr(64)
"""Tokens of a tile whose words of the state a program holds at once. Tiles of no more hold them during the product."""


@jit
def token_halves(tile: tl.tensor, ROWS: tl.constexpr, TOKENS: tl.constexpr) -> tl.tensor:
    """The columns of the first half of the tokens, and those of the second."""
    return tl.split(tl.permute(tl.reshape(tile, (ROWS, 2, TOKENS // 2)), (0, 2, 1)))


@jit
def words_of(
    state_ptr: tl.tensor,
    channel: tl.tensor,
    first: tl.tensor,
    C: tl.constexpr,
    B: tl.constexpr,
    TOKENS: tl.constexpr,
) -> tl.tensor:
    """The words of the state (B, C, 4) of some channels and TOKENS tokens from ``first`` on, (channels, TOKENS).

    Only the program that convolves them writes them, so that they may be loaded before the wait.
    """
    token = first + tl.arange(0, TOKENS)
    ok = ((channel >= 0) & (channel < C))[:, None] & (token < B)[None, :]
    word = state_ptr.to(tl.pointer_type(tl.int64), bitcast=True) + (token * C)[None, :] + channel[:, None]
    return tl.load(word, mask=ok, other=0)


@jit
def early_words(
    state_ptr: tl.tensor,
    channel: tl.tensor,
    C: tl.constexpr,
    B: tl.constexpr,
    TOKENS: tl.constexpr,
    SPLITS: tl.constexpr,
) -> tl.tensor:
    """``words_of`` a tile of up to ``HELD`` tokens; for more, and for a split product, whose sums take the registers,
    nothing, and ``convolve_words`` loads them.
    """
    return (
        words_of(state_ptr, channel, 0, C, B, TOKENS) if TOKENS <= HELD and SPLITS == 1 else tl.zeros((1, 1), tl.int64)
    )


@jit
def convolve_words(
    new: tl.tensor,
    old: tl.tensor,
    out_ptr: tl.tensor,
    state_ptr: tl.tensor,
    weight_ptr: tl.tensor,
    bias_ptr: tl.tensor,
    channel: tl.tensor,
    first: tl.tensor,
    C: tl.constexpr,
    TAPS: tl.constexpr,
    BIAS: tl.constexpr,
    WIDTH: tl.constexpr,
    B: tl.constexpr,
    TOKENS: tl.constexpr,
    LATE: tl.constexpr = False,
) -> None:
    """Moves ``new`` (channels, tokens) into the state; the convolution's output after SiLU goes to ``out`` (B, C of
    WIDTH).

    The state is (B, C, 4) in a 16-bit dtype, newest last, so that a channel is one word: it is loaded once, shifted by
    one column, and stored once. More than ``HELD`` tokens go by halves, one after the other.

    Args:
        new: the newest input, in the state's dtype.
        old: of ``early_words``.
        channel: those of its rows; what lies outside C is left out.
        first: the first of its TOKENS tokens.
        LATE: whether the words are loaded here.
    """
    if TOKENS > HELD:
        lower, upper = token_halves(new, new.shape[0], TOKENS)
        HALF: tl.constexpr = TOKENS // 2
        middle = first + HALF
        convolve_words(
            lower, old, out_ptr, state_ptr, weight_ptr, bias_ptr, channel, first, C, TAPS, BIAS, WIDTH, B, HALF, True
        )
        convolve_words(
            upper, old, out_ptr, state_ptr, weight_ptr, bias_ptr, channel, middle, C, TAPS, BIAS, WIDTH, B, HALF, True
        )
    else:
        if LATE:
            old = words_of(state_ptr, channel, first, C, B, TOKENS)
        _convolve_held(
            new, old, out_ptr, state_ptr, weight_ptr, bias_ptr, channel, first, C, TAPS, BIAS, WIDTH, B, TOKENS
        )


@jit
def _convolve_held(
    new: tl.tensor,
    old: tl.tensor,
    out_ptr: tl.tensor,
    state_ptr: tl.tensor,
    weight_ptr: tl.tensor,
    bias_ptr: tl.tensor,
    channel: tl.tensor,
    first: tl.tensor,
    C: tl.constexpr,
    TAPS: tl.constexpr,
    BIAS: tl.constexpr,
    WIDTH: tl.constexpr,
    B: tl.constexpr,
    TOKENS: tl.constexpr,
) -> None:
    """``convolve_words`` of one tile at once."""
    token = first + tl.arange(0, TOKENS)
    kind: tl.constexpr = state_ptr.dtype.element_ty
    channel_ok = (channel >= 0) & (channel < C)
    ok = channel_ok[:, None] & (token < B)[None, :]
    out = tl.zeros((new.shape[0], TOKENS), tl.float32)
    if BIAS:
        out += tl.load(bias_ptr + channel, mask=channel_ok, other=0.0).to(tl.float32)[:, None]
    for tap in tl.static_range(TAPS - 1):
        column = (old >> (16 * (5 - TAPS + tap))).to(tl.int16).to(kind, bitcast=True).to(tl.float32)
        out += column * tl.load(weight_ptr + channel * TAPS + tap, mask=channel_ok, other=0.0).to(tl.float32)[:, None]
    newest = tl.load(weight_ptr + channel * TAPS + TAPS - 1, mask=channel_ok, other=0.0).to(tl.float32)
    out += new.to(tl.float32) * newest[:, None]
    bits = new.to(tl.int16, bitcast=True).to(tl.int64) << 48
    tl.debug_barrier()  # every thread has loaded its words before one is overwritten
    word = state_ptr.to(tl.pointer_type(tl.int64), bitcast=True) + (token * C)[None, :] + channel[:, None]
    tl.store(word, ((old >> 16) & 0xFFFFFFFFFFFF) | bits, mask=ok)
    tl.store(out_ptr + (token * WIDTH)[None, :] + channel[:, None], (out * tl.sigmoid(out)).to(kind), mask=ok)
