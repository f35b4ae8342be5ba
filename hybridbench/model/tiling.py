"""tiling: how the matrix products of a fused decode step are cut into programs."""

from __future__ import annotations

from dataclasses import dataclass

from hybridbench.sizes import FEW_TOKENS

PROGRAM_SHARED = 104 << 10
"""Bytes of shared memory of one program's stages. Two programs fit on a Hopper SM; one may be the next kernel's."""

TAIL_BYTES = 256 << 10
"""The parts of one tile, in float32, that its last program sums alone, at some 60 bytes a nanosecond."""


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
    def choose(cls, n_rows: int, k: int, n_sms: int, tokens: int = FEW_TOKENS, size: int = 2) -> Tiling:
        """A tiling by rules derived from searches on an H200 (``results/nvidia-h200/NOTES.md``).

        For a very wide product (the head) the tiling hardly matters. A wide product runs best with one program per SM,
        which leaves room for the programs of the next kernel. A narrow one is cut along K until every SM has work and
        no program has more than about a thousand columns; where an SM would have few loads in flight, each program
        loads more steps ahead.

        Args:
            n_rows, k: of the weights (n_rows, k).
            tokens: rows of x in a tile (``token_tile``).
            size: bytes of a weight. Of one byte twice as many columns or steps are loaded at a time, so that as many
                bytes are in flight; not of the head, whose first columns fill the registers already. Two warps convert
                a tile of 32 rows. And above 8 tokens all tiles have 32 rows, which ``mma`` multiplies: wgmma, which
                takes 64, reads a converted weight from registers, for which 16 tokens took 250 a thread and copies of
                8 bytes.
        """
        if tokens > FEW_TOKENS:
            return cls._for_many(n_rows, k, n_sms, tokens, size)
        twice, slim = 2 if size == 1 else 1, size == 1 and tokens > 8
        if n_rows >= 256 * n_sms:
            return cls(32 if slim else 64, 1, _dividing(k, 256), 4, 4)
        if n_rows >= 110 * n_sms and not slim:
            return cls(64, 1, _dividing(k, 128), 6, 4) if size == 1 else cls(128, 1, _dividing(k, 64), 4, 4)
        rows = 64 if n_rows <= k and k >= 4096 and not slim else 32
        block_k, tiles, splits = _dividing(k, 128 * twice), -(-n_rows // rows), 1
        enough = (1.25 if n_rows > k else 0.9) * n_sms
        while k // (2 * splits) >= 256 and (tiles * splits < enough or (n_rows <= k and k / splits > 1100)):
            splits *= 2
        if size == 1 and rows == 64:
            return cls(rows, splits, _dividing(k, 128), 6, 4)
        ahead = 3 * rows * block_k * size * tiles * splits / n_sms
        return cls(rows, splits, block_k, 6 if ahead < 30_000 else 4, 2 if size == 1 and tokens <= 8 else 4)

    @classmethod
    def _for_many(cls, n_rows: int, k: int, n_sms: int, tokens: int, size: int) -> Tiling:
        """Above 16 sequences: rules derived from searches on an H200 at 32, 64 and 128 tokens.

        - x comes from the L2 cache once per tile of rows. At 64 tokens 64 rows read as much of x as of weights, so wide
          products take 128 rows. At 128 tokens the sums of 64 rows fill the registers of four warps; only the head
          gains from more (167 us against 207). A tensor-core product of Hopper's takes 64 rows at least.
        - Parts of a split tile are summed by one program, so there are no more splits than leave every program an SM of
          its own (3072 x 2048 at 64 tokens: 2 splits 9.4 us, 3 splits 12.4), unless three in ten SMs had none (to 64
          tokens; of 128 two parts do not fit into registers), and fewer where a tile is large (``TAIL_BYTES``).
        - Four warps: at 128 tokens 8480 x 2048 took 24.6 us against 32.3 with eight, 2048 x 4096 12.7 against 20.9.
          Above 32 tokens as many stages as fit; up to there the next kernel's programs need the room.
        """
        rows = 128 if n_rows >= 256 * n_sms or (n_rows >= 110 * n_sms and tokens != 128) else 64
        block_k = _dividing(k, 128 if tokens <= 32 and rows == 64 else 64)
        tiles = -(-n_rows // rows)
        most = max(1, min(TAIL_BYTES // (rows * tokens * 4), k // max(256, block_k)))
        splits = max(1, min(most, n_sms // tiles))
        if tokens <= 64 and tiles * splits < 0.7 * n_sms:
            splits = min(most, splits + 1)
        stage = (rows * size + tokens * 2) * block_k
        alone = (tokens > 32 and tiles * splits <= n_sms) or tokens >= 256
        room = 2 * PROGRAM_SHARED - (16 << 10) if alone else PROGRAM_SHARED
        return cls(rows, splits, block_k, max(2, min(8, room // stage)), 4 if tokens <= 128 else 8)

    @property
    def constants(self) -> dict[str, int]:
        """What a kernel is compiled with, without its rows."""
        return {"SPLITS": self.splits, "BLOCK_K": self.block_k, "STAGES": self.stages}


def state_tiling(head_dim: int, d_state: int, *, whole: bool = False) -> Tiling:
    """How the update of a state (head_dim, d_state) is cut: ``rows`` of one head a program, 32 elements a thread.

    With 64 a thread an H200 moves 2.8 TB/s, with 32 it moves 3.3 to 3.6 (64 rows of 128 columns, 64 and 128
    sequences). So wider states have fewer rows.

    Args:
        whole: a program goes over its whole head, some rows after the other with the next ones in flight.
    """
    columns = power_of_two(d_state)
    rows = _dividing(head_dim, min(32 if whole else 64, max(1, 8 * 32 * 32 // columns)))
    warps = max(1, min(8, rows * columns // (32 * 32)))
    return Tiling(rows, 1, columns, 3, warps)


def token_tile(batch: int) -> int:
    """Rows of x in a tile: a power of two, at least the 8 of a tensor-core product."""
    return power_of_two(max(batch, 8))


def _dividing(k: int, block: int) -> int:
    """The largest power of two up to ``block`` that divides ``k``."""
    while k % block:
        block //= 2
    return block


def power_of_two(n: int) -> int:
    """The least power of two that is not smaller."""
    return 1 << (n - 1).bit_length()
