"""reasons: why an operator counter's figure differs from the exact convention, computed from shapes and backends.

What the reference kernels and PyTorch's own kernels execute is known exactly, so with them nothing is unexplained.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hybridbench.arch.block import Convention, Mixer
from hybridbench.arch.blocks.attention import Attention
from hybridbench.arch.blocks.mamba2 import Mamba2
from hybridbench.arch.operations import operations
from hybridbench.arch.reasons import CHUNKED, SCAN_BACKWARD, SCORES_AGAIN, Reason
from hybridbench.audit.exchange import Ran
from hybridbench.audit.judge.views import summed
from hybridbench.count.account import FVCORE
from hybridbench.sizes import CHUNK_ELEMENTS, SCORE_ELEMENTS, query_blocks
from hybridbench.suite.case import Case
from hybridbench.suite.ops import block_uses
from hybridbench.suite.workloads import DECODE, TRAIN

MASK = "causality: every query counted against every key it is multiplied with"
CHUNK_PADDING = "padding to whole chunks"
ONE_WIDTH = "queries and keys, or values, padded with zeros to the wider of both"
NO_PRODUCT = "elementwise part: no formula"
UNNEEDED = "gradients that one chunk does not need"
UNTRACED = "a last state that no output depends on is not traced"
DENSE = "depthwise-conv backward counted as a dense one"
FORWARD = "no backward: only a forward is traced"


def counter_reasons(case: Case, kernels: Sequence[Ran], counter: str) -> list[Reason]:
    """Why ``counter`` differs from ``exact``, of the whole batch.

    Args:
        case: what was counted.
        kernels: what ran in it.
        counter: ``torch``, over the whole step, or ``fvcore``, over its forward.
    """
    work, batch = case.workload, case.workload.batch
    training = work.kind == TRAIN and counter != FVCORE
    found = []
    if work.kind == TRAIN and counter == FVCORE:
        for name, flops in operations(case.model, TRAIN, work.context).items():
            found.append(Reason(name, FORWARD, -2 * batch * flops // 3))
    blocks = [block for block, _ in block_uses(case.model)]
    for ran in kernels:
        for reason in _of_kernel(ran, None if ran.block is None else blocks[ran.block], case, training):
            found.append(Reason(reason.operation, reason.text, batch * ran.uses * reason.flops))
    return summed(found)


def _of_kernel(ran: Ran, block: Any, case: Case, training: bool) -> list[Reason]:
    """Of one sequence and one use of a kernel."""
    part = ran.operation.rpartition(" ")[2]
    if ran.op == "attention":
        return _attention(block, ran.backend, case, training)
    if case.workload.kind == DECODE:
        return [] if ran.hidden else _plain_step(ran, block, part)
    if ran.hidden:
        return _closed_form(ran, block, case, training) if part == "scan" else []
    found = _reference_scan(block, case, training) if ran.op in ("ssd", "mamba2_core") else []
    if training and (part == "conv" or ran.op == "mamba2_core"):
        found.append(_dense_conv(block, case.workload.context))
    return found


def _plain_step(ran: Ran, block: Mixer, part: str) -> list[Reason]:
    """A decode step operator by operator, of which only what is written as a product is counted."""
    if part not in ("conv", "scan"):
        return []
    core = block.core_decode(0, Convention.EXACT)
    missed = {"conv": core.conv, "scan": core.scan}[part] - _products_of_step(ran.op, block)
    return [Reason(ran.operation, NO_PRODUCT, -missed)]


def _products_of_step(op: str, block: Any) -> int:
    """What of a step is written as a product: reading Mamba-2's state."""
    return 2 * block.d_inner * block.d_state if op == "ssd_step" else 0


def _dense_conv(block: Mixer, tokens: int) -> Reason:
    dense = 2 * block.taps * sum(channels * (channels - 1) for channels in block.conv_parts) * tokens
    return Reason(f"{block.name} conv", DENSE, dense)


def _closed_form(ran: Ran, block: Mixer, case: Case, training: bool) -> list[Reason]:
    """A scan counted by the closed form of what its kernels execute (``Block.kernel_flops``)."""
    tokens = case.workload.context
    forward, both = (
        block.executed_scan(tokens, training=way, sequences=case.workload.batch, one_pass=ran.one_pass)
        for way in (False, True)
    )
    exact = block.core_prefill(tokens, Convention.EXACT).scan
    found = [Reason(ran.operation, CHUNKED, (3 if training else 1) * (forward - exact))]
    return [*found, Reason(ran.operation, SCAN_BACKWARD, both - 3 * forward)] if training else found


def _attention(block: Attention, backend: str, case: Case, training: bool) -> list[Reason]:
    tokens, core = case.workload.context, f"{block.name} core"
    both = 2 * block.n_heads * (block.head_dim + block.v_head_dim)
    times = 3 if training else 1
    if backend == "reference":
        covered, blocks = reference_pairs(block, case.workload.batch, tokens)
        once_more = blocks > 1  # checkpointed, and computed again up to the last tensor that was to be kept
    elif backend == "sdpa-blocks":
        covered = sum(queries * keys for queries, keys in query_blocks(tokens, block.window, block.sinks))
        once_more = True
    else:
        covered = tokens * tokens
        once_more = backend != "sdpa-math"
    again = 2 * block.n_heads * block.head_dim * covered if training and once_more else 0
    padding = 0
    if backend == "sdpa-blocks":  # two products forward, five backward, all as wide as the wider side
        width = max(block.head_dim, block.v_head_dim)
        padding = 2 * width - block.head_dim - block.v_head_dim
        padding += 5 * width - 3 * block.head_dim - 2 * block.v_head_dim if training else 0
    return [
        Reason(core, MASK, times * both * (covered - block.pairs(tokens))),
        Reason(core, SCORES_AGAIN, again),
        Reason(core, ONE_WIDTH, 2 * block.n_heads * covered * padding),
    ]


def reference_pairs(block: Attention, batch: int, tokens: int) -> tuple[int, int]:
    """Pairs that ``reference.attention`` multiplies, of one sequence and head, and its blocks of queries."""
    span = block.span
    seen = tokens if span is None else min(tokens, span)
    rows = max(16, SCORE_ELEMENTS // (batch * block.n_heads * seen))
    if span is not None:
        rows = min(rows, max(128, seen // 4))
    firsts = range(0, tokens, rows)
    pairs = 0
    for first in firsts:
        last = min(first + rows, tokens)
        start = 0 if block.window is None else max(0, first - block.window + 1)
        pairs += (last - first) * (last - start + min(block.sinks, start))
    return pairs, len(firsts)


def _reference_scan(block: Mamba2, case: Case, training: bool) -> list[Reason]:
    """``reference.ssd``: full chunks, one product each for scores, outputs, added states and states read."""
    tokens, batch, scan = case.workload.context, case.workload.batch, f"{block.name} scan"
    q, n, inner = block.chunk_size, block.d_state, block.d_inner
    state = 2 * n * inner
    per_token = 2 * q * (n * block.n_groups + inner) + 2 * state
    times = 3 if training else 1
    chunks = -(-tokens // q)
    piece = max(1, CHUNK_ELEMENTS // (batch * block.n_heads * q * q))
    last = chunks % piece or min(piece, chunks)
    unneeded = untraced = 0
    if training and last == 1:
        unneeded += 2 * state * q  # the last chunk's states are added to nothing
    if training and min(piece, chunks) == 1:
        unneeded += state * q  # the first chunk reads a state that has no gradient
    if case.workload.kind == TRAIN and not training and last == 1:
        untraced = state * q
    recurrence = 5 * inner * n
    return [
        Reason(scan, CHUNKED, times * tokens * (per_token - recurrence)),
        Reason(scan, CHUNK_PADDING, times * (chunks * q - tokens) * per_token),
        Reason(scan, NO_PRODUCT, -times * tokens * 2 * inner),
        Reason(scan, UNNEEDED, -unneeded),
        Reason(scan, UNTRACED, -untraced),
    ]
