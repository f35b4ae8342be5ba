"""memory: what a workload holds on a GPU at its peak, part by part, without running it.

    train      weights, two moments of each, and the largest of the step's moments: the loss, when everything is saved
               and the head's gradient is summed in float32; a block's backward, which allocates before it frees, when
               the blocks behind have their gradients; the embedding's backward, which is the last
    prefill    weights, caches, and what the hungriest block needs while it runs
    decode     weights, caches, the logits; one token's activations are nothing beside them

Bytes are what PyTorch's allocator counts as allocated, its rounding to 512 bytes left out. What a process needs besides
(the CUDA context, loaded kernels, what fragmentation leaves unused) is ``hybridbench.predict.fit``'s. Activations are
those of ``arch.activations``.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from hybridbench.arch import model as arch
from hybridbench.arch.activations import activations
from hybridbench.arch.block import Storage
from hybridbench.arch.model import ModelSpec
from hybridbench.arch.terms import FLOAT, Activations, Term, largest, total
from hybridbench.errors import BadInput, unknown_name
from hybridbench.sizes import FUSED_STEP_BATCH, TRAIN_BATCHES, loss_rows
from hybridbench.suite.case import CHECKPOINTS
from hybridbench.suite.workloads import PREFILL, TRAIN, Workload
from hybridbench.units import MIB

MOMENTS = 2
"""Tensors AdamW keeps per parameter, in the parameter's dtype."""
TOKEN_BYTES = 8
BLAS_WORKSPACE_BYTES = 32 * MIB
"""cuBLAS's workspace on a Hopper GPU, one for every thread and stream that multiplies (elsewhere 8 MiB)."""


@dataclass(frozen=True)
class Footprint:
    """Bytes at the peak, by part; they add up to ``total``.

    Args:
        gradients: those that exist at the peak, which in a large batch is before most of them are made.
        activations: what the blocks keep then, and what is needed on the way.
        head: logits, and the gradient of the head until it joins the others.
        workspace: cuBLAS's workspaces.
        inputs: tokens, and the tables of the rotary embedding.
    """

    weights: int
    gradients: int = 0
    optimizer: int = 0
    activations: int = 0
    head: int = 0
    cache: int = 0
    workspace: int = 0
    inputs: int = 0

    @property
    def total(self) -> int:
        """All parts together: the allocator's peak."""
        return sum(getattr(self, part.name) for part in fields(self))


def footprint(
    spec: ModelSpec, workload: Workload, storage: Storage, checkpoint: str = "none", graph: bool = True
) -> Footprint:
    """The predicted peak of a workload.

    Args:
        checkpoint: of training, one of ``CHECKPOINTS``.
        graph: of decode, whether its step is captured in a CUDA graph.

    Raises:
        BadInput: a block without a memory formula, or a step of several passes, whose peak is that of one of them.
    """
    passes = workload.row.passes
    if len(passes) > 1:
        raise BadInput(f"no memory formula for {workload.kind}: fit its {' or its '.join(passes)}.")
    context, batch = workload.context, workload.batch
    if passes == (TRAIN,):
        return train_memory(spec, context, batch, storage, checkpoint)
    if passes == (PREFILL,):
        return prefill_memory(spec, context, batch, storage)
    return decode_memory(spec, context, batch, storage, graph)


def train_memory(spec: ModelSpec, context: int, batch: int, storage: Storage, checkpoint: str = "none") -> Footprint:
    """Peak of a training step over ``batch`` sequences of ``context`` tokens.

    Raises:
        BadInput: an unknown way of checkpointing, or a block without a formula.
    """
    if checkpoint not in CHECKPOINTS:
        raise unknown_name("checkpoint", checkpoint, CHECKPOINTS)
    size, tokens = storage.weight_bytes, batch * context
    weights = arch.weight_bytes(spec, storage)
    blocks = spec.placed
    layers = [activations(block, storage) for block in blocks]
    # Before each sublayer the residual stream, which its norm reads; the norm's result is the block's own input.
    stream = size * spec.d_model * tokens
    kept = [stream + _kept(layer, tokens, checkpoint) for layer in layers]
    lent = _lent(spec, storage, tokens)
    if checkpoint == "full":
        kept[0] += lent  # from its layer on; that no layer before has it makes no difference at a peak
    head = spec.vocab_size * spec.d_model
    # While the loss runs there are all activations, the final norm's input and output, and no gradient yet but the
    # head's, which is summed in float32 beside a chunk of logits, then rounded to the dtype.
    of_loss = _BackwardMoment(
        activations=sum(kept) + 2 * stream,
        head=stream + head * FLOAT + max(head * size, _loss_chunk(spec, tokens, size)),
    )
    moments = [of_loss]
    made = 0
    for index in reversed(range(len(layers))):
        # Gradients appear block by block, from the last one; a tied head's waits for the embedding's, which comes last.
        made += blocks[index].weight_bytes(storage)
        again = total(layers[index].saved, tokens) - (kept[index] - stream)
        worst = sum(kept[: index + 1]) + again + stream + lent + largest(layers[index].backward, tokens)
        moments.append(_BackwardMoment(worst, head=head * size, gradients=made))
    moments.append(_BackwardMoment(stream, head=(2 if spec.tied else 1) * head * size, gradients=made))
    worst_moment = max(moments, key=lambda moment: moment.total)
    return Footprint(
        weights=weights,
        gradients=worst_moment.gradients,
        optimizer=MOMENTS * weights,
        activations=worst_moment.activations,
        head=worst_moment.head,
        workspace=2 * BLAS_WORKSPACE_BYTES,  # of the main thread and of autograd's
        inputs=TRAIN_BATCHES * batch * (context + 1) * TOKEN_BYTES + _rotary_bytes(spec, context),
    )


@dataclass(frozen=True)
class _BackwardMoment:
    """Bytes at one moment of a training step, beside what is there all the time."""

    activations: int
    head: int
    gradients: int = 0

    @property
    def total(self) -> int:
        return self.activations + self.head + self.gradients


def _kept(layer: Activations, tokens: int, checkpoint: str) -> int:
    """What a sublayer keeps from its forward, the residual stream before it aside."""
    if checkpoint == "full":
        return 0
    return total([term for term in layer.saved if checkpoint == "none" or not term.cheap], tokens)


def _lent(spec: ModelSpec, storage: Storage, tokens: int) -> int:
    """What the first block of each kind leaves for later ones, once however many read it."""
    return total({term for block, _ in spec.uses for term in activations(block, storage).lent}, tokens)


def _loss_chunk(spec: ModelSpec, tokens: int, size: int) -> int:
    """Bytes of a chunk of logits in the fused loss."""
    row_bytes = spec.vocab_size * size
    return loss_rows(tokens, row_bytes) * row_bytes


def prefill_memory(spec: ModelSpec, context: int, batch: int, storage: Storage) -> Footprint:
    """Peak of a prefill of ``batch`` prompts of ``context`` tokens."""
    size, tokens = storage.weight_bytes, batch * context
    # What the block before yielded lives on until this one's output takes its name.
    entry = tuple(Term(name, size * spec.d_model) for name in ("last output", "residual stream", "norm's output"))
    needs = [largest(activations(block, storage).forward, tokens) for block, _ in spec.uses]
    return Footprint(
        weights=arch.weight_bytes(spec, storage),
        activations=total(entry, tokens) + _lent(spec, storage, tokens) + max(needs),
        head=batch * spec.vocab_size * size,
        cache=batch * arch.cache_bytes(spec, context, storage).total,
        workspace=BLAS_WORKSPACE_BYTES,
        inputs=tokens * TOKEN_BYTES + _rotary_bytes(spec, context),
    )


def decode_memory(spec: ModelSpec, context: int, batch: int, storage: Storage, graph: bool = True) -> Footprint:
    """Peak of a decode step with ``context`` tokens cached and room for the next one."""
    return Footprint(
        weights=arch.weight_bytes(spec, storage),
        head=batch * spec.vocab_size * storage.weight_bytes,
        cache=batch * arch.cache_bytes(spec, context + 1, storage).total,
        # A graph of modules is warmed up on a stream of its own and captured on a third; the fused step's kernels need
        # none, but the modules it is proved against do.
        workspace=(3 if graph and batch > FUSED_STEP_BATCH else 1) * BLAS_WORKSPACE_BYTES,
        inputs=2 * batch * TOKEN_BYTES,
    )


def _rotary_bytes(spec: ModelSpec, context: int) -> int:
    """Cosines and sines of every position, in float32, one pair of tables per kind of rotation."""
    kinds = {mixer.rotation for _, mixer in arch.mixers(spec) if mixer.rotation is not None}
    return sum(context * width * FLOAT for _, width in kinds)
