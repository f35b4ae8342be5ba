"""reasons: why an operator counter's figure differs from the exact convention, computed from shapes and backends.

What the reference kernels and PyTorch's own execute is known to the product, so that on them nothing stays unexplained.
"""

from __future__ import annotations

from hybridbench.arch.block import Convention
from hybridbench.arch.blocks.attention import Attention
from hybridbench.arch.blocks.gated_delta import GatedDelta
from hybridbench.arch.blocks.kda import Kda
from hybridbench.arch.blocks.mamba2 import Mamba2
from hybridbench.arch.operations import operations
from hybridbench.arch.reasons import CHUNKED, SCAN_BACKWARD, SCORES_AGAIN, Reason
from hybridbench.arch.recurrent import Recurrent
from hybridbench.audit.views import FVCORE, summed
from hybridbench.count.by_operation import is_hidden, operation_of, scan_of
from hybridbench.kernels.attention.blocks import query_blocks
from hybridbench.kernels.attention.reference import SCORE_ELEMENTS
from hybridbench.kernels.plain import CHUNK_ELEMENTS
from hybridbench.model.build import Resolved
from hybridbench.suite.case import Case
from hybridbench.suite.workloads import DECODE, PREFILL, TRAIN

MASK = "causality: every query counted against every key it is multiplied with"
PADDED = "padding to whole chunks"
ONE_WIDTH = "queries and keys, or values, padded with zeros to the wider of both"
NO_PRODUCT = "elementwise part: no formula"
UNNEEDED = "gradients that one chunk does not need"
UNTRACED = "a last state that no output depends on is not traced"
DENSE = "depthwise-conv backward counted as a dense one"
FORWARD = "no backward: only a forward is traced"


def counter_reasons(case: Case, resolved: list[Resolved], counter: str) -> list[Reason]:
    """Why ``counter`` differs from ``exact``, of the whole batch.

    Args:
        counter: ``torch``, over the whole step, or ``fvcore``, over its forward.
    """
    work, batch = case.workload, case.workload.batch
    training = work.kind == TRAIN and counter != FVCORE
    found = []
    if work.kind == TRAIN and counter == FVCORE:
        for name, flops in operations(case.model, TRAIN, work.context).items():
            found.append(Reason(name, FORWARD, -2 * batch * flops // 3))
    for item in resolved:
        for reason in _of_kernel(item, case, training, counter):
            found.append(Reason(reason.operation, reason.text, batch * item.uses * reason.flops))
    return summed(found)


def _of_kernel(item: Resolved, case: Case, training: bool, counter: str) -> list[Reason]:
    """Of one sequence and one use of a kernel."""
    block, name = item.block, item.backend.name
    if isinstance(block, Attention) and item.op == "attention":
        return _attention(block, name, case, training)
    if isinstance(block, Mamba2):
        operation = operation_of(item.op, block)
        if is_hidden(item.backend):
            return _scan_kernels(item, block, case, training)
        if item.op == "ssd_step":
            return [Reason(operation, NO_PRODUCT, -3 * block.d_inner * block.d_state - 2 * block.d_inner)]
        if item.op == "conv1d_step":
            return [Reason(operation, NO_PRODUCT, -2 * block.d_conv * block.conv_channels)]
        found = []
        if item.op in ("ssd", "mamba2_core"):
            found += _reference_scan(block, case, training)
        if item.op in ("conv1d", "mamba2_core") and training:
            dense = 2 * block.d_conv * block.conv_channels * (block.conv_channels - 1) * case.workload.context
            found.append(Reason(f"{block.name} conv", DENSE, dense))
        return found
    if isinstance(block, Recurrent):
        return _other_mixer(item, block, case, training)
    return []


def _other_mixer(item: Resolved, block: Recurrent, case: Case, training: bool) -> list[Reason]:
    """The conv of another mixer, and its scan where that is counted by the ``hardware`` form registered for it."""
    operation, tokens = operation_of(item.op, block), case.workload.context
    if not is_hidden(item.backend) and case.workload.kind == DECODE:
        core = block.core_decode(0, Convention.EXACT)
        seen_by_none = {"conv": core.conv, "scan": core.scan}.get(operation.split()[-1], 0)
        return [Reason(operation, NO_PRODUCT, -seen_by_none)]
    if operation.endswith("conv") and not is_hidden(item.backend):
        dense = 2 * block.taps * sum(part * (part - 1) for part in _conv_parts(block)) * tokens
        return [Reason(operation, DENSE, dense)] if training else []
    if case.workload.kind == DECODE or not operation.endswith("scan") or not is_hidden(item.backend):
        return []
    work = TRAIN if training else PREFILL
    counted, exact = (
        block.operations(work, tokens, convention).get(operation, 0)
        for convention in (Convention.HARDWARE, Convention.EXACT)
    )
    return [Reason(operation, CHUNKED, counted - exact)]


def _conv_parts(block: Recurrent) -> tuple[int, ...]:
    """Channels of each convolution that a module runs: queries, keys and values of a delta rule apart."""
    if isinstance(block, GatedDelta):
        keys = block.n_k_heads * block.k_head_dim
        return keys, keys, block.out_width
    if isinstance(block, Kda):
        return (block.out_width,) * 3
    return (block.conv_channels,)


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
        Reason(scan, PADDED, times * (chunks * q - tokens) * per_token),
        Reason(scan, NO_PRODUCT, -times * tokens * 2 * inner),
        Reason(scan, UNNEEDED, -unneeded),
        Reason(scan, UNTRACED, -untraced),
    ]


def _scan_kernels(item: Resolved, block: Mamba2, case: Case, training: bool) -> list[Reason]:
    """Kernels counted by the closed form that is registered for them."""
    if case.workload.kind == DECODE or item.op not in ("ssd", "mamba2_core"):
        return []
    kernels = scan_of(block, item.backend.name, case.workload.batch)
    tokens, scan = case.workload.context, f"{block.name} scan"
    exact = block.core_prefill(tokens, Convention.EXACT).scan
    forward = sum(kernels.flops(tokens, training=False).values())
    times = 3 if training else 1
    found = [Reason(scan, CHUNKED, times * (forward - exact))]
    if training:
        both = sum(kernels.flops(tokens, training=True).values())
        found.append(Reason(scan, SCAN_BACKWARD, both - 3 * forward))
    return found
