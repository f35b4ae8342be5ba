"""sizes: how large kernels and workloads make their buffers, where a formula needs the same number.

Kernel and formula read it here, so that a prediction cannot differ from what runs. A size that only a kernel needs
stays in the kernel's module.
"""

from __future__ import annotations

import math

ROW_ALIGNED = 8
"""Columns of bfloat16 in 16 bytes. A GPU's fast matrix products need rows that start on 16 bytes, so packed projections
over a sequence are padded to a multiple (``model.mixer.aligned_product``)."""

TRAIN_BATCHES = 4
"""Batches of tokens that a training run rotates through, so that no step repeats the last one's data."""

FUSED_STEP_BATCH = 256
"""The most sequences that a fused decode step holds in a tile: the columns of the largest tensor-core product of
Hopper's. With more, arithmetic bounds the products, and ordinary ones serve."""

FEW_TOKENS = 32
"""Up to as many sequences a fused step's products are held back by latency: their kernels hold in registers what they
can load before the one before has finished. Above, x takes as much room as weights: with 64 steps were no faster."""

LOSS_CHUNK_BYTES = 2 << 30
"""The logits of one chunk of the fused loss, in the input's dtype, stay under this.

At 128,256 words of width 2048 in bfloat16 and 32,768 tokens that makes four chunks of 8,192. Memory moves, beside the
three products: per chunk 2.1 GB of logits in and 2.1 GB of their gradient out, 1 ms at the 4.2 TB/s of an H200; for
the float32 sum of the weight's gradient 1.05 GB out, and in as well after the first chunk, 0.25 to 0.5 ms where the
product does not hide it, which is why chunks are few; in the end 1.6 GB to scale and round that sum, 0.4 ms. That is
some 6 ms in all."""

SELECTIVE_SCAN_CHUNK = 2048
"""Positions between the states that Mamba-1's scan keeps (mamba_ssm 2.3.2, ``selective_scan_fwd_kernel.cuh``)."""

E4M3_SINCE = (8, 9)
"""The compute capability from which kernels read and write E4M3."""

DEQUANTISED_ELEMENTS = 1 << 24
"""Codes of quantised weights, keys or values that modules turn into numbers at once (64 MiB in float32)."""

SCORE_ELEMENTS = 1 << 26
"""Attention scores that the reference implementation holds at once (256 MiB in float32); longer sequences go block by
block of queries."""

CHUNK_ELEMENTS = 1 << 25
"""Values of a scan's within-chunk decay matrix that a reference implementation holds at once (128 MiB in float32);
longer sequences go segment by segment."""

KDA_PLAIN_CHUNK = 16
"""Positions per chunk of the plain ``kda``, whose matrix of decays has a layer for every key channel."""

RWKV7_PLAIN_CHUNK = 16
"""Positions per chunk of the plain ``rwkv7``: decays of as many, which are above exp(-0.61 x 16), divide exactly
enough."""

QUERY_BLOCK = 256
"""Queries that go to the CPU's flash kernel at once where there is a window. Longer blocks meet more keys that most of
their queries do not see, shorter ones are more calls. Four heads of 32 over 2,048 tokens, a window of 512 and 64 sinks,
in ms on two cores, forward and with its backward: blocks of 64 16.3 and 50, of 128 13.7 and 43, of 256 11.6 and 33, of
512 13.2 and 36 (the reference: 34 and 122). 256 is best, or as good as any, with a window of 64 and at 16,384 too."""


def aligned(columns: int) -> int:
    """``columns`` rounded up so that the next row starts on 16 bytes too.

    >>> aligned(4882), aligned(4888)
    (4888, 4888)
    """
    return columns + -columns % ROW_ALIGNED


def rows_within(size: int, n_tokens: int, row_bytes: int) -> int:
    """The most tokens whose rows take at most ``size`` bytes: at least one, and a multiple of 64 from 64 on."""
    rows = max(1, size // row_bytes)
    return min(n_tokens, rows - rows % 64 if rows >= 64 else rows)


def loss_rows(n_tokens: int, row_bytes: int) -> int:
    """Tokens per chunk of the fused loss: as few, equal chunks as ``LOSS_CHUNK_BYTES`` allows, in multiples of 256.

    Equal chunks of whole tiles: 4,160 tokens are 16 tiles of 256 rows and a quarter of one.

    Args:
        row_bytes: bytes of one token's logits.
    """
    most = rows_within(LOSS_CHUNK_BYTES, n_tokens, row_bytes)
    even = math.ceil(n_tokens / math.ceil(n_tokens / most))
    return min(most, even + -even % 256)


def query_blocks(tokens: int, window: int | None, sinks: int) -> list[tuple[int, int]]:
    """The calls that ``kernels.attention`` makes for a sequence on a CPU: (queries, keys) of each.

    The first is causal: up to ``window + sinks`` positions everything before is visible. Every later one has a mask and
    reads the sinks and the window before its first query besides its own keys.

    >>> query_blocks(1000, 512, 64)
    [(576, 576), (256, 831), (168, 743)]
    """
    first = tokens if window is None else min(tokens, window + sinks)
    rows = [min(QUERY_BLOCK, tokens - start) for start in range(first, tokens, QUERY_BLOCK)]
    return [(first, first), *((n, n + first - 1) for n in rows)]
