"""reasons: why an operator counter's figure differs from the exact convention, computed from shapes and backends.

What the reference kernels and PyTorch's own kernels execute is known exactly, so with them nothing is unexplained.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hybridbench.arch.block import Convention, Mixer
from hybridbench.arch.blocks.attention import Attention
from hybridbench.arch.blocks.rwkv7 import Rwkv7
from hybridbench.arch.operations import operations
from hybridbench.arch.reasons import CHUNKED, SCAN_BACKWARD, SCORES_AGAIN, Reason
from hybridbench.audit.exchange import RanOperation
from hybridbench.audit.judge.views import summed
from hybridbench.count.account import FVCORE, REST
from hybridbench.sizes import SCORE_ELEMENTS, query_blocks
from hybridbench.suite.case import Case
from hybridbench.suite.ops import block_uses
from hybridbench.suite.workloads import DECODE, TRAIN

MASK = "causality: every query counted against every key it is multiplied with"
CHUNK_PADDING = "padding to whole chunks"
ONE_WIDTH = "queries and keys, or values, padded with zeros to the wider of both"
NO_PRODUCT = "elementwise part: no formula"
UNNEEDED = "gradients of the first state, which is constant, and through the last state, which nothing depends on"
SYSTEMS = "gradients of triangular systems, whose solution has no formula"
UNTRACED = "a last state that no output depends on is not traced"
DENSE = "depthwise-conv backward counted as a dense one"
LAYER_NORM = "a LayerNorm, which only this counter counts"
FORWARD = "no backward: only a forward is traced"


def counter_reasons(case: Case, kernels: Sequence[RanOperation], counter: str) -> list[Reason]:
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
        block = None if ran.block is None else blocks[ran.block]
        reasons = _of_kernel(ran, block, case, training)
        if isinstance(block, Rwkv7) and ran.op == "rwkv7_output" and counter == FVCORE and not ran.hidden:
            reasons.append(Reason(REST, LAYER_NORM, _layer_norm(block, case)))
        found += [Reason(reason.operation, reason.text, batch * ran.uses * reason.flops) for reason in reasons]
    return summed(found)


def _of_kernel(ran: RanOperation, block: Any, case: Case, training: bool) -> list[Reason]:
    """The reasons of one use of a kernel, over one sequence."""
    part = ran.operation.rpartition(" ")[2]
    if ran.op == "attention":
        return _attention(block, ran.backend, case, training)
    if case.workload.kind == DECODE:
        return [] if ran.hidden else _plain_step(ran, block, part)
    if ran.hidden:
        return _closed_form(ran, block, case, training) if part == "scan" else []
    found = _plain_scan(block, case, training) if part == "scan" else []
    if training and (part == "conv" or ran.op == "mamba2_core"):
        found.append(_dense_conv(block, case.workload.context))
    return found


def _layer_norm(block: Rwkv7, case: Case) -> int:
    """What fvcore counts of the LayerNorm at the end of RWKV-7, which is called without weights: 4 a channel."""
    positions = 1 if case.workload.kind == DECODE else case.workload.context
    return 4 * positions * block.n_heads * block.head_dim


def _plain_step(ran: RanOperation, block: Mixer, part: str) -> list[Reason]:
    """The reasons of a decode step that runs operator by operator: only its matrix products are counted."""
    if part not in ("conv", "scan"):
        return []
    core = block.core_decode(0, Convention.EXACT)
    missed = core.conv if part == "conv" else core.scan - block.plain_step_products
    return [Reason(ran.operation, NO_PRODUCT, -missed)]


def _dense_conv(block: Mixer, tokens: int) -> Reason:
    dense = 2 * block.taps * sum(channels * (channels - 1) for channels in block.conv_parts) * tokens
    return Reason(f"{block.name} conv", DENSE, dense)


def _closed_form(ran: RanOperation, block: Mixer, case: Case, training: bool) -> list[Reason]:
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


def _plain_scan(block: Mixer, case: Case, training: bool) -> list[Reason]:
    """A scan by its reference implementation, counted product by product (``Mixer.plain_scan``)."""
    tokens, scan = case.workload.context, f"{block.name} scan"
    plain = block.plain_scan(tokens, case.workload.batch)
    exact = block.core_prefill(tokens, Convention.EXACT).scan
    times = 3 if training else 1
    found = [
        Reason(scan, CHUNKED, times * (plain.forward + plain.elementwise - exact)),
        Reason(scan, CHUNK_PADDING, times * plain.padding),
        Reason(scan, NO_PRODUCT, -times * plain.elementwise),
    ]
    if training:
        found.append(Reason(scan, SYSTEMS, plain.solved))
        found.append(Reason(scan, UNNEEDED, -plain.constant - plain.unneeded))
    elif case.workload.kind == TRAIN:
        found.append(Reason(scan, UNTRACED, -plain.untraced))
    return found
