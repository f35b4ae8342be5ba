"""plain_scan: FLOPs of the matrix products in the reference implementation of a scan, as operator counters count them.

A counter sees products only. A plain scan does the work of the recurrence partly in elementwise operators, and partly
in products of whole chunks, which the recurrence does not have. Each mixer has its formula in ``Mixer.plain_scan``,
which follows the code of its reference implementation, product by product.

Forward, all products of a plain scan are counted. Its backward has two for each of them, one per operand, except where
an operand has no gradient: the state before the first chunk is constant, and no output depends on the last state. The
backward of a triangular system ``A X = B`` has one product, of ``X`` and the gradient of ``B``, for the gradient of
``A``; the solution itself has no formula.
"""

from __future__ import annotations

from dataclasses import dataclass

from hybridbench.sizes import CHUNK_ELEMENTS


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


def pieces(tokens: int, longest: int) -> list[int]:
    """Lengths of the pieces of a sequence, all but the last of them ``longest``."""
    return [min(longest, tokens - first) for first in range(0, tokens, longest)]


def segments(tokens: int, chunk: int, values: int) -> list[int]:
    """Lengths of the segments of a sequence whose chunks are computed together, of ``values`` each."""
    return pieces(tokens, chunk * max(1, CHUNK_ELEMENTS // values))


def chunks_at_once(
    tokens: int, sequences: int, heads: int, chunk: int, *, per_token: int, elementwise: int, state: int
) -> PlainScan:
    """A scan that multiplies all chunks of a segment at once.

    The products that add to the states and read them have one batch for all chunks. Only where a segment is one chunk
    do they lack an operand with a gradient.

    Args:
        tokens: of the sequence.
        sequences: of the batch.
        heads: with a matrix of decays each.
        chunk: positions of a chunk; the last one is filled.
        per_token: FLOPs of all products, per position.
        elementwise: FLOPs of a position that are not written as products.
        state: of the product that adds to the state, and of the one that reads it, per position.
    """
    lengths = segments(tokens, chunk, sequences * heads * chunk * chunk)
    last = chunk if lengths[-1] <= chunk else 0
    first = chunk if lengths[0] <= chunk else 0
    return PlainScan(
        forward=tokens * per_token,
        elementwise=tokens * elementwise,
        padding=-tokens % chunk * per_token,
        constant=state * first,
        unneeded=2 * state * last,
        untraced=state * last,
    )
