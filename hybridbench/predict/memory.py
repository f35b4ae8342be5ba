"""memory: what a workload holds on a GPU at its peak, part by part, without running it.

    train      weights, AdamW's two moments of each, and the largest of three points of the step: the loss, where all
               activations are saved and the head's gradient is summed in float32; a block's backward, which allocates
               before it frees, while the later blocks have their gradients; the embedding's backward, the last one
    prefill    weights, caches, and the working memory of the block that needs most
    decode     weights, caches, the logits; the activations of one token are negligible; module by module, the largest
               matrix, or some keys and values, where these are stored as codes and so are made whole for a product

Where FSDP2 divides a training step among ranks, each keeps its part of weights, gradients and moments. Beside these are
alive: embedding and head, gathered from the forward on; the sublayer that runs and the one gathered ahead of it; the
gradients of that sublayer, and those of the one before it in float32, which are being added up. Where ranks share every
sublayer (tensor parallel), each gathers the head for the loss, takes its own tokens to it, and has the gradient of the
whole head until that is scattered.

Bytes are those that PyTorch's allocator counts as allocated, without its rounding to 512 bytes. What a process needs
besides (the CUDA context, loaded kernels, what fragmentation leaves unused) is in ``hybridbench.predict.fit``.
Activations are those of ``arch.activations``.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from hybridbench.arch import model as arch
from hybridbench.arch.activations import activations
from hybridbench.arch.block import Block, Storage
from hybridbench.arch.model import ModelSpec
from hybridbench.arch.terms import FLOAT, Activations, Moment, Term, largest, total
from hybridbench.errors import BadInput, unknown_name
from hybridbench.predict.work import refuse_quantised
from hybridbench.sizes import DEQUANTISED_ELEMENTS, FUSED_STEP_BATCH, TRAIN_BATCHES, loss_rows
from hybridbench.suite.case import CHECKPOINTS
from hybridbench.suite.workloads import PREFILL, TRAIN, Workload
from hybridbench.units import MIB

MOMENTS = 2
"""Tensors AdamW keeps per parameter, in the parameter's dtype."""
TOKEN_BYTES = 8
BLAS_WORKSPACE_BYTES = 32 * MIB
"""cuBLAS's workspace on a Hopper GPU (8 MiB on others). Each thread and stream that multiplies has one."""


@dataclass(frozen=True)
class Footprint:
    """Bytes at the peak, by part; they add up to ``total``.

    Args:
        gradients: those that exist at the peak. In a large batch the peak is before most of them are made.
        activations: what the blocks have saved at the peak, and temporary tensors.
        head: logits, and the gradient of the head until it is counted with the others.
        workspace: cuBLAS's workspaces.
        inputs: tokens, and the tables of the rotary embedding.
        gathered: parameters that other ranks store.
    """

    weights: int
    gradients: int = 0
    optimizer: int = 0
    activations: int = 0
    head: int = 0
    cache: int = 0
    workspace: int = 0
    inputs: int = 0
    gathered: int = 0

    @property
    def total(self) -> int:
        """All parts together: the allocator's peak."""
        return sum(getattr(self, part.name) for part in fields(self))


def footprint(
    spec: ModelSpec,
    workload: Workload,
    storage: Storage,
    checkpoint: str = "none",
    graph: bool = True,
    ranks: int = 1,
    tp: int = 1,
) -> Footprint:
    """The predicted peak of a workload.

    Args:
        spec: the model; under tensor parallelism one rank's part of it (``arch.model.shard``).
        checkpoint: for training, one of ``CHECKPOINTS``.
        graph: for decode, whether its step is captured in a CUDA graph.
        ranks: for training, among how many FSDP2 divides it.
        tp: how many share the model of which ``spec`` is a part.

    Raises:
        BadInput: a block has no memory formula, or the step has several passes. The peak of such a step is that of one
            of its passes: ask for each.
    """
    passes = workload.row.passes
    if len(passes) > 1:
        raise BadInput(f"no memory formula for {workload.kind}: fit its {' or its '.join(passes)}.")
    context, batch = workload.context, workload.batch
    if passes == (TRAIN,):
        return train_memory(spec, context, batch, storage, checkpoint, ranks, tp)
    if passes == (PREFILL,):
        return prefill_memory(spec, context, batch, storage)
    return decode_memory(spec, context, batch, storage, graph)


@dataclass(frozen=True, slots=True)
class _Divided:
    """How FSDP2 divides a training step among ranks; with one rank nothing is gathered or added up.

    Args:
        root: bytes of what is in no sublayer, embedding and head above all.
    """

    ranks: int
    root: int
    storage: Storage

    def held(self, count: int) -> int:
        """A rank's part of so many bytes."""
        return -(-count // self.ranks)

    def gathered(self, *blocks: int) -> int:
        return self.root + sum(blocks) if self.ranks > 1 else 0

    def gradients(self, made: int, fresh: int, leaving: int) -> int:
        """Bytes of gradients: of the sublayers that are done, of the one that runs, of the one before it."""
        if self.ranks == 1:
            return made + fresh
        return self.held(made) + fresh + leaving * FLOAT // self.storage.weight_bytes


def train_memory(
    spec: ModelSpec, context: int, batch: int, storage: Storage, checkpoint: str = "none", ranks: int = 1, tp: int = 1
) -> Footprint:
    """Peak of a training step over ``batch`` sequences of ``context`` tokens, on one of ``ranks`` of FSDP2 and of
    ``tp`` that share the model of which ``spec`` is a part.

    Raises:
        BadInput: the way of checkpointing is unknown, or a block has no memory formula.
    """
    if checkpoint not in CHECKPOINTS:
        raise unknown_name("checkpoint", checkpoint, CHECKPOINTS)
    refuse_quantised(storage)
    size, tokens = storage.weight_bytes, batch * context
    weights = arch.weight_bytes(spec, storage)
    # Each sublayer keeps the residual stream before it, which its norm reads; the block keeps the norm's result.
    stream = size * spec.d_model * tokens
    of_block = {place: _of_block(block, storage, tokens, checkpoint) for place, block in _placed(spec)[1].items()}
    layers = [of_block[place] for place in _placed(spec)[0]]
    kept = [stream + layer.kept for layer in layers]
    lent = _lent(spec, storage, tokens)
    if checkpoint == "full":
        kept[0] += lent  # kept from its layer on; the layers before lack it, which changes no peak
    head = spec.vocab_size * spec.d_model
    whole_head, chunk = tp * head, _loss_chunk(tp * spec.vocab_size, -(-tokens // tp), size)
    divided = _Divided(ranks, weights - sum(layer.weights for layer in layers), storage)
    # While the loss runs, all activations exist, with the final norm's input and output. The only gradient yet is the
    # head's, which is summed in float32 next to a chunk of logits and then rounded to the dtype.
    of_loss = _BackwardMoment(
        activations=sum(kept) + 2 * stream,
        head=stream + whole_head * FLOAT + max(whole_head * size, chunk),
        gathered=divided.gathered() + (whole_head * size if tp > 1 else 0),
    )
    moments = [of_loss]
    made, left, leaving = 0, sum(kept), 0
    ahead = [0, *(layer.weights for layer in layers)]
    for layer, its_kept, following in zip(reversed(layers), reversed(kept), reversed(ahead[:-1]), strict=True):
        # Gradients appear block by block, from the last one on; a tied head's waits for the embedding's, the last.
        again = layer.saved - (its_kept - stream)
        worst = left + again + stream + lent + layer.backward
        gradients = divided.gradients(made, layer.weights, leaving)
        moments.append(_BackwardMoment(worst, head * size, gradients, divided.gathered(layer.weights, following)))
        made, leaving = made + layer.weights, layer.weights
        left -= its_kept
    gradients = divided.gradients(made, 0, leaving)
    moments.append(_BackwardMoment(stream, (2 if spec.tied else 1) * head * size, gradients, divided.gathered()))
    if ranks > 1:  # what is in no sublayer is added up last
        gradients = divided.gradients(made, divided.root, divided.root)
        moments.append(_BackwardMoment(0, 0, gradients, divided.gathered()))
    worst_moment = max(moments, key=lambda moment: moment.total)
    return Footprint(
        weights=divided.held(weights),
        gradients=worst_moment.gradients,
        optimizer=MOMENTS * divided.held(weights),
        activations=worst_moment.activations,
        head=worst_moment.head,
        workspace=2 * BLAS_WORKSPACE_BYTES,  # of the main thread and of autograd's
        inputs=TRAIN_BATCHES * batch * (context + 1) * TOKEN_BYTES + _rotary_bytes(spec, context),
        gathered=worst_moment.gathered,
    )


@dataclass(frozen=True)
class _BackwardMoment:
    """Bytes at one point of a training step, without those that exist throughout."""

    activations: int
    head: int
    gradients: int = 0
    gathered: int = 0

    @property
    def total(self) -> int:
        return self.activations + self.head + self.gradients + self.gathered


@dataclass(frozen=True, slots=True)
class _BlockBytes:
    """Bytes of one block in a training step: its weights, what it saves, what it keeps of that, what backward adds."""

    weights: int
    saved: int
    kept: int
    backward: int


def _of_block(block: Block, storage: Storage, tokens: int, checkpoint: str) -> _BlockBytes:
    layer = activations(block, storage)
    return _BlockBytes(
        weights=block.weight_bytes(storage),
        saved=total(layer.saved, tokens),
        kept=_kept(layer, tokens, checkpoint),
        backward=largest(layer.backward, tokens),
    )


@arch.once
def _placed(spec: ModelSpec) -> tuple[tuple[int, ...], dict[int, Block]]:
    """The number of every sublayer's block in order, and the distinct blocks by number."""
    numbers: dict[Block, int] = {}
    order = tuple(numbers.setdefault(block, len(numbers)) for block in spec.placed)
    return order, {number: block for block, number in numbers.items()}


def _kept(layer: Activations, tokens: int, checkpoint: str) -> int:
    """Bytes that a sublayer keeps from its forward, without the residual stream before it."""
    if checkpoint == "full":
        return 0
    return total([term for term in layer.saved if checkpoint == "none" or not term.cheap], tokens)


def _lent(spec: ModelSpec, storage: Storage, tokens: int) -> int:
    """Bytes that the first block of each kind leaves for later ones, counted once."""
    return total(_lent_terms(spec, storage), tokens)


@arch.once
def _lent_terms(spec: ModelSpec, storage: Storage) -> frozenset[Term]:
    return frozenset(term for block, _ in spec.uses for term in activations(block, storage).lent)


def _loss_chunk(words: int, tokens: int, size: int) -> int:
    """Bytes of a chunk of logits in the fused loss."""
    row_bytes = words * size
    return loss_rows(tokens, row_bytes) * row_bytes


def prefill_memory(spec: ModelSpec, context: int, batch: int, storage: Storage) -> Footprint:
    """Peak of a prefill of ``batch`` prompts of ``context`` tokens."""
    size, tokens = storage.weight_bytes, batch * context
    # The previous block's output is freed only when this block's output replaces it.
    entry = tuple(Term(name, size * spec.d_model) for name in ("last output", "residual stream", "norm's output"))
    needs = [largest(forward, tokens) for forward in _forwards(spec, storage)]
    return Footprint(
        weights=arch.weight_bytes(spec, storage),
        activations=total(entry, tokens) + _lent(spec, storage, tokens) + max(needs),
        head=batch * spec.vocab_size * size,
        cache=batch * arch.cache_bytes(spec, context, storage).total,
        workspace=BLAS_WORKSPACE_BYTES,
        inputs=tokens * TOKEN_BYTES + _rotary_bytes(spec, context),
    )


@arch.once
def _forwards(spec: ModelSpec, storage: Storage) -> frozenset[tuple[Moment, ...]]:
    """The moments of the forward of each kind of block."""
    return frozenset(activations(block, storage).forward for block, _ in spec.uses)


def decode_memory(spec: ModelSpec, context: int, batch: int, storage: Storage, graph: bool = True) -> Footprint:
    """Peak of a decode step with ``context`` tokens cached and room for the next one."""
    return Footprint(
        weights=arch.weight_bytes(spec, storage),
        activations=0 if graph and batch <= FUSED_STEP_BATCH else _made_whole(spec, context, storage),
        head=batch * spec.vocab_size * storage.weight_bytes,
        cache=batch * arch.cache_bytes(spec, context + 1, storage).total,
        # Modules are warmed up on a second stream and captured as a graph on a third. The fused step's kernels need no
        # workspace, but the modules that check it do.
        workspace=(3 if graph and batch > FUSED_STEP_BATCH else 1) * BLAS_WORKSPACE_BYTES,
        inputs=2 * batch * TOKEN_BYTES,
    )


def _made_whole(spec: ModelSpec, context: int, storage: Storage) -> int:
    """Bytes of what a step that runs module by module makes of codes at a time: the largest matrix, and numbers in
    float32 on the way; or a number of each key and value of as many sequences, in their dtype and scaled.
    """
    most, size = 0, storage.weight_bytes
    if storage.quantised is not None:
        # the embedding; or a block's input projection, which is one matrix in a module
        matrices = [sum(one.size for one in block.matrices()[:-1]) for block, _ in spec.uses]
        most = max([spec.vocab_size * spec.d_model, *matrices]) * size + DEQUANTISED_ELEMENTS * FLOAT
    if storage.kv_codes:
        kept = [block.cache(context + 1, storage).kv // storage.kv_bytes for block, _ in spec.uses]
        most = max(most, 2 * max(DEQUANTISED_ELEMENTS, *kept) * size if any(kept) else 0)
    return most


def _rotary_bytes(spec: ModelSpec, context: int) -> int:
    """Bytes of the cosines and sines of every position in float32, with one pair of tables per kind of rotation."""
    return context * _rotary_columns(spec) * FLOAT


@arch.once
def _rotary_columns(spec: ModelSpec) -> int:
    kinds = {mixer.rotation for _, mixer in arch.mixers(spec) if mixer.rotation is not None}
    return sum(width for _, width in kinds)
