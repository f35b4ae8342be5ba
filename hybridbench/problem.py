"""problem: what an operation is asked to do, found from a case without PyTorch.

A ``Problem`` is all that a backend needs to say whether it supports the work, and all that ``limits`` needs to say how
much of a batch a kernel can process at once. So both are known before anything is allocated, and for stored records.

    >>> Problem(device="cuda", dtype="bfloat16", head_dim=64, n_heads=32, n_kv_heads=8).kv_heads
    8
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from hybridbench.arch.block import Block
from hybridbench.arch.model import mixers, params
from hybridbench.plain import UNKNOWN_IS_ZERO
from hybridbench.suite.case import Case


@dataclass(frozen=True)
class Problem:
    """What one operation is asked to do: all that a backend needs to say if it supports it. 0 means not applicable.

    Attributes:
        device: ``"cpu"`` or ``"cuda"``.
        dtype: of the activations: ``"float32"``, ``"bfloat16"``, ``"float16"`` or ``"float64"``.
        head_dim: P, the width of a query, key or SSM head.
        v_head_dim: V, the width of a value head; 0 means the same as ``head_dim``.
        n_heads: H, query or SSM heads.
        norm_width: channels that a norm of a mixer's output spans; 0 means a value head's.
        width: D of a norm, F of a gated activation, the channels of a gate.
        n_kv_heads: K, key/value heads; 0 means as many as ``n_heads``.
        window: a query sees this many latest keys, itself included; None sees all.
        sinks: the first keys that stay visible outside the window.
        d_state: N, columns of the SSM state.
        n_groups: G, groups of B and C vectors.
        n_angles: R, rotary angles a head of Mamba-3 turns B and C by.
        conv_channels: C, channels of the depthwise convolution.
        chunk_size: Q, positions per chunk of the SSD scan.
        d_conv: W, taps of the depthwise convolution.
        training: gradients are needed.
        length: the longest sequence or cache, in tokens; 0 is unknown.
        batch: sequences; 0 is unknown.
        row: columns of the packed projection that the kernels read views of: the stride of a position. 0 where they
            read no such views, as Mamba-1's, whose positions lie side by side.
        d_model, d_expert, n_experts, top_k: for routed experts: the stream's width and theirs, how many there are, and
            how many of them process a token.
        vocabulary: tokens that the loss distinguishes.
        n_params: parameters that the optimizer updates.
    """

    device: str
    dtype: str
    head_dim: int = 0
    v_head_dim: int = 0
    n_heads: int = 0
    n_kv_heads: int = 0
    window: int | None = None
    sinks: int = 0
    d_state: int = 0
    n_groups: int = 1
    chunk_size: int = 0
    d_conv: int = 0
    training: bool = False
    length: int = 0
    width: int = 0
    n_angles: int = 0
    batch: int = field(default=0, metadata=UNKNOWN_IS_ZERO)
    row: int = 0
    conv_channels: int = 0
    d_model: int = 0
    d_expert: int = 0
    n_experts: int = 0
    top_k: int = 0
    vocabulary: int = 0
    n_params: int = 0
    norm_width: int = 0

    @property
    def value_dim(self) -> int:
        """V, the width of a value head."""
        return self.v_head_dim or self.head_dim

    @property
    def norm_dim(self) -> int:
        """Channels that a norm of a mixer's output spans."""
        return self.norm_width or self.value_dim

    @property
    def kv_heads(self) -> int:
        """K, the number of key/value heads."""
        return self.n_kv_heads or self.n_heads

    def any_size(self) -> Problem:
        """The problem without its sizes: two problems that are equal here share a verification on small inputs."""
        return replace(self, length=0, batch=0, row=0, vocabulary=0, n_params=0)


def problem_of(block: Block | None, case: Case, borrows: bool = False) -> Problem:
    """What a block asks of its kernels in this case; ``None`` is the head's loss.

    Args:
        borrows: its value is another branch's, so that it may read a view of that branch's row; ``row`` is then the
            widest of the model.
    """
    work, execution = case.workload, case.execution
    spec = case.model
    row = 0 if block is None else block.packed_row
    if borrows:
        row = max([row, *(mixer.packed_row for _, mixer in mixers(spec))])
    asked = Problem(
        device=execution.device,
        dtype=execution.dtype,
        training=work.row.trains,
        length=work.context,
        batch=work.batch,
        row=row,
    )
    if block is None:
        return replace(asked, width=spec.d_model, vocabulary=spec.vocab_size, n_params=params(spec))
    return replace(asked, **block.sizes())


def of_op(op: str, problem: Problem, case: Case, *, step: bool) -> Problem:
    """The problem of one operation of a block, made from the problem of the block.

    Args:
        step: the operation runs in a decode step. One over a sequence runs only on the prompt of a generation.
    """
    if op == "attention_decode":  # the ring buffer implements the window: this kernel sees a short cache without one
        return replace(problem, window=None, sinks=0)
    return problem if step else replace(problem, length=case.workload.sequence_tokens)
