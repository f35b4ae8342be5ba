"""fused_attention: what the fused kernels of attention keep for their backward, and need while they run."""

from __future__ import annotations

from hybridbench.arch.terms import FLOAT, Activations, Term


def fused_activations(size: int, *, queries: int, keys: int, out: int, heads: int, grouped: int) -> Activations:
    """The packed projection, q, k and v after rotary, and what the fused attention kernel keeps.

    FlashAttention-2, cuDNN, FlexAttention and this package's kernels all keep q, k, v, their output and a
    log-sum-exp per query and head.

    The backward sums dq, and dk and dv of grouped heads, in float32, as in flash-attn 4; other kernels need less.

    Args:
        size: bytes per element.
        queries, out: channels of the queries and of the output.
        keys: channels of keys and values that are projected.
        heads: of the queries.
        grouped: channels of keys and values that several queries share; 0 where none do.
    """
    packed = Term("q, k, v", size * (queries + keys))
    output = Term("attention output", size * out)
    lse = Term("log-sum-exp", FLOAT * heads)
    return Activations(
        saved=(packed, output, lse),
        forward=((Term("projected q, k, v", packed.per_token), packed), (packed, output, lse)),
        backward=(
            (
                Term("gradient of the output", output.per_token),
                Term("gradients of q, k, v", packed.per_token),
                Term("sums of dq in float32", FLOAT * queries),
                Term("sums of dk and dv in float32", FLOAT * grouped),
            ),
        ),
    )
