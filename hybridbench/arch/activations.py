"""activations: the tensors that each kind of block keeps for its backward, and those it needs while it runs.

Four lists per block, in bytes per token of the whole batch unless a term says otherwise:

    saved      what autograd holds from the block's forward to its backward: inputs of products, what kernels save
    forward    what is alive beside the block's input in a run without gradients; the largest of its moments counts
    backward   what its backward allocates while ``saved`` is still alive, by moments; freed tensors count negatively
    lent       what later blocks read of the first block of a kind: it stays until the pass ends, and has a gradient
               that grows until the backward reaches that block

The lists follow the modules of ``hybridbench.model`` with the default kernels on a GPU. They were read in sources
(the tensors that a ``torch.autograd.Function`` passes to ``save_for_backward``), not sampled from an allocator. The
residual stream and the norms around a block belong to ``predict.memory``. Each kind's lists are in its own file, so a
wrong term is one line there.

For recurrent mixers other than Mamba-2 the lists follow the allocations in the Python sources of the third-party
kernels: mamba_ssm 2.3.2 and causal_conv1d 1.7.0 for Mamba-1 and Mamba-3, flash-linear-attention's fla-core 0.6.0 for
the delta rules. They leave out tensors that do not grow with the tokens: final states, sums over programs. These
sources, run on CPU tensors with every kernel left out, allocated the listed bytes to within 1.1% at 350m and 1b. For
Mamba-3 the forward was off by 1.5%, and the listed ``saved`` is 5% less than there, because a CPU splits its norms into
more operators. The predicted peaks of inter at 1b, in training and prefill with each of these mixers, are within 0.3%
of an H200's.
"""

from __future__ import annotations

import functools
from dataclasses import fields

from hybridbench.arch.block import Block, Storage
from hybridbench.arch.kinds import BLOCKS
from hybridbench.arch.terms import Activations
from hybridbench.errors import BadInput


@functools.lru_cache(maxsize=1024)
def activations(block: Block, storage: Storage) -> Activations:
    """The lists of one block, whose activations have the dtype of its weights.

    Raises:
        BadInput: a kind of block, or a variant of one, that has no lists.
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
    """Raise for a field that only imported models set: no module runs it, so its activations are unknown."""
    for spec_field in fields(block):
        value = getattr(block, spec_field.name)
        if isinstance(value, Block):
            _refuse_variants(value)
        elif "variant" in spec_field.metadata and value != spec_field.default:
            raise BadInput(
                f"no memory formula for {block.kind} with {spec_field.name} {value}: prefill and training memory are "
                f"known for blocks that run here; decode needs none."
            )
