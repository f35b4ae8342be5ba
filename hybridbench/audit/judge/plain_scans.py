"""plain_scans: FLOPs of the matrix products in the reference implementation of a scan, as operator counters count them.

A counter sees products only. A plain scan does the work of the recurrence partly in elementwise operators, and partly
in products of whole chunks, which the recurrence does not have. ``PLAIN_SCANS`` has a row for each scan of
``operations.OPERATIONS``; each formula follows the code of ``FAMILY.reference``, product by product.

Forward, all products of a plain scan are counted. Its backward has two for each of them, one per operand, except where
an operand has no gradient: the state before the first chunk is constant, and no output depends on the last state. The
backward of a triangular system ``A X = B`` has one product, of ``X`` and the gradient of ``B``, for the gradient of
``A``; the solution itself has no formula.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hybridbench.arch.blocks.delta import DeltaRule
from hybridbench.arch.blocks.lightning import Lightning
from hybridbench.arch.blocks.mamba1 import Mamba1
from hybridbench.arch.blocks.mamba2 import Mamba2
from hybridbench.arch.blocks.mamba3 import Mamba3
from hybridbench.arch.blocks.rwkv7 import Rwkv7
from hybridbench.sizes import CHUNK_ELEMENTS, KDA_PLAIN_CHUNK, RWKV7_PLAIN_CHUNK


@dataclass(frozen=True)
class PlainScan:
    """FLOPs of the products of a plain scan, of one sequence.

    Attributes:
        forward: forward, without padding.
        elementwise: FLOPs of the exact convention that the scan computes elementwise.
        padding: forward, of the positions that fill the last chunk.
        solved: in the backward, the products for the gradients of triangular systems.
        constant: in a backward that has two products for each of the forward, those for the gradient of the state
            before the first chunk.
        unneeded: in that backward, the products for both operands of what only the last state depends on.
        untraced: forward, of what only the last state depends on: a trace leaves it out where the state is no output.
    """

    forward: int
    elementwise: int = 0
    padding: int = 0
    solved: int = 0
    constant: int = 0
    unneeded: int = 0
    untraced: int = 0


def _pieces(tokens: int, longest: int) -> list[int]:
    """Lengths of the pieces of a sequence, all but the last of them ``longest``."""
    return [min(longest, tokens - first) for first in range(0, tokens, longest)]


def _chunks_at_once(
    tokens: int, segment: int, chunk: int, per_token: int, elementwise: int, state: int, read: int
) -> PlainScan:
    """A scan that multiplies all chunks of a segment at once.

    The products that add to the states and read them have one batch for all chunks. Only where a segment is one chunk
    do they lack an operand with a gradient.

    Args:
        tokens: of the sequence.
        segment: positions at once.
        chunk: positions of a chunk; the last one is filled.
        per_token: FLOPs of all products, per position.
        elementwise: FLOPs of a position that are not written as products.
        state: of the product that adds to the state, per position.
        read: of the product that reads the state, per position.
    """
    lengths = _pieces(tokens, segment)
    last = chunk if lengths[-1] <= chunk else 0
    first = chunk if lengths[0] <= chunk else 0
    return PlainScan(
        forward=tokens * per_token,
        elementwise=tokens * elementwise,
        padding=-tokens % chunk * per_token,
        constant=read * first,
        unneeded=2 * state * last,
        untraced=state * last,
    )


def _ssd(block: Mamba2, tokens: int, batch: int) -> PlainScan:
    """``ssd``: scores by group, and outputs, added states and states read by head."""
    q, state = block.chunk_size, 2 * block.d_state * block.d_inner
    per_token = 2 * q * (block.d_state * block.n_groups + block.d_inner) + 2 * state
    segment = q * max(1, CHUNK_ELEMENTS // (batch * block.n_heads * q * q))
    return _chunks_at_once(tokens, segment, q, per_token, 2 * block.d_inner, state, state)


def _mamba3_scan(block: Mamba3, tokens: int, batch: int) -> PlainScan:
    """``mamba3_scan``: as ``ssd``, with the scores by head, since each head has biases of its own."""
    q, state = block.chunk_size, 2 * block.d_state * block.d_inner
    per_token = 2 * q * (block.d_state * block.n_heads + block.d_inner) + 2 * state
    segment = q * max(1, CHUNK_ELEMENTS // (batch * block.n_heads * q * q))
    return _chunks_at_once(tokens, segment, q, per_token, 2 * block.d_inner, state, state)


def _selective_scan(block: Mamba1, tokens: int, batch: int) -> PlainScan:
    """``selective_scan``: a product reads the states, and all else is elementwise.

    Segments of T positions are filled to chunks of the root of T. Where a segment is computed again for its backward,
    that ends before the product, whose operands are the last tensors to keep.
    """
    states = block.d_inner * block.d_state
    lengths = _pieces(tokens, max(1, CHUNK_ELEMENTS // (batch * states)))
    return PlainScan(
        forward=2 * states * tokens,
        elementwise=tokens * (5 * states + 2 * block.d_inner),
        padding=2 * states * sum(-length % math.isqrt(length) for length in lengths),
    )


def _delta_rule(block: DeltaRule, tokens: int, chunk: int, by_channel: bool) -> PlainScan:
    """Both delta rules: the products that read the state and add to it run chunk by chunk; the last chunk is padded.

    With a decay for every key channel (``by_channel``) scores and products among keys are elementwise.
    """
    heads, k, v = block.n_heads, block.k_head_dim, block.v_head_dim
    q = min(chunk, tokens)
    state = 2 * q * heads * k * v
    among = 0 if by_channel else 2 * 2 * q * q * k * block.n_k_heads
    per_chunk = among + 2 * q * q * heads * v + 3 * state
    chunks = -(-tokens // q)
    padding = (chunks * q - tokens) * per_chunk // q
    return PlainScan(
        forward=chunks * per_chunk - padding,
        padding=padding,
        solved=chunks * 2 * q * q * heads * (k + v),
        constant=2 * state,
        unneeded=2 * state,
        untraced=state,
    )


def _gated_delta(block: DeltaRule, tokens: int, _batch: int) -> PlainScan:
    return _delta_rule(block, tokens, block.chunk_size, by_channel=False)


def _kda(block: DeltaRule, tokens: int, _batch: int) -> PlainScan:
    return _delta_rule(block, tokens, min(KDA_PLAIN_CHUNK, block.chunk_size), by_channel=True)


def _lightning(block: Lightning, tokens: int, _batch: int) -> PlainScan:
    """``lightning``: scores, outputs, state read and state added, chunk by chunk; the last chunk is shorter."""
    inner = block.n_heads * block.head_dim
    lengths = _pieces(tokens, block.chunk_size)
    state = 2 * inner * block.head_dim
    return PlainScan(
        forward=sum(4 * length * length * inner + 2 * state * length for length in lengths),
        constant=state * lengths[0],
        unneeded=2 * state * lengths[-1],
        untraced=state * lengths[-1],
    )


def _rwkv7(block: Rwkv7, tokens: int, _batch: int) -> PlainScan:
    """``rwkv7``: four products of keys or receptances with keys, three with values, two reads of the state and two
    additions to it, chunk by chunk; the last chunk is shorter.
    """
    inner = block.n_heads * block.head_dim
    lengths = _pieces(tokens, RWKV7_PLAIN_CHUNK)
    squares = sum(length * length for length in lengths)
    state = 2 * inner * block.head_dim
    return PlainScan(
        forward=7 * 2 * squares * inner + 4 * state * tokens,
        solved=2 * squares * inner,
        constant=2 * state * lengths[0],
        unneeded=2 * 2 * state * lengths[-1],
        untraced=2 * state * lengths[-1],
    )


PLAIN_SCANS: dict[str, Callable[[Any, int, int], PlainScan]] = {
    "ssd": _ssd,
    "mamba2_core": _ssd,
    "selective_scan": _selective_scan,
    "mamba3_scan": _mamba3_scan,
    "gated_delta": _gated_delta,
    "kda": _kda,
    "lightning": _lightning,
    "rwkv7": _rwkv7,
}
"""Operation to the products of its reference implementation, by block, tokens and sequences of the batch."""
