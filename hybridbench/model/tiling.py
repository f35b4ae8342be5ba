"""tiling: how the matrix products of a fused decode step are cut into programs."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Tiling:
    """How one product is cut.

    Attributes:
        rows: rows of weights per program.
        splits: programs along K.
        block_k: columns per step of the loop.
        stages: steps whose loads are in flight.
        warps: warps per program.
    """

    rows: int
    splits: int
    block_k: int
    stages: int
    warps: int

    @classmethod
    def choose(cls, n_rows: int, k: int, n_sms: int) -> Tiling:
        """A tiling by rules derived from searches on an H200 (``results/nvidia-h200/NOTES.md``).

        For a very wide product (the head) the tiling hardly matters. A wide product runs best with one program per SM,
        which leaves room for the programs of the next kernel. A narrow one is cut along K until every SM has work and
        no program has more than about a thousand columns; where an SM would have few loads in flight, each program
        loads more steps ahead.
        """
        if n_rows >= 256 * n_sms:
            return cls(64, 1, _dividing(k, 256), 4, 4)
        if n_rows >= 110 * n_sms:
            return cls(128, 1, _dividing(k, 64), 4, 4)
        rows = 64 if n_rows <= k and k >= 4096 else 32
        block_k, tiles, splits = _dividing(k, 128), -(-n_rows // rows), 1
        enough = (1.25 if n_rows > k else 0.9) * n_sms
        while k // (2 * splits) >= 256 and (tiles * splits < enough or (n_rows <= k and k / splits > 1100)):
            splits *= 2
        ahead = 3 * rows * block_k * 2 * tiles * splits / n_sms
        return cls(rows, splits, block_k, 6 if ahead < 30_000 else 4, 4)

    @property
    def constants(self) -> dict[str, int]:
        """What a kernel is compiled with, without its rows."""
        return {"SPLITS": self.splits, "BLOCK_K": self.block_k, "STAGES": self.stages}


def _dividing(k: int, block: int) -> int:
    """The largest power of two up to ``block`` that divides ``k``."""
    while k % block:
        block //= 2
    return block


def power_of_two(n: int) -> int:
    """The least power of two that is not smaller."""
    return 1 << (n - 1).bit_length()
