"""figures: the printed figures of the source paper's efficiency section (arXiv 2510.04800 v3), stack by stack at 1B.

Decode throughput and latency are from its table 13: one H200, 4 sequences, a prompt of 512 tokens, then token by token
to a total length. Throughput is 4 x (length - 512) / latency, which counts the tokens of all sequences. The paper does
not say whether the prefill counts, nor which engine or kernels ran. FLOPs of 60 billion training tokens and the cache
of one sequence at 8k are from table 9; caches at 16k and 32k are from table 12. Both exclude embedding and head. The
paper shows training step times and peak memories only in a figure, so they are not here.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace

from hybridbench.arch.families import Options, build_spec
from hybridbench.arch.model import ModelSpec

LENGTHS = (2048, 4096, 8192, 16384, 32768)
PROMPT, BATCH, SCALE = 512, 4, "1b"
TRAIN_CONTEXT = 8192
TRAIN_TOKENS = 60e9


@dataclass(frozen=True)
class Stack:
    """One row of the paper's tables.

    Args:
        name: the family, and its numbers of attention (global or hybrid) blocks and of other blocks.
        arch, ratio: the arguments with which ``arch.families`` builds it.
        tokens_per_s, latency_s: as printed, at each of ``LENGTHS``.
        train_flops: FLOPs of 60 billion tokens, as printed; None where the table has no such row.
        cache_mib: cache of one sequence by context in MiB, as printed.
        decode_misprint, train_misprint, cache_misprint: what is wrong with a printed figure, found by recomputing it.
    """

    name: str
    arch: str
    ratio: str | None
    tokens_per_s: tuple[int, int, int, int, int]
    latency_s: tuple[int, int, int, int, int]
    train_flops: float | None = None
    cache_mib: tuple[tuple[int, int], ...] = ()
    decode_misprint: str | None = None
    train_misprint: str | None = None
    cache_misprint: str | None = None

    @functools.cached_property
    def spec(self) -> ModelSpec:
        """The model."""
        return build_spec(self.arch, SCALE, Options(ratio=self.ratio))


def _cache(at_8k: int, at_16k: int | None = None, at_32k: int | None = None) -> tuple[tuple[int, int], ...]:
    return tuple((n, mib) for n, mib in zip((8192, 16384, 32768), (at_8k, at_16k, at_32k), strict=True) if mib)


STACKS: tuple[Stack, ...] = (
    Stack(
        *("transformer", "transformer", None, (373, 214, 115, 60, 30), (16, 67, 267, 1063, 4240)),
        *(4.5e20, _cache(256, 512, 1024)),
    ),
    Stack(
        *("swa 8+8", "swa", "1:1", (331, 244, 158, 93, 51), (19, 59, 195, 684, 2527), 3.8e20, _cache(137)),
        train_misprint="its own formula gives 4.05e20, and so does its FLOP-matched row, where table 9 prints 3.8e20",
    ),
    Stack("swa 4+12", "swa", "1:3", (343, 291, 219, 147, 89), (18, 49, 141, 432, 1443), 3.8e20, _cache(78)),
    Stack("swa 3+13", "swa", "1:5", (345, 302, 241, 173, 110), (18, 47, 127, 368, 1172), 3.8e20, _cache(63, 110, 207)),
    Stack("swa 1+15", "swa", "1:12", (354, 335, 307, 263, 204), (17, 43, 100, 241, 632)),
    Stack("swa 0+16", "swa", "0:1", (309, 308, 324, 308, 307), (20, 47, 95, 206, 420)),
    Stack("mamba", "mamba", None, (2528, 2647, 2738, 2782, 2917), (2, 5, 11, 23, 44), 3.7e20, _cache(13, 13, 13)),
    Stack("inter 7+7", "inter", "1:1", (669, 418, 241, 130, 68), (9, 34, 127, 489, 1903), 3.9e20, _cache(119)),
    Stack("inter 3+10", "inter", "1:3", (971, 722, 462, 272, 150), (6, 20, 67, 233, 860), 3.6e20, _cache(58)),
    Stack("inter 2+11", "inter", "1:5", (969, 828, 595, 373, 213), (6, 17, 52, 170, 605), 3.7e20, _cache(43, 75, 139)),
    Stack("inter 1+12", "inter", "1:12", (969, 859, 754, 546, 355), (6, 17, 41, 116, 363), 3.7e20, _cache(28)),
    Stack(
        *("intra 13+0", "intra", "1:0", (509, 326, 187, 101, 53), (12, 44, 164, 626, 2437), 4.2e20, _cache(180)),
        train_misprint="its own formula gives 4.10e20 where table 9 prints 4.2e20",
        cache_misprint="its own formula gives 170 MiB where table 9 prints 180",
    ),
    Stack(
        *("intra 7+6", "intra", "1:1", (708, 496, 308, 175, 95), (9, 29, 100, 363, 1355), 3.9e20, _cache(89)),
        decode_misprint="table 13 prints its counts in swapped order, 6 and 7 where the other tables have 7 and 6",
        cache_misprint="its own formula gives 98 MiB where table 9 prints 89",
    ),
    Stack(
        *("intra 3+10", "intra", "1:3", (1056, 795, 562, 360, 205), (6, 18, 55, 176, 630), 3.8e20, _cache(50)),
        decode_misprint="table 13 prints 2 and 10 blocks, which do not make 13; the other tables have 3 and 10",
    ),
    Stack("intra 2+11", "intra", "1:5", (1089, 918, 683, 464, 280), (6, 16, 45, 137, 461), 3.7e20, _cache(38, 63, 113)),
    Stack(
        *("intra 1+12", "intra", "1:12", (1325, 1184, 999, 739, 487), (5, 12, 31, 86, 265), 3.7e20, _cache(23)),
        cache_misprint="its own formula gives 25.5 MiB where table 9 prints 23",
    ),
)
"""All stacks, in the order of the paper's table 13."""

MAIN = ("transformer", "swa 3+13", "mamba", "inter 2+11", "intra 2+11")
"""The five stacks that the paper compares first: those with ratio 1:5, and the two without a ratio."""


def stack_of(model: ModelSpec) -> Stack | None:
    """The paper's row for a model, regardless of how its ratio was written; None where the paper has none."""
    if model.scale != SCALE:
        return None
    return next((stack for stack in STACKS if replace(model, ratio=stack.spec.ratio) == stack.spec), None)
