"""ssd_kernels: what the kernels of Mamba-2's scan execute on tensor cores, kernel by kernel.

``OnePass`` is this package's scan (``kernels.scan.triton_ssd``), which a GPU uses if ``fits_one_pass``; ``Chunked`` is
mamba_ssm's. S is the number of channels of a head that one program of ours holds, N the number of states, and blocks
have 64 tokens. The 64 x 64 products inside a block are computed in full and then masked. Of states wider than
``MOST_STATES`` each kernel runs once for each piece.

    scan_forward_kernel     C B^T over N, C state, 64 x S over N, (C B^T o L) x, 64 x S over 64, x^T B, S x N over 64
    scan_reverse_kernel     dy^T C, S x N over 64
    scan_d_x_kernel         x dy^T over S, B dstate, 64 x S over N, (C B^T o L)^T dy; and C B^T once for some heads
    scan_d_b_kernel         x dstate, 64 x N over S; and the gradient of C B^T by C once for some heads
    scan_d_c_kernel         C state again, dy state, 64 x N over S; and the gradient of C B^T by B once for some heads

Mamba_ssm's are read from ``ops/triton/ssd_combined.py`` of mamba_ssm 2.3.2 and the kernels it launches, loop bounds and
all. With Q the chunk, P channels of a head, and per chunk:

    _bmm_chunk_fwd          C B^T, Q x Q over N, all of it, per group; again in the backward
    _chunk_state_fwd        B^T (decay dt x), P x N over Q; again in the backward
    _chunk_scan_fwd         C states, Q x P over N, and (C B^T o L) x, Q x P over the columns up to a row's own tile
    _chunk_scan_bwd_dstates dy^T C, P x N over Q
    ..._bwd_dx              B dstates, Q x P over N, and (C B^T o L)^T dy, Q x P over the rows from a column's tile on
    _chunk_state_bwd_db, _chunk_scan_bwd_dc      Q x N over P
    _chunk_scan_bwd_dcb, ..._bwd_ddAcs_stable    dy x^T, the tiles of Q x Q that the diagonal touches or that lie below
    _bmm_chunk_bwd          twice, for B and for C: Q x N over Q, per group

There rows and columns are rounded up to tiles, and an inner dimension that a kernel takes in one piece to a power of
two. The loops of a last, short chunk end with the sequence; its rows do not. Which tiles run is autotuned, so they are
an argument.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

BLOCK_TOKENS = 64
"""Tokens a step of the scan in one pass: as short as a tensor core's tile allows, since work inside a block grows with
its square."""
SLICE, LEAST_SLICE = 64, 32
"""Channels of a head that one program holds at a time: with 128 channels of state that is 64 registers a thread of four
warps, so that two programs have room on an SM. At least ``LEAST_SLICE`` where ``SLICE`` does not divide a head."""
MOST_STATES, MOST_PIECES = 128, 2
"""The most channels of state that a program has room for, and the most pieces in which wider states are scanned."""
PROGRAMS = 256
"""Programs of a gradient's kernel below which heads are divided among more of them."""

DEFAULT_TILE = (64, 64, 32)
"""Rows, columns and inner dimension of a tile if the autotuned one is not given."""

Tiles = Mapping[str, tuple[int, int, int]]
"""By kernel: BLOCK_SIZE_M, _N and _K (or _CS) of its Triton configuration; 0 where it has none."""

BMM, BMM_BACKWARD = "_bmm_chunk_fwd_kernel", "_bmm_chunk_bwd_kernel"
STATE, SCAN = "_chunk_state_fwd_kernel", "_chunk_scan_fwd_kernel"
D_STATES, DX = "_chunk_scan_bwd_dstates_kernel", "_chunk_scan_chunk_state_bwd_dx_kernel"
DB, DC = "_chunk_state_bwd_db_kernel", "_chunk_scan_bwd_dc_kernel"
D_CB, DD_A = "_chunk_scan_bwd_dcb_kernel", "_chunk_scan_bwd_ddAcs_stable_kernel"
KERNELS = (BMM, STATE, SCAN, D_STATES, DX, DB, DC, D_CB, DD_A, BMM_BACKWARD)


def power_of_two(size: int) -> int:
    """The power of two from 16 up that holds ``size``."""
    return max(16, 1 << (size - 1).bit_length())


def up(size: int, block: int) -> int:
    """``size`` rounded up to whole blocks."""
    return -(-size // block) * block


def state_pieces(state: int) -> int:
    """In how many pieces this package's scan goes over ``state`` states, one after the other.

    The scan is linear in C B^T and in the state, so that outputs and gradients of the pieces add up.
    """
    return max(1, state // MOST_STATES)


def fits_one_pass(head: int, state: int) -> bool:
    """Whether the scan in one pass has tiles for heads of ``head`` channels and ``state`` states."""
    return math.gcd(head, SLICE) >= LEAST_SLICE and 16 <= state <= MOST_STATES and state & (state - 1) == 0


def fits_in_pieces(head: int, state: int, groups: int) -> bool:
    """The same of wider states, one pass for each piece. All heads share B and C, so that a piece is a block of their
    columns.
    """
    whole = 1 < state_pieces(state) <= MOST_PIECES and state % MOST_STATES == 0
    return whole and groups == 1 and fits_one_pass(head, MOST_STATES)


def heads_together(shared: int, programs: int) -> int:
    """Heads that a program of a gradient takes of the ``shared`` ones on one B and C: fewer where there is little else
    to do at once.

    Args:
        programs: how many there would be if each took all.
    """
    heads = shared
    while heads % 2 == 0 and programs * (shared // heads) < PROGRAMS:
        heads //= 2
    return heads


@dataclass(frozen=True)
class OnePass:
    """One sequence's scan by this package's kernels.

    Args:
        sequences: of the batch that runs at once.
    """

    n_heads: int
    n_groups: int
    head: int
    state: int
    sequences: int = 1

    def flops(self, tokens: int, training: bool) -> dict[str, int]:
        """Tensor-core FLOPs by kernel."""
        blocks, inside = -(-tokens // BLOCK_TOKENS), BLOCK_TOKENS * BLOCK_TOKENS
        across = BLOCK_TOKENS * self.state * math.gcd(self.head, SLICE)  # a block's tokens by states by channels
        slices = self.n_heads * self.head // math.gcd(self.head, SLICE)
        scores = inside * self.state
        mixing = inside * math.gcd(self.head, SLICE) * state_pieces(self.state)
        found = {"scan_forward_kernel": slices * (scores + mixing + 2 * across)}
        if training:
            programs = self.sequences * self.n_groups * blocks
            shares = self.n_heads // heads_together(self.n_heads // self.n_groups, programs)
            found |= {
                "scan_reverse_kernel": slices * across,
                "scan_d_x_kernel": slices * (across + 2 * mixing) + shares * scores,
                "scan_d_b_kernel": slices * across + shares * scores,
                "scan_d_c_kernel": slices * 2 * across + shares * scores,
            }
        return {kernel: 2 * blocks * products for kernel, products in found.items()}

    def elementwise(self, tokens: int, training: bool) -> int:
        """FLOPs outside products: states decayed from block to block, their gradients and these by the states, D, and
        sums over the pieces of wide states.
        """
        passes = -(-tokens // BLOCK_TOKENS) * self.n_heads * self.head * self.state
        channels = tokens * self.n_heads * self.head
        skip, sums = 2 * channels, (state_pieces(self.state) - 1) * channels
        return passes + skip + sums + (3 * passes + 2 * skip + sums if training else 0)


@dataclass(frozen=True)
class Chunked:
    """One sequence's scan by mamba_ssm's kernels.

    Args:
        tiles: what autotuning took; ``DEFAULT_TILE``, or less where the matrix is smaller, for other kernels.
    """

    n_heads: int
    n_groups: int
    head: int
    state: int
    chunk: int
    tiles: Tiles

    def flops(self, tokens: int, training: bool) -> dict[str, int]:
        """Tensor-core FLOPs by kernel, all launches of a step together."""
        found: dict[str, int] = {}
        full, rest = divmod(tokens, self.chunk)
        for length, times in ((self.chunk, full), (rest, 1)):
            if length and times:
                for kernel, product in self._chunk(length, training).items():
                    per_group = kernel in (BMM, BMM_BACKWARD)
                    units = self.n_groups if per_group else self.n_heads
                    found[kernel] = found.get(kernel, 0) + 2 * times * units * product
        return found

    def elementwise(self, tokens: int, training: bool) -> int:
        """FLOPs outside products: states passed from chunk to chunk, and D; twice more backward."""
        inner = self.n_heads * self.head
        passes = -(-tokens // self.chunk) * 2 * self.state * inner
        return (3 if training else 1) * (passes + 2 * tokens * inner)

    def _chunk(self, length: int, training: bool) -> dict[str, int]:
        """Multiply-adds of one chunk that holds ``length`` tokens, of one head or group."""
        chunk, head, state = self.chunk, self.head, self.state
        found = {
            BMM: self._whole(BMM, chunk, chunk, state),
            STATE: self._whole(STATE, head, state, length),
            SCAN: self._masked(SCAN, length, backward=False),
        }
        if not training:
            return found
        return {
            BMM: 2 * found[BMM],
            STATE: 2 * found[STATE],
            SCAN: found[SCAN],
            D_STATES: self._whole(D_STATES, head, state, length),
            DX: self._masked(DX, length, backward=True),
            DB: self._in_one_piece(DB),
            DC: self._in_one_piece(DC),
            D_CB: self._below(D_CB, clipped=True),
            DD_A: self._below(DD_A, clipped=False),
            BMM_BACKWARD: 2 * self._whole(BMM_BACKWARD, chunk, state, length),
        }

    def _tile(self, kernel: str, *sizes: int) -> tuple[int, int, int]:
        known = self.tiles.get(kernel, (0, 0, 0))
        m, n, k = (
            given or min(block, power_of_two(size))
            for given, block, size in zip(known, DEFAULT_TILE, sizes, strict=True)
        )
        return m, n, k

    def _whole(self, kernel: str, rows: int, columns: int, inner: int) -> int:
        m, n, k = self._tile(kernel, rows, columns, inner)
        return up(rows, m) * up(columns, n) * up(inner, k)

    def _in_one_piece(self, kernel: str) -> int:
        """Q x N over P."""
        m, n, _ = self._tile(kernel, self.chunk, self.state, self.head)
        return up(self.chunk, m) * up(self.state, n) * power_of_two(self.head)

    def _masked(self, kernel: str, length: int, backward: bool) -> int:
        """Q x P over N, and over the positions that a row's tile sees: up to its end, or from its start on."""
        m, n, k = self._tile(kernel, self.chunk, self.head, self.chunk)
        whole = power_of_two(self.state)
        states = up(self.chunk, m) * (whole if whole <= 128 else up(self.state, k))
        rows = range(0, self.chunk, m)
        seen = (max(0, length - row) if backward else min(row + m, length) for row in rows)
        return up(self.head, n) * (states + m * sum(up(inner, k) for inner in seen))

    def _below(self, kernel: str, clipped: bool) -> int:
        """Tiles of Q x Q over P that start before their row's end; those beyond the chunk only where not clipped."""
        m, n, _ = self._tile(kernel, self.chunk, self.chunk, self.head)
        most = up(self.chunk, n)
        columns = (up(row + m, n) for row in range(0, self.chunk, m))
        return m * sum(min(most, column) if clipped else column for column in columns) * power_of_two(self.head)
