"""tiling: how the matrix products of a fused decode step are cut into programs."""

from __future__ import annotations

from dataclasses import dataclass

from hybridbench.sizes import FEW_TOKENS

SM_SHARED = 228 << 10
"""Bytes of shared memory of a Hopper SM. A program takes 1 KiB more than it asks for."""

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
    def choose(cls, n_rows: int, k: int, n_sms: int, tokens: int, size: int = 2) -> Tiling:
        """A tiling by rules derived from searches on an H200 (``results/nvidia-h200/NOTES.md``).

        For a very wide product (the head) the tiling hardly matters. A wide product runs best with one program per SM,
        which leaves room for the programs of the next kernel; of 3,072 columns and more 64 rows a program were faster
        (16384 x 3072, 8 tokens: 25.2 us against 27.2 with 128). A narrow one is cut along K until every SM has work and
        no program has more than about a thousand columns; where an SM would have few loads in flight, each program
        loads more steps ahead.

        Args:
            n_rows, k: of the weights (n_rows, k).
            tokens: rows of x in a tile (``token_tile``).
            size: bytes of a weight. Of one byte twice as many columns or steps are loaded at a time, so that as many
                bytes are in flight; not of the head, whose first columns fill the registers already. Two warps convert
                a tile of 32 rows. And above 8 tokens tiles have 32 rows, which ``mma`` multiplies, or 64 of two warps:
                wgmma, which takes 64 of four, reads a converted weight from registers, for which 16 tokens took 250 a
                thread and copies of 8 bytes.
        """
        if tokens > (16 if size == 1 else FEW_TOKENS):
            return cls._for_many(n_rows, k, n_sms, tokens, size)
        if tokens > 8 and size > 1:
            return cls._for_dozens(n_rows, k, n_sms)
        twice, slim = 2 if size == 1 else 1, tokens > 8  # of codes alone: other weights' tilings are above
        if n_rows >= 256 * n_sms:
            return cls(64, 1, _dividing(k, 256), *((3, 2) if slim else (4, 4)))
        if n_rows >= 90 * n_sms and k >= 3072 and size > 1:
            return cls(64, 1, _dividing(k, 128), 6, 4)
        if n_rows >= 110 * n_sms and not slim:
            return cls(64, 1, _dividing(k, 128), 6, 4) if size == 1 else cls(128, 1, _dividing(k, 64), 4, 4)
        rows = 64 if n_rows <= k and (k >= 4096 or n_rows >= 3072) and not slim else 32
        block_k, tiles, splits = _dividing(k, 128 * twice), -(-n_rows // rows), 1
        enough = (1.25 if n_rows > k else 0.9) * n_sms
        while k // (2 * splits) >= 256 and (tiles * splits < enough or (n_rows <= k and k / splits > 1100)):
            splits *= 2
        if size == 1 and rows == 64:
            return cls(rows, splits, _dividing(k, 128), 6, 4)
        ahead = 3 * rows * block_k * size * tiles * splits / n_sms
        return cls(rows, splits, block_k, 6 if ahead < 30_000 else 4, 2 if size == 1 else 4)

    @classmethod
    def _for_dozens(cls, n_rows: int, k: int, n_sms: int) -> Tiling:
        """9 to 32 sequences: rules derived from searches on H200s at 350m, 1b and 3b.

        Tiles of 64 rows, which wgmma multiplies, took least: of 16 tokens 2560 x 1536 4.9 us against 6.0 with 32 rows,
        16384 x 3072 25.0 against 27.7 with 128. The head at 350m took 100 with 64 columns and eight stages, 111 with
        256 and four.

        An SM has room for one program of five stages. With a few more programs than SMs some would wait for a whole
        one. Then a product is cut into fewer parts, if those have no more than about a thousand columns (of 32 tokens
        2560 x 1536 took 9.0 us in four parts and 5.8 in three, and steps at 350m 3 to 5% less), or loads fewer columns
        at a time (8480 x 2048 15.4 us with 128, 13.7 with 64), so that two programs fit. With many more three stages
        suffice.
        """
        if n_rows >= 256 * n_sms:
            return cls(64, 1, _dividing(k, 64), 8, 4)
        block_k, tiles = _dividing(k, 128), -(-n_rows // 64)
        splits = max(1, min(4, 3 * n_sms // (2 * tiles), k // max(256, block_k)))
        at_once = n_sms // tiles
        if splits > at_once and tiles * at_once >= 0.7 * n_sms and k <= 1024 * at_once:
            return cls(64, at_once, block_k, 5, 4)
        programs = tiles * splits
        if n_sms < programs <= 1.4 * n_sms:
            return cls(64, splits, min(64, block_k), 6, 4)
        return cls(64, splits, block_k, 3 if programs > n_sms else 5, 4)

    @classmethod
    def _for_many(cls, n_rows: int, k: int, n_sms: int, tokens: int, size: int) -> Tiling:
        """Above 32 sequences, and of codes above 16: rules derived from searches on an H200 at 32, 64 and 128 tokens.

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
        stage = stage_bytes(rows, block_k, tokens, size)
        alone = (tokens > 32 and tiles * splits <= n_sms) or tokens >= 256
        room = 2 * PROGRAM_SHARED - (16 << 10) if alone else PROGRAM_SHARED
        return cls(rows, splits, block_k, max(2, min(8, room // stage)), 4 if tokens <= 128 else 8)

    def room_beside(self, programs: int, n_sms: int, tokens: int, size: int = 2) -> int:
        """Bytes of shared memory that so many programs of a product leave on the SM that has the most of them.

        Args:
            tokens, size: as of ``choose``.
        """
        return SM_SHARED - -(-programs // n_sms) * (self.shared_bytes(tokens, size) + 1024)

    def shared_bytes(self, tokens: int, size: int) -> int:
        """Bytes of shared memory of a program; of codes, some of which wait in registers, up to 1.3 times that.

        Of 9 to 32 tokens wgmma reads the first columns from there too.
        """
        stages = self.stages + first_shared(self.rows, tokens, size)
        return stages * stage_bytes(self.rows, self.block_k, tokens, size)

    @property
    def constants(self) -> dict[str, int]:
        """What a kernel is compiled with, without its rows."""
        return {"SPLITS": self.splits, "BLOCK_K": self.block_k, "STAGES": self.stages}


def state_tiling(head_dim: int, d_state: int, *, whole: bool = False) -> Tiling:
    """How the update of a state (head_dim, d_state) is cut: ``rows`` of one head a program, 32 elements a thread.

    With 64 a thread an H200 moves 2.8 TB/s, with 32 it moves 3.3 to 3.6 (64 rows of 128 columns, 64 and 128
    sequences). So wider states have fewer rows. Of 256 columns four warps take 16 rows, 106 us a launch at 3b with 64
    sequences, where eight warps took 124 with 32.

    Args:
        whole: a program goes over its whole head, some rows after the other with the next ones in flight.
    """
    columns = power_of_two(d_state)
    most = 8 if whole or columns <= 128 else 4
    rows = _dividing(head_dim, min(32 if whole else 64, max(1, most * 32 * 32 // columns)))
    warps = max(1, min(most, rows * columns // (32 * 32)))
    return Tiling(rows, 1, columns, 3, warps)


def stage_bytes(rows: int, block_k: int, tokens: int, size: int) -> int:
    """Bytes of one stage of a product: ``rows`` of weights of ``size`` bytes, and ``tokens`` of x of two bytes, of
    ``block_k`` columns.
    """
    return (rows * size + tokens * 2) * block_k


def first_shared(rows: int, tokens: int, size: int) -> int:
    """Stages that the first columns of weights take beside those of the loop: 1 where wgmma multiplies what was loaded
    into registers before the wait, else 0.
    """
    return int(8 < tokens <= FEW_TOKENS and rows >= 64 and size > 1)


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
