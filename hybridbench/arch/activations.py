"""activations: what each kind of block keeps from its forward for its backward, and needs on the way, tensor by tensor.

Three lists per block, in bytes per token of the whole batch unless a term says otherwise:

    saved      what autograd holds from the block's forward to its backward: inputs of products, what kernels save
    forward    what is alive beside the block's input while it runs without gradients; of its moments the largest counts
    backward   what its backward allocates while ``saved`` is still there, by moments; freed tensors count below 0

They follow the modules of ``hybridbench.model`` on the kernels a GPU takes by default, as read in their sources (what a
``torch.autograd.Function`` hands to ``save_for_backward``), not as sampled from an allocator. The residual stream and
the norms around a block belong to ``predict.memory``. A term that turns out wrong is one line here.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import fields
from typing import Any

from hybridbench.arch.attention import Attention
from hybridbench.arch.block import Block, Mixer, Storage
from hybridbench.arch.delta import GatedDelta, Kda
from hybridbench.arch.mamba1 import Mamba1
from hybridbench.arch.mamba2 import Mamba2
from hybridbench.arch.mamba3 import Mamba3
from hybridbench.arch.mlp import Mlp
from hybridbench.arch.moe import Moe
from hybridbench.arch.parallel import Parallel
from hybridbench.arch.recurrent_activations import delta_core, mamba1_core, mamba3_core
from hybridbench.arch.ssd_kernels import BLOCK, SLICE, fits_one_pass
from hybridbench.arch.terms import FLOAT, INDEX, Activations, Moment, Term, padded
from hybridbench.errors import BadInput


def activations(block: Block, storage: Storage) -> Activations:
    """The lists of one block with activations as wide as its weights.

    Raises:
        BadInput: a kind of block, or a variant of one, whose module nobody has gone through.
    """
    of_kind = _KINDS.get(type(block))
    if of_kind is None:
        known = ", ".join(kind.kind for kind in _KINDS)
        raise BadInput(
            f"no memory formula for blocks of kind {block.kind}: prefill and training memory are known for {known}; "
            f"decode needs none."
        )
    _refuse_variants(block)
    return of_kind(block, storage.weight_bytes)


def _refuse_variants(block: Block) -> None:
    """Refuses fields that only imported models set: no module runs them, so nobody knows what it would keep."""
    for spec_field in fields(block):  # type: ignore[arg-type]
        value = getattr(block, spec_field.name)
        if isinstance(value, Block):
            _refuse_variants(value)
        elif "variant" in spec_field.metadata and value != spec_field.default:
            raise BadInput(
                f"no memory formula for {block.kind} with {spec_field.name} {value}: prefill and training memory are "
                f"known for blocks that run here; decode needs none."
            )


def _attention_core(block: Attention, size: int, borrows_value: bool = False) -> Activations:
    """Projection of q, k and v in one product, rotary into three tensors of their own, a fused kernel that keeps them,
    its output and a log-sum-exp per query and head (FlashAttention-2, cuDNN, FlexAttention and our kernels alike).

    The backward sums up dq, and dk and dv of grouped heads, in float32, as flash-attn 4's does; others take less."""
    queries = block.n_heads * block.head_dim
    values = 0 if borrows_value else block.v_head_dim  # a lent one is kept by its lender
    grouped = block.n_kv_heads * (block.head_dim + block.v_head_dim) if block.n_heads > block.n_kv_heads else 0
    packed = Term("q, k, v", size * (queries + block.n_kv_heads * (block.head_dim + values)))
    out = Term("attention output", size * block.out_width)
    lse = Term("log-sum-exp", FLOAT * block.n_heads)
    return Activations(
        saved=(packed, out, lse),
        forward=((Term("projected q, k, v", packed.per_token), packed), (packed, out, lse)),
        backward=(
            (
                Term("gradient of the output", out.per_token),
                Term("gradients of q, k, v", packed.per_token),
                Term("sums of dq in float32", FLOAT * queries),
                Term("sums of dk and dv in float32", FLOAT * grouped),
            ),
        ),
    )


def _mamba2_core(block: Mamba2, size: int, borrows_value: bool = False, keeps_output: bool = True) -> Activations:
    """One projection of z, x, B, C and dt; conv, scan, gate and norm as one operation (``kernels.mamba2_fused``), which
    keeps the conv's output and the scan's.

    The scan in one pass keeps states too (``kernels.triton_ssd``); mamba_ssm's, which runs where that has no tiles or x
    is lent, recomputes states and scores (``ssd_combined.py``).
    """
    inner, conv = block.d_inner, block.conv_channels
    width = (1 if borrows_value else 2) * inner + 2 * block.n_groups * block.d_state + block.n_heads
    # Where x is another branch's value, the conv's input is put together anew.
    columns, copied = padded(width, block.d_model, size)
    packed = Term("packed z, x, B, C, dt", size * columns, fixed=copied)
    lent = Term("conv input with a lent value, decays", size * conv + FLOAT * block.n_heads if borrows_value else 0)
    convolved = Term("conv output", size * conv, cheap=True)
    scanned = Term("scan output", size * inner)
    gated = Term("gated output", size * inner, cheap=True)
    steps = Term("steps and decays in float32", 2 * FLOAT * block.n_heads)
    kept: Moment
    scans: tuple[Moment, ...]
    undone: Moment
    if fits_one_pass(block.head_dim, block.d_state) and not borrows_value:
        states = Term("states before blocks", size * inner * block.d_state // BLOCK)
        slices = block.n_heads * block.head_dim // math.gcd(block.head_dim, SLICE)
        kept, scans = (states,), ((scanned, steps),)
        undone = (
            Term("gradients of the states", states.per_token),
            Term("gradients of B and C in float32", 2 * FLOAT * block.n_groups * block.d_state),
            Term("gradients of the scores", size * block.n_groups * BLOCK),
            Term("steps, decays and their gradients", steps.per_token + 3 * FLOAT * slices),
        )
    else:
        # A state per chunk, in float32 as computed and in the dtype once passed on, which alone stays beside the scores
        # of each group's chunks.
        states = Term("chunk states", (FLOAT + size) * inner * block.d_state // block.chunk_size)
        passed = Term("chunk states passed on", size * inner * block.d_state // block.chunk_size)
        scores = Term("chunk scores", FLOAT * block.n_groups * block.chunk_size)
        kept, scans = (), ((states, steps), (scanned, passed, scores, steps))
        undone = (
            states,
            Term("gradients of the chunk states", states.per_token),
            scores,
            Term("gradients of the chunk scores", scores.per_token),
            Term("steps, decays and their gradients", 2 * steps.per_token),
        )
    return Activations(
        saved=(packed, lent, convolved, scanned, *kept, *((gated,) if keeps_output else ())),
        forward=(
            *((packed, lent, convolved, *moment) for moment in scans),
            (packed, lent, convolved, scanned, gated),
        ),
        backward=(
            (
                Term("gradient of the gated output", gated.per_token),
                Term("gated output, freed", -gated.per_token),
                Term("gradients of z, x, B, C, dt", packed.per_token),
                Term("gradient of the scan output", scanned.per_token),
                Term("gradient of the conv output", convolved.per_token),
                *undone,
            ),
        ),
    )


def _mixer(block: Mixer, size: int) -> Activations:
    """A mixer's core between its two projections: the first one's input is kept, the second one's is the core's."""
    core = _CORES[type(block)](block, size)
    entry = Term("block input", size * block.d_model, cheap=True)
    return Activations((entry, *core.saved), core.forward, core.backward)


def _swiglu(d_ff: int, size: int) -> Activations:
    """Gate and up in one product, ``silu(gate) * up`` as one kernel that keeps its input, down."""
    packed = Term("packed gate, up", size * 2 * d_ff)
    product = Term("silu(gate) * up", size * d_ff, cheap=True)
    return Activations(
        saved=(packed, product),
        forward=((packed, product),),
        backward=(
            (
                Term("gradient of the product", product.per_token),
                Term("product, freed", -product.per_token),
                Term("gradients of gate, up", packed.per_token),
            ),
        ),
    )


def _mlp(block: Mlp, size: int) -> Activations:
    inner = _swiglu(block.d_ff, size)
    return Activations(
        (Term("block input", size * block.d_model, cheap=True), *inner.saved), inner.forward, inner.backward
    )


def _moe(block: Moe, size: int) -> Activations:
    """Routed experts as grouped products over tokens sorted by expert (``kernels.experts``), and shared ones."""
    packed = Term("experts' packed gate, up", block.top_k * size * 2 * block.d_expert)
    gate = Term("experts' silu(gate)", block.top_k * size * block.d_expert)
    product = Term("experts' silu(gate) * up", block.top_k * size * block.d_expert)
    shared = _swiglu(block.d_shared, size) if block.d_shared else Activations((), (), ())
    sorted_tokens = Term("tokens sorted by expert", block.top_k * size * block.d_model)
    outputs = Term("experts' outputs, plain and weighted", 2 * block.top_k * size * block.d_model)
    routing = Term("scores, choices, order and weights", FLOAT * block.n_experts + block.top_k * (3 * INDEX + size))
    entry = Term("block input", size * block.d_model, cheap=True)
    return Activations(
        saved=(entry, routing, sorted_tokens, packed, gate, product, outputs, *shared.saved),
        forward=((routing, sorted_tokens, packed, gate, product), *((outputs, *moment) for moment in shared.forward)),
        backward=(
            (
                Term("gradients of gate and up, apart and packed", 2 * packed.per_token),
                Term("silu(gate) and product, freed", -gate.per_token - product.per_token),
                Term("gradients of outputs", outputs.per_token),
            ),
            *shared.backward,
        ),
    )


def _parallel(block: Parallel, size: int) -> Activations:
    """Both branches on one input; the norm per head and each scaling keep their inputs and leave a result to keep."""
    fusion = block.fusion
    # What is neither normed nor multiplied by something learned on the way to a joint product is kept by nobody.
    passes = fusion.norm == "none" and fusion.out == "joint"
    unkept = {"none": (0, 1), "scalar": (0,)}.get(fusion.scale, ()) if passes else ()
    cores = [
        _branch(branch, size, index == block.borrower, index not in unkept)
        for index, branch in enumerate(block.branches)
    ]
    widths = [branch.out_width for branch in block.branches]
    both = size * sum(widths)
    fused: list[Term] = []
    if fusion.norm == "group":
        fused.append(Term("normed outputs", both, cheap=True))
    if fusion.norm == "group" and fusion.scale == "none" and fusion.out == "separate":
        fused.append(Term("both output weights side by side", fixed=both * block.d_model))
    elif fusion.out == "joint" and not (fusion.norm == "group" and fusion.scale == "none" and fusion.op == "concat"):
        fused.append(Term("fused outputs", size * block.joint_width, cheap=True))
    elif fusion.out == "separate" and fusion.scale != "none":
        fused.append(Term("scaled outputs", size * widths[1] if fusion.scale == "scalar" else both, cheap=True))
    if fusion.scale == "gate":
        fused.append(Term("shares", 2 * size))
    entry = Term("block input", size * block.d_model, cheap=True)
    first, second = (core.saved for core in cores)
    return Activations(
        saved=(entry, *first, *second, *fused),
        # The second branch runs while the first one's output waits; the sum of both is met at the fusion.
        forward=(
            *cores[0].forward,
            *((Term("first branch's output", size * widths[0]), *moment) for moment in cores[1].forward),
            (Term("outputs of both branches", both), *fused),
        ),
        backward=tuple((Term("gradients of the outputs", both), *moment) for core in cores for moment in core.backward),
    )


def _branch(branch: Mixer, size: int, borrows_value: bool, keeps_output: bool) -> Activations:
    """A branch's core; the output of an attention or of a scan with a gate is kept by its kernel in any case."""
    if isinstance(branch, Attention):
        return _attention_core(branch, size, borrows_value)
    if isinstance(branch, Mamba2):
        return _mamba2_core(branch, size, borrows_value, keeps_output)
    if borrows_value or type(branch) not in _CORES:
        which = "that borrows its value" if borrows_value else "as a branch"
        raise BadInput(f"no memory formula for a parallel block with {branch.kind} {which}.")
    return _CORES[type(branch)](branch, size)


_CORES: dict[type[Block], Callable[[Any, int], Activations]] = {
    Attention: _attention_core,
    Mamba2: _mamba2_core,
    Mamba1: mamba1_core,
    Mamba3: mamba3_core,
    GatedDelta: delta_core,
    Kda: delta_core,
}
_KINDS: dict[type[Block], Callable[[Any, int], Activations]] = {
    **dict.fromkeys(_CORES, _mixer),
    Mlp: _mlp,
    Moe: _moe,
    Parallel: _parallel,
}
