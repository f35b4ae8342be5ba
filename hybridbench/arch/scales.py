"""scales: the widths and numbers of blocks of every scale, from the paper's table 8, and where a block of one stands.

``SMALL`` are scales below the paper's, to train on one GPU in minutes or on a CPU. They follow one rule from a width w,
a multiple of 192, so that the paper's ways to compare hold: the feed-forward width is 3 w and d_inner 2 w, as at 100m;
6 query heads share 2 KV heads; 12 Transformer blocks have the parameters of 9 blocks with Mamba-2 within 2%. Hybrids
get the number of blocks that comes nearest, which is within 5% (7% at toy). Parameters without embedding are 140 w^2.

    scale   w     parameters without embedding
    5m      192    5.16 M
    20m     384   20.6 M
    50m     576   46.4 M
    toy      64    0.19 M, with 4 blocks or 3, one KV head and a state of 16
    2x64, 2x128    two blocks of width 64 or 128, for synthetic tasks
"""

from __future__ import annotations

from dataclasses import dataclass

from hybridbench.errors import unknown_name


@dataclass(frozen=True)
class Scale:
    """One column of the paper's table 8, with the intra-layer block's row of table 15.

    A hybrid block has ``intra_heads`` attention heads and ``intra_d_inner`` SSM channels (d_ssm); its query/key width
    is half of that (table 15's ratio 1:1 compares it with the width before expansion), its values keep d_model. Its SSM
    heads are ``intra_ssm_head_dim`` wide. Table 15 prints 16 of them at 1b, where d_ssm 2304 in the mixer's heads of
    128 makes 18; only 18 gives the paper's 51.05 TFLOP per sample.
    """

    d_model: int
    d_ff: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    transformer_layers: int
    mamba_layers: int
    d_inner: int
    ssm_head_dim: int
    d_state: int
    intra_heads: int
    intra_kv_heads: int
    intra_d_inner: int
    intra_ssm_head_dim: int
    vocab_size: int = 128_256
    chunk_size: int = 256


SCALES: dict[str, Scale] = {
    # tiny is ours: the 100m stack at an eighth of its width, for a laptop.
    "tiny": Scale(128, 384, 4, 2, 32, 8, 6, 256, 64, 64, 2, 1, 128, 64, vocab_size=2048, chunk_size=64),
    "100m": Scale(1024, 3072, 16, 4, 64, 8, 6, 2048, 128, 128, 8, 2, 1024, 128),
    "350m": Scale(1536, 4096, 24, 8, 64, 14, 11, 3072, 128, 128, 16, 4, 1536, 96),
    "1b": Scale(2048, 8192, 32, 8, 64, 16, 13, 4096, 128, 128, 16, 4, 2304, 128),
    "3b": Scale(3072, 8192, 32, 8, 96, 28, 21, 6144, 192, 256, 16, 4, 3072, 192),
}


def _small(width: int) -> Scale:
    """The scale of a width by the rule of ``SMALL``."""
    return Scale(
        width, 3 * width, 6, 2, width // 6, 12, 9, 2 * width, 64, 64, 3, 1, width, 64, vocab_size=4096, chunk_size=128
    )


def _two_blocks(width: int) -> Scale:
    """Two blocks of either kind, for synthetic tasks; as at ``SMALL``, with heads of 64 and SSM heads of 32."""
    heads = width // 64
    return Scale(
        width, 3 * width, heads, heads, 64, 2, 2, 2 * width, 32, 64, heads, heads, width, 32, 8192, chunk_size=64
    )


SMALL: dict[str, Scale] = {
    "2x64": _two_blocks(64),
    "2x128": _two_blocks(128),
    "toy": Scale(64, 192, 4, 1, 16, 4, 3, 128, 16, 16, 2, 1, 64, 16, vocab_size=320, chunk_size=64),
    "5m": _small(192),
    "20m": _small(384),
    "50m": _small(576),
}
"""Scales to learn at, in order of size. The vocabulary is the corpus's where there is one."""


def find_scale(name: str) -> Scale:
    """The scale of a name, whatever its case.

    Raises:
        BadInput: no such scale.
    """
    known = {**SCALES, **SMALL}
    if name.lower() not in known:
        raise unknown_name("scale", name, known)
    return known[name.lower()]


@dataclass(frozen=True)
class Site:
    """Where a block stands in a model of a scale: everything its dimensions follow from.

    Args:
        scale: of the model.
        d_inner: channels of a recurrent mixer.
        ssm_head_dim: channels of one of its heads.
        branch: it is a branch of a parallel block.
        qk_width: of attention as a branch, the width of queries and keys over all heads.
        window, sinks: of window attention, None for the paper's.
    """

    scale: Scale
    d_inner: int
    ssm_head_dim: int
    branch: bool = False
    qk_width: int = 0
    window: int | None = None
    sinks: int | None = None
