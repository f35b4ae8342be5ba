"""activations: what each kind of block keeps from its forward for its backward, and needs on the way, tensor by tensor.

Four lists per block, in bytes per token of the whole batch unless a term says otherwise:

    saved      what autograd holds from the block's forward to its backward: inputs of products, what kernels save
    forward    what is alive beside the block's input while it runs without gradients; of its moments the largest counts
    backward   what its backward allocates while ``saved`` is still there, by moments; freed tensors count below 0
    lent       of the first block of a kind, what later ones read: it stays until the pass ends, and has a gradient that
               grows until the backward reaches that block

They follow the modules of ``hybridbench.model`` on the kernels a GPU takes by default, as read in their sources (what a
``torch.autograd.Function`` hands to ``save_for_backward``), not as sampled from an allocator. The residual stream and
the norms around a block belong to ``predict.memory``. Each kind's lists stand in its own file; a term that turns out
wrong is one line there.

Of recurrent mixers other than Mamba-2 they follow the published kernels as their Python sources allocate: mamba_ssm
2.3.2 and causal_conv1d 1.7.0 for Mamba-1 and Mamba-3, flash-linear-attention's fla-core 0.6.0 for the delta rules. Left
out is what does not grow with the tokens: final states, sums over programs. These sources, run on CPU tensors with
every kernel left out, allocated what is listed to within 1.1% at 350m and 1b. Of Mamba-3 it was 1.5% in the forward,
and 5% less is listed as saved than its norms, which a CPU splits up, keep there. Peaks of inter at 1b on an H200, in
training and prefill with each of these mixers: within 0.3%.
"""

from __future__ import annotations

from dataclasses import fields

from hybridbench.arch.block import Block, Storage
from hybridbench.arch.kinds import BLOCKS
from hybridbench.arch.terms import Activations
from hybridbench.errors import BadInput


def activations(block: Block, storage: Storage) -> Activations:
    """The lists of one block with activations as wide as its weights.

    Raises:
        BadInput: a kind of block, or a variant of one, whose module nobody has gone through.
    """
    if not block.sequence_ops:
        known = ", ".join(kind for kind, cls in BLOCKS.items() if cls.sequence_ops)
        raise BadInput(
            f"no memory formula for blocks of kind {block.kind}: prefill and training memory are known for {known}; "
            f"decode needs none."
        )
    _refuse_variants(block)
    found = block.activations(storage.weight_bytes)
    assert found is not None, f"blocks of kind {block.kind} run here, so what they keep is known"
    return found


def _refuse_variants(block: Block) -> None:
    """Refuses fields that only imported models set: no module runs them, so nobody knows what it would keep."""
    for spec_field in fields(block):
        value = getattr(block, spec_field.name)
        if isinstance(value, Block):
            _refuse_variants(value)
        elif "variant" in spec_field.metadata and value != spec_field.default:
            raise BadInput(
                f"no memory formula for {block.kind} with {spec_field.name} {value}: prefill and training memory are "
                f"known for blocks that run here; decode needs none."
            )
